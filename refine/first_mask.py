"""The first mask of a run: what is known of it before a pixel is read, and how a network makes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from refine.cascade import AVERAGED_RAMP, OPEN_RAMP, has_image_shape, is_smaller, telling_ramp
from refine.coarse import coarse_decimation, make_coarse
from refine.errors import MemoryBudgetError
from refine.geometry import Window
from refine.loaded import LoadedNetworks
from refine.masks import Align, check_fit, mask_size
from refine.memory import BASELINE_BYTES, MIB, size_text
from refine.networks import Networks
from refine.raster import MAX_PIXELS
from refine.softness import SHARPEST, USUAL, measure_ramp, measure_texture
from refine.sources import SWEEP, ArrayMask, ImageSource, MaskSource, Progress, tells


@dataclass(frozen=True, slots=True)
class MaskFacts:
    """What the plan needs to know of a first mask."""

    height: int
    width: int
    is_network_output: bool
    is_hard: bool | None = None  # None: only its pixels tell
    ramp: float | None = None  # of a soft mask, in its pixels, as `facts_of_mask` judges it
    kept_bytes: int = 0  # of a file's mask once it is read, in memory or, above MASK_BYTES, on disk
    reading_bytes: int = 0  # of memory, while it is read


def facts_of_file(path: Path, image_size: tuple[int, int], align: Align, *, max_pixels: int = MAX_PIXELS) -> MaskFacts:
    """From the file's header alone. Raises InputError for what is no mask, or another image's."""
    size = mask_size(path, max_pixels=max_pixels)
    check_fit(path, (size.height, size.width), image_size, align)
    return MaskFacts(
        size.height,
        size.width,
        is_network_output=False,
        kept_bytes=size.kept_bytes,
        reading_bytes=size.reading_bytes,
    )


def facts_of_mask(mask: MaskSource, image_size: tuple[int, int]) -> MaskFacts:
    """From a mask that can be read, for an image of (height, width).

    Of a soft one the sharpest ramps are measured, if it is smaller than the image, and its texture where they leave it
    open whether it was averaged; else the usual ones.
    """
    sizes = *image_size, mask.height, mask.width
    is_small, is_shaped = is_smaller(*sizes), has_image_shape(*sizes)
    ramp = None if mask.is_hard else measure_ramp(mask, SHARPEST if is_small else USUAL)
    if is_small and ramp is not None and ramp > AVERAGED_RAMP and (is_shaped or ramp < OPEN_RAMP[1]):
        ramp = telling_ramp(ramp, measure_texture(mask), is_shaped=is_shaped)
    return MaskFacts(mask.height, mask.width, is_network_output=False, is_hard=mask.is_hard, ramp=ramp)


def facts_by_network(networks: Networks, image_size: tuple[int, int]) -> MaskFacts:
    """Of the mask that the coarse network will make."""
    height, width = networks.coarse_map_size(*image_size)
    return MaskFacts(height, width, is_network_output=True, is_hard=False, kept_bytes=4 * height * width)


def mask_by_network(
    image: ImageSource,
    networks: Networks,
    decimations: Sequence[int],
    budget_bytes: int,
    loaded: LoadedNetworks,
    progress: Progress | None = None,
) -> MaskSource:
    """The mask of the image by the coarse network of `loaded`, in which it stays.

    The levels `decimations` of the image are made readable in the same sweep as the one that the network reads.
    Raises MemoryBudgetError if the network alone needs more than the budget.
    """
    needed = networks.coarse_bytes + BASELINE_BYTES[networks.device]
    if needed > budget_bytes:
        raise MemoryBudgetError(
            f"--max-memory {size_text(budget_bytes)} is too small for --coarse {networks.coarse}, which needs"
            f" {ceil(needed / MIB)}MiB; raise it, or give {networks.spared_by}"
        )
    network = loaded.coarse(networks)
    decimation = coarse_decimation(image.height, image.width, network.input_height, network.input_width)
    image.prepare(sorted({*decimations, decimation} - {1}, reverse=True), tells(progress, SWEEP))
    return ArrayMask(make_coarse(image, network, tells(progress, "first mask")))


def notes_of(mask: MaskSource, coarse: str) -> tuple[str, ...]:
    """What is to be said of a mask that the network `coarse` made: that it found nothing, if nowhere above 0.5."""
    highest = float(mask.read(Window(0, 0, mask.height, mask.width)).max())
    if highest > 0.5:
        return ()
    return (
        f"--coarse {coarse} found no object: its mask is nowhere above {highest:.2f}; give --mask, or another --coarse",
    )

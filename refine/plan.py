"""Sizes in, Plan out: levels, grids, parts, batch and memory of a run, decided before the first pixel is read.

No file, no network, no pixel: a plan can be printed, compared, and tested over thousands of cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil
from typing import Literal

from refine.cascade import (
    TRUSTED_BLOCK,
    LevelPlan,
    agreement_of,
    choose_reach,
    is_smaller,
    make_levels,
    plan_levels,
    trusted_reach,
)
from refine.errors import InputError, MemoryBudgetError
from refine.geometry import Level, Window
from refine.memory import BASELINE_BYTES, LITE_COST, MIB, NetworkCost, raster_cache_bytes, size_text, sweep_memory

Select = Literal["boundary", "all"]
Device = Literal["cpu", "cuda"]

LOW, HIGH = 0.05, 0.95
"""A window in which the coarse mask is below LOW, or above HIGH, throughout is certain and not run."""

HELD_BY_OVERLAP = 6
"""A reach that is given is held to where the overlap is as many times as long: a window that does not see the outline
then has at most 7 % of a say about pixels within the reach of it."""

DEFAULT_BATCH: Mapping[str, int] = {"cpu": 8, "cuda": 64}

MINIMUM_TILE = 96
"""Below this a window shows too little of the picture to decide anything."""

LEVELS_IN_MEMORY_BYTES = 512 * MIB
"""Corrections that wait for the next level go to disk beyond this, also where there is no budget."""


@dataclass(frozen=True)
class Plan:
    """All that is decided before the first pixel is read; equal sizes and options give equal plans."""

    height: int
    width: int
    reach: float
    levels: tuple[LevelPlan, ...]  # coarsest first
    tile: int
    overlap: int
    select: Select
    passes: int  # times that the network refines each window, from its own result
    low: float
    high: float
    device: Device
    batch: int  # windows per call of the network
    batch_sizes: tuple[int, ...]  # shapes of a call, ascending, the last is `batch`
    look_ahead: int  # batches that are read ahead of the network
    roi: Window | None  # the part that is written, None for all of it
    cache_bytes: int  # for GDAL's block cache
    memory: Mapping[str, int]  # bytes of main memory by use; their sum is the planned peak
    device_memory: Mapping[str, int]  # the same on a GPU
    temporary: Mapping[str, int]  # bytes of temporary files by use
    budget_bytes: int | None
    notes: tuple[str, ...]  # what was assumed
    is_journalled: bool = False  # finished parts are kept on disk, so that another process can go on
    batch_is_given: bool = False  # asked for by the user: never changed
    first_mask: Mapping[str, int] = field(default_factory=dict)  # main memory while a network makes it, by use
    networks_stay: bool = False  # the network of the first mask and the refining one lie side by side
    agreement: float = 0.0  # 0..1, how far the result, averaged over the first mask's pixels, is to be that mask
    agreement_block: int = 1  # over blocks of so many of its pixels along a side
    holds_reach: bool = False  # nothing changes far beyond the reach
    keeps_inside: bool = False  # nothing is taken from far inside the first mask

    @property
    def planned_peak(self) -> int:
        """Bytes of main memory that the run takes at most; what of the first mask stays for the sweep is in both."""
        return max(sum(self.memory.values()), sum(self.first_mask.values()))

    @property
    def temporary_bytes(self) -> int:
        """Bytes of temporary files at most."""
        return sum(self.temporary.values())

    @property
    def decimations(self) -> tuple[int, ...]:
        """Levels of the image that must be made readable, coarsest first; 1 is not among them."""
        return tuple(step.level.decimation for step in self.levels if step.level.decimation > 1)

    @property
    def output(self) -> Window:
        """The part that is written."""
        return self.roi or Window(0, 0, self.height, self.width)

    def passes_over(self, level: Level) -> int:
        """How often each window of a level is refined: once where the mask is said to be right to a pixel.

        True masks of validation images, and such reduced by 2, lost 0.2 points of mBA in a second pass.
        """
        return 1 if level.reach <= 1 else self.passes


def make_plan(
    height: int,
    width: int,
    *,
    mask_height: int,
    mask_width: int,
    mask_is_network_output: bool = False,
    mask_ramp: float | None = None,
    is_hard: bool | None = None,
    tile: int = 224,
    overlap: int = 64,
    reach: float | None = None,
    select: Select = "boundary",
    passes: int = 1,
    batch: int | None = None,
    budget_bytes: int | None = None,
    device: Device = "cpu",
    roi: Window | None = None,
    block_height: int | None = None,
    bands: int = 3,
    sample_bytes: int = 1,
    overviews: Sequence[int] = (),
    has_invalid: bool = False,
    stride: int = 1,
    cost: NetworkCost = LITE_COST,
    baseline_bytes: int | None = None,
    minimum_tile: int = MINIMUM_TILE,
    journalled_pixels: int | None = None,
) -> Plan:
    """The plan of refining a (mask_height, mask_width) mask over the extent of a (height, width) image.

    `mask_ramp` is by what `facts_of_mask` judges a soft mask, in its pixels; `block_height`, `bands`,
    `sample_bytes` and `overviews` (factors) describe the file; `stride` and `cost` are the network's. If at least
    `journalled_pixels` are swept at full size, finished parts are kept on disk (None: never). Look-ahead, levels in
    memory and an automatic batch (None) shrink to fit `budget_bytes`; the values of the result never depend on it, but
    for the batch.

    Raises InputError for options that do not fit the image or the network, MemoryBudgetError, with the smallest budget
    that works, if the budget is below it.
    """
    _check_options(height, width, tile, overlap, minimum_tile, stride, reach, batch, roi)
    notes: list[str] = []
    sizes = height, width, mask_height, mask_width
    agreement = agreement_of(*sizes, is_network_output=mask_is_network_output, ramp=mask_ramp, given_reach=reach)
    is_known = mask_is_network_output or mask_ramp is not None or is_hard is not None
    may_be_averaged = not is_known and is_smaller(*sizes) and (reach is None or reach <= trusted_reach(*sizes))
    if may_be_averaged and reach is not None:
        notes.append("the mask is taken as hard; a run agrees with a soft one, which so short a --reach says is right")
    if reach is not None and reach > max(height, width) / 4:
        notes.append(f"--reach {reach:g} says that the mask may be wrong nearly anywhere in {width} x {height} px")
    is_given = reach is not None
    if reach is None:
        reach = choose_reach(*sizes, is_network_output=mask_is_network_output, ramp=mask_ramp)
        if not is_known:
            notes.append(f"the mask is taken as hard, wrong by {reach:g} px; a run measures the ramps of a soft one")
    steps = plan_levels(make_levels(height, width, reach), height, tile, overlap, roi, overviews)
    swept = (steps[-1].rows[1] - steps[-1].rows[0]) * width
    is_journalled = journalled_pixels is not None and swept >= journalled_pixels
    cache_bytes = raster_cache_bytes(height, width, tile, block_height, bands * sample_bytes)
    weights = {"network weights": cost.weight_bytes}
    host = {"interpreter and libraries": BASELINE_BYTES[device] if baseline_bytes is None else baseline_bytes}
    host |= weights | {"raster cache": cache_bytes}
    for size, look_ahead, stored in _choices(steps, batch, device):
        activations = {"network activations": cost.activation_bytes(size, tile)}
        sweep = sweep_memory(
            stored,
            mask_height,
            mask_width,
            height,
            size,
            look_ahead,
            has_invalid=has_invalid,
            passes=passes,
            may_agree=agreement > 0 or may_be_averaged,
            is_journalled=is_journalled,
        )
        memory = host | (activations if device == "cpu" else {}) | sweep
        if budget_bytes is None or sum(memory.values()) <= budget_bytes:
            break
    else:
        smallest = sum(memory.values())
        raise MemoryBudgetError(_too_small(height, width, tile, batch, budget_bytes or 0, smallest))
    return Plan(
        height=height,
        width=width,
        reach=reach,
        levels=stored,
        tile=tile,
        overlap=overlap,
        select=select,
        passes=passes,
        low=LOW,
        high=HIGH,
        device=device,
        batch=size,
        # On a CPU a call costs by its windows, so that the last one of a part is not filled up further than needed.
        batch_sizes=tuple(sorted(_halvings(size))) if device == "cpu" else (size,),
        look_ahead=look_ahead,
        roi=roi,
        cache_bytes=cache_bytes,
        memory=memory,
        device_memory=weights | activations if device == "cuda" else {},
        temporary=_temporary(stored, has_invalid=has_invalid, is_journalled=is_journalled),
        budget_bytes=budget_bytes,
        notes=tuple(notes),
        is_journalled=is_journalled,
        batch_is_given=batch is not None,
        agreement=agreement,
        agreement_block=1 if is_smaller(*sizes) else TRUSTED_BLOCK,
        holds_reach=is_given and len(steps) == 1 and reach * HELD_BY_OVERLAP <= overlap,
        keeps_inside=mask_is_network_output,
    )


def _choices(
    steps: tuple[LevelPlan, ...], batch: int | None, device: Device
) -> Iterator[tuple[int, int, tuple[LevelPlan, ...]]]:
    """Batch, look-ahead and levels with their place, from what is fastest to what takes the least memory."""
    largest_part = max(min(step.part_rows, len(step.grid.rows.origins)) * len(step.grid.cols.origins) for step in steps)
    batches = [batch] if batch is not None else _halvings(min(DEFAULT_BATCH[device], largest_part))
    in_memory = sum(step.store_bytes for step in steps) <= LEVELS_IN_MEMORY_BYTES
    on_disk = tuple(replace(step, on_disk=not step.is_last) for step in steps)
    for size, (look_ahead, stays) in product(batches, ((2, True), (1, True), (1, False), (0, False))):
        yield size, look_ahead, steps if stays and in_memory else on_disk


def _halvings(batch: int) -> list[int]:
    """`batch` and its halves down to 1, as the powers of two below it."""
    return [batch] + [1 << power for power in range(batch.bit_length() - 1, -1, -1) if 1 << power < batch]


def _temporary(steps: Sequence[LevelPlan], *, has_invalid: bool, is_journalled: bool) -> dict[str, int]:
    """Bytes of temporary files: the image of the levels that no overview serves, corrections that go to disk, and
    finished parts, which are compressed: a share of that, unless the mask is noise.
    """
    channels = 4 if has_invalid else 3
    image = sum(
        step.level.height * step.level.width * channels
        for step in steps
        if step.level.decimation > 1 and step.overview is None
    )
    temporary = {"image levels": image, "corrections": sum(step.store_bytes for step in steps if step.on_disk)}
    if is_journalled:
        temporary["finished parts, at most"] = sum(_part_bytes(step, has_invalid=has_invalid) for step in steps)
    return temporary


def _part_bytes(step: LevelPlan, *, has_invalid: bool) -> int:
    """Rows of the level as they are kept, and the sums that each part leaves to the next, uncompressed."""
    row = step.level.width * ((2 if has_invalid else 1) if step.is_last else 2)
    return row * (step.rows[1] - step.rows[0]) + len(step.parts) * 4 * step.level.width * max(1, step.overlap)


def _too_small(height: int, width: int, tile: int, batch: int | None, budget: int, smallest: int) -> str:
    windows = f"--tile {tile}" if batch is None else f"--tile {tile} --batch {batch}"
    return (
        f"--max-memory {size_text(budget)} is too small for an image of {width} x {height} (width x height) with"
        f" {windows}; the smallest that works is --max-memory {ceil(smallest / MIB)}MiB"
    )


def check_stride(tile: int, stride: int, minimum: int = MINIMUM_TILE) -> None:
    """Raises InputError, which names the nearest tile that fits, unless the network's stride divides `tile`."""
    if tile % stride:
        fits = max(minimum, round(tile / stride) * stride)
        raise InputError(f"--tile {tile} is not a multiple of the network's stride {stride}; try --tile {fits}")


def _check_options(
    height: int,
    width: int,
    tile: int,
    overlap: int,
    minimum_tile: int,
    stride: int,
    reach: float | None,
    batch: int | None,
    roi: Window | None,
) -> None:
    if height < 1 or width < 1:
        raise InputError(f"an image of {width} x {height} (width x height) has no pixels")
    if tile < minimum_tile:
        raise InputError(f"--tile {tile} is below {minimum_tile}; try --tile 224")
    check_stride(tile, stride, minimum_tile)
    if not 0 <= overlap < tile:
        raise InputError(f"--overlap {overlap} is not smaller than --tile {tile}; try --overlap {tile // 4}")
    if reach is not None and not 1 <= reach < float("inf"):
        raise InputError(f"--reach {reach:g} is not a number of pixels from 1 up")
    if batch is not None and batch < 1:
        raise InputError(f"--batch {batch} is not at least 1")
    if roi is not None and (roi.clip(height, width) != roi or roi.height < 1 or roi.width < 1):
        raise InputError(
            f"--roi {roi.row},{roi.col},{roi.height},{roi.width} (row,col,height,width) does not lie in the image, "
            f"which has {height} rows and {width} columns"
        )

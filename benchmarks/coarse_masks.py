"""The coarse masks of the quality benchmark: made from the truth, by networks, or found beside the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
from numpy.typing import NDArray

from refine.backends import load_coarse
from refine.cascade import NETWORK_PIXELS
from refine.coarse import CoarseNetwork, Ensemble, make_coarse
from refine.errors import InputError
from refine.geometry import RGB, Mask
from refine.shipped import default_checkpoint
from refine.sources import ArrayImage
from refine.training.perturb import perturb

KINDS = ("truth64", "perturbed", "gate", "mos_l", "u2netp", "ensemble", "isnet", "stored")
GATE_FACTORS = (1, 2, 4, 8, 16)
LONG_SIDE = 64
DAMAGES = ("contour", "morph", "warp")


@dataclass(frozen=True)
class Entry:
    """One image of the index."""

    folder: Path
    set_name: str
    name: str
    is_accurate: bool

    @property
    def stem(self) -> Path:
        return self.folder / self.set_name / self.name


@dataclass(frozen=True)
class Coarse:
    """A coarse mask, and how far it may be wrong where its size does not tell."""

    kind: str
    mask: Mask | NDArray[np.uint8]
    reach: float | None = None
    is_own: bool = False  # made by a network of the run itself


Maker = Callable[[Entry, RGB, NDArray[np.uint8]], Iterator[Coarse]]


def makers(kinds: tuple[str, ...], *, mos_l: Path | None, isnet: Path | None, device: str) -> list[Maker]:
    """What makes the masks of `kinds`. Raises InputError where a network's file is needed and not given."""
    chosen: list[Maker] = []
    for kind in kinds:
        if kind == "truth64":
            chosen.append(reduced_truth)
        elif kind == "perturbed":
            chosen.append(perturbed_truth)
        elif kind == "gate":
            chosen.append(gate_masks)
        elif kind == "stored":
            chosen.append(stored_predictions)
        elif kind == "mos_l":
            network = load_coarse(mos_l or default_checkpoint("mos_l_lite"), device=device)
            chosen.append(partial(by_network, kind, network, NETWORK_PIXELS))
        elif kind == "u2netp":
            chosen.append(partial(by_network, kind, load_coarse(default_checkpoint("u2netp"), device=device), None))
        elif kind == "ensemble":
            files = default_checkpoint("u2netp"), mos_l or default_checkpoint("mos_l_lite")
            network = Ensemble([load_coarse(file, device=device) for file in files])
            chosen.append(partial(by_network, kind, network, NETWORK_PIXELS))
        else:
            if isnet is None:
                raise InputError("--kinds isnet needs --isnet FILE")
            chosen.append(partial(by_network, kind, load_coarse(isnet, device=device), None))
    return chosen


def reduced_truth(entry: Entry, image: RGB, mask: NDArray[np.uint8]) -> Iterator[Coarse]:
    """The truth on a grid of 64 px."""
    yield Coarse("truth64", reduce_mask(mask, max(1.0, max(mask.shape) / LONG_SIDE)))


def perturbed_truth(entry: Entry, image: RGB, mask: NDArray[np.uint8]) -> Iterator[Coarse]:
    """The truth at 448 px on the long side, damaged as in training; the draw depends on the image's name alone."""
    small = reduce_mask(mask, max(1.0, max(mask.shape) / 448)).astype(np.float32) / np.float32(255)
    rng = np.random.default_rng(crc32(f"{entry.set_name}/{entry.name}".encode()))
    coarse, reach = perturb(small, DAMAGES[int(rng.integers(len(DAMAGES)))], rng)
    yield Coarse("perturbed", coarse, reach * max(1.0, mask.shape[0] / small.shape[0]))


def gate_masks(entry: Entry, image: RGB, mask: NDArray[np.uint8]) -> Iterator[Coarse]:
    """Masks that are nearly right: the truth on grids that are coarser by small factors."""
    for factor in GATE_FACTORS:
        yield Coarse(f"x{factor}", reduce_mask(mask, factor), 1.0 if factor == 1 else None)


def reduce_mask(mask: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    size = max(1, round(mask.shape[1] / factor)), max(1, round(mask.shape[0] / factor))
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.uint8)


def by_network(
    kind: str, network: CoarseNetwork, pixels: float | None, entry: Entry, image: RGB, mask: NDArray[np.uint8]
) -> Iterator[Coarse]:
    """A network's map, wrong by this many of its pixels; None: as a mask of unknown origin, handed in."""
    made = make_coarse(ArrayImage(image), network)
    pixel = max(image.shape[0] / made.shape[0], image.shape[1] / made.shape[1])
    if pixels is None:
        yield Coarse(kind, made)
    else:
        yield Coarse(kind, made, max(1.0, pixels * pixel), is_own=True)


def stored_predictions(entry: Entry, image: RGB, mask: NDArray[np.uint8]) -> Iterator[Coarse]:
    """Predictions of other models that lie beside the truth."""
    for path in sorted(entry.stem.parent.glob(f"{entry.name}.pred-*.png")):
        prediction = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if prediction is None:
            raise InputError(f"{path}: is no image")
        yield Coarse(path.stem.rpartition(".pred-")[2], np.asarray(prediction, np.uint8))

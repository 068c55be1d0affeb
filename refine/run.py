"""Runs the network on batches and keeps what it says within bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from refine.geometry import BoolArray, Mask
from refine.sources import Refiner
from refine.stream import Batch, Corrections


def run_batches(batches: Iterable[Batch], refiner: Refiner, reach: float) -> Iterator[Corrections]:
    """The correction of every window; the surplus windows of a padded batch are dropped."""
    for batch in batches:
        corrections, broken = None, 0
        if batch.image is not None and batch.coarse is not None:
            corrections, broken = bounded(refiner(batch.image, batch.coarse, reach)[: len(batch.places)])
        yield Corrections(batch.bands, batch.places, corrections, batch.finished, broken)


def bounded(corrections: Mask) -> tuple[Mask, int]:
    """Corrections (n, T, T) cut to -1..1, and the number of windows that held NaN or infinity and count as zero now.

    Such a window is dropped whole: its other pixels went through the same arithmetic.
    """
    sound: BoolArray = np.all(np.isfinite(corrections), axis=(1, 2))
    if not sound.all():
        corrections = np.where(sound[:, None, None], corrections, np.float32(0))
    return np.clip(corrections, -1, 1), int(len(sound) - sound.sum())

"""Runs the network on batches, in smaller ones where the device has no room, and keeps what it says within bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from refine.agree import Agreement
from refine.errors import DeviceMemoryError
from refine.flips import turned, turned_back
from refine.geometry import RGB, BoolArray, Mask
from refine.limit import Hold
from refine.sources import Refiner
from refine.stream import Batch, Corrections


class Calls:
    """The calls of a network in one run: of at most `most` windows, which halves where the device has no room for them.

    A batch that `is_given`, by the user, is not halved. Raises DeviceMemoryError.
    """

    def __init__(self, refiner: Refiner, batch: int, *, is_given: bool) -> None:
        self._refiner, self._is_given = refiner, is_given
        self.most = batch

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        while True:
            most = min(self.most, len(image))
            parts = [slice(first, first + most) for first in range(0, len(image), most)]
            try:
                corrections = [self._refiner(image[part], coarse[part], reach) for part in parts]
                return corrections[0] if len(parts) == 1 else np.concatenate(corrections)
            except DeviceMemoryError as error:
                if self._is_given:
                    raise DeviceMemoryError(f"{error}; give a smaller --batch than {self.most}, or auto") from error
                if most == 1:
                    raise DeviceMemoryError(f"{error}; give --device cpu or a smaller --tile") from error
            self.most = (most + 1) // 2


def run_batches(
    batches: Iterable[Batch], calls: Calls, reach: float, agreement: Agreement, passes: int, limit: Hold | None
) -> Iterator[Corrections]:
    """The correction of every window, in agreement and within the limit; what fills up a batch is dropped."""
    for batch in batches:
        corrections, broken = None, 0
        if batch.image is not None and batch.coarse is not None:
            corrections, broken = _refined(batch, batch.image, batch.coarse, calls, reach, agreement, passes)
            if limit is not None:
                for correction, mask in zip(corrections, batch.coarse, strict=False):  # without what fills it up
                    correction[:] = limit(correction, mask)
        yield Corrections(batch.bands, batch.places, corrections, batch.finished, broken)


def _refined(
    batch: Batch, image: RGB, coarse: Mask, calls: Calls, reach: float, agreement: Agreement, passes: int
) -> tuple[Mask, int]:
    """Corrections of the batch's windows after all passes, and how many of them the network had no finite answer for.

    Each pass begins with the result of the one before and sees the window turned another way, so that what the network
    gets wrong in one is not simply said again in the next.
    """
    count = len(batch.places)

    def run_pass(number: int, now: Mask) -> tuple[Mask, BoolArray]:
        answers = calls(turned(image, number), turned(now, number), reach)
        corrections, sound = bounded(turned_back(answers, number)[:count])
        for index, mask in enumerate(batch.masks):
            corrections[index] = agreement(batch.places[index], mask, now[index], corrections[index])
        return corrections, sound

    total, sound = run_pass(0, coarse)
    for number in range(1, passes):
        refined = coarse.copy()
        refined[:count] = np.clip(coarse[:count] + total, 0, 1)
        corrections, answered = run_pass(number, refined)
        total = np.clip(refined[:count] - coarse[:count] + corrections, -1, 1)
        sound &= answered
    return total, int(np.count_nonzero(~sound))


def bounded(corrections: Mask) -> tuple[Mask, BoolArray]:
    """Corrections (n, T, T) cut to -1..1, and (n,) whether each is sound: one with NaN or infinity counts as zero now.

    Such a window is dropped whole: its other pixels went through the same arithmetic.
    """
    sound: BoolArray = np.all(np.isfinite(corrections), axis=(1, 2))
    if not sound.all():
        corrections = np.where(sound[:, None, None], corrections, np.float32(0))
    return np.clip(corrections, -1, 1), sound

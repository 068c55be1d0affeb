"""A refining network asked several times about the same window, mirrored and turned over; the answers are averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine.geometry import RGB, Mask
from refine.sources import Refiner

Plane = NDArray[Any]

VIEWS: tuple[Callable[[Plane], Plane], ...] = (
    lambda windows: windows,
    lambda windows: windows[:, :, ::-1],
    lambda windows: windows.swapaxes(1, 2),
    lambda windows: windows.swapaxes(1, 2)[:, :, ::-1],
)
"""Of (B, T, T, ...): as it is, mirrored, turned over its diagonal, and both."""

BACK: tuple[Callable[[Plane], Plane], ...] = (
    VIEWS[0],
    VIEWS[1],
    VIEWS[2],
    lambda windows: windows[:, :, ::-1].swapaxes(1, 2),
)
"""What undoes each of VIEWS."""


TURNED_PIXEL_BYTES = 3 + 3 * 4
"""For each pixel of a call: a view of image and mask, and two corrections."""


class Flipped:
    """A `Refiner` that averages another one's corrections over the first `flips` of `VIEWS`."""

    def __init__(self, refiner: Refiner, flips: int) -> None:
        self._refiner, self._flips = refiner, flips

    @property
    def stride(self) -> int:
        return self._refiner.stride

    @property
    def weight_bytes(self) -> int:
        return self._refiner.weight_bytes

    def activation_bytes(self, batch: int, tile: int) -> int:
        return self._refiner.activation_bytes(batch, tile) + TURNED_PIXEL_BYTES * batch * tile * tile

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        total = np.zeros_like(coarse)
        for view, back in zip(VIEWS[: self._flips], BACK, strict=False):
            correction = self._refiner(np.ascontiguousarray(view(image)), np.ascontiguousarray(view(coarse)), reach)
            total += back(correction)
        mean: Mask = total / np.float32(self._flips)
        return mean


def flipped(refiner: Refiner, flips: int) -> Refiner:
    return refiner if flips == 1 else Flipped(refiner, flips)

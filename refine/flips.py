"""A refining network asked several times about the same window, mirrored and turned over; the answers are averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from refine.geometry import RGB, Mask
from refine.sources import Refiner

_Number = TypeVar("_Number", bound=np.generic)


_Plane: TypeAlias = NDArray[Any]
_Way: TypeAlias = Callable[[_Plane], Any]


def _mirror(window: _Plane) -> Any:
    return cv2.flip(window, 1)


_TURN: Mapping[int, _Way] = {1: _mirror, 2: cv2.transpose, 3: lambda window: cv2.flip(cv2.transpose(window), 1)}
_TURN_BACK: Mapping[int, _Way] = {1: _mirror, 2: cv2.transpose, 3: lambda window: cv2.transpose(cv2.flip(window, 1))}


def turned(windows: NDArray[_Number], view: int) -> NDArray[_Number]:
    """Windows (B, T, T, ...) in one of four views: 0 as they are, 1 mirrored, 2 turned over the diagonal, 3 both.

    By OpenCV: numpy copies a mirrored picture's pixels one by one, 2.2 ms for eight of 224 px where this takes 0.06.
    """
    return windows if view == 0 else _each(windows, _TURN[view])


def turned_back(windows: NDArray[_Number], view: int) -> NDArray[_Number]:
    """Undo `turned`."""
    return windows if view == 0 else _each(windows, _TURN_BACK[view])


def _each(windows: NDArray[_Number], way: _Way) -> NDArray[_Number]:
    out = np.empty_like(windows, order="C")
    for index, window in enumerate(windows):
        out[index] = way(window)
    return out


TURNED_PIXEL_BYTES = 3 + 3 * 4
"""For each pixel of a call: a view of image and mask, and two corrections."""


class Flipped:
    """A `Refiner` that averages another one's corrections over the first `flips` views of each window."""

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
        for view in range(self._flips):
            total += turned_back(self._refiner(turned(image, view), turned(coarse, view), reach), view)
        mean: Mask = total / np.float32(self._flips)
        return mean


def flipped(refiner: Refiner, flips: int) -> Refiner:
    return refiner if flips == 1 else Flipped(refiner, flips)

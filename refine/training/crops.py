"""The square that a training window shows of a pair: at any scale, turned, mirrored beyond the image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from refine.training.augment import Number, flip_and_turn, soften_as_enlarged
from refine.training.data import Pair


@dataclass(frozen=True, slots=True)
class Crop:
    """`image` (S, S, 3) uint8, `truth` (S, S) float32 0..1, `trusted` (S, S): where the truth counts for the loss."""

    image: NDArray[np.uint8]
    truth: NDArray[np.float32]
    trusted: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a crop lies: its middle in pixels of the pair, window pixels a pixel, and one of eight orientations."""

    row: float
    col: float
    scale: float
    orientation: int


def take(pair: Pair, place: Place, side: int, rng: Generator) -> Crop:
    """What `side` window pixels show of a pair at a place; enlarged images get the blur and grain of large ones."""
    scale = place.scale
    image, mask = seen(pair.image, place, side), seen(pair.mask, place, side)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(image, (side, side), interpolation=way).astype(np.uint8, copy=False)
    truth = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    truth = truth.astype(np.float32) / np.float32(255)
    trusted = np.ones_like(truth, dtype=np.bool_)
    if scale > 1:
        if not pair.is_exact:
            trusted = ~_band(truth, int(np.ceil(scale)))
        image = soften_as_enlarged(image, scale, rng)
    if pair.void is not None:
        trusted &= cv2.resize(seen(pair.void, place, side), (side, side), interpolation=cv2.INTER_AREA) == 0
    turned = place.orientation
    return Crop(flip_and_turn(image, turned), flip_and_turn(truth, turned), flip_and_turn(trusted, turned))


def seen(plane: NDArray[np.uint8], place: Place, side: int) -> NDArray[np.uint8]:
    """The square of `plane` that `side` window pixels show, averaged by a whole number where that is many more."""
    factor = max(1, int(1 / place.scale))
    need = int(np.ceil(side / place.scale / factor))
    top, left = round(place.row / factor - need / 2), round(place.col / factor - need / 2)
    if factor > 1:
        height, width = (max(1, length // factor) for length in plane.shape[:2])
        # Only what the square meets; all of an axis along which it is larger than the plane and mirrored repeatedly.
        first, last = (0, height) if need >= height else (max(0, top), min(height, top + need))
        begin, end = (0, width) if need >= width else (max(0, left), min(width, left + need))
        met = plane[first * factor : last * factor, begin * factor : end * factor]
        size = end - begin, last - first
        plane = cv2.resize(met, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        top, left = top - first, left - begin
    return mirrored(plane, top, left, need)


def mirrored(plane: NDArray[np.uint8], top: int, left: int, side: int) -> NDArray[np.uint8]:
    """A square of `plane`, which it meets, mirrored beyond the border with the edge repeated, as often as needed."""
    height, width = plane.shape[:2]
    inside = plane[max(0, top) : top + side, max(0, left) : left + side]
    above, before = max(0, -top), max(0, -left)
    below, after = max(0, top + side - height), max(0, left + side - width)
    if not (above or below or before or after):
        return inside
    if max(above, below) <= inside.shape[0] and max(before, after) <= inside.shape[1]:
        return _bordered(inside, above, below, before, after)
    whole = _bordered(plane, above, below, before, after)
    row, col = top + above, left + before
    return whole[row : row + side, col : col + side]


def _bordered(plane: NDArray[np.uint8], above: int, below: int, before: int, after: int) -> NDArray[np.uint8]:
    mirrored = cv2.copyMakeBorder(plane, above, below, before, after, cv2.BORDER_REFLECT)
    return mirrored.astype(np.uint8, copy=False)  # for its type alone: large windows are not copied again


def _band(truth: NDArray[np.float32], radius: int) -> NDArray[np.bool_]:
    """Pixels within `radius` of the outline."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    band: NDArray[np.bool_] = cv2.morphologyEx((truth > 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, kernel) > 0
    return band


def centre(plane: NDArray[Number], size: int) -> NDArray[Number]:
    top, left = (plane.shape[0] - size) // 2, (plane.shape[1] - size) // 2
    return np.ascontiguousarray(plane[top : top + size, left : left + size])

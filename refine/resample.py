"""Exact enlarging and area means of masks: any crop of a result equals the same crop of the whole, bit for bit.

Positions come from global coordinates in whole numbers, so that they do not depend on the crop. Weights are float64
and the taps of a pixel are added in a fixed order, rows first, then columns. Along an axis of `length` image pixels,
pixel r of a level of decimation d covers the image interval [r * d, min((r + 1) * d, length)).

A sum of weights differs from 1 by some 1e-16, so that a uniform neighbourhood gives its own float32 value back: the
engine fills such areas without computing them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine.geometry import Mask

Numbers = NDArray[np.float32] | NDArray[np.float64] | NDArray[np.int16]


@dataclass(frozen=True)
class Taps:
    """What makes each pixel along one axis: pixel i is the sum of `weights[i, k] * source[first[i] + k]`."""

    first: NDArray[np.int64]  # (n,)
    weights: NDArray[np.float64]  # (n, k); taps beyond the source have weight 0

    @property
    def start(self) -> int:
        """First source pixel that is read."""
        return int(self.first[0])

    @cached_property
    def stop(self) -> int:
        """One past the last source pixel that is read."""
        used = self.weights != 0
        last = self.first + (used.shape[1] - 1 - np.argmax(used[:, ::-1], axis=1))
        return int(last.max()) + 1

    @cached_property
    def is_identity(self) -> bool:
        """Each pixel is one source pixel, and they follow each other."""
        return self.stop - self.start == len(self.first) and bool(np.all(self.weights[:, 0] == 1))

    def over(self, lowest: NDArray[Any], highest: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Per pixel the lowest and highest value of its taps, given those of each source pixel, all of them; (n,) each.

        Taps of weight 0 may be among them.
        """
        low, high = lowest.take(self.first), highest.take(self.first)
        for tap in range(1, self.weights.shape[1]):
            np.minimum(low, lowest.take(self.first + tap, mode="clip"), out=low)
            np.maximum(high, highest.take(self.first + tap, mode="clip"), out=high)
        return low, high

    def part(self, start: int, stop: int) -> Taps:
        """The taps of pixels `start` to `stop` of these."""
        return Taps(self.first[start:stop], self.weights[start:stop])


def mask_taps(start: int, stop: int, decimation: int, length: int, source_length: int) -> Taps:
    """How pixels [start, stop) of a level come from a first mask of `source_length` pixels over the same extent.

    A level pixel that covers one mask pixel or less is sampled bilinearly at its centre (pixel centres aligned,
    clamped at the border); one that covers more is the mean of what it covers, fractions counted. At equal size: the
    mask itself.
    """
    pixel = np.arange(start, stop, dtype=np.int64)
    low = pixel * decimation * source_length  # in units of 1 / length mask pixels
    high = np.minimum((pixel + 1) * decimation, length) * source_length
    if int((high - low).max()) <= length:
        return _centre_taps(low + high, 2 * length, source_length)
    first = np.where(high - low > length, low // length, 0)
    last = np.where(high - low > length, -(-high // length), 0)
    tap = np.arange(int((last - first).max()), dtype=np.int64)
    left = (first[:, None] + tap) * length
    covered = np.minimum(left + length, high[:, None]) - np.maximum(left, low[:, None])
    weights = np.maximum(covered, 0) / (high - low)[:, None]
    short = high - low <= length  # only a last pixel that the border cuts
    if short.any():
        cut = _centre_taps((low + high)[short], 2 * length, source_length)
        first[short] = cut.first
        weights[short] = 0
        weights[short, :2] = cut.weights
    return Taps(first, weights)


def level_taps(start: int, stop: int, decimation: int, length: int, coarser: int) -> Taps:
    """How pixels [start, stop) of a level are sampled bilinearly from the level of decimation `coarser`.

    A last pixel of the coarser level that the border cuts counts as whole: its centre keeps the distance of the others.
    """
    pixel = np.arange(start, stop, dtype=np.int64)
    low, high = pixel * decimation, np.minimum((pixel + 1) * decimation, length)
    return _centre_taps(low + high, 2 * coarser, -(-length // coarser))


def _centre_taps(centre: NDArray[np.int64], unit: int, source_length: int) -> Taps:
    """Two taps around `centre / unit`, a position in which source pixel i has its centre at i + 1/2."""
    position = 2 * centre - unit
    first = position // (2 * unit)
    share = (position - first * 2 * unit) / (2 * unit)
    share = np.where((first < 0) | (first >= source_length - 1), 0.0, share)
    return Taps(np.clip(first, 0, source_length - 1), np.stack([1 - share, share], axis=1))


def resample(source: Numbers, rows: Taps, cols: Taps, origin: tuple[int, int] = (0, 0)) -> Mask:
    """The (n, m) pixels that `rows` and `cols` make of `source`, whose first pixel is `origin` of the whole."""
    if rows.is_identity and cols.is_identity:
        row, col = rows.start - origin[0], cols.start - origin[1]
        crop: Mask = source[row : row + len(rows.first), col : col + len(cols.first)].astype(np.float32)
        return crop
    pixels: Mask = _gather(_gather(source, rows, origin[0], 0), cols, origin[1], 1).astype(np.float32)
    return pixels


def _gather(source: Numbers, taps: Taps, origin: int, axis: int) -> NDArray[np.float64]:
    """Weighted sums of rows of `source`, or of columns (axis 1), tap by tap."""
    total: NDArray[np.float64] | None = None
    for tap in range(taps.weights.shape[1]):
        weight = taps.weights[:, tap]
        # Clipped, since taps of weight 0 may lie beyond.
        part = source.take(taps.first + (tap - origin), axis=axis, mode="clip").astype(np.float64, copy=False)
        part *= weight[:, None] if axis == 0 else weight
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total

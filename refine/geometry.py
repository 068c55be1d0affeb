"""Where things lie: windows, levels of the cascade, and the grid of windows over a level.

Positions are `row, col`, sizes `height, width`, all in whole pixels of one grid. Everything here is a plain value.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError

Mask = NDArray[np.float32]
"""(H, W), 0..1, 1 is foreground."""

RGB = NDArray[np.uint8]
"""(H, W, 3), or (B, H, W, 3) for a batch."""

BoolArray = NDArray[np.bool_]

Pixel = TypeVar("Pixel", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of one grid. It may reach beyond the image; `clip` cuts it."""

    row: int
    col: int
    height: int
    width: int

    @property
    def stop_row(self) -> int:
        return self.row + self.height

    @property
    def stop_col(self) -> int:
        return self.col + self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an array of the whole grid."""
        return slice(self.row, self.stop_row), slice(self.col, self.stop_col)

    def grow(self, margin: int) -> Window:
        """The window with `margin` more pixels on each side."""
        return Window(self.row - margin, self.col - margin, self.height + 2 * margin, self.width + 2 * margin)

    def clip(self, height: int, width: int) -> Window:
        """The part of the window inside a grid of that size; its height or width is 0 if there is none."""
        return self.intersect(Window(0, 0, height, width))

    def intersect(self, other: Window) -> Window:
        """What both windows cover; its height or width is 0 if they do not meet."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        height = max(0, min(self.stop_row, other.stop_row) - row)
        width = max(0, min(self.stop_col, other.stop_col) - col)
        return Window(row, col, height, width)

    def scale(self, factor: int) -> Window:
        """The same rectangle in a grid that is `factor` times as fine."""
        return Window(self.row * factor, self.col * factor, self.height * factor, self.width * factor)


@dataclass(frozen=True, slots=True)
class Level:
    """A step of the cascade: the image at one pixel for `decimation` x `decimation` of its own.

    `reach` says how far the coarse mask of this level may be wrong, in pixels of this level.
    """

    decimation: int
    height: int
    width: int
    reach: float


@dataclass(frozen=True)
class Axis:
    """Windows of `tile` pixels along `length` pixels, each sharing `overlap` with the next.

    The last window is moved back inside, so it may share more. An axis shorter than a tile has one window at 0, which
    reaches beyond the end.
    """

    length: int
    tile: int
    overlap: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"an image needs at least one pixel a side, got {self.length}")
        if not 0 <= self.overlap < self.tile:
            raise InputError(f"--overlap {self.overlap} is not between 0 and --tile {self.tile}; try {self.tile // 4}")

    @cached_property
    def origins(self) -> tuple[int, ...]:
        """First pixel of each window, ascending."""
        stride = self.tile - self.overlap
        steps = max(0, ceil((self.length - self.tile) / stride))
        return (*range(0, steps * stride, stride), max(0, self.length - self.tile))

    @cached_property
    def ramps(self) -> tuple[Mask, ...]:
        """Weight of each window along the axis, (tile,) each; at every pixel of the axis they sum to one.

        A half cosine over what a window shares with its neighbours, normalised by the sum of all windows there.
        Pixels beyond the end of a short axis have weight one.
        """
        count, reach = len(self.origins), self._reach
        if count <= 2 * reach + 1:
            return tuple(map(self._ramp, range(count)))
        # All but those near an end are alike, and share one array: a tall image has tens of thousands of windows.
        alike = [self._ramp(reach)] * (count - 2 * reach - 1)
        return (*map(self._ramp, range(reach)), *alike, *map(self._ramp, range(count - reach - 1, count)))

    @property
    def _reach(self) -> int:
        """Windows further away than so many overlap no window that overlaps this one."""
        return ceil(self.tile / (self.tile - self.overlap)) + 1

    def _ramp(self, index: int) -> Mask:
        first = max(0, index - self._reach)
        near = self.origins[first : index + self._reach + 1]
        shared = [before + self.tile - after for before, after in pairwise(near)]
        profiles = []
        for number in range(len(near)):
            profile = np.ones(self.tile)
            if number > 0:
                profile[: shared[number - 1]] *= _rise(shared[number - 1])
            if number < len(shared):
                profile[self.tile - shared[number] :] *= _rise(shared[number])[::-1]
            profiles.append(profile)
        total = np.zeros(near[-1] - near[0] + self.tile)
        for origin, profile in zip(near, profiles, strict=True):
            total[origin - near[0] : origin - near[0] + self.tile] += profile
        start = near[index - first] - near[0]
        ramp: Mask = (profiles[index - first] / total[start : start + self.tile]).astype(np.float32)
        return ramp

    def touching(self, start: int, stop: int) -> tuple[int, int]:
        """First and one past the last index of the windows that cover any pixel of [start, stop)."""
        indices = [index for index, origin in enumerate(self.origins) if origin < stop and origin + self.tile > start]
        return (indices[0], indices[-1] + 1) if indices else (0, 0)


def _rise(length: int) -> NDArray[np.float64]:
    """A half cosine from near 0 to near 1, sampled at pixel centres so that it is never 0; (length,)."""
    return 0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / max(length, 1))


@dataclass(frozen=True)
class Grid:
    """Square windows over a level: every pair of a window along the rows and one along the columns."""

    height: int
    width: int
    tile: int
    overlap: int

    @cached_property
    def rows(self) -> Axis:
        """Windows along the rows: an origin is a row."""
        return Axis(self.height, self.tile, self.overlap)

    @cached_property
    def cols(self) -> Axis:
        """Windows along the columns: an origin is a column."""
        return Axis(self.width, self.tile, self.overlap)

    @property
    def count(self) -> int:
        """Number of windows."""
        return len(self.rows.origins) * len(self.cols.origins)

    def window(self, row_index: int, col_index: int) -> Window:
        """The whole window, also where it reaches beyond the level."""
        return Window(self.rows.origins[row_index], self.cols.origins[col_index], self.tile, self.tile)

    def weight(self, row_index: int, col_index: int) -> Mask:
        """What the window counts at each of its pixels, (tile, tile)."""
        weight: Mask = np.multiply.outer(self.rows.ramps[row_index], self.cols.ramps[col_index])
        return weight


def mirror(pixels: NDArray[Pixel], height: int, width: int) -> NDArray[Pixel]:
    """`pixels` continued at the bottom and right to (height, width), mirrored with the edge repeated, over and over."""
    missing = [(0, height - pixels.shape[0]), (0, width - pixels.shape[1])] + [(0, 0)] * (pixels.ndim - 2)
    return np.pad(pixels, missing, mode="symmetric") if any(after for _, after in missing) else pixels

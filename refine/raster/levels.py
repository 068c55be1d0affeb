"""Block means of an image at several decimations, from one sweep over its rows.

Whole-number sums all the way, so that how the rows arrive cannot change a pixel. A decimation that is a multiple of a
smaller one adds up that one's sums instead of the pixels: a sum of sums is the same sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine.cascade import serving_overview
from refine.geometry import RGB, BoolArray

Sums = NDArray[Any]
"""(n, w, channels) unsigned: red, green, blue and, where pixels may be invalid, how many are valid."""

_MOST_IN_16_BITS = 257  # rows of bytes whose sum 16 bits hold

_BYTES_AT_ONCE = 1 << 20  # what is made of them takes several times that

LevelRows = Callable[[int, RGB, "BoolArray | None"], None]
"""Takes finished rows of a level: number of the first, (n, w, 3) and (n, w) valid pixels."""


class LevelSweep:
    """Takes the rows of a (height, width) image from the top, gives each level's rows as they are finished."""

    def __init__(self, height: int, width: int, has_invalid: bool, takers: dict[int, LevelRows]) -> None:
        self._has_invalid = has_invalid
        self._roots: list[_Node] = []
        made: dict[int, _Node] = {}
        for decimation in sorted(takers):
            parents = [smaller for smaller in made if decimation % smaller == 0]
            parent = max(parents, default=1)
            node = _Node(height, width, has_invalid, decimation, parent, takers[decimation])
            made[decimation] = node
            (made[parent].children if parent > 1 else self._roots).append(node)

    def feed(self, image: RGB, valid: BoolArray | None) -> None:
        """The next (n, width, 3) rows and their valid pixels."""
        step = max(1, _BYTES_AT_ONCE // (image.shape[1] * 4))
        for first in range(0, len(image), step):
            rows: Sums = image[first : first + step]
            if self._has_invalid:
                weight = (
                    np.ones(rows.shape[:2], np.uint8) if valid is None else valid[first : first + step].view(np.uint8)
                )
                rows = np.concatenate([rows * weight[:, :, None], weight[:, :, None]], axis=2)
            for node in self._roots:
                node.feed(rows)

    def finish(self) -> None:
        """All rows were fed: hand over the last rows, which the border cuts."""
        for node in self._roots:
            node.finish()


class _Node:
    """One decimation: sums `factor` rows and columns of its parent's sums (of pixels, if the parent is 1)."""

    def __init__(
        self, height: int, width: int, has_invalid: bool, decimation: int, parent: int, take: LevelRows
    ) -> None:
        self.children: list[_Node] = []
        self._height, self._width, self._has_invalid, self._decimation = height, width, has_invalid, decimation
        self._factor = decimation // parent
        # Sums of one column of a block of pixels; those of blocks grow with the area.
        self._dtype = np.uint64 if parent > 1 else np.uint16 if decimation <= _MOST_IN_16_BITS else np.uint32
        # The largest sum of a block is a whole number that the type of the products holds.
        self._exact = np.float32 if 2 * 256 * decimation**2 < 1 << 24 else np.float64
        self._take = take
        self._row = 0  # first row of the level that is not finished
        self._open: Sums | None = None  # (w, channels) sum of the rows of the unfinished block row
        self._open_rows = 0

    def feed(self, rows: Sums) -> None:
        first = 0
        if self._open is not None:
            first = min(self._factor - self._open_rows, len(rows))
            self._add(rows[:first])
        whole = (len(rows) - first) // self._factor
        if whole:
            stop = first + whole * self._factor
            tall = rows[first : stop : self._factor].astype(self._dtype)
            for row in range(first + 1, first + self._factor):
                tall += rows[row : stop : self._factor]
            self._emit(tall)
            first = stop
        if first < len(rows):
            self._add(rows[first:])

    def finish(self) -> None:
        if self._open is not None:
            self._close_block_row()
        for child in self.children:
            child.finish()

    def _add(self, rows: Sums) -> None:
        added = rows.sum(axis=0, dtype=self._dtype)
        self._open = added if self._open is None else self._open + added
        self._open_rows += len(rows)
        if self._open_rows == self._factor:
            self._close_block_row()

    def _close_block_row(self) -> None:
        assert self._open is not None
        block_row, self._open, self._open_rows = self._open[None], None, 0
        self._emit(block_row)

    def _emit(self, tall: Sums) -> None:
        """`tall` is (n, w of the parent, channels): rows are summed already, columns are not."""
        sums = self._joined_cols(tall)
        counts = np.repeat(sums[:, :, 3:], 3, axis=2) if self._has_invalid else self._pixel_counts(*sums.shape[:2])
        # Rounded half up. The quotient's rounding cannot reach the next whole number: that is 1 / (2 counts) away.
        means: NDArray[Any] = 2 * sums[:, :, :3]
        means += counts
        means /= np.maximum(2 * counts, 1)
        self._take(self._row, means.astype(np.uint8), counts[:, :, 0] > 0 if self._has_invalid else None)
        self._row += len(sums)
        for child in self.children:
            child.feed(sums.astype(np.uint64))

    def _joined_cols(self, tall: Sums) -> Sums:
        """Sums of `factor` columns each, the last ones of what is left; as a product, which is the fastest way."""
        rows, width, channels = tall.shape
        whole = width // self._factor
        columns = tall[:, : whole * self._factor].astype(self._exact).reshape(rows, whole, self._factor * channels)
        sums = np.empty((rows, -(-width // self._factor), channels), self._exact)
        sums[:, :whole] = columns @ np.tile(np.eye(channels, dtype=self._exact), (self._factor, 1))
        if whole < sums.shape[1]:
            sums[:, whole] = tall[:, whole * self._factor :].sum(axis=1, dtype=self._exact)
        return sums

    def _pixel_counts(self, rows: int, cols: int) -> NDArray[Any]:
        """Pixels of each block of the next rows, once for each colour."""
        d = self._decimation
        heights = np.minimum(d, self._height - d * np.arange(self._row, self._row + rows))
        widths = np.minimum(d, self._width - d * np.arange(cols))
        counts = np.multiply.outer(heights.astype(self._exact), np.repeat(widths, 3).astype(self._exact))
        return counts.reshape(rows, cols, 3)


def decimations_to_sweep(decimations: Sequence[int], overviews: Sequence[int]) -> list[int]:
    """Those above 1 that no overview serves, ascending."""
    return sorted({d for d in decimations if d > 1 and serving_overview(d, overviews) is None})

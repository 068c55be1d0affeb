"""Where an image is valid, cell by cell, as the sweep that makes its levels has seen it.

So that a place without a valid pixel is not read again, and one that is valid all over not only to learn that.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import numpy as np

from refine.geometry import BoolArray, Window

CELL = 64
"""Side of a cell, in pixels: 0.8 MB for an image of 40 000 x 40 000, at two bytes each."""

ReadValid = Callable[[Window], "BoolArray | None"]


class ValidCells:
    """How many pixels of each cell of a (height, width) image are valid; known when all rows were fed."""

    def __init__(self, height: int, width: int) -> None:
        self._height, self._width = height, width
        self._counts = np.zeros((-(-height // CELL), -(-width // CELL)), np.uint16)
        self._starts = np.arange(0, width, CELL)
        self._next_row = 0

    @property
    def is_known(self) -> bool:
        return self._next_row == self._height

    def feed(self, valid: BoolArray | None, rows: int) -> None:
        """The next rows from the top, (rows, width), None if all are valid."""
        stop = self._next_row + rows
        while self._next_row < stop:
            row = self._next_row
            count = min(CELL - row % CELL, stop - row)
            if valid is None:
                self._counts[row // CELL] += (count * self._widths(slice(None))).astype(np.uint16)
            else:
                part = valid[row - stop + rows :][:count].sum(axis=0, dtype=np.uint16)
                self._counts[row // CELL] += np.add.reduceat(part, self._starts, dtype=np.uint16)
            self._next_row += count

    def none_valid(self, window: Window) -> bool:
        """Whether it is known that a window has no valid pixel."""
        return self.is_known and not self._counts[self._cells(window)].any()

    def valid(self, window: Window, read: ReadValid) -> BoolArray | None:
        """(h, w) valid pixels of a window, None if all are; `read` is asked for those of cells that have both kinds."""
        if not self.is_known:
            return read(window)
        found = np.empty((window.height, window.width), np.bool_)
        rows, cols = self._cells(window)
        for cell_row in range(rows.start, rows.stop):
            top, bottom = max(cell_row * CELL, window.row), min((cell_row + 1) * CELL, window.stop_row)
            counts = self._counts[cell_row, cols]
            size = min(CELL, self._height - cell_row * CELL) * self._widths(cols)
            kinds = np.where(counts == 0, 0, np.where(counts == size, 1, 2))
            first = cols.start
            for kind, run in groupby(kinds.tolist()):
                stop = first + len(list(run))
                left, right = max(first * CELL, window.col), min(stop * CELL, window.stop_col)
                part = found[top - window.row : bottom - window.row, left - window.col : right - window.col]
                mixed = read(Window(top, left, bottom - top, right - left)) if kind == 2 else None
                part[:] = kind > 0 if mixed is None else mixed
                first = stop
        return None if found.all() else found

    def _cells(self, window: Window) -> tuple[slice, slice]:
        return (
            slice(window.row // CELL, -(-window.stop_row // CELL)),
            slice(window.col // CELL, -(-window.stop_col // CELL)),
        )

    def _widths(self, cols: slice) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """Pixels of each cell along a row."""
        starts = self._starts[cols].astype(np.int64)
        return np.minimum(starts + CELL, self._width) - starts

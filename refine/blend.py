"""Sums weighted corrections into a strip as high as one window, and hands rows on as soon as they are final.

A correction of zero needs no weight: a window that did not run is one that changes nothing, so selected and skipped
regions meet in a ramp. Corrections are added in row-major order of their windows, whatever batches they came in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from refine.geometry import Grid, Mask
from refine.stream import Band, Carry, Corrections, FinalRows


def blend_rows(results: Iterable[Corrections], strip: Strip) -> Iterator[FinalRows]:
    """Every band with its summed correction, top to bottom."""
    bands: deque[Band] = deque()
    for result in results:
        bands.extend(result.bands)
        if result.corrections is not None:
            for place, correction in zip(result.places, result.corrections, strict=True):
                while bands[0].index < place[0]:
                    yield strip.finish(bands.popleft())
                strip.add(place, correction)
        while bands and bands[0].index < result.finished:
            yield strip.finish(bands.popleft())


class Strip:
    """Running rows of sums, (tile, width): the rows of one window row, those above it handed on.

    Columns where nothing was added stay zero and cost nothing.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._sums: Mask = np.zeros((grid.tile, grid.width), np.float32)
        self._row = 0
        self._touched_to = [0] * len(grid.cols.origins)  # per window column: corrections end above this row

    def carry(self, row: int) -> Carry:
        """What is left for the rows from `row` on, where the next window row begins; a view, valid until the next call.

        A new strip that takes it goes on as this one would.
        """
        self._move_to(row)
        until = np.array(self._touched_to, np.int64)
        return Carry(self._sums[: max(0, int(until.max()) - row)], until)

    def take(self, row: int, carry: Carry) -> None:
        """Begin at `row` with what another strip left there."""
        self._row = row
        self._sums[: len(carry.sums)] = carry.sums
        self._touched_to = carry.touched_to.tolist()

    def add(self, place: tuple[int, int], correction: Mask) -> None:
        """Add the weighted correction (tile, tile) of a window. Window rows come in order, from top to bottom."""
        window = self._grid.window(*place)
        self._move_to(window.row)
        if not correction.any():
            return
        width = min(window.width, self._grid.width - window.col)
        self._sums[:, window.col : window.col + width] += (correction * self._grid.weight(*place))[:, :width]
        self._touched_to[place[1]] = window.stop_row

    def finish(self, band: Band) -> FinalRows:
        """The sums of the band's rows, valid until the next call; rows above them are forgotten."""
        self._move_to(band.row)
        return FinalRows(band, self._sums[: len(band.coarse)], tuple(self._touched()))

    def _move_to(self, row: int) -> None:
        done = row - self._row
        if done == 0:
            return
        for cols in self._touched():
            columns = self._sums[:, cols]
            columns[: max(len(columns) - done, 0)] = columns[done:].copy()
            columns[max(len(columns) - done, 0) :] = 0
        self._row = row

    def _touched(self) -> Iterator[slice]:
        """Columns that hold corrections of rows of the strip, joined where they meet, left to right."""
        start = stop = 0
        for origin, until in zip(self._grid.cols.origins, self._touched_to, strict=True):
            if until <= self._row:
                continue
            if origin > stop and stop > start:
                yield slice(start, stop)
            if origin > stop or stop == start:
                start = origin
            stop = min(origin + self._grid.tile, self._grid.width)
        if stop > start:
            yield slice(start, stop)

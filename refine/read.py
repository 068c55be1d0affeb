"""Reads the selected windows and fills batches with them, ahead of the network in a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from refine.agree import Agreement
from refine.cascade import LevelPlan
from refine.fill import fill_invalid
from refine.geometry import RGB, BoolArray, Grid, Mask, Window, mirror
from refine.plan import Plan
from refine.sources import ImageSource
from refine.stream import Band, Batch, SelectedRow

Item = TypeVar("Item")

VALID_ROWS = 64
"""Rows read at once to know which pixels are valid."""


def read_batches(
    selected: Iterable[SelectedRow], image: ImageSource, agreement: Agreement, step: LevelPlan, plan: Plan
) -> Iterator[Batch]:
    """Batches of windows in row-major order; none holds windows of two parts.

    A window row after which no window waits ends its batch if that is empty, so that its band goes on at once. Windows
    without a valid pixel are left out.
    """
    needs_valid = image.has_invalid and step.is_last
    bands: list[Band] = []
    filling = _Filling(plan, agreement)
    for row in selected:
        bands.append(_with_valid(row.band, image) if needs_valid else row.band)
        for cols in _neighbours(row.cols, plan.batch):
            for col, pixels in read_windows(image, step.grid, row.band.index, cols, step.level.decimation):
                origin = step.grid.cols.origins[col]
                filling.add((row.band.index, col), pixels, row.strip[:, origin : origin + plan.tile])
                if filling.is_full:
                    yield filling.taken(bands, finished=row.band.index)
                    bands = []
        if row.ends_part or filling.is_empty:
            yield filling.taken(bands, finished=row.band.index + 1)
            bands = []


def read_windows(
    image: ImageSource, grid: Grid, row: int, cols: Sequence[int], decimation: int
) -> Iterator[tuple[int, RGB]]:
    """Windows of one window row as the network sees them, each with its column; those without a valid pixel are not
    among them. All are read at once, so they should be neighbours.
    """
    first, last = grid.window(row, cols[0]), grid.window(row, cols[-1])
    whole = Window(first.row, first.col, grid.tile, last.stop_col - first.col)
    pixels, valid = image.read(whole.clip(grid.height, grid.width), decimation)
    for col in cols:
        start = grid.cols.origins[col] - first.col
        part = np.s_[:, start : start + grid.tile]
        window = _whole(pixels[part], None if valid is None else valid[part], grid.tile, grid.tile)
        if window is not None:
            yield col, window


def read_window(image: ImageSource, window: Window, decimation: int) -> RGB | None:
    """The window as the network sees it, (height, width, 3): whole, without gaps; None if it has no valid pixel.

    Invalid pixels take the value of the nearest valid one in the window; beyond the image it is mirrored.
    """
    height, width = -(-image.height // decimation), -(-image.width // decimation)
    return _whole(*image.read(window.clip(height, width), decimation), window.height, window.width)


def _whole(pixels: RGB, valid: BoolArray | None, height: int, width: int) -> RGB | None:
    if valid is not None and not valid.all():
        if not valid.any():
            return None
        pixels = fill_invalid(pixels, valid)
    return mirror(pixels, height, width)


def read_ahead(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """The same items in the same order, up to `depth` of them made ahead in one thread; depth 0 makes them on demand.

    An error in the thread is raised where its item would have come. Closing ends the thread after its current item.
    """
    if depth == 0:
        yield from items
        return
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="refine-read")
    ahead: deque[Future[list[Item]]] = deque()
    try:
        for _ in range(depth):
            ahead.append(executor.submit(_take_one, items))
        while taken := ahead.popleft().result():
            ahead.append(executor.submit(_take_one, items))
            yield taken.pop()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _take_one(items: Iterator[Item]) -> list[Item]:
    """The next item in a list, an empty list at the end: StopIteration does not pass through a future."""
    for item in items:
        return [item]
    return []


def _neighbours(cols: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    """The columns in runs of at most `most`, each without a gap."""
    start = 0
    for stop in range(1, len(cols) + 1):
        if stop == len(cols) or cols[stop] != cols[stop - 1] + 1 or stop - start == most:
            yield cols[start:stop]
            start = stop


class _Filling:
    """The batch that is being filled: windows are copied once, to where the network will see them."""

    def __init__(self, plan: Plan, agreement: Agreement) -> None:
        self._plan, self._agreement = plan, agreement
        self._places: list[tuple[int, int]] = []
        self._image: RGB = np.empty(0, np.uint8)
        self._coarse: Mask = np.empty(0, np.float32)

    @property
    def is_full(self) -> bool:
        return len(self._places) == self._plan.batch

    @property
    def is_empty(self) -> bool:
        return not self._places

    def add(self, place: tuple[int, int], pixels: RGB, coarse: Mask) -> None:
        """One more window, and its part of the coarse mask, which is mirrored beyond the image as well."""
        if not self._places:
            count, tile = self._plan.batch, self._plan.tile
            self._image = np.empty((count, tile, tile, 3), np.uint8)
            self._coarse = np.empty((count, tile, tile), np.float32)
        index, tile = len(self._places), self._plan.tile
        self._image[index] = pixels
        self._coarse[index] = mirror(coarse, tile, tile)
        self._places.append(place)

    def taken(self, bands: list[Band], finished: int) -> Batch:
        """What there is, filled up with the last window to a size that calls may have."""
        count, places = len(self._places), tuple(self._places)
        image = coarse = None
        if places:
            size = next(size for size in self._plan.batch_sizes if size >= count)
            image, coarse = self._image[:size], self._coarse[:size]
            image[count:] = image[count - 1]
            coarse[count:] = coarse[count - 1]
        masks = tuple(map(self._agreement.read, places)) if self._agreement.is_needed else ()
        # The next one gets memory of its own: this one goes through the queue.
        self._places, self._image, self._coarse = [], np.empty(0, np.uint8), np.empty(0, np.float32)
        return Batch(tuple(bands), places, image, coarse, masks, finished)


def _with_valid(band: Band, image: ImageSource) -> Band:
    """A band of the image itself, with its valid pixels."""
    valid = np.ones(band.coarse.shape, np.bool_)
    for start in range(0, len(valid), VALID_ROWS):
        rows = min(VALID_ROWS, len(valid) - start)
        found = image.read_valid(Window(band.row + start, 0, rows, image.width))
        if found is not None:
            valid[start : start + rows] = found
    return Band(band.index, band.row, band.coarse, band.first, None if valid.all() else valid)

"""Reads the selected windows and fills batches with them, ahead of the network in a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from refine.cascade import LevelPlan
from refine.fill import fill_invalid
from refine.geometry import RGB, Mask, Window, mirror
from refine.plan import Plan
from refine.sources import ImageSource
from refine.stream import Band, Batch, SelectedRow

Item = TypeVar("Item")

VALID_ROWS = 64
"""Rows read at once to know which pixels are valid."""


def read_batches(selected: Iterable[SelectedRow], image: ImageSource, step: LevelPlan, plan: Plan) -> Iterator[Batch]:
    """Batches of windows in row-major order; none holds windows of two parts.

    A window row after which no window waits ends its batch if that is empty, so that its band goes on at once. Windows
    without a valid pixel are left out.
    """
    needs_valid = image.has_invalid and step.is_last
    bands: list[Band] = []
    waiting: list[tuple[tuple[int, int], RGB, Mask]] = []
    for row in selected:
        bands.append(_with_valid(row.band, image) if needs_valid else row.band)
        for col in row.cols:
            place = (row.band.index, col)
            pixels = read_window(image, step.grid.window(*place), step.level.decimation)
            if pixels is None:
                continue
            origin = step.grid.cols.origins[col]
            coarse = mirror(row.strip[:, origin : origin + plan.tile], plan.tile, plan.tile)
            waiting.append((place, pixels, coarse.copy()))  # a view would hold the whole strip
            if len(waiting) == plan.batch:
                yield _batch(bands, waiting, plan, finished=row.band.index)
                bands, waiting = [], []
        if row.ends_part or not waiting:
            yield _batch(bands, waiting, plan, finished=row.band.index + 1)
            bands, waiting = [], []


def read_window(image: ImageSource, window: Window, decimation: int) -> RGB | None:
    """The window as the network sees it, (height, width, 3): whole, without gaps; None if it has no valid pixel.

    Invalid pixels take the value of the nearest valid one in the window; beyond the image it is mirrored.
    """
    height, width = -(-image.height // decimation), -(-image.width // decimation)
    pixels, valid = image.read(window.clip(height, width), decimation)
    if valid is not None and not valid.all():
        if not valid.any():
            return None
        pixels = fill_invalid(pixels, valid)
    return mirror(pixels, window.height, window.width)


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


def _batch(bands: list[Band], waiting: list[tuple[tuple[int, int], RGB, Mask]], plan: Plan, finished: int) -> Batch:
    places = tuple(place for place, _, _ in waiting)
    if not places:
        return Batch(tuple(bands), (), None, None, finished)
    size = next(size for size in plan.batch_sizes if size >= len(places))
    filled = waiting + waiting[-1:] * (size - len(places))
    image = np.stack([pixels for _, pixels, _ in filled])
    coarse = np.stack([mask for _, _, mask in filled])
    return Batch(tuple(bands), places, image, coarse, finished)


def _with_valid(band: Band, image: ImageSource) -> Band:
    """A band of the image itself, with its valid pixels."""
    valid = np.ones(band.coarse.shape, np.bool_)
    for start in range(0, len(valid), VALID_ROWS):
        rows = min(VALID_ROWS, len(valid) - start)
        found = image.read_valid(Window(band.row + start, 0, rows, image.width))
        if found is not None:
            valid[start : start + rows] = found
    return Band(band.index, band.row, band.coarse, band.first, None if valid.all() else valid)

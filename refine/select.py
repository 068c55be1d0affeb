"""Which windows are worth running: those that see the outline, or could, given how far the coarse mask may be wrong.

A window is skipped if over all its pixels, grown by the reach and one more, the coarse mask is below `low` throughout
or above `high` throughout. One pixel that differs is enough to run it, so a wire or a hole is never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from refine.cascade import LevelPlan
from refine.geometry import Axis, BoolArray, Mask
from refine.plan import Plan
from refine.stream import Band, SelectedRow

CoarseRows = Callable[[int, int], tuple[Mask, Mask | None]]
"""Coarse mask and first mask of rows [start, stop), as LevelCoarse.rows gives them."""


def select_windows(coarse_rows: CoarseRows, step: LevelPlan, plan: Plan) -> Iterator[SelectedRow]:
    """Every window row of the sweep with the windows to run. Each coarse row is asked for once, top to bottom."""
    axis, halo = step.grid.rows, step.halo
    start, stop = step.window_rows
    strip = first = None
    top = 0
    for index in range(start, stop):
        origin = axis.origins[index]
        above, below = max(origin - halo, 0), min(origin + plan.tile + halo, step.level.height)
        have = above if strip is None else top + len(strip)
        made, made_first = coarse_rows(have, below)
        strip = made if strip is None else np.concatenate([strip[above - top :], made])
        if made_first is not None:
            first = made_first if first is None else np.concatenate([first[above - top :], made_first])
        top = above
        band_stop = axis.origins[index + 1] if index + 1 < len(axis.origins) else step.level.height
        rows = slice(origin - top, band_stop - top)
        band = Band(index, origin, strip[rows].copy(), None if first is None else first[rows].copy())
        worth = np.ones(len(step.grid.cols.origins), np.bool_)
        if plan.select == "boundary":
            worth = worth_running(strip, step.grid.cols, halo, plan.low, plan.high)
        window_strip = strip[origin - top : origin - top + plan.tile]
        cols = tuple(int(col) for col in np.flatnonzero(worth))
        yield SelectedRow(band, window_strip, cols, ends_part=index + 1 == stop or (index + 1) % step.part_rows == 0)


def worth_running(strip: Mask, axis: Axis, halo: int, low: float, high: float) -> BoolArray:
    """Per window along the columns: is the strip, whose rows are grown already, neither below `low` nor above `high`?

    `strip` is (n, width); windows are grown by `halo` columns here.
    """
    starts = np.maximum(np.array(axis.origins) - halo, 0)
    stops = np.minimum(np.array(axis.origins) + axis.tile + halo, axis.length)
    spans = np.stack([starts, stops], axis=1).ravel()
    highest = np.maximum.reduceat(np.append(strip.max(axis=0), strip[0, 0]), spans)[::2]
    lowest = np.minimum.reduceat(np.append(strip.min(axis=0), strip[0, 0]), spans)[::2]
    worth: BoolArray = ~((highest < low) | (lowest > high))
    return worth

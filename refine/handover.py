"""The coarse mask of a level: the first mask, and where the level before changed it, what that level made of it.

`coarse = (1 - w) * first + w * enlarge(refined)`, `w = clip((enlarge(max3x3 |D|) - 0.02) / 0.08, 0, 1)`, with `first`
the first mask resampled directly to each level, `D` the correction of the level before, `refined = first + D` there.
Where nothing was changed it is the first mask to the bit, however sharp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from refine.geometry import BoolArray, Level, Mask, Window
from refine.level_store import STEPS, LevelStore, Steps, restore
from refine.memory import BAND_PIXELS
from refine.resample import Taps, level_taps, mask_taps, resample
from refine.sources import MaskSource

UNCHANGED_BELOW = 0.02
"""A correction up to this is no change: five 8-bit steps, below what a network's rounding leaves."""

CHANGED_OVER = 0.08
"""From UNCHANGED_BELOW the weight rises to one over this much."""

BLOCK_COLS = 512
"""Columns are made in blocks of at most this many, whose products stay in a core's cache."""

FEWEST_COLS = 32
"""Fewer columns that need no work, between those that do, are not left out: each block has a cost of its own."""


class FirstMask:
    """The first mask, resampled directly to any level of an image."""

    def __init__(self, mask: MaskSource, height: int, width: int) -> None:
        self._mask = mask
        self._height, self._width = height, width
        self._cols = lru_cache(maxsize=16)(self._make_cols)

    def band(self, decimation: int, start: int, stop: int) -> _FirstBand:
        """Rows [start, stop) of a level, to be asked for columns."""
        rows = mask_taps(start, stop, decimation, self._height, self._mask.height)
        source = self._mask.read(Window(rows.start, 0, rows.stop - rows.start, self._mask.width))
        cols = self._cols(decimation)
        return _FirstBand(source, rows, cols, *cols.over(source.min(axis=0), source.max(axis=0)))

    def band_rows(self, level: Level) -> int:
        """Rows of a level that fit one band."""
        mask_rows = max(1.0, level.decimation * self._mask.height / self._height)
        return max(1, int(BAND_PIXELS / max(level.width, mask_rows * self._mask.width)))

    def _make_cols(self, decimation: int) -> Taps:
        return mask_taps(0, -(-self._width // decimation), decimation, self._width, self._mask.width)


@dataclass(frozen=True, slots=True)
class _FirstBand:
    source: Mask
    rows: Taps
    all_cols: Taps
    lowest: Mask  # (level width,) of what each column of the level is made of
    highest: Mask

    def cols(self, start: int, stop: int) -> Mask:
        """Columns [start, stop), (n, stop - start)."""
        band = np.empty((len(self.rows.first), stop - start), np.float32)
        self.fill(band, start)
        return band

    def fill(self, band: Mask, start: int = 0) -> None:
        """Columns from `start` on, into `band` (n, m). Those of one value get that, which is what sampling gives."""
        low, high = (values[start : start + band.shape[1]] for values in (self.lowest, self.highest))
        band[:] = low
        for block in _blocks(low != high):
            taps = self.all_cols.part(start + block.start, start + block.stop)
            source = self.source[:, taps.start : taps.stop]
            band[:, block] = resample(source, self.rows, taps, (self.rows.start, taps.start))


@dataclass(frozen=True, slots=True)
class Handover:
    """What a level gives to the next: itself and its correction."""

    level: Level
    store: LevelStore


class LevelCoarse:
    """The coarse mask of one level, by whole rows."""

    def __init__(
        self, first: FirstMask, height: int, width: int, level: Level, previous: Handover | None, *, keep_first: bool
    ) -> None:
        self._first = first
        self._keep_first = keep_first and previous is not None
        self._height, self._width = height, width
        self._level = level
        self._previous = previous

    def rows(self, start: int, stop: int) -> tuple[Mask, Mask | None]:
        """Coarse mask and first mask of rows [start, stop), (n, width).

        The first mask is None if it is the coarse mask itself, or if it was not to be kept.
        """
        coarse = np.empty((stop - start, self._level.width), np.float32)
        first = np.empty_like(coarse) if self._keep_first else None
        step = self._first.band_rows(self._level)
        for top in range(start, stop, step):
            bottom = min(top + step, stop)
            part = coarse[top - start : bottom - start]
            self._first.band(self._level.decimation, top, bottom).fill(part)
            if first is not None:
                first[top - start : bottom - start] = part
            if self._previous is not None:
                self._take_over(self._previous, part, top, bottom)
        return coarse, first

    @cached_property
    def _cols(self) -> Taps:
        """How all columns are sampled from the level before."""
        assert self._previous is not None
        return level_taps(0, self._level.width, self._level.decimation, self._width, self._previous.level.decimation)

    def _take_over(self, previous: Handover, coarse: Mask, top: int, bottom: int) -> None:
        """Mix into `coarse`, the first mask of rows [top, bottom), what the level before made of it."""
        level = previous.level
        rows = level_taps(top, bottom, self._level.decimation, self._height, level.decimation)
        above, below = max(rows.start - 1, 0), min(rows.stop + 1, level.height)
        steps = previous.store.read(above, below)
        changed: BoolArray = np.any(steps, axis=0)
        if not changed.any():
            return
        # A pixel follows its taps, and what is changed beside those.
        near = changed.copy()
        near[1:] |= changed[:-1]
        near[:-1] |= changed[1:]
        _, touched = self._cols.over(near, near)
        band = self._first.band(level.decimation, rows.start, rows.stop)
        for block in _blocks(touched):
            cols = self._cols.part(block.start, block.stop)
            left, right = max(cols.start - 1, 0), min(cols.stop + 1, level.width)
            magnitude = _max3x3(np.abs(steps[:, left:right]))
            weight = _weight(resample(magnitude, rows, cols, (above, left)))
            mine = weight > 0
            if not mine.any():
                continue
            refined = _refined(band.cols(cols.start, cols.stop), steps, rows.start - above, cols.start)
            enlarged = resample(refined, rows, cols, (rows.start, cols.start))
            part = coarse[:, block]
            part[mine] = _mixed(part, enlarged, weight)[mine]


def _weight(magnitude: Mask) -> Mask:
    """How far the level before is followed, 0..1, where it changed by `magnitude` steps nearby."""
    weight: Mask = (magnitude / np.float32(STEPS) - np.float32(UNCHANGED_BELOW)) / np.float32(CHANGED_OVER)
    return np.clip(weight, 0, 1)


def _refined(first: Mask, steps: Steps, row: int, col: int) -> Mask:
    crop = steps[row : row + first.shape[0], col : col + first.shape[1]]
    refined: Mask = first + restore(crop)
    return np.clip(refined, 0, 1)


def _mixed(first: Mask, enlarged: Mask, weight: Mask) -> Mask:
    mixed: Mask = (1 - weight) * first + weight * enlarged
    return np.clip(mixed, 0, 1)


def _max3x3(magnitude: Steps) -> Steps:
    """Maximum over each pixel and its eight neighbours, as far as there are any."""
    rows = magnitude.copy()
    np.maximum(rows[1:], magnitude[:-1], out=rows[1:])
    np.maximum(rows[:-1], magnitude[1:], out=rows[:-1])
    both: Steps = rows.copy()
    np.maximum(both[:, 1:], rows[:, :-1], out=both[:, 1:])
    np.maximum(both[:, :-1], rows[:, 1:], out=both[:, :-1])
    return both


def _blocks(wanted: BoolArray) -> Iterator[slice]:
    """The columns that are `wanted`, in blocks, with a few others between them."""
    edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False)).reshape(-1, 2)
    if not len(edges):
        return
    apart = np.flatnonzero(edges[1:, 0] - edges[:-1, 1] >= FEWEST_COLS)
    starts, stops = edges[np.append(0, apart + 1), 0], edges[np.append(apart, len(edges) - 1), 1]
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        for first in range(start, stop, BLOCK_COLS):
            yield slice(first, min(first + BLOCK_COLS, stop))

"""How soft a first mask is: the width of its ramps tells from what it was enlarged, or who made it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from refine.geometry import Mask, Window
from refine.sources import MaskSource

STRIP_ROWS = 1024
"""Rows read at once. A ramp that a strip cuts is not counted; few are."""

STRIP_PIXELS = 16 << 20
"""Wide masks are read by fewer rows, but no fewer than FEWEST_ROWS."""

FEWEST_ROWS = 64

SAMPLES = 2000
"""Crossings of the outline measured in a strip and direction, evenly spread: a percentile needs no more."""

SHARPEST = 5
"""Percentile of the ramps that tells who made a mask: an accurate one that was averaged is sharp somewhere, whatever is
soft in it by nature; a network's is sharp nowhere."""

USUAL = 25
"""Percentile that tells how blurred a mask is: hair and blur are soft in an accurate mask too, but only in a blurred
one is all of the outline."""

PEAK, EMPTY = 98, 0.02
"""Where nothing is surely foreground, the foreground is as sure as this percentile of what is above EMPTY. Of wires,
nets and twigs that were averaged to less than their width the sharpest ramps are then 0.8 to 1, as of other averaged
masks, of masks in which a network saw hardly anything 1.7 to 11; a railing that all but covers its pixels has 3.3."""

UNSURE = 0.15, 0.85
"""Texture is measured where the mask is between these."""

FEWEST_UNSURE = 20
"""Pixels of that kind; fewer tell nothing."""

LONGEST = 512
"""A ramp that does not end within this many pixels on either side is no outline."""


def measure_ramp(mask: MaskSource, percentile: int) -> float | None:
    """Width of the ramp from 10 to 90 % across the outline, in the mask's pixels; None without an outline.

    `percentile`, 0 to 100, of the widths along the outline, shortest first: `SHARPEST` or `USUAL`.

    Ramps are followed along rows and columns from where the mask crosses 0.5, whichever is nearer to the direction of
    its slope, and shortened by the slant. An outline that never leaves 10 to 90 % is not counted; where there is no
    other, as in a mask of wires that are thinner than its pixels, percents are of its `_peak`. Reads the whole mask.
    """
    widths = _widths(mask, 1.0)
    if not len(widths) and (peak := _peak(mask)) < 1:
        widths = _widths(mask, peak)
    return float(np.percentile(widths, percentile)) if len(widths) else None


def measure_texture(mask: MaskSource) -> float | None:
    """How rough the soft parts of a mask are: second differences of its values over first ones; None without any.

    Means of absolute values along rows and columns, over all pixels within `UNSURE`. Of a straight ramp it is 0 but for
    its ends; of hair, leaves or nets that were averaged over the mask's pixels 0.8 to 2; of a network's map, which is
    smooth where it is soft, 0.45 to 0.75, and more where it guesses at something thin. Reads the whole mask.
    """
    count, first, second = 0, 0.0, 0.0
    for strip in _strips(mask):
        inside = strip[1:-1, 1:-1]
        unsure = (inside > UNSURE[0]) & (inside < UNSURE[1])
        count += int(unsure.sum())
        for before, after in (strip[1:-1, :-2], strip[1:-1, 2:]), (strip[:-2, 1:-1], strip[2:, 1:-1]):
            first += float(np.abs(after - before)[unsure].sum(dtype=np.float64)) / 2
            second += float(np.abs(before + after - 2 * inside)[unsure].sum(dtype=np.float64))
    return second / first if count >= FEWEST_UNSURE and first > 0 else None


def _widths(mask: MaskSource, peak: float) -> NDArray[np.float64]:
    """Of all ramps of the mask when `peak`, and what lies above it, is taken as 1."""
    strips = (strip if peak == 1 else np.minimum(strip / np.float32(peak), 1) for strip in _strips(mask))
    found = [width for strip in strips for width in (*_ramps(strip), *_ramps(strip.T))]
    return np.concatenate(found) if found else np.empty(0)


def _peak(mask: MaskSource) -> float:
    """The value that `PEAK` percent of what is not empty do not exceed; 1 if all is empty."""
    counts = np.zeros(256, np.int64)
    for strip in _strips(mask):
        counts += np.bincount(np.rint(255 * strip[strip > EMPTY]).astype(np.intp), minlength=256)
    total = counts.sum()
    return float(np.searchsorted(counts.cumsum(), PEAK / 100 * total)) / 255 if total else 1.0


def _strips(mask: MaskSource) -> Iterator[Mask]:
    step = min(STRIP_ROWS, max(FEWEST_ROWS, STRIP_PIXELS // mask.width))
    for row in range(0, mask.height, step):
        yield mask.read(Window(row, 0, min(step, mask.height - row), mask.width))


def _ramps(strip: Mask) -> Iterator[NDArray[np.float64]]:
    """Widths of the ramps that are crossed by going along the rows of `strip`, (n,)."""
    above = strip >= 0.5
    rows, cols = np.nonzero(above[:, 1:] != above[:, :-1])
    if not len(rows):
        return
    chosen = np.unique(np.linspace(0, len(rows) - 1, SAMPLES).astype(np.intp))
    rows, cols = rows[chosen], cols[chosen]
    along = strip[rows, cols + 1] - strip[rows, cols]
    across = _slope_across(strip, rows, cols)
    mine = np.abs(along) >= np.abs(across)
    rows, cols, along, across = rows[mine], cols[mine], along[mine], across[mine]
    rising = along > 0
    low = _distance(strip, rows, np.where(rising, cols, cols + 1), np.where(rising, -1, 1), 0.1, falling=True)
    high = _distance(strip, rows, np.where(rising, cols + 1, cols), np.where(rising, 1, -1), 0.9, falling=False)
    # Both walks start at a pixel beside the crossing, one pixel apart.
    width = (low + high + 1) * np.abs(along) / np.hypot(along, across)
    yield width[np.isfinite(width)].astype(np.float64)


def _slope_across(strip: Mask, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> Mask:
    """Slope over the rows at each crossing between (row, col) and (row, col + 1), by the neighbours that there are."""
    above, below = np.maximum(rows - 1, 0), np.minimum(rows + 1, len(strip) - 1)
    rise = (strip[below, cols] + strip[below, cols + 1] - strip[above, cols] - strip[above, cols + 1]) / 2
    slope: Mask = rise / np.maximum(below - above, 1)
    return slope


def _distance(
    strip: Mask,
    rows: NDArray[np.intp],
    cols: NDArray[np.intp],
    step: NDArray[np.intp],
    target: float,
    *,
    falling: bool,
) -> NDArray[np.float64]:
    """How far from (row, col) the mask passes `target`, going by `step` columns; between pixels by interpolation.

    Negative, down to -1, if it passes before it reaches (row, col) itself; infinite if it does not within LONGEST.
    """
    sign = 1 if falling else -1
    before = strip[rows, cols - step].astype(np.float64)
    distance = np.full(len(rows), np.inf)
    position = cols.copy()
    waiting = np.arange(len(rows))
    for walked in range(LONGEST):
        here = strip[rows[waiting], position[waiting]].astype(np.float64)
        there = sign * (here - target) <= 0
        gap = np.abs(before[waiting] - here)
        share = np.abs(before[waiting] - target) / np.where(gap > 0, gap, 1)
        distance[waiting[there]] = walked - 1 + share[there]
        before[waiting] = here
        position[waiting] += step[waiting]
        waiting = waiting[~there & (position[waiting] >= 0) & (position[waiting] < strip.shape[1])]
        if not len(waiting):
            break
    return distance

"""Makes a refined mask agree with the mask it came from: averaged over that one's pixels, it is that mask again.

A mask that somebody reduced from an accurate one tells of each of its pixels, to a part of a percent, how much of it is
foreground. The network finds the outline in the image, to about a pixel of that. So the logits of a window are shifted
by a smooth field, with one value for each pixel of the first mask, until the averages are right: the outline keeps the
shape that the network gave it, and moves to where the mask says. The constraint is that of iterative back-projection in
super-resolution (Irani and Peleg 1991, section 3), solved by Newton's method on logits.

A mask that is wrong must not be agreed with. Its averages tell: those of the network lie off them by as much as the
outline is wrong. So in windows where they do, the network's word stands. Only soft masks whose ramps are as sharp as
those of an averaged mask are considered, and masks of the image's size that are said to be right
(`cascade.agreement_of`). A network's mask that was reduced afterwards passes for averaged: it wants --reach.

On validation images (`benchmarks/agreement.py`) truths reduced by 2, 4, 8 and 16 come out several points of mBA better.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from refine.cascade import LevelPlan
from refine.geometry import Mask, Window
from refine.sources import MaskSource

SMALLEST_PIXEL = 1.5
"""Pixels of the first mask with fewer level pixels along a side are left alone: there is nothing to move in them."""

FEWEST_IN_TILE = 3
"""A window is as long as this many of them, or they are left alone: whole ones in it may be one fewer."""

OFF_BY, OFF_BY_PIXELS = 0.05, 0.2
"""The network's averages lie off an accurate mask by OFF_BY at most, and by OFF_BY_PIXELS pixels of the level more, as
the root of the mean square over the mask's pixels on the outline: 0.02 to 0.07 with masks reduced by 16, to 0.09 by 8,
to 0.15 by 4. Off masks that are wrong by half a pixel they lie by 0.12 to 0.30, by a pixel's shift 0.2 to 0.5."""

OFF_BY_MORE = 0.03
"""Over this much more the agreement ends. With 0.06 and 0.05 truths reduced by 8 came out 0.6 points of mBA better, by
4 0.3, and polygons within half a pixel 1.3 worse."""

ON_OUTLINE = 0.02
"""A pixel of the mask is on the outline if it, or the difference, is further than this from certain."""

CLOSE_ENOUGH = 1 / 255
"""Newton's steps end when all averages are as close: masks are stored in 8 bits."""

STEPS = (1.6, 1.6, 1.6, 1.0)
"""Lengths of the steps, in those of Newton's for one average by itself: its own value makes (3/4)^2 of the field within
it, its neighbours' the rest. So longer steps suit averages that miss alone; those that miss with their neighbours are
overshot, which the last step takes back. Truths of 14 validation images reduced by 4, 8 and to 64 px came out at 93.44,
88.94 and 87.83 mBA; with eight plain steps at 93.45, 88.96 and 87.85."""

LONGEST_STEP = 1.5  # in logits
FURTHEST = 8.0  # in logits: what the network is certain of is moved as well
FLATTEST = 0.01
"""Added to the slope, that is the share of a mask pixel that is uncertain: where nothing is, nothing should move."""

LEAST = 0.05
"""A window that is agreed with a mask of the image's own size moves it by this or not at all. Agreed with over blocks
of its pixels an accurate one moved by less in all of 16 training images of fur, nets and leaves, and values beside 0.5
changed sides by that: IoU with itself was 99.86 %, mBA 99.4 %, and both are 99.998 % without such moves."""

CERTAIN = 1e-3
"""Refined values are taken to be no closer to 0 or 1: their logits end at 6.9."""


@dataclass(frozen=True)
class _Along:
    """The first mask's pixels along one axis of a level, and the level's pixels in windows."""

    tile: int
    decimation: int
    length: int  # of the image
    count: int  # of the mask
    extent: int  # image pixels that those of the mask cover; beyond the image where the last block is cut

    @property
    def side(self) -> float:
        """Level pixels of a mask pixel."""
        return self.extent / (self.count * self.decimation)

    def whole(self, origin: int) -> range:
        """Those that lie whole in the window at `origin`."""
        stop = min((origin + self.tile) * self.decimation, self.length)
        return range(-(-origin * self.decimation * self.count // self.extent), stop * self.count // self.extent)

    def weights(self, origin: int) -> tuple[Mask, Mask]:
        """(n, tile), which averages level pixels over each of them, and (tile, n), which interpolates between their
        centres, and goes on level beyond the outermost.
        """
        cells = self.whole(origin)
        pixel = np.arange(origin, origin + self.tile, dtype=np.int64)
        low, high = (np.minimum(edge * self.decimation, self.length) * self.count for edge in (pixel, pixel + 1))
        left = np.array(cells, np.int64)[:, None] * self.extent
        means = np.maximum(np.minimum(left + self.extent, high) - np.maximum(left, low), 0) / self.extent
        centre = np.clip((low + high) / (2 * self.extent) - 0.5 - cells.start, 0, len(cells) - 1)
        spread = np.maximum(1 - np.abs(centre[:, None] - np.arange(len(cells))), 0)
        return means.astype(np.float32), spread.astype(np.float32)


class Agreement:
    """The agreement of one level's windows with the first mask; `share`, 0..1, is how far it goes.

    It is over blocks of `block` x `block` of the mask's pixels, with 1 over each of them; more only if the mask has the
    image's size. The mask is read by `read`, which may be called from another thread than the rest.
    """

    def __init__(
        self, mask: MaskSource, height: int, width: int, step: LevelPlan, share: float, block: int = 1
    ) -> None:
        self._mask, self._share, self._grid, self._block = mask, share, step.grid, block
        self._rows, self._cols = (
            _Along(
                step.tile,
                step.level.decimation,
                length,
                count=-(-own // block),
                extent=length if block == 1 else -(-own // block) * block,
            )
            for length, own in ((height, mask.height), (width, mask.width))
        )
        self._row_weights = lru_cache(maxsize=1)(self._rows.weights)
        self._col_weights = lru_cache(maxsize=16)(self._cols.weights)
        smallest, largest = sorted((self._rows.side, self._cols.side))
        self.is_needed = share > 0 and smallest >= SMALLEST_PIXEL and largest * FEWEST_IN_TILE <= step.tile
        self._off_by = OFF_BY + OFF_BY_PIXELS / smallest

    def read(self, place: tuple[int, int]) -> Mask:
        """The first mask's pixels, or blocks, that lie whole in a window, (n, m); (0, 0) if there is none."""
        window = self._grid.window(*place)
        rows, cols = self._rows.whole(window.row), self._cols.whole(window.col)
        if not (rows and cols):
            return np.empty((0, 0), np.float32)
        pixels = self._mask.read(Window(rows.start, cols.start, len(rows), len(cols)).scale(self._block))
        if self._block == 1:
            return pixels
        blocks = pixels.reshape(len(rows), self._block, len(cols), self._block)
        means: Mask = blocks.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
        return means

    def __call__(self, place: tuple[int, int], mask: Mask, coarse: Mask, correction: Mask) -> Mask:
        """The correction (tile, tile) that makes `coarse` + correction agree with `mask`, what `read` gave.

        A correction of zero stays, so that a network that changes nothing gives the first mask to the bit.
        """
        if not mask.size or not correction.any():
            return correction
        window = self._grid.window(*place)
        row_means, row_spread = self._row_weights(window.row)
        col_means, col_spread = self._col_weights(window.col)
        refined = np.clip(coarse + correction, CERTAIN, 1 - CERTAIN)
        missing = mask - row_means @ refined @ col_means.T
        on_outline = (np.minimum(mask, 1 - mask) > ON_OUTLINE) | (np.abs(missing) > ON_OUTLINE)
        share = self._share * self._trust(missing[on_outline])
        if share == 0:
            return correction
        # Only the part of the window that shifts of these pixels of the mask reach: the averages of others are right.
        cells = _bounding_box(on_outline)
        rows, cols = cells
        row_means, row_spread, part_rows = _narrowed(row_means, row_spread, rows)
        col_means, col_spread, part_cols = _narrowed(col_means, col_spread, cols)
        part = part_rows, part_cols
        moved: Mask = correction.copy()
        moved[part] += np.float32(share) * _shifted(
            refined[part], mask[cells], on_outline[cells], (row_means, col_means), (row_spread, col_spread)
        )
        np.clip(moved, -1, 1, out=moved)
        if self._block > 1:
            moved[np.abs(moved) < LEAST] = 0
        return moved

    def _trust(self, missing: Mask) -> float:
        """0..1, how far a mask can be believed off whose outline the network's averages lie by `missing`."""
        if not missing.size:
            return 0.0
        off_by = float(np.sqrt(np.mean(np.square(missing))))
        return min(max((self._off_by + OFF_BY_MORE - off_by) / OFF_BY_MORE, 0.0), 1.0)


Pair = tuple[Mask, Mask]
"""Weights along rows and along columns."""


def _shifted(refined: Mask, mask: Mask, on_outline: NDArray[np.bool_], means: Pair, spread: Pair) -> Mask:
    """What to add to `refined` (h, w) for its averages to be `mask` (n, m) where that is on the outline."""
    (row_means, col_means), (row_spread, col_spread) = means, spread
    against = np.log((1 - refined) / refined)
    shifts, agreed = np.zeros_like(mask), refined
    for length in STEPS:
        missing = np.where(on_outline, mask - row_means @ agreed @ col_means.T, 0)
        if np.abs(missing).max() < CLOSE_ENOUGH:
            break
        slope = row_means @ (agreed * (1 - agreed)) @ col_means.T + FLATTEST
        step = np.clip(length * missing / slope, -LONGEST_STEP, LONGEST_STEP)
        shifts = np.clip(shifts + step, -FURTHEST, FURTHEST)
        # The logistic function, in one array: a window has as many pixels as the averages have few.
        agreed = row_spread @ shifts @ col_spread.T
        np.subtract(against, agreed, out=agreed)
        np.exp(agreed, out=agreed)
        agreed += 1
        np.reciprocal(agreed, out=agreed)
    difference: Mask = agreed - refined
    return difference


def _bounding_box(inside: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of the smallest box of all that is inside, which is something."""
    rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)


def _narrowed(means: Mask, spread: Mask, cells: slice) -> tuple[Mask, Mask, slice]:
    """The weights of some of an axis' cells, over the pixels that these reach, and the slice of those."""
    reached = np.flatnonzero(spread[:, cells].any(axis=1))
    pixels = slice(reached[0], reached[-1] + 1)
    return means[cells, pixels], spread[pixels, cells], pixels

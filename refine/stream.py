"""The values that flow from stage to stage: select -> read -> run -> blend -> write.

Work goes window row by window row. A band is the rows that become final once its window row is finished: from the
window row's first pixel to that of the next one. Its coarse mask travels with the work, so that nothing is made twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refine.geometry import RGB, BoolArray, Mask


@dataclass(frozen=True, slots=True)
class Band:
    """Rows [row, row + n) of a level, final when window row `index` is finished."""

    index: int
    row: int
    coarse: Mask  # (n, width)
    first: Mask | None  # (n, width) the first mask, None where it is the coarse mask itself
    valid: BoolArray | None = None  # (n, width), None if all pixels are

    @property
    def stop_row(self) -> int:
        return self.row + len(self.coarse)

    def part(self, rows: slice) -> Band:
        """These of its rows, counted from its first."""
        first = None if self.first is None else self.first[rows]
        valid = None if self.valid is None else self.valid[rows]
        return Band(self.index, self.row + rows.start, self.coarse[rows], first, valid)


@dataclass(frozen=True, slots=True)
class SelectedRow:
    """One window row: its band, its whole coarse strip, and which of its windows are worth running."""

    band: Band
    strip: Mask  # (m, width) coarse mask of all its pixels
    cols: tuple[int, ...]  # indices along the row, ascending
    ends_part: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows for one call of the network, and the bands met since the last batch. It may have no window."""

    bands: tuple[Band, ...]
    places: tuple[tuple[int, int], ...]  # (window row, window column), row-major
    image: RGB | None  # (B, tile, tile, 3); B >= len(places), the rest repeats the last window; None without windows
    coarse: Mask | None  # (B, tile, tile)
    masks: tuple[Mask, ...]  # the first mask's own pixels in each place, where the result is to agree with them
    finished: int  # all windows of window rows below this one are in this batch or an earlier one


@dataclass(frozen=True, slots=True)
class Corrections:
    """What the network made of a batch: refined - coarse of each place."""

    bands: tuple[Band, ...]
    places: tuple[tuple[int, int], ...]
    corrections: Mask | None  # (len(places), tile, tile) in -1..1
    finished: int
    not_finite: int  # windows in which the network gave NaN or infinity


@dataclass(frozen=True, slots=True)
class FinalRows:
    """A band with the sum of its weighted corrections, valid until the next one is asked for."""

    band: Band
    correction: Mask  # (n, width)
    touched: tuple[slice, ...]  # columns where a window added something; elsewhere the correction is zero


@dataclass(frozen=True, slots=True)
class Carry:
    """What the finished parts of a level leave to the next one: sums of rows that are not final yet."""

    sums: Mask  # (n, width), from the first row of the next part on; below them all are zero
    touched_to: NDArray[np.int64]  # per window column, the row below the last correction


@dataclass(frozen=True, slots=True)
class PartEnd:
    """All that is known of a finished part, but its rows."""

    ran: BoolArray  # (window rows of the part, window columns)
    not_finite: int
    changed: int  # pixels
    carry: Carry
    batch: int  # the most windows that a call may have held; below the plan's where a device ran out of memory

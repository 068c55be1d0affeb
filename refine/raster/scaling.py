"""Values of any type shown as 8 bit: which value is black, which is white.

The same limits hold at every level and for every window, so they are taken once, from the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.geometry import BoolArray

PERCENTILES = (0.5, 99.5)
"""Shown as black and white where nobody says otherwise."""

_TABLE_TYPES = ("uint8", "uint16", "int8", "int16")  # few enough values to look each up
_PIXELS_AT_ONCE = 1 << 18  # numpy widens numbers and indices to 8 bytes, some of them several times


@dataclass(frozen=True)
class Scaling:
    """Black and white of each band; what lies outside is cut. A band of one value only becomes mid-grey."""

    limits: tuple[tuple[float, float], ...]
    dtype: str
    _tables: dict[int, NDArray[np.uint8]] = field(default_factory=dict, repr=False, compare=False)

    def apply(self, band: int, values: NDArray[Any]) -> NDArray[np.uint8]:
        """(h, w) values of band number `band` (from 0, of those in use) as uint8, rounded half up; NaN becomes 0."""
        if self.dtype in _TABLE_TYPES:
            table = self._tables.get(band)
            if table is None:
                table = self._tables[band] = self._table(band)
            return look_up(table, values.view(f"u{values.dtype.itemsize}"))
        shown = np.empty(values.shape, np.uint8)
        for rows in _few_rows(values):
            shown[rows] = _shown(values[rows], *self.limits[band])
        return shown

    def _table(self, band: int) -> NDArray[np.uint8]:
        itemsize = np.dtype(self.dtype).itemsize
        every = np.arange(1 << (8 * itemsize), dtype=f"u{itemsize}").view(self.dtype)
        return _shown(every, *self.limits[band])


def look_up(table: NDArray[np.uint8], indices: NDArray[Any]) -> NDArray[np.uint8]:
    """`table[indices]` for (h, w) indices into the first axis, without a wide copy of them all."""
    found = np.empty(indices.shape + table.shape[1:], np.uint8)
    for rows in _few_rows(indices):
        found[rows] = table[indices[rows]]
    return found


def _few_rows(values: NDArray[Any]) -> list[slice]:
    step = max(1, _PIXELS_AT_ONCE // values.shape[1])
    return [slice(row, row + step) for row in range(0, len(values), step)]


def fixed_scaling(value_range: tuple[float, float], bands: int, dtype: str) -> Scaling:
    """The user's black and white for all bands. Raises InputError unless black is below white."""
    low, high = value_range
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InputError(f"--range {low:g},{high:g}: the first value must be below the second")
    return Scaling(((float(low), float(high)),) * bands, dtype)


def percentile_scaling(
    samples: NDArray[Any], valid: BoolArray, percentiles: tuple[float, float] = PERCENTILES
) -> Scaling:
    """Two percentiles of each band over the valid pixels; `samples` is (bands, ...), `valid` its shape."""
    limits = []
    for values, usable in zip(samples, valid, strict=True):
        chosen = values[usable].astype(np.float64)
        low, high = np.percentile(chosen, percentiles) if chosen.size else (0.0, 0.0)
        limits.append((float(low), float(high)))
    return Scaling(tuple(limits), str(samples.dtype))


def _shown(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    if low == high:
        return np.select([values < low, values > high, np.isnan(values)], [0, 255, 0], 128).astype(np.uint8)
    with np.errstate(invalid="ignore"):  # a NaN of the kind that signals; it becomes 0 as any other
        wide = values.astype(np.float64)
    # Halved first, so that the width of the widest float64 range is still a number.
    share = (wide / 2 - low / 2) / (high / 2 - low / 2)
    return (np.nan_to_num(np.clip(share, 0, 1)) * 255 + 0.5).astype(np.uint8)

"""Windows of an open dataset as 8-bit RGB with their valid pixels, whatever is stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterWindow

from refine.errors import InputError
from refine.geometry import RGB, BoolArray, Window
from refine.raster.checksums import BlockSums
from refine.raster.gdal import translated
from refine.raster.layout import Layout, valid_pixels
from refine.raster.scaling import PERCENTILES, Scaling, fixed_scaling, look_up, percentile_scaling

SAMPLE_SIDE = 1024
"""Black and white are taken from every k-th pixel, so that the long side keeps at most this many."""

SAMPLED_SHARE = 16
"""Where no overview gives every k-th pixel, one block of so many is decoded instead, but at least SAMPLED_BLOCKS."""

SAMPLED_BLOCKS = 64

_FEWEST_SAMPLES = 10_000  # valid pixels in blocks; below, every k-th of the image is looked at
_ENOUGH_SAMPLES = 1 << 20  # where valid pixels are so rare that every k-th finds none
_FROM_THE_TOP = ("PNG", "JPEG", "WEBP")  # to decode one block is to decode all above it
_GOLDEN = (5**0.5 - 1) / 2  # its multiples spread evenly over 0..1
_STRIP_ROWS = 256  # read at once, at least, so that few calls are made
_LARGEST_STRIP_ROWS = 1024  # higher blocks are read in several strips, from GDAL's cache


@dataclass
class PixelReader:
    """Reads one dataset, the raster itself or an overview of it. Not for two threads at once."""

    dataset: DatasetReader
    path: Path
    layout: Layout
    has_invalid: bool
    scaling: Scaling | None = None  # None: 8 bit as it is
    sums: BlockSums | None = None  # of the raster itself

    def read(self, window: Window) -> tuple[RGB, BoolArray | None]:
        """(h, w, 3) uint8 and (h, w) valid pixels, None if all are. Raises RasterError where the file is damaged."""
        values, valid = self.read_values(window)
        return self._colours(values), valid

    def read_values(
        self, window: Window, shape: tuple[int, int] | None = None
    ) -> tuple[NDArray[Any], BoolArray | None]:
        """(bands, h, w) as stored, and the valid pixels; with `shape` every k-th pixel, so that (h, w) is that."""
        place = RasterWindow(window.col, window.row, window.width, window.height)
        height, width = shape or (window.height, window.width)
        options: dict[str, object] = {"window": place, "resampling": Resampling.nearest}
        bands = list(self.layout.bands)
        with translated(self.path, f"cannot be read at row {window.row}, column {window.col}"):
            if self.sums is not None and shape is None:
                self.sums.check(window, bands)
            values = self.dataset.read(bands, out_shape=(len(bands), height, width), **options)
            valid = valid_pixels(self.layout, values)
            if self.layout.has_mask_band:
                is_set = self.dataset.read_masks(bands[0], out_shape=(height, width), **options) != 0
                valid = is_set if valid is None else valid & is_set
        return values, None if valid is None or valid.all() else valid

    def read_valid(self, window: Window) -> BoolArray | None:
        """(h, w) valid pixels, None if all are; of a mask band without its colours, if it alone tells."""
        tells_alone = not any(self.dataset.dtypes[band - 1].startswith("float") for band in self.layout.bands)
        if not self.layout.has_mask_band or not tells_alone or None not in self.layout.nodata:
            return self.read_values(window)[1]
        place = RasterWindow(window.col, window.row, window.width, window.height)
        with translated(self.path, f"cannot be read at row {window.row}, column {window.col}"):
            valid: BoolArray = self.dataset.read_masks(self.layout.bands[0], window=place) != 0
        return None if valid.all() else valid

    def choose_scaling(
        self, value_range: tuple[float, float] | None, percentiles: tuple[float, float] | None = None
    ) -> None:
        """Decide how values are shown: from `value_range` or `percentiles` of the whole image, else 8 bit as it is, and
        others from percentiles 0.5 to 99.5.

        Raises InputError if no pixel is valid.
        """
        dtype = self.dataset.dtypes[self.layout.bands[0] - 1]
        is_palette = self.layout.palette is not None
        has_colours = is_palette or (dtype == "uint8" and percentiles is None)
        if value_range is not None and not is_palette:
            self.scaling = fixed_scaling(value_range, len(self.layout.bands), dtype)
        elif self.layout.largest is not None and percentiles is None:
            self.scaling = fixed_scaling((0, self.layout.largest), len(self.layout.bands), dtype)
        needs_percentiles = not has_colours and self.scaling is None
        if not needs_percentiles and not self.has_invalid:
            return
        samples, valid = self._sample(_FEWEST_SAMPLES if needs_percentiles else 1)
        if not valid.any():
            raise InputError(f"{self.path}: no pixel is valid: all are nodata, NaN or masked")
        if needs_percentiles:
            self.scaling = percentile_scaling(samples, valid, percentiles or PERCENTILES)

    def strips(self) -> list[Window]:
        """Full-width windows of whole block rows, top to bottom, that cover the dataset."""
        height, width = self.dataset.height, self.dataset.width
        rows = strip_rows(int(self.dataset.block_shapes[0][0]))
        return [Window(row, 0, min(rows, height - row), width) for row in range(0, height, rows)]

    def _colours(self, values: NDArray[Any]) -> RGB:
        if self.layout.palette is not None:
            return look_up(self.layout.palette[:, :3], values[0])
        if self.scaling is None:
            shown = values
        else:
            shown = np.stack([self.scaling.apply(index, band) for index, band in enumerate(values)])
        if self.layout.is_inverted:
            shown = 255 - shown
        if len(shown) == 1:
            return np.repeat(shown[0][:, :, None], 3, axis=2)
        # A thirtieth of the time that a transposed copy takes.
        return np.asarray(cv2.merge([np.ascontiguousarray(band) for band in shown]), np.uint8)

    def _sample(self, fewest: int) -> tuple[NDArray[Any], BoolArray]:
        """Some pixels of the whole image, (bands, n), and which band values are valid.

        Every k-th pixel of some blocks; if those hold fewer than `fewest` valid values, or where overviews give it or
        it takes no more, every k-th of the image; if that finds none, all that are valid.
        """
        places = self._sampled_blocks()
        if places:
            step = ceil(sqrt(sum(place.height * place.width for place in places)) / SAMPLE_SIDE)
            parts = (self._flat(place, (ceil(place.height / step), ceil(place.width / step))) for place in places)
            samples, valid = _joined(parts)
            if np.count_nonzero(valid) >= fewest:
                return samples, valid
        sample = self._every_kth()
        if sample[1].any():
            return sample
        found: list[tuple[NDArray[Any], BoolArray]] = []
        count = 0
        for window in self.strips():
            values, valid = self._flat(window, None)
            found.append((values[:, valid.any(axis=0)], valid[:, valid.any(axis=0)]))
            count += found[-1][0].shape[1]
            if count >= _ENOUGH_SAMPLES:
                break
        return _joined(found)

    def _every_kth(self) -> tuple[NDArray[Any], BoolArray]:
        """Every k-th pixel, from overviews where there are some, else strip by strip: reading all of it decimated, GDAL
        goes band by band, and decodes the file as often where its cache is smaller than the image.
        """
        height, width = self.dataset.height, self.dataset.width
        step = ceil(max(height, width) / SAMPLE_SIDE)
        if self.dataset.overviews(self.layout.bands[0]):
            return self._flat(Window(0, 0, height, width), (ceil(height / step), ceil(width / step)))
        rows, cols = every_kth(height, step), every_kth(width, step)
        found: list[tuple[NDArray[Any], BoolArray]] = []
        for window in self.strips():
            wanted = rows[(rows >= window.row) & (rows < window.stop_row)] - window.row
            if len(wanted):
                values, valid = self.read_values(window)
                valid = None if valid is None else valid[np.ix_(wanted, cols)]
                found.append(self._usable(values[:, wanted][:, :, cols], valid))
        return _joined(found)

    def _sampled_blocks(self) -> list[Window]:
        """Blocks spread evenly over rows and columns of a large image, top to bottom; none where they save nothing."""
        height, width = self.dataset.block_shapes[self.layout.bands[0] - 1]
        rows, cols = ceil(self.dataset.height / height), ceil(self.dataset.width / width)
        count = max(SAMPLED_BLOCKS, rows * cols // SAMPLED_SHARE)
        is_known = bool(self.dataset.overviews(self.layout.bands[0])) or self.dataset.driver in _FROM_THE_TOP
        if is_known or count > rows * cols // 2:
            return []
        places = {(int((i + 0.5) * rows / count), int((i + 0.5) * _GOLDEN % 1 * cols)) for i in range(count)}
        return [
            Window(row * height, col * width, height, width).clip(self.dataset.height, self.dataset.width)
            for row, col in sorted(places)
        ]

    def _flat(self, window: Window, shape: tuple[int, int] | None) -> tuple[NDArray[Any], BoolArray]:
        return self._usable(*self.read_values(window, shape))

    def _usable(self, values: NDArray[Any], valid: BoolArray | None) -> tuple[NDArray[Any], BoolArray]:
        """(bands, n) of (bands, h, w), and which of them are no nodata."""
        usable = np.ones(values.shape, np.bool_) if valid is None else np.broadcast_to(valid, values.shape).copy()
        for index, nodata in enumerate(self.layout.nodata):
            if nodata is not None:
                usable[index] &= values[index] != nodata
        return values.reshape(len(values), -1), usable.reshape(len(values), -1)


def _joined(parts: Iterable[tuple[NDArray[Any], BoolArray]]) -> tuple[NDArray[Any], BoolArray]:
    values, valid = zip(*parts, strict=True)
    return np.concatenate(values, axis=1), np.concatenate(valid, axis=1)


def every_kth(length: int, step: int) -> NDArray[np.intp]:
    """Positions that GDAL's nearest neighbour takes when it reduces `length` to ceil(length / step)."""
    count = ceil(length / step)
    return ((np.arange(count) + 0.5) * length / count).astype(np.intp)


def strip_rows(block_height: int) -> int:
    """Rows that a sweep reads at once: whole block rows, unless one of those is too high to hold."""
    if block_height > _LARGEST_STRIP_ROWS:
        return _STRIP_ROWS
    return block_height * ceil(_STRIP_ROWS / block_height)

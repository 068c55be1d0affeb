"""A raster's numbers as they are stored, strip by strip and upright: for masks, which are no pictures to look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterWindow

from refine.geometry import Window
from refine.raster.checksums import BlockSums
from refine.raster.gdal import open_dataset, translated, without_georeference_warning
from refine.raster.header import MAX_PIXELS, Header, header_of
from refine.raster.layout import check_types, largest_of_few_bits, lowest_is_white, read_palette
from refine.raster.orientation import upright, upright_window
from refine.raster.pixels import strip_rows


@dataclass(frozen=True)
class StoredRaster:
    """An open raster, upright; made by `open_stored`."""

    header: Header
    has_alpha: bool  # the last band is alpha
    palette: NDArray[np.uint8] | None  # (entries, 4) RGBA of each index
    largest: int | None  # of values with fewer than 8 bits
    nodata: float | None  # of band 1
    lowest_is_white: bool  # as the file says; values are given as they are
    _dataset: DatasetReader
    _sums: BlockSums

    def strips(self) -> Iterator[tuple[Window, NDArray[Any]]]:
        """All pixels, each once, in an order that the format likes: a window when upright, and its (h, w, bands).

        Raises RasterError where the file is damaged.
        """
        height, width, orientation = self._dataset.height, self._dataset.width, self.header.orientation
        rows = strip_rows(int(self._dataset.block_shapes[0][0]))
        for row in range(0, height, rows):
            place = Window(row, 0, min(rows, height - row), width)
            yield upright_window(place, height, width, orientation), upright(self.read(place), orientation)

    def read(self, window: Window) -> NDArray[Any]:
        """(h, w, bands) of a window of the raster as it lies in the file, not upright. Raises RasterError."""
        place = RasterWindow(window.col, window.row, window.width, window.height)
        with translated(self.header.path, f"cannot be read at row {window.row}"):
            self._sums.check(window, range(1, self._dataset.count + 1))
            values: NDArray[Any] = self._dataset.read(window=place).transpose(1, 2, 0)
        return values


@contextmanager
def open_stored(path: Path, *, max_pixels: int = MAX_PIXELS) -> Iterator[StoredRaster]:
    """The raster at `path`, closed afterwards. Raises InputError for what is no image, RasterError if it is damaged."""
    with open_dataset(path) as dataset:
        with translated(path, "cannot be read"), without_georeference_warning():
            header = header_of(dataset, path, max_pixels)
            check_types(dataset, tuple(dataset.indexes), path, "give the mask alone")
            palette = read_palette(dataset) if dataset.count == 1 else None
        yield StoredRaster(
            header=header,
            has_alpha=dataset.count in (2, 4) and dataset.colorinterp[-1] == ColorInterp.alpha,
            palette=palette,
            largest=None if palette is not None else largest_of_few_bits(dataset, 1),
            nodata=dataset.nodatavals[0],
            lowest_is_white=palette is None and lowest_is_white(dataset),
            _dataset=dataset,
            _sums=BlockSums(dataset, path),
        )

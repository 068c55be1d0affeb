"""An image on disk as the engine's ImageSource: 8-bit RGB windows at every level of the cascade.

Level 1 is read from the file. The other levels are made in one sweep from top to bottom, exact means of whole blocks,
and kept in memory while they are few, else in nameless temporary files. A level that an overview serves is read from
that instead. A photograph that EXIF turns is first written upright to such a file: its rows are columns of what is
seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from refine.block_means import block_mean
from refine.cascade import serving_overview
from refine.geometry import RGB, BoolArray, Window
from refine.raster.checksums import BlockSums
from refine.raster.gdal import gdal_environment, open_dataset, translated, without_georeference_warning
from refine.raster.header import MAX_PIXELS, Header, header_of, overview_index
from refine.raster.layout import read_layout
from refine.raster.levels import LevelSweep, decimations_to_sweep
from refine.raster.orientation import upright, upright_window
from refine.raster.pixels import PixelReader, strip_rows
from refine.raster.validity import ValidCells
from refine.temporary import Store, make_store, temporary_bytes

SUMS_BYTES = 16 << 20
"""Working memory of the block means and of the scaling to 8 bit, which go by a few rows at a time."""

LEVEL_BYTES = 64 << 20
"""Levels of an image stay in memory while they take less than this together."""


def check_layout(path: Path, bands: tuple[int, ...] | None) -> None:
    """Raises InputError for bands that `open_image` would refuse, from the header alone."""
    with translated(path, "cannot be read"), without_georeference_warning(), open_dataset(path) as dataset:
        read_layout(dataset, path, bands)


def open_image(
    path: Path,
    *,
    bands: tuple[int, ...] | None = None,
    value_range: tuple[float, float] | None = None,
    percentiles: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
    cache_bytes: int | None = None,
    level_bytes: int = LEVEL_BYTES,
    directory: Path | None = None,
) -> RasterImage:
    """The image at `path`; what was decided about its bands and orientation stands in `header.notes`.

    `bands` are one or three, counted from 1; `value_range`, or `percentiles` of all values, are shown as black and
    white. GDAL's cache is set to `cache_bytes` until the image is closed (None: left as it is). Temporary files go to
    `directory`.
    Raises InputError for what is no image or has no valid pixel, RasterError if it cannot be read.
    """
    with ExitStack() as stack:
        if cache_bytes is not None:
            stack.enter_context(gdal_environment(cache_bytes))
        dataset = stack.enter_context(open_dataset(path))
        with translated(path, "cannot be read"), without_georeference_warning():
            header = header_of(dataset, path, max_pixels)
            layout, notes = read_layout(dataset, path, bands)
        header = replace(header, notes=(*header.notes, *notes))
        reader = PixelReader(dataset, path, layout, header.has_invalid, sums=BlockSums(dataset, path))
        reader.choose_scaling(value_range, percentiles)
        return RasterImage(header, reader, stack.pop_all(), level_bytes, directory)


class RasterImage:
    """An ImageSource over a raster file; made by `open_image`. All calls come from one thread at a time."""

    def __init__(
        self, header: Header, reader: PixelReader, resources: ExitStack, level_bytes: int, directory: Path | None
    ) -> None:
        self.header = header
        self._reader = reader
        self._resources = resources
        self._memory_left = level_bytes
        self._directory = directory
        self._upright: Store | None = None
        self._cells: ValidCells | None = None
        self._levels: dict[int, Store] = {}
        self._overviews: dict[int, PixelReader] = {}

    @property
    def height(self) -> int:
        return self.header.height

    @property
    def width(self) -> int:
        return self.header.width

    @property
    def has_invalid(self) -> bool:
        return self.header.has_invalid

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided for the user, one line each."""
        return self.header.notes

    @property
    def value_limits(self) -> tuple[tuple[float, float], ...] | None:
        """The values shown as black and white, of each band; None for 8 bit as it is."""
        return None if self._reader.scaling is None else self._reader.scaling.limits

    def prepare(self, decimations: Sequence[int], on_progress: Callable[[float], None] | None = None) -> None:
        """Make the levels readable, in one sweep for all that are not; `on_progress` gets the share done, 0..1."""
        missing = [d for d in decimations_to_sweep(decimations, self.header.overviews) if d not in self._levels]
        if missing:
            takers = {}
            for decimation in missing:
                store = self._levels[decimation] = self._make_store(*self._level_size(decimation))
                takers[decimation] = self._writer(store)
            sweep = LevelSweep(self.height, self.width, self.has_invalid, takers)
            cells = ValidCells(self.height, self.width) if self.has_invalid and self._cells is None else None
            for window in self._strips():
                image, valid = self.read(window)
                sweep.feed(image, valid)
                if cells is not None:
                    cells.feed(valid, window.height)
                if on_progress is not None:
                    on_progress(window.stop_row / self.height)
            sweep.finish()
            self._cells = cells or self._cells
        elif on_progress is not None:
            on_progress(1.0)

    def read(self, window: Window, decimation: int = 1) -> tuple[RGB, BoolArray | None]:
        """(h, w, 3) uint8 of a window inside the level's grid, and (h, w) valid pixels, None if all are.

        Raises RasterError, with the place, where the file is damaged.
        """
        if decimation == 1 and self._cells is not None and self._cells.none_valid(window):
            size = (window.height, window.width)
            return np.zeros((*size, 3), np.uint8), np.zeros(size, np.bool_)
        if decimation == 1 and self.header.orientation == 1:
            return self._reader.read(window)
        if decimation == 1:
            return self._unpacked(self._upright_store().read(window))
        if decimation not in self._levels and serving_overview(decimation, self.header.overviews) is not None:
            return self._read_overview(window, decimation)
        self.prepare([decimation])
        return self._unpacked(self._levels[decimation].read(window))

    def read_valid(self, window: Window) -> BoolArray | None:
        """(h, w) valid pixels of a window of the image itself, None if all are.

        Once the levels were made in a sweep, the file is read only where there are pixels of both kinds.
        """
        if not self.has_invalid:
            return None
        read = self._reader.read_valid if self.header.orientation == 1 else lambda place: self.read(place)[1]
        return read(window) if self._cells is None else self._cells.valid(window, read)

    def close(self) -> None:
        """Close the file and drop all that is temporary. May be called twice."""
        for store in (*self._levels.values(), *([self._upright] if self._upright else [])):
            store.close()
        self._levels.clear()
        self._upright = None
        self._resources.close()

    def __enter__(self) -> RasterImage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _strips(self) -> list[Window]:
        if self.header.orientation == 1:
            return self._reader.strips()
        rows = strip_rows(1)
        return [Window(row, 0, min(rows, self.height - row), self.width) for row in range(0, self.height, rows)]

    def _upright_store(self) -> Store:
        if self._upright is None:
            store = self._make_store(self.height, self.width)
            stored = self._reader.dataset
            for window in self._reader.strips():
                turned = upright(self._packed(*self._reader.read(window)), self.header.orientation)
                place = upright_window(window, stored.height, stored.width, self.header.orientation)
                store.write_window(place, turned)
            self._upright = store
        return self._upright

    def _read_overview(self, window: Window, decimation: int) -> tuple[RGB, BoolArray | None]:
        factor = serving_overview(decimation, self.header.overviews)
        assert factor is not None
        overview = self._overviews.get(factor)
        if overview is None:
            dataset = open_dataset(self.header.path, overview_index(self._reader.dataset, factor))
            # Not entered: that would begin rasterio's environment in this thread and end the closing thread's.
            self._resources.callback(dataset.close)
            overview = self._overviews[factor] = replace(self._reader, dataset=dataset, sums=None)
        step = decimation // factor
        place = window.scale(step).clip(overview.dataset.height, overview.dataset.width)
        return block_mean(*overview.read(place), step)

    def _level_size(self, decimation: int) -> tuple[int, int]:
        return -(-self.height // decimation), -(-self.width // decimation)

    def _make_store(self, height: int, width: int) -> Store:
        channels = 4 if self.has_invalid else 3
        store = make_store(
            height, width, np.uint8, self._directory, channels=channels, memory_bytes=max(0, self._memory_left)
        )
        needed = temporary_bytes(height, width, np.uint8, channels)
        if needed <= self._memory_left:
            self._memory_left -= needed
        return store

    def _writer(self, store: Store) -> Callable[[int, RGB, BoolArray | None], None]:
        return lambda row, image, valid: store.write(row, self._packed(image, valid))

    def _packed(self, image: RGB, valid: BoolArray | None) -> RGB:
        """Colours, and valid pixels as a fourth channel where there may be invalid ones."""
        if not self.has_invalid:
            return image
        is_valid = np.ones(image.shape[:2], np.uint8) if valid is None else valid.astype(np.uint8)
        return np.concatenate([image, is_valid[:, :, None]], axis=2)

    def _unpacked(self, pixels: RGB) -> tuple[RGB, BoolArray | None]:
        if not self.has_invalid:
            return pixels, None
        valid = pixels[:, :, 3] != 0
        return np.ascontiguousarray(pixels[:, :, :3]), None if valid.all() else valid


def sweep_bytes(header: Header) -> int:
    """The most that a sweep holds beside GDAL's cache: a strip as stored and shown, and the sums of some rows."""
    stored_width = header.width if header.orientation < 5 else header.height
    pixels = strip_rows(header.block_height) * stored_width
    stored = min(header.bands, 3) * np.dtype(header.dtype).itemsize
    # Bands apart and together as colours; which values are finite or nodata, and which pixels are valid.
    shown = 3 + 3 + (5 if header.has_invalid else 0)
    return pixels * (stored + shown) + SUMS_BYTES

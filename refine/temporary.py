"""Pixels that wait on disk, or in memory where they are few: levels of the image, corrections, turned pictures.

The file has no name: the system takes its space back when the process ends, however it ends. Pixels lie in it row by
row, uncompressed, so that its size is a product of numbers and a read needs neither a decoder nor GDAL's cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from refine.errors import RasterError
from refine.geometry import Window

Pixels = NDArray[Any]
"""(h, w) or (h, w, channels) of the store's dtype."""


class Store(Protocol):
    """A grid of pixels that can be written and read in parts; what was never written is 0, and a hole on disk."""

    def write(self, row: int, rows: Pixels) -> None:
        """Whole rows from `row` on."""
        ...

    def write_window(self, window: Window, pixels: Pixels) -> None: ...

    def read(self, window: Window) -> Pixels:
        """A window inside the grid."""
        ...

    def close(self) -> None: ...


def temporary_bytes(height: int, width: int, dtype: DTypeLike, channels: int | None = None) -> int:
    """Size of a store, on disk or in memory."""
    return height * width * (channels or 1) * np.dtype(dtype).itemsize


def make_store(
    height: int,
    width: int,
    dtype: DTypeLike,
    directory: Path | None,
    *,
    channels: int | None = None,
    memory_bytes: int = 0,
) -> Store:
    """In memory if it takes at most `memory_bytes`, else in a file in `directory` (None: the system's for such)."""
    if temporary_bytes(height, width, dtype, channels) <= memory_bytes:
        return MemoryStore(height, width, dtype, channels=channels)
    return FileStore(height, width, dtype, directory, channels=channels)


class MemoryStore:
    """A Store in memory."""

    def __init__(self, height: int, width: int, dtype: DTypeLike, *, channels: int | None = None) -> None:
        self._pixels: Pixels = np.zeros((height, width) if channels is None else (height, width, channels), dtype)

    def write(self, row: int, rows: Pixels) -> None:
        self._pixels[row : row + len(rows)] = rows

    def write_window(self, window: Window, pixels: Pixels) -> None:
        self._pixels[window.slices] = pixels

    def read(self, window: Window) -> Pixels:
        return self._pixels[window.slices]

    def close(self) -> None:
        self._pixels = np.zeros((0, 0), self._pixels.dtype)  # a part of the old one would keep all of it


class FileStore:
    """A Store in a nameless file of `directory`; `channels` None means (height, width).

    Raises RasterError if the folder cannot be written or is full.
    """

    def __init__(
        self, height: int, width: int, dtype: DTypeLike, directory: Path | None = None, *, channels: int | None = None
    ) -> None:
        self._directory = Path(tempfile.gettempdir()) if directory is None else directory
        self._width, self._dtype, self._channels = width, np.dtype(dtype), channels
        self._pixel_bytes = self._dtype.itemsize * (channels or 1)
        try:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 - `close` closes it
            self._file.truncate(height * width * self._pixel_bytes)
        except OSError as error:
            raise self._error("cannot hold a temporary file", error) from error

    def write(self, row: int, rows: Pixels) -> None:
        self.write_window(Window(row, 0, len(rows), self._width), rows)

    def write_window(self, window: Window, pixels: Pixels) -> None:
        try:
            self._move(window, np.ascontiguousarray(pixels, self._dtype), self._file.write)
        except OSError as error:
            raise self._error("a temporary file cannot be written", error) from error

    def read(self, window: Window) -> Pixels:
        depth = () if self._channels is None else (self._channels,)
        pixels: Pixels = np.empty((window.height, window.width, *depth), self._dtype)
        try:
            self._move(window, pixels, self._read_into)
        except OSError as error:
            raise self._error("a temporary file cannot be read", error) from error
        return pixels

    def close(self) -> None:
        self._file.close()

    def _move(self, window: Window, pixels: Pixels, move: Callable[[memoryview], int]) -> None:
        """Whole rows at once, those of a narrower window one by one; `move` says how many bytes it took."""
        pieces: list[Pixels] = [pixels] if window.width == self._width else list(pixels)
        for index, piece in enumerate(pieces):
            self._file.seek(((window.row + index) * self._width + window.col) * self._pixel_bytes)
            view = piece.data.cast("B")
            while view.nbytes:
                view = view[move(view) :]

    def _read_into(self, view: memoryview) -> int:
        count = self._file.readinto(view)
        if not count:
            raise OSError("it is shorter than what was written")
        return count

    def _error(self, what: str, error: OSError) -> RasterError:
        return RasterError(f"{self._directory}: {what}: {error.strerror or error}")

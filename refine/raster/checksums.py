"""Damage that GDAL does not see: a TIFF's deflate blocks end in an Adler-32 sum, which libtiff does not look at.

libtiff stops inflating once a block has all its pixels, before the sum; of 60 files with up to 1 kB of a block damaged,
55 read as another picture without an error (GDAL of rasterio's wheel). Other compressions carry no sum in a TIFF.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rasterio.enums import Compression, Interleaving
from rasterio.io import DatasetReader

from refine.errors import RasterError
from refine.geometry import BoolArray, Window

_PIECE_BYTES = 1 << 20  # inflated at once, and read at once


class BlockSums:
    """The blocks of one dataset, each inflated once when it is first read; nothing for what has no sums to look at."""

    def __init__(self, dataset: DatasetReader, path: Path) -> None:
        self._dataset, self._path = dataset, path
        self._has_sums = (
            dataset.driver == "GTiff" and dataset.compression == Compression.deflate and type(path) is type(Path())
        )
        self._is_apart = dataset.interleaving != Interleaving.pixel and dataset.count > 1  # a block for each band
        self._height, self._width = dataset.block_shapes[0]
        rows, cols = -(-dataset.height // self._height), -(-dataset.width // self._width)
        planes = dataset.count if self._is_apart else 1
        self._seen: BoolArray = np.zeros((planes, rows, cols) if self._has_sums else (0, 0, 0), np.bool_)

    def check(self, window: Window, bands: Iterable[int]) -> None:
        """Raise RasterError if a block of the window, which lies in the dataset, does not have its sum."""
        if not self._has_sums or not window.height or not window.width:
            return
        rows = slice(window.row // self._height, (window.stop_row - 1) // self._height + 1)
        cols = slice(window.col // self._width, (window.stop_col - 1) // self._width + 1)
        for band in sorted(set(bands)) if self._is_apart else (1,):
            unseen = np.argwhere(~self._seen[band - 1, rows, cols])
            if not len(unseen):
                continue
            with self._path.open("rb", buffering=0) as file:
                for row, col in unseen.tolist():
                    self._check_block(file, band, rows.start + row, cols.start + col)
            self._seen[band - 1, rows, cols] = True

    def _check_block(self, file: BinaryIO, band: int, row: int, col: int) -> None:
        offset, size = (
            self._dataset.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=band) for what in ("OFFSET", "SIZE")
        )
        if offset is None or size is None:  # left out: it reads as nodata
            return
        try:
            _inflate(file, int(offset), int(size))
        except zlib.error as error:
            place = f"row {row * self._height}, column {col * self._width}"
            raise RasterError(f"{self._path}: cannot be read at {place}: a block is damaged: {error}") from error


def _inflate(file: BinaryIO, offset: int, size: int) -> None:
    """Raises zlib.error where the bytes are no whole stream with its sum."""
    stream = zlib.decompressobj()
    file.seek(offset)
    while size and not stream.eof:
        waiting = file.read(min(size, _PIECE_BYTES))
        if not waiting:
            break
        size -= len(waiting)
        while waiting and not stream.eof:
            stream.decompress(waiting, _PIECE_BYTES)
            waiting = stream.unconsumed_tail
    while not stream.eof and stream.decompress(b"", _PIECE_BYTES):
        pass
    if not stream.eof:
        raise zlib.error("it ends too early")

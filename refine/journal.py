"""What a run has finished, on disk: one closed file for each part of each level. The files are all there is to know.

A part's file holds the rows that became final in it, as they were given to the sink (or the store of the level), and
what the next part begins with. It is gzip, whose checksum tells a file that is whole from one that is cut short or
damaged, over plain .npy arrays:

    [row, has valid] rows [valid], again and again; [-1, 0]
    [not finite, changed, batch, height and width of the sums] ran touched_to sums, some rows at a time

It is written under another name, flushed and renamed, so that a file under a part's name is a finished part.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine.errors import RasterError
from refine.geometry import BoolArray
from refine.memory import CARRY_CHUNK_ROWS
from refine.sources import KeepRows
from refine.stream import Carry, PartEnd
from refine.whole_file import publish

LEVEL = 1  # of zlib: masks are mostly runs of one value, and more effort finds little more
_READ_BYTES = 1 << 20
_UNREADABLE = (OSError, EOFError, zlib.error)
"""What gzip raises for a file that is cut short, damaged, or not there."""


class PartFiles:
    """A Journal in a folder. `parts` says how many each level has, coarsest first."""

    def __init__(self, folder: Path, parts: Sequence[int]) -> None:
        self._folder, self._parts = folder, tuple(parts)

    def finished(self, level: int) -> int:
        whole = (is_whole(self._path(level, part)) for part in range(self._parts[level]))
        return next((part for part, good in enumerate(whole) if not good), self._parts[level])

    def replay(self, level: int, part: int, keep: KeepRows) -> PartEnd:
        path = self._path(level, part)
        try:
            with gzip.open(path, "rb") as stream:
                while True:
                    row, has_valid = _get(stream).tolist()
                    if row < 0:
                        break
                    rows = _get(stream)
                    keep(row, rows, _get(stream) if has_valid else None)
                not_finite, changed, batch, *shape = _get(stream).tolist()
                ran, touched_to = _get(stream), _get(stream)
                sums = np.empty(shape, np.float32)
                for first in range(0, len(sums), CARRY_CHUNK_ROWS):
                    sums[first : first + CARRY_CHUNK_ROWS] = _get(stream)
        except (*_UNREADABLE, ValueError) as error:
            raise RasterError(f"{path}: cannot be read: {error}; delete it, and its part is made again") from error
        return PartEnd(ran, not_finite, changed, Carry(sums, touched_to), batch)

    def begin(self, level: int, part: int) -> FilePart:
        return FilePart(self._path(level, part))

    def _path(self, level: int, part: int) -> Path:
        return self._folder / part_name(level, part)


def part_name(level: int, part: int) -> str:
    return f"level{level}-part{part:05d}.gz"


def is_whole(path: Path) -> bool:
    """Whether a part's file is there and reads to its end as it was written."""
    try:
        with gzip.open(path, "rb") as stream:
            is_empty = True
            while stream.read(_READ_BYTES):
                is_empty = False
    except _UNREADABLE:
        return False
    return not is_empty


class FilePart:
    """A PartFile under another name beside its own, which it gets in the end. Raises RasterError if it cannot."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hidden = path.with_suffix(".unfinished")
        self._open = ExitStack()
        try:
            raw = self._open.enter_context(self._hidden.open("wb"))
            self._stream = self._open.enter_context(gzip.GzipFile("", "wb", LEVEL, raw, mtime=0))
        except OSError as error:
            raise self._error(error) from error

    def write(self, row: int, rows: NDArray[Any], valid: BoolArray | None) -> None:
        self._put(np.array([row, valid is not None]), rows, *([] if valid is None else [valid]))

    def finish(self, end: PartEnd) -> None:
        sums = end.carry.sums
        self._put(np.array([-1, 0]), np.array([end.not_finite, end.changed, end.batch, *sums.shape]))
        self._put(end.ran, end.carry.touched_to)
        self._put(*(sums[first : first + CARRY_CHUNK_ROWS] for first in range(0, len(sums), CARRY_CHUNK_ROWS)))
        try:
            self._open.close()
            publish(self._hidden, self._path)
        except OSError as error:
            raise self._error(error) from error

    def __enter__(self) -> FilePart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # closing writes; what is dropped need not be whole
            self._open.close()
        self._hidden.unlink(missing_ok=True)

    def _put(self, *arrays: NDArray[Any]) -> None:
        try:
            for array in arrays:
                np.lib.format.write_array(self._stream, np.ascontiguousarray(array), allow_pickle=False)
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> RasterError:
        return RasterError(f"{self._path}: cannot be written: {error.strerror or error}")


def _get(stream: gzip.GzipFile) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array

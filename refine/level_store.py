"""Where a level's correction waits for the next level, in memory or on disk with the same values: int16, 1/32767."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from refine.errors import RasterError
from refine.geometry import Mask

Steps = NDArray[np.int16]
"""A correction in units of 1 / STEPS."""

STEPS = 32767


def quantise(correction: Mask) -> Steps:
    """`correction`, -1..1, to the nearest step; zero stays zero and nothing above half a step becomes zero."""
    steps: Steps = np.rint(correction * np.float32(STEPS)).astype(np.int16)
    return steps


def restore(steps: Steps) -> Mask:
    """The correction in -1..1 that the steps stand for."""
    correction: Mask = steps.astype(np.float32) / np.float32(STEPS)
    return correction


class LevelStore(Protocol):
    """Rows of a level's correction, written top to bottom and then read in any order."""

    def write(self, row: int, steps: Steps) -> None: ...

    def read(self, start: int, stop: int) -> Steps:
        """Rows [start, stop), (stop - start, width)."""
        ...

    def close(self) -> None: ...


class MemoryLevel:
    """A LevelStore that keeps rows [start, stop) of a level in one array."""

    def __init__(self, start: int, stop: int, width: int) -> None:
        self._start = start
        self._steps = np.zeros((stop - start, width), np.int16)

    def write(self, row: int, steps: Steps) -> None:
        self._steps[row - self._start : row - self._start + len(steps)] = steps

    def read(self, start: int, stop: int) -> Steps:
        return self._steps[start - self._start : stop - self._start]

    def close(self) -> None:
        self._steps = np.zeros((0, 0), np.int16)  # a part of the old one would keep all of it


class DiskLevel:
    """A LevelStore in an unnamed temporary file of `folder`; rows without a correction stay holes in it.

    Plain rows, since the engine writes and reads whole rows in order: no codec, no cache of its own, and nothing is
    left behind however the process ends. Raises RasterError when the disk is full, or does not give back what it was
    given.
    """

    def __init__(self, start: int, stop: int, width: int, folder: Path | None = None) -> None:
        self._start, self._width = start, width
        self._place = str(folder or tempfile.gettempdir())
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by `close`
            self._file.truncate((stop - start) * width * 2)
        except OSError as error:
            raise RasterError(f"{self._place}: cannot write a temporary file: {error}") from error

    def write(self, row: int, steps: Steps) -> None:
        if not steps.any():
            return
        try:
            self._file.seek((row - self._start) * self._width * 2)
            self._file.write(np.ascontiguousarray(steps).data)
            self._file.flush()
        except OSError as error:
            raise RasterError(f"{self._place}: cannot write a temporary file: {error}; free some space") from error

    def read(self, start: int, stop: int) -> Steps:
        steps = np.empty((stop - start, self._width), np.int16)
        try:
            self._file.seek((start - self._start) * self._width * 2)
            if self._file.readinto(steps.data.cast("B")) < steps.nbytes:
                raise OSError("it is shorter than what was written")
        except OSError as error:
            raise RasterError(f"{self._place}: a temporary file cannot be read: {error}") from error
        return steps

    def close(self) -> None:
        self._file.close()

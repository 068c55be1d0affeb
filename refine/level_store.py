"""Where a level's correction waits for the next level, in memory or on disk with the same values: int16, 1/32767."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refine.geometry import Mask, Window
from refine.temporary import Store

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


class LevelStore:
    """Rows [start, stop) of a level's correction in a store, written top to bottom and then read in any order."""

    def __init__(self, start: int, width: int, store: Store) -> None:
        self._start, self._width, self._store = start, width, store

    def write(self, row: int, steps: Steps) -> None:
        if steps.any():  # rows without a correction stay holes in a file
            self._store.write(row - self._start, steps)

    def read(self, start: int, stop: int) -> Steps:
        """Rows [start, stop), (stop - start, width)."""
        return self._store.read(Window(start - self._start, 0, stop - start, self._width))

    def close(self) -> None:
        self._store.close()

"""Turns final rows into what is kept: bytes of the refined mask, or the correction that the next level starts from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from refine.geometry import Mask, Window
from refine.level_store import Steps, quantise
from refine.sources import MaskSink
from refine.stream import Band, FinalRows

HALF_BYTE = 0.5 / 255
"""A correction above this can change the byte that is written."""

CHUNK_ROWS = 64
"""Rows finished at once: it bounds the working memory."""


class StepSink(Protocol):
    """What takes the rows of a level's correction; a LevelStore is one."""

    def write(self, row: int, steps: Steps) -> None: ...


def write_mask(final: Iterable[FinalRows], sink: MaskSink, part: Window, *, as_float: bool) -> int:
    """Write the rows and columns of `part` to `sink`, row 0 of which is the part's first; gives the changed pixels."""
    changed = 0
    for band, refined, changed_here in _finished(final, (part.row, part.stop_row), (part.col, part.stop_col)):
        changed += changed_here
        cols = slice(part.col, part.stop_col)
        mask = refined[:, cols]
        valid = None if band.valid is None else band.valid[:, cols]
        sink.write(band.row - part.row, mask if as_float else to_bytes(mask), valid)
    return changed


def write_corrections(final: Iterable[FinalRows], store: StepSink, rows: tuple[int, int]) -> int:
    """Store refined - first mask of rows [start, stop) of a level; gives the number of changed pixels."""
    changed = 0
    for band, refined, changed_here in _finished(final, rows):
        changed += changed_here
        store.write(band.row, quantise(refined - (band.coarse if band.first is None else band.first)))
    return changed


def to_bytes(mask: Mask) -> NDArray[np.uint8]:
    """255 times a mask in 0..1, rounded half up."""
    scaled = mask * np.float32(255)
    scaled += np.float32(0.5)
    shades: NDArray[np.uint8] = scaled.astype(np.uint8)
    return shades


def _finished(
    final: Iterable[FinalRows], rows: tuple[int, int], cols: tuple[int, int] | None = None
) -> Iterator[tuple[Band, Mask, int]]:
    """Chunks of rows [start, stop): the band cut to them, the refined mask, and how many pixels a network changed.

    Those are counted in columns [start, stop), in all of them if that is not said.
    """
    start, stop = rows
    for item in final:
        band = item.band
        left, right = cols or (0, item.correction.shape[1])
        for top in range(max(band.row, start), min(band.stop_row, stop), CHUNK_ROWS):
            chunk = slice(top - band.row, min(top + CHUNK_ROWS, band.stop_row, stop) - band.row)
            refined, changed = band.coarse[chunk], 0
            if item.touched:
                refined = refined.copy()
            for near in item.touched:
                refined[:, near] = np.clip(refined[:, near] + item.correction[chunk, near], 0, 1)
                counted = item.correction[chunk, max(near.start, left) : min(near.stop, right)]
                changed += int(np.count_nonzero(np.abs(counted) > HALF_BYTE))
            yield band.part(chunk), refined, changed

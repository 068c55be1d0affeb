"""What a run's bytes depend on, as named texts: two runs in which all of them are equal can share finished parts."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refine.errors import RasterError
from refine.plan import Plan

Identity = Mapping[str, str]
"""By the name under which a change is told to the user: an option as it is typed, or what it is."""

_END_BYTES = 1 << 20
_SHOWN = 40  # longer texts mean nothing to a reader


def plan_identity(plan: Plan) -> dict[str, str]:
    """Of what the plan decides. The budget is not in it, but for the batch that follows from it."""
    levels = [(step.level, step.part_rows, step.window_rows, step.rows) for step in plan.levels]
    roi = plan.roi
    return {
        "the image's size": f"{plan.width} x {plan.height}",
        "--reach": repr(plan.reach),
        "whether the reach is kept to": str(plan.holds_reach),
        "whether the inside of the first mask stays": str(plan.keeps_inside),
        "the agreement with the mask": repr((plan.agreement, plan.agreement_block)),
        "--tile": str(plan.tile),
        "--overlap": str(plan.overlap),
        "--select": plan.select,
        "--passes": str(plan.passes),
        # The batch is part of the bytes; where it is not given the budget decides it.
        "--batch" if plan.batch_is_given else "--max-memory, and with it the batch": f"{plan.batch}",
        "--roi": "none" if roi is None else f"{roi.row},{roi.col},{roi.height},{roi.width}",
        "the grid": repr((plan.low, plan.high, levels)),
    }


def fingerprint(files: Iterable[Path]) -> str:
    """Of one raster: size, time of the last change, and both ends of each of its files, without reading them whole."""
    digest = hashlib.sha256()
    for path in _without_side_files(files):
        try:
            about = path.stat()
            digest.update(f"{about.st_size} {about.st_mtime_ns} ".encode())
            with path.open("rb") as file:
                digest.update(file.read(_END_BYTES))
                file.seek(max(0, about.st_size - _END_BYTES))
                digest.update(file.read(_END_BYTES))
        except OSError as error:
            raise RasterError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


class Unchanged:
    """Files that are read part by part, and must be the same from the first to the last."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._before = {path: _stamp(path) for path in _without_side_files(files)}

    def check(self) -> None:
        """Raise RasterError if one of them was written to, or another file has its name."""
        for path, before in self._before.items():
            now = _stamp(path)
            if now is not None and now != before:
                raise RasterError(f"{path}: changed while it was read; refine again when it is whole")


def last_change(files: Iterable[Path]) -> int:
    """When one of them was last written to, in ns; 0 of files on a network, which do not say."""
    stamps = map(_stamp, _without_side_files(files))
    return max((stamp[1] for stamp in stamps if stamp is not None), default=0)


def _without_side_files(files: Iterable[Path]) -> Iterator[Path]:
    """Without GDAL's own: a viewer that opens a raster writes its statistics there."""
    return (path for path in files if not path.name.endswith(".aux.xml"))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """None of a file that is gone: who has it open reads it to its end, and who has not says so."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns, about.st_ino


def checksum(values: NDArray[np.float32]) -> str:
    """Of a mask that a network made."""
    return f"{values.shape} {zlib.crc32(np.ascontiguousarray(values).data):08x}"


def changes(before: Identity, now: Identity) -> tuple[str, ...]:
    """What differs, by name, with both values where a reader can do something with them."""
    found: list[str] = []
    for name in dict.fromkeys((*now, *before)):
        old, new = before.get(name, "none"), now.get(name, "none")
        if old != new:
            is_readable = name != "the grid" and max(len(old), len(new)) <= _SHOWN
            found.append(f"{name} (was {old}, is {new})" if is_readable else name)
    return tuple(found)

"""The folder of a run belongs to one process at a time, and what a killed one left half written is swept out of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refine.errors import InputError

LOCK = ".lock"
UNFINISHED = ".unfinished"
"""Files are written in this folder of a run's folder, where safetensors, too, leaves what a kill cut off."""


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Make `folder` where it is not there, and keep other processes from training in it.

    Raises InputError if one does already, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "is a file" if folder.is_file() else f"cannot be made: {error.strerror}"
        raise InputError(f"--run {folder}: {why}; give another folder") from error
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _locked(descriptor):
            raise InputError(f"{folder}: another process trains in it; wait for it, stop it, or give another --run")
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock an open file until this process closes it or ends; False if another has it.

    A lock of this kind is not handed on to the loader's workers, which outlive a killed process by some seconds.
    Where there are none, on Windows and some network file systems, nothing is locked.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True

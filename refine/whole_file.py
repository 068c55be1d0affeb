"""Files that appear when they are whole: written beside their place under a hidden name, then renamed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`, which is as it was until all of it lies on the disk.

    Raises OSError, and leaves no temporary file.
    """
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        hidden.write_bytes(content)
        publish(hidden, path)
    finally:
        with suppress(OSError):  # renamed, or never made: what went wrong is on its way to the caller
            hidden.unlink()


def publish(hidden: Path, path: Path) -> None:
    """Give a finished file its name, once its bytes are on the disk; the name lasts through a power cut as well.

    Raises OSError.
    """
    with hidden.open("rb+") as file:
        os.fsync(file.fileno())
    hidden.replace(path)
    if hasattr(os, "O_DIRECTORY"):  # where a folder can be opened: not on Windows
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

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
        with hidden.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(path)
    finally:
        with suppress(OSError):  # renamed, or never made: what went wrong is on its way to the caller
            hidden.unlink()

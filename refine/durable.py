"""Files that are whole or not there, through a power cut as well."""

from __future__ import annotations

import os
from pathlib import Path


def publish(hidden: Path, path: Path) -> None:
    """Give a finished file its name, once its bytes are on the disk. Raises OSError."""
    with hidden.open("rb+") as file:
        os.fsync(file.fileno())
    hidden.replace(path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Make renames in it last, where a folder can be opened (not on Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

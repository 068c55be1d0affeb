"""Names of files on a network, which GDAL reads, beside the paths of local ones.

    https://host/scene.tif   http://...   s3://bucket/scene.tif   /vsicurl/https://...   /vsis3/bucket/scene.tif

Nothing else that GDAL could reach over a network, or in an archive, is taken for such a name.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from refine.errors import InputError

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # of this system; before Python 3.12 Path itself cannot be subclassed

_REMOTE = re.compile(r"(/vsicurl/)?https?:(/|$)|s3:(/|$)|/vsis3(/|$)")
_WHOLE = re.compile(r"(/vsicurl/+)?(https?|s3):/+[^/]+/+[^/]|/vsis3/+[^/]+/+[^/]")
_OTHER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|/vsi[a-z0-9]+(/|$)")  # of two letters at least: C:/ is a drive
_SCHEME = re.compile(r"(https?|s3):/+(?=[^/])")
_SLASHES = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/*")  # of which a Path has one left
_TAKES = "https://HOST/FILE, s3://BUCKET/FILE, or GDAL's /vsicurl/ and /vsis3/"


class RemotePath(_Path):
    """A file on a network, where paths are expected. It reads as it was typed, which a Path would not: its `//` is `/`.

    What asks the file system about it finds nothing there.
    """

    def __str__(self) -> str:
        return _SCHEME.sub(r"\1://", super().__str__().replace("\\", "/"))

    @property
    def name(self) -> str:
        """Its last part, without what an address asks for behind `?`, such as a signature."""
        return super().name.partition("?")[0]

    @property
    def gdal_name(self) -> str:
        """The name under which GDAL reads it."""
        address = str(self)
        if address.startswith("/vsi"):
            return address
        return f"/vsis3/{address.removeprefix('s3://')}" if address.startswith("s3://") else f"/vsicurl/{address}"


def as_path(name: Path | str) -> Path:
    """The path of a file that was named by a user; a RemotePath if it lies on a network.

    Raises InputError for an address that names no file, that no path can hold, or of another kind.
    """
    text = str(name).replace("\\", "/")
    if not _REMOTE.match(text):
        if _OTHER.match(text) and not os.path.lexists(name):
            raise InputError(f"{_typed(name)}: not an address that refine reads; it reads {_TAKES}")
        return Path(name)
    if not _WHOLE.match(text):
        raise InputError(f"{_typed(name)}: names no file; write {_TAKES}")
    path = RemotePath(text)
    if isinstance(name, str) and str(path) != text:
        raise InputError(f"{name}: give the address as {path}, without doubled or trailing slashes")
    return path


def check_local(option: str, name: str) -> None:
    """Raises InputError for a place to write to that is an address: results are files of this machine."""
    path = Path(name)
    top = Path(*path.parts[: 2 if path.is_absolute() else 1])
    if _REMOTE.match(name) or (_OTHER.match(name) and not os.path.lexists(top)):
        raise InputError(f"{option} {name}: is an address; results are written to folders of this machine only")


def _typed(name: Path | str) -> str:
    return name if isinstance(name, str) else _SLASHES.sub(r"\1://", name.as_posix())

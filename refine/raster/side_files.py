"""Which files beside a raster GDAL may open for it: overviews and mask bands of their own kinds, and nothing else.

GDAL opens `<file>.ovr`, `<file>.msk`, `<stem>.aux` and `<file>.aux`, in any letter case, by whatever driver feels able
to, and so it does with a file that metadata call the overviews, inside the raster or in `<file>.aux.xml`. A VRT there
would read other files of the machine, or of a network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

from refine.errors import InputError

_NAME = "OVERVIEW_FILE"
_BESIDE = ":::BASE:::"  # GDAL's word for the folder of the raster

_LISTED = 4096  # GDAL lists folders of up to 1000 files; in others it tries both cases of the suffix alone

Listing = Callable[[Path], Mapping[str, list[str]]]


def list_folder(folder: Path) -> dict[str, list[str]]:
    """Names of files by the same in lower case; none of a folder that GDAL does not list."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, _LISTED + 1)]
    except OSError:
        return {}
    found: dict[str, list[str]] = {}
    for name in names if len(names) <= _LISTED else ():
        found.setdefault(name.lower(), []).append(name)
    return found


def side_files(path: Path, listing: Listing = list_folder) -> list[Path]:
    """Overviews and mask band beside a raster."""
    wanted = [f"{path.name}.ovr", f"{path.name}.msk"]
    if path.suffix.lower() != ".aux":
        wanted += [f"{path.name}.aux", f"{path.stem}.aux"] if path.suffix else [f"{path.name}.aux"]
    names = listing(path.parent)
    if names:
        return [path.with_name(name) for lower in wanted for name in names.get(lower.lower(), ())]
    # As GDAL does.
    tried = (path.with_name(name[:-3] + suffix) for name in wanted for suffix in (name[-3:], name[-3:].upper()))
    return [side for side in tried if side.exists()]


def check_overview_file(path: Path, metadata: Mapping[str, str], beside: list[Path]) -> None:
    """Raises InputError if `metadata`, of GDAL's domain OVERVIEWS, name a file that is not among those `beside`."""
    known = {f"{_BESIDE}{side.name}" for side in beside}
    for name, value in metadata.items():
        is_known = value in known or _is_gone(path, value)
        # GDAL reads "OVERVIEW_FILE:..." as name and value as well.
        if name.upper().startswith(_NAME) and (len(name) > len(_NAME) or not is_known):
            raise InputError(
                f"{path}: its metadata (there, or in {path.name}.aux.xml) say that its overviews are {value!r}; "
                f"refine reads those in the file itself or in {path.name}.ovr"
            )


def _is_gone(path: Path, value: str) -> bool:
    """Whether it is a file that was once beside the raster, such as one that has been renamed."""
    name = value.removeprefix(_BESIDE)
    return value.startswith(_BESIDE) and Path(name).name == name and not path.with_name(name).exists()

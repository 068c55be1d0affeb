"""Which files beside a raster GDAL may open for it: overviews and mask bands that are TIFFs, and nothing else.

GDAL opens `<file>.ovr` and `<file>.msk`, in any letter case, by whatever driver feels able to, and so it does with a
file that metadata call the overviews, inside the raster or in `<file>.aux.xml`. A VRT there would read other files of
the machine, or of a network.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

from refine.errors import InputError

_SUFFIXES = (".ovr", ".msk")
_NAME = "OVERVIEW_FILE"
_BESIDE = ":::BASE:::"  # GDAL's word for the folder of the raster

_LISTED = 4096  # GDAL lists folders of up to 1000 files; in others it tries both cases of the suffix alone

Listing = Callable[[Path], list[tuple[str, str]]]


def list_folder(folder: Path) -> list[tuple[str, str]]:
    """Its files' names in lower case, sorted, each with the name itself; none of a folder that GDAL does not list."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, _LISTED + 1)]
    except OSError:
        return []
    return sorted((name.lower(), name) for name in names) if len(names) <= _LISTED else []


def side_files(path: Path, listing: Listing = list_folder) -> list[Path]:
    """Overviews and mask band beside a raster, theirs as well."""
    begin = f"{path.name}.".lower()
    names = listing(path.parent)
    found = []
    for lower, name in names[bisect_left(names, (begin, "")) :]:
        if not lower.startswith(begin):
            break
        if lower.endswith(_SUFFIXES):
            found.append(path.with_name(name))
    if not names:  # as GDAL does
        tried = (path.with_name(path.name + end) for suffix in _SUFFIXES for end in (suffix, suffix.upper()))
        found = [side for side in tried if side.exists()]
    return found


def check_overview_file(path: Path, metadata: Mapping[str, str], beside: list[Path]) -> None:
    """Raises InputError if `metadata`, of GDAL's domain OVERVIEWS, name a file that is not among those `beside`."""
    known = {f"{_BESIDE}{side.name}" for side in beside}
    for name, value in metadata.items():
        # GDAL reads "OVERVIEW_FILE:..." as name and value as well.
        if name.upper().startswith(_NAME) and (len(name) > len(_NAME) or value not in known):
            raise InputError(
                f"{path}: its metadata (there, or in {path.name}.aux.xml) say that its overviews are {value!r}; "
                f"refine reads those in the file itself or in {path.name}.ovr"
            )

"""Which VRT files are read: mosaics of local rasters, and nothing that computes or reaches further.

A VRT is a text that names other files. One that the user points at, by a name that ends in `.vrt`, is opened if every
source is a plain local file that refine reads by itself. Sources on the network or in archives, VRTs inside VRTs,
warped or raw bands and pixel functions are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from refine.errors import InputError

_LARGEST_BYTES = 64 << 20  # a mosaic of some 100 000 tiles
_REFUSED = (
    "ArraySource", "Filter", "GDALWarpOptions", "OpenOptions", "PixelFunctionArguments", "PixelFunctionCode",
    "PixelFunctionLanguage", "PixelFunctionType", "ProcessingSteps", "SourceDataset",
)  # fmt: skip
_SHOWN = {name.lower(): name for name in _REFUSED}
_BAND = "vrtsourcedrasterband"  # the one kind that only copies


def check_vrt(path: Path, driver_of: Callable[[Path], str], check_source: Callable[[Path], None]) -> None:
    """Raises InputError if the VRT is more than a mosaic of local files.

    `driver_of` says what reads a source, and `check_source` raises for one that reaches further.
    """
    if path.stat().st_size > _LARGEST_BYTES:
        raise InputError(f"{path}: a VRT of more than {_LARGEST_BYTES >> 20} MiB is refused; make a mosaic file of it")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        root = ElementTree.fromstring(text)
    except (UnicodeDecodeError, ElementTree.ParseError) as error:
        raise InputError(f"{path}: not a VRT: {error}") from error
    # GDAL's parser cuts a name at a comment, where this one joins its parts; before the root there are no names.
    head, _, body = text.partition("<VRTDataset")
    if "<!" in (body or head) or "<!doctype" in head.lower() or "<?" in (body or head[1:]):
        raise InputError(f"{path}: a VRT with entities, or with comments among its parts, is refused")
    if _lower(root.tag) != "vrtdataset":
        raise InputError(f"{path}: not a VRT: its root is <{root.tag}>")
    sources = set()
    for element in root.iter():
        tag = _lower(element.tag)
        attributes = {_lower(name): value for name, value in element.attrib.items()}
        what = next((_SHOWN[name] for name in (tag, *attributes) if name in _SHOWN), attributes.get("subclass", _BAND))
        # To GDAL an element inside is what an attribute is.
        is_malformed = tag == "subclass" or "sourcefilename" in attributes or len(attributes) < len(element.attrib)
        if tag == "sourcefilename":
            relative = attributes.get("relativetovrt", "0")
            is_malformed |= len(element) > 0 or relative not in ("0", "1")
            sources.add((element.text or "", relative == "1"))
        if is_malformed:
            raise InputError(f"{path}: not a VRT: <{element.tag}> is malformed")
        if what.lower() != _BAND:
            raise InputError(f"{path}: a VRT with {what} is refused; refine reads mosaics of local files only")
    for name, is_relative in sorted(sources):
        source = path.parent / name if is_relative else Path(name)
        _check_source(path, name, source, driver_of)
        check_source(source)


def _lower(name: str) -> str:
    """GDAL's names know no case, and what stands in a namespace is looked at as well."""
    return name.rpartition("}")[2].lower()


def _check_source(path: Path, name: str, source: Path, driver_of: Callable[[Path], str]) -> None:
    if name.startswith("/vsi") or "://" in name or not source.is_file():
        raise InputError(f"{path}: its source {name!r} is not a local file; refine reads mosaics of local files only")
    if driver_of(source) == "VRT":
        raise InputError(f"{path}: its source {name!r} is a VRT itself, which is refused")

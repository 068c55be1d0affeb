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
_REFUSED = ("SourceDataset", "PixelFunctionType", "PixelFunctionCode", "GDALWarpOptions", "ProcessingSteps", "Filter")


def check_vrt(path: Path, driver_of: Callable[[Path], str]) -> None:
    """Raises InputError if the VRT is more than a mosaic of local files; `driver_of` says what reads a source."""
    if path.stat().st_size > _LARGEST_BYTES:
        raise InputError(f"{path}: a VRT of more than {_LARGEST_BYTES >> 20} MiB is refused; make a mosaic file of it")
    text = path.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise InputError(f"{path}: a VRT with entities is refused")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: not a VRT: {error}") from error
    if root.tag != "VRTDataset":
        raise InputError(f"{path}: not a VRT: its root is <{root.tag}>")
    for element in root.iter():
        kind = element.get("subClass", "VRTSourcedRasterBand")
        if element.tag in _REFUSED or kind != "VRTSourcedRasterBand":
            what = element.tag if element.tag in _REFUSED else kind
            raise InputError(f"{path}: a VRT with {what} is refused; refine reads mosaics of local files only")
        if element.tag == "SourceFilename":
            _check_source(path, element, driver_of)


def _check_source(path: Path, element: ElementTree.Element, driver_of: Callable[[Path], str]) -> None:
    name = element.text or ""
    source = path.parent / name if element.get("relativeToVRT", "0") == "1" else Path(name)
    if name.startswith("/vsi") or "://" in name or not source.is_file():
        raise InputError(f"{path}: its source {name!r} is not a local file; refine reads mosaics of local files only")
    if driver_of(source) == "VRT":
        raise InputError(f"{path}: its source {name!r} is a VRT itself, which is refused")

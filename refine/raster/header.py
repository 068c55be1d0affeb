"""What a raster says of itself before a pixel is read, and the output that follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rasterio.io import DatasetReader

from refine.errors import InputError, RasterError
from refine.raster.container import Container, read_container
from refine.raster.gdal import driver_of, open_dataset, translated, without_georeference_warning
from refine.raster.georeference import Georeference, read_georeference
from refine.raster.layout import is_colour_nodata
from refine.raster.orientation import is_swapped, upright_size
from refine.remote import RemotePath

MAX_PIXELS = 10**11
"""More is taken for a damaged or hostile header: a file of 4 MB can declare 270 GB."""

PNG_SIDE = 65_500
"""Up to this side other programs open a PNG; above, the mask is a TIFF."""

_NETWORK_CACHE_BYTES = 16 << 20  # what GDAL keeps of what it has fetched

_INTERLACED_BYTES = 100_000_000  # of GDAL's PNG driver, for the rows that one pass over the file gives

_OPEN_SOURCES = 100  # of a mosaic, which GDAL closes only when more are wanted

_NOT_OF_A_MASK = ("EXIF_", "NODATA_VALUES", "STATISTICS_", "TIFFTAG_MINSAMPLEVALUE", "TIFFTAG_MAXSAMPLEVALUE")
_DESCRIPTION = "TIFFTAG_IMAGEDESCRIPTION"
_LAYOUT_TOLD = ("<OME", "ImageJ=", '{"shape"', "shape=(")  # by OME, ImageJ and tifffile: bands, pages and types

_PHOTOGRAPHS = ("JPEG", "PNG", "WEBP", "BMP")
_WITH_OVERVIEWS = ("GTiff", "VRT", "JP2OpenJPEG")  # those of JPEG are its transform cut short, not means


@dataclass(frozen=True)
class Header:
    """A raster's facts. Height and width are those of the picture as shown, after EXIF orientation."""

    path: Path
    height: int
    width: int
    bands: int
    dtype: str
    block_height: int
    block_width: int
    overviews: tuple[int, ...]  # exact factors only: an overview of factor f is ceil(H / f) x ceil(W / f)
    driver: str
    is_georeferenced: bool
    orientation: int = 1  # EXIF, applied where it is not 1
    notes: tuple[str, ...] = ()  # what was decided for the user, one line each
    has_invalid: bool = False  # nodata, NaN, or a mask band may occur
    nodata: tuple[float | None, ...] = ()  # of each band
    decoder_bytes: int = 0  # what the decoder holds beside the block cache
    georeference: Georeference = field(default_factory=Georeference)
    tags: Mapping[str, str] = field(default_factory=dict)  # what the file says of itself, and a mask of it may say too
    files: tuple[Path, ...] = ()  # it and all that belongs to it: sources of a mosaic, overviews, side files


def read_header(path: Path, *, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of a raster; no pixel is read.

    Raises InputError for what is no image, or declares more than `max_pixels`; RasterError if it is damaged.
    """
    with open_dataset(path) as dataset, translated(path, "cannot be read"), without_georeference_warning():
        return header_of(dataset, path, max_pixels)


def header_of(dataset: DatasetReader, path: Path, max_pixels: int) -> Header:
    """The header of an open dataset; see `read_header`."""
    stored_height, stored_width = dataset.height, dataset.width
    if dataset.count == 0:
        raise InputError(f"{path}: has no bands")
    if stored_height * stored_width > max_pixels:
        size = f"{stored_width} x {stored_height} (width x height)"
        raise InputError(f"{path}: declares {size} pixels, which is above --max-pixels {max_pixels}; is it damaged?")
    if dataset.dtypes[0].startswith("complex"):
        raise InputError(f"{path}: holds complex numbers; give their magnitude")
    is_remote = isinstance(path, RemotePath)
    container = Container() if is_remote else read_container(path, dataset.driver)
    if container.is_cut:
        raise RasterError(f"{path}: the file is cut short: it ends before its picture does; get it again")
    if container.is_camera_raw:
        raise InputError(f"{path}: is a camera's raw file; develop it to TIFF or JPEG first")
    georeference = read_georeference(dataset)
    orientation, notes = _orientation(container, georeference)
    if len(dataset.subdatasets) > 1:
        notes = (*notes, f"holds {len(dataset.subdatasets)} pages; the first is used")
    height, width = upright_size(stored_height, stored_width, orientation)
    block_height, block_width = dataset.block_shapes[0]
    return Header(
        path=path,
        height=height,
        width=width,
        bands=dataset.count,
        dtype=str(dataset.dtypes[0]),
        block_height=1 if is_swapped(orientation) else block_height,
        block_width=width if is_swapped(orientation) else block_width,
        overviews=_overviews(dataset, path) if orientation == 1 else (),
        driver=dataset.driver,
        is_georeferenced=not georeference.is_empty,
        orientation=orientation,
        notes=notes,
        has_invalid=_has_invalid(dataset),
        nodata=tuple(dataset.nodatavals),
        decoder_bytes=_decoder_bytes(dataset, container) + (_NETWORK_CACHE_BYTES if is_remote else 0),
        georeference=georeference,
        tags=_kept_tags(dataset),
        files=(path, *(Path(name) for name in dataset.files[1:])),
    )


def default_output(header: Header) -> Path:
    """Where the mask goes if nothing is said: `<stem>_mask.png` for a photograph, else `.tif`, beside the image.

    That of an image on a network goes to the current folder.
    """
    is_photograph = header.driver in _PHOTOGRAPHS and not header.is_georeferenced
    suffix = ".png" if is_photograph and max(header.height, header.width) <= PNG_SIDE else ".tif"
    folder = Path() if isinstance(header.path, RemotePath) else header.path.parent
    return folder / f"{header.path.stem}_mask{suffix}"


def _orientation(container: Container, georeference: Georeference) -> tuple[int, tuple[str, ...]]:
    """The orientation to apply: a georeference speaks of the stored grid, so there it is not."""
    if container.orientation == 1:
        return 1, ()
    if not georeference.is_empty:
        return 1, (f"EXIF orientation {container.orientation} is not applied, because the image is georeferenced",)
    return container.orientation, (f"EXIF orientation {container.orientation} is applied, as viewers do",)


def _overviews(dataset: DatasetReader, path: Path) -> tuple[int, ...]:
    """Factors of the overviews; one whose size is not exactly that of its factor is left out.

    None is used where a colour is nodata: GDAL writes black for it into overviews.
    """
    if dataset.driver not in _WITH_OVERVIEWS or is_colour_nodata(dataset):
        return ()
    found: list[int] = []
    for index, factor in enumerate(dataset.overviews(1)):
        with open_dataset(path, overview=index) as overview:
            exact = (-(-dataset.height // factor), -(-dataset.width // factor))
            is_exact = factor > 1 and (overview.height, overview.width) == exact
        found.append(factor if is_exact else 0)
    return tuple(factor for factor in found if factor)


def overview_index(dataset: DatasetReader, factor: int) -> int:
    """Which overview has the factor, counted from 0."""
    factors: list[int] = dataset.overviews(1)
    return factors.index(factor)


def _kept_tags(dataset: DatasetReader) -> dict[str, str]:
    """All but statistics and nodata, which are of the image's values, EXIF, which says how the picture is to be turned,
    and a description from which programs learn how the image's numbers lie in the file.
    """
    tags = {name: text for name, text in dataset.tags().items() if not name.startswith(_NOT_OF_A_MASK)}
    if any(mark in tags.get(_DESCRIPTION, "") for mark in _LAYOUT_TOLD):
        del tags[_DESCRIPTION]
    return tags


def _has_invalid(dataset: DatasetReader) -> bool:
    """Whether some pixel may be invalid; alpha does not count, it is a mask of another kind."""
    flags = {flag.name for band in dataset.mask_flag_enums for flag in band}
    is_masked = "per_dataset" in flags and "alpha" not in flags
    return is_masked or "nodata" in flags or str(dataset.dtypes[0]).startswith("float")


def _decoder_bytes(dataset: DatasetReader, container: Container) -> int:
    """Buffers of decoders that grow with the image: 16-bit coefficients of a progressive JPEG (measured 6 to 7 bytes a
    pixel for three bands), the pixels themselves of a WebP, some rows of an interlaced PNG; of a mosaic, its sources'.
    """
    if dataset.driver == "VRT":
        return _sources_decoder_bytes(Path(name) for name in dataset.files[1:])
    pixels = int(dataset.height * dataset.width * dataset.count)
    if container.is_progressive:
        return pixels * 7 // 3
    if container.is_interlaced:
        return int(min(_INTERLACED_BYTES, pixels * np.dtype(dataset.dtypes[0]).itemsize))
    return pixels if dataset.driver == "WEBP" else 0


def _sources_decoder_bytes(paths: Iterable[Path]) -> int:
    """Of all pictures that GDAL keeps open at once."""
    found: list[int] = []
    for path in paths:
        with suppress(InputError):  # a side file
            driver = driver_of(path)
            if driver in _PHOTOGRAPHS:
                with open_dataset(path) as source:
                    found.append(_decoder_bytes(source, read_container(path, driver)))
    return sum(sorted(found)[-_OPEN_SOURCES:])

"""How GDAL is reached: which drivers may open a file, how large its cache is, and what its errors become.

A file is opened by the one driver that its first bytes name, never by whatever driver feels able to: GDAL would take a
VRT that is called `photo.png` and read, through it, other files of the machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.env import get_gdal_config, set_gdal_config
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from refine.errors import InputError, RasterError
from refine.raster.vrt import check_vrt

GDAL_ERRORS = (RasterioError, CPLE_BaseError, CRSError)
"""All that rasterio raises when GDAL fails; some of GDAL's own errors come through without a coat."""

DEFAULT_CACHE_BYTES = 128 << 20
"""Two rows of 512 blocks of a 40 000 pixel wide RGB image."""

_SIGNATURES: tuple[tuple[bytes, int, str], ...] = (
    (b"II*\0", 0, "GTiff"),
    (b"MM\0*", 0, "GTiff"),
    (b"II+\0", 0, "GTiff"),
    (b"MM\0+", 0, "GTiff"),
    (b"\x89PNG\r\n\x1a\n", 0, "PNG"),
    (b"\xff\xd8\xff", 0, "JPEG"),
    (b"WEBP", 8, "WEBP"),
    (b"BM", 0, "BMP"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", 0, "JP2OpenJPEG"),
    (b"\xff\x4f\xff\x51", 0, "JP2OpenJPEG"),
)
_KINDS = "TIFF, PNG, JPEG, WebP, BMP, JPEG 2000, or a .vrt of local files"


@contextmanager
def gdal_environment(cache_bytes: int) -> Iterator[None]:
    """GDAL's block cache, which is one for the process, holds at most `cache_bytes`; afterwards what it held before.

    In bytes: rasterio takes the number so, where GDAL's own option counts megabytes below 100 000.
    """
    before = get_gdal_config("GDAL_CACHEMAX")
    with rasterio.Env():
        set_gdal_config("GDAL_CACHEMAX", int(cache_bytes))
        try:
            yield
        finally:
            set_gdal_config("GDAL_CACHEMAX", before)


def driver_of(path: Path) -> str:
    """The driver that reads the file, by its first bytes, not by its name. Raises InputError if none of ours does."""
    try:
        if path.is_fifo():  # it can be read once only, and an empty one waits for ever
            raise InputError(f"{path}: is a pipe; save the image to a file first")
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, not an image") from None
    except OSError as error:
        raise RasterError(f"{path}: cannot be read: {error.strerror}") from error
    if not start:
        raise InputError(f"{path}: the file is empty")
    for signature, offset, driver in _SIGNATURES:
        if start[offset : offset + len(signature)] == signature:
            return driver
    if path.suffix.lower() == ".vrt" and start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "VRT"
    raise InputError(f"{path}: not an image that refine reads; it reads {_KINDS}")


def open_dataset(path: Path, overview: int | None = None) -> DatasetReader:
    """The file opened by the driver of its content; `overview` counts from 0, None is the raster itself.

    Raises InputError for a file of another kind, RasterError for one that GDAL cannot open.
    """
    driver = driver_of(path)
    if driver == "VRT":
        check_vrt(path, driver_of)
    options = {} if overview is None else {"overview_level": overview}
    # A Path, and absolute, so that no part of the name is taken for a scheme, an archive or a subdataset.
    with translated(path, "cannot be opened"), without_georeference_warning():
        return rasterio.open(path.absolute(), driver=driver, **options)


@contextmanager
def translated(path: Path, failure: str) -> Iterator[None]:
    """What GDAL raises inside becomes one RasterError line: path, `failure`, GDAL's own words."""
    try:
        yield
    except GDAL_ERRORS as error:
        raise RasterError(f"{path}: {failure}: {_reason(error, path)}") from error
    except UnicodeEncodeError as error:
        raise RasterError(f"{path}: {failure}: GDAL takes no name that is not UTF-8; rename it") from error


@contextmanager
def without_georeference_warning() -> Iterator[None]:
    """rasterio warns of every image without georeference; photographs have none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _reason(error: BaseException, path: Path) -> str:
    """GDAL's message in one line, without the path, which the caller has said."""
    cause = error.__cause__ or error.__context__
    if "previous exception" in str(error) and cause is not None:
        error = cause
    text = " ".join(str(error).split()).replace(f"'{path.absolute()}'", "it")
    return text.removeprefix(f"{path.absolute()}: ").removeprefix(f"{path.name}: ").removeprefix(f"{path.name}, ")

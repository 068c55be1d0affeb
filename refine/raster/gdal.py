"""How GDAL is reached: which drivers may open a file, how large its cache is, and what its errors become.

A file is opened by the one driver that its first bytes name, never by whatever driver feels able to: GDAL would take a
VRT that is called `photo.png` and read, through it, other files of the machine. What lies beside a file, and GDAL opens
with it, is looked at before (`side_files.py`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.env import get_gdal_config, set_gdal_config
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import DatasetReader

from refine.errors import InputError, RasterError
from refine.raster.side_files import Listing, check_overview_file, list_folder, side_files
from refine.raster.vrt import check_vrt
from refine.remote import RemotePath

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
_START_BYTES = 1024  # what GDAL looks at
_MARKS = (b"<vrtdataset", b"<gdaltileindexdataset")  # GDAL takes a file for one of these wherever they stand there
_ERDAS = b"EHFA_HEADER_TAG"  # begins overviews and statistics in a .aux
_KINDS = "TIFF, PNG, JPEG, WebP, BMP, JPEG 2000, or a .vrt of local files"


_REMOTE_DRIVERS = ("GTiff", "JP2OpenJPEG")
"""Formats of which parts can be read. The others go from top to bottom several times, and say in bytes that GDAL does
not give how the picture is turned.
"""

_NETWORK = {
    # GDAL would ask for some forty names beside each file; so side files on a network are not read.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # A server that says nothing must not hang the run; it may be slow.
    "GDAL_HTTP_CONNECTTIMEOUT": "30",
    "GDAL_HTTP_LOW_SPEED_TIME": "60",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",
}
"""Unless the user's environment says otherwise."""


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
    start = _start_of(path)
    if _hides_vrt(start):
        raise InputError(f"{path}: not an image: a VRT hides behind its first bytes")
    driver = _driver_by_signature(start)
    if driver is not None:
        return driver
    if path.suffix.lower() == ".vrt" and _is_text(start):
        return "VRT"
    raise InputError(f"{path}: not an image that refine reads; it reads {_KINDS}")


def _start_of(path: Path) -> bytes:
    """What GDAL looks at to tell the kind of a file. Raises InputError for what is no file, or empty."""
    try:
        if path.is_fifo():  # it can be read once only, and an empty one waits for ever
            raise InputError(f"{path}: is a pipe; save the image to a file first")
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, not an image") from None
    except OSError as error:
        raise RasterError(f"{path}: cannot be read: {error.strerror}") from error
    if not start:
        raise InputError(f"{path}: the file is empty")
    return start


def _driver_by_signature(start: bytes) -> str | None:
    for signature, offset, driver in _SIGNATURES:
        if start[offset : offset + len(signature)] == signature:
            return driver
    return None


def _is_text(start: bytes) -> bool:
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _hides_vrt(start: bytes) -> bool:
    return not _is_text(start) and any(mark in start.lower() for mark in _MARKS)


def open_dataset(path: Path, overview: int | None = None) -> DatasetReader:
    """The file opened by the driver of its content; `overview` counts from 0, None is the raster itself.

    A RemotePath is read over the network. Raises InputError for a file of another kind, RasterError for one that GDAL
    cannot open.
    """
    options = {} if overview is None else {"overview_level": overview}
    if isinstance(path, RemotePath):
        return _open_remote(path, options)
    return _open_local(path, list_folder, options)


def _open_local(path: Path, listing: Listing, options: dict[str, int], driver: str | None = None) -> DatasetReader:
    """Nothing is opened, by GDAL itself neither, but this file, its overviews and mask band, and a mosaic's sources.

    `driver` is that of its content, if it is known.
    """
    driver = driver or driver_of(path)
    if driver == "VRT":
        state = path.stat()
        _check_mosaic(path, state.st_mtime_ns, state.st_size)
    beside = side_files(path, listing)
    for side in beside:
        _check_side_file(side, path, listing)
    # A Path, and absolute, so that no part of the name is taken for a scheme, an archive or a subdataset.
    with translated(path, "cannot be opened"), without_georeference_warning():
        return _opened(path, path.absolute(), driver, beside, options)


def _opened(path: Path, name: str | Path, driver: str, beside: list[Path], options: dict[str, int]) -> DatasetReader:
    """`name` opened, if its metadata, which GDAL follows once it is asked for overviews, lead to nothing else."""
    with ExitStack() as stack:  # not entered: see RasterImage._read_overview
        dataset = rasterio.open(name, driver=driver)
        stack.callback(dataset.close)
        check_overview_file(path, dataset.tags(ns="OVERVIEWS"), beside)
        if options:
            return rasterio.open(name, driver=driver, **options)
        stack.pop_all()
        return dataset


@lru_cache(maxsize=64)
def _check_mosaic(path: Path, _changed: int, _size: int) -> None:
    """Once for a file as it is: all sources are opened."""
    listing = cache(list_folder)

    def check_source(source: Path) -> None:
        with suppress(RasterError):  # one that cannot be opened is not followed
            _open_local(source, listing, {}).close()

    check_vrt(path, driver_of, check_source)


def _check_side_file(side: Path, of: Path, listing: Listing) -> None:
    """Raises InputError if GDAL would open it otherwise than as a TIFF, or a `.aux` otherwise than as Erdas Imagine."""
    start = b""
    with suppress(InputError):
        start = _start_of(side)
    if not start:  # a folder, or empty
        return
    is_aux = side.suffix.lower() == ".aux"
    if _hides_vrt(start) or (not is_aux and _driver_by_signature(start) != "GTiff"):
        kind = "Erdas Imagine file" if is_aux else "TIFF"
        raise InputError(f"{of}: {side.name} beside it is no {kind}, as GDAL's overviews and mask bands are; remove it")
    if not is_aux or start[: len(_ERDAS)].upper() == _ERDAS:  # others, such as LaTeX's, GDAL leaves alone
        with suppress(RasterError):  # one that cannot be opened is not followed
            _open_local(side, listing, {}, "HFA" if is_aux else "GTiff").close()


def _open_remote(path: RemotePath, options: dict[str, int]) -> DatasetReader:
    network = {name: value for name, value in _NETWORK.items() if name not in os.environ}
    with translated(path, "cannot be opened"), without_georeference_warning(), rasterio.Env(**network):
        for driver in _REMOTE_DRIVERS:
            try:
                return _opened(path, path.gdal_name, driver, [], options)
            except RasterioIOError as error:
                if "does not exist" in str(error):  # what GDAL remembers of a first failure
                    raise RasterError(f"{path}: cannot be opened: there is no such file, or no answer") from error
                if "not recognized" not in str(error):
                    raise
    raise InputError(f"{path}: over a network refine reads GeoTIFF (COG best) and JPEG 2000 only; download it first")


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
    name = path.gdal_name if isinstance(path, RemotePath) else str(path.absolute())
    text = " ".join(str(error).split()).replace(f"'{name}'", "it")
    return text.removeprefix(f"{name}: ").removeprefix(f"{path.name}: ").removeprefix(f"{path.name}, ")

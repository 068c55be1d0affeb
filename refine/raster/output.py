"""The place of a result: whether a mask may be written there, and whether a whole one stands there already."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rasterio.windows import Window as RasterWindow

from refine.errors import InputError, RasterError
from refine.raster.finish import BLOCK, overview_factors
from refine.raster.gdal import DEFAULT_CACHE_BYTES, gdal_environment, open_dataset, translated
from refine.remote import RemotePath, as_path

SUFFIXES = (".tif", ".tiff", ".png")


def check_output(out: Path, image: Path, *, overwrite: bool, overviews: bool = False, cog: bool = False) -> None:
    """Raises InputError if no such mask of `image` may be written to `out`; nothing is touched."""
    if out.suffix.lower() not in SUFFIXES:
        raise InputError(f"{out}: a mask is written as .tif, .tiff or .png, not as {out.suffix or 'no suffix'}")
    if (overviews or cog) and out.suffix.lower() == ".png":
        option = "--cog" if cog else "--overviews"
        raise InputError(f"{out}: {option} makes a GeoTIFF; end --out in .tif, or leave {option} out")
    if isinstance(as_path(out), RemotePath):
        raise InputError(f"{as_path(out)}: a mask is written to a local file; give another --out")
    if out.is_symlink():
        raise InputError(f"{out}: is a symbolic link; give the file itself")
    if out.is_dir():
        raise InputError(f"{out}: is a folder; give a file")
    if out.exists():
        if not isinstance(image, RemotePath) and out.samefile(image):
            raise InputError(f"{out}: is the image itself; give another --out")
        if not overwrite:
            raise InputError(f"{out}: exists already; give --overwrite or another --out")
    if not out.parent.is_dir():
        raise InputError(f"{out}: the folder {out.parent} does not exist")


def check_apart(out: Path, files: Iterable[Path]) -> None:
    """Raises InputError if `out` is one of the files that an image or a mask is read from, such as a mosaic's."""
    if out.exists():
        for path in files:
            if not isinstance(path, RemotePath) and path.exists() and out.samefile(path):
                raise InputError(f"{out}: the image or the mask is read from it; give another --out")


def is_whole_mask(path: Path, height: int, width: int, *, overviews: bool = False, cog: bool = False) -> bool:
    """Whether a file is a mask of that size, with overviews or a COG if that is asked for, and reads to its end."""
    try:
        with gdal_environment(DEFAULT_CACHE_BYTES), open_dataset(path) as dataset, translated(path, "cannot be read"):
            if (dataset.count, dataset.height, dataset.width, dataset.dtypes[0]) != (1, height, width, "uint8"):
                return False
            if (overviews or cog) and len(dataset.overviews(1)) < len(overview_factors(height, width)):
                return False
            if cog and dataset.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") != "COG":
                return False
            for row in range(0, height, BLOCK):
                dataset.read(1, window=RasterWindow(0, row, width, min(BLOCK, height - row)))
    except (InputError, RasterError):
        return False
    return True

"""From the closed GeoTIFF of a mask to the file that is published: its check, overviews, and a copy as COG or PNG."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import Resampling
from rasterio.windows import Window as RasterWindow

from refine.errors import RasterError
from refine.raster.container import read_container
from refine.raster.gdal import open_dataset, translated

BLOCK = 512
"""Side of a block, and the size down to which overviews are made: readers of COGs expect no larger one."""

Compression = Literal["deflate", "zstd", "lzw", "none"]

_PREDICTOR = 2  # differences along the row
_DEFLATE_LEVEL = 6
_CHECKED_BLOCK_ROWS = 64  # of a finished file, read back; spread over its height, the last one always


@dataclass(frozen=True, slots=True)
class Format:
    """How a mask lies in its file."""

    compress: Compression = "deflate"
    overviews: bool = False
    cog: bool = False  # a cloud-optimised GeoTIFF, which has overviews
    lowest_foreground: int | None = None  # 0 and 255 are written: 255 from this value on

    def compression(self) -> dict[str, object]:
        """Creation options of GDAL's GTiff driver."""
        if self.compress == "none":
            return {}
        level = {"zlevel": _DEFLATE_LEVEL} if self.compress == "deflate" else {}
        return {"compress": self.compress, "predictor": _PREDICTOR, **level}


@dataclass(frozen=True, slots=True)
class Written:
    """What was written to a file, to compare it with."""

    height: int
    width: int
    checksums: Sequence[tuple[int, int]]  # CRC-32 of the values and of the valid pixels of each row of blocks
    has_mask_band: bool


def check(path: Path, written: Written, out: Path) -> None:
    """Compare a closed file with what was written: its end, its size, and block rows over its whole height.

    Raises RasterError, which names `out`.
    """
    if not path.stat().st_size:  # what a full disk leaves of a small file, without an error
        raise RasterError(f"{out}: nothing could be written; is the disk full?")
    count = len(written.checksums)
    chosen = sorted({round(share) for share in np.linspace(0, count - 1, min(count, _CHECKED_BLOCK_ROWS))})
    with open_dataset(path) as dataset, translated(out, "cannot be read back"):
        # GDAL says nothing of the last bytes of a PNG that a full disk did not take.
        is_cut = read_container(path, dataset.driver).is_cut
        is_whole = not is_cut and (dataset.height, dataset.width) == (written.height, written.width)
        for index in chosen if is_whole else ():
            rows = min(BLOCK, written.height - index * BLOCK)
            place = RasterWindow(0, index * BLOCK, written.width, rows)
            values, valid = written.checksums[index]
            is_whole = zlib.crc32(dataset.read(1, window=place)) == values
            if is_whole and written.has_mask_band:
                is_whole = zlib.crc32(dataset.read_masks(1, window=place) != 0) == valid
            if not is_whole:
                break
    if not is_whole:
        raise RasterError(f"{out}: what was written does not read back; is the disk full or damaged?")


def overview_factors(height: int, width: int) -> list[int]:
    """2, 4, ... until the smallest overview fits one block."""
    factors = []
    factor = 1
    while max(height, width) > factor * BLOCK:
        factor *= 2
        factors.append(factor)
    return factors


def finished_bytes(height: int, width: int, *, has_invalid: bool) -> int:
    """The most that a GeoTIFF with overviews takes, uncompressed; most masks take a few percent of that."""
    return (height * width + (height * -(-width // 8) if has_invalid else 0)) * 4 // 3


def add_overviews(path: Path, form: Format, *, sparse: bool) -> None:
    """Put overviews into the GeoTIFF, and into its mask band.

    A soft mask is averaged over its valid pixels; of a mask of 0 and 255 pixels are picked, so that it stays one.
    """
    resampling = Resampling.average if form.lowest_foreground is None else Resampling.nearest
    options = {"GDAL_TIFF_OVR_BLOCKSIZE": BLOCK, "SPARSE_OK_OVERVIEW": sparse}
    if form.compress != "none":
        options |= {"PREDICTOR_OVERVIEW": _PREDICTOR, "ZLEVEL_OVERVIEW": _DEFLATE_LEVEL}
    with rasterio.Env(**options), rasterio.open(path, "r+", driver="GTiff") as dataset:
        factors = overview_factors(dataset.height, dataset.width)
        if factors:
            dataset.build_overviews(factors, resampling)


def copy_as_cog(path: Path, form: Format, *, sparse: bool) -> Path:
    """A COG beside the GeoTIFF, with its pixels and overviews."""
    cog = path.with_suffix(".cog.tif")
    options: dict[str, object] = {"compress": form.compress, "blocksize": BLOCK, "bigtiff": "IF_SAFER"}
    options |= {"sparse_ok": sparse, "overviews": "AUTO"}  # those of the source; none are made here
    if form.compress != "none":
        options["predictor"] = "STANDARD"
    if form.compress == "deflate":
        options["level"] = _DEFLATE_LEVEL
    with open_dataset(path) as dataset:
        rasterio.shutil.copy(dataset, cog, driver="COG", **options)
    return cog


def copy_as_png(path: Path) -> Path:
    """A PNG beside the GeoTIFF."""
    png = path.with_suffix(".png")
    with open_dataset(path) as dataset:
        rasterio.shutil.copy(dataset, png, driver="PNG")
    return png

"""What the bands of a raster are: which are shown as RGB, and how their numbers are meant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader

from refine.errors import InputError

_FIRST_THREE = "has {} bands; bands 1, 2 and 3 are used as red, green and blue, choose others with --bands"


@dataclass(frozen=True)
class Layout:
    """How stored values become colours."""

    bands: tuple[int, ...]  # counted from 1: one, repeated to RGB, or three
    palette: NDArray[np.uint8] | None  # (entries, 4) RGBA of each index, or None
    largest: int | None  # of values with fewer than 8 bits, such as 1 for one bit; else None
    nodata: tuple[float | None, ...]  # of each of `bands`
    has_mask_band: bool  # or a colour that counts as one
    is_inverted: bool = False  # the lowest value is white


def read_layout(dataset: DatasetReader, path: Path, bands: tuple[int, ...] | None) -> tuple[Layout, tuple[str, ...]]:
    """The layout of an open dataset and notes on what was chosen; `bands` is the user's choice.

    Raises InputError for bands that do not exist or are of several types, and unless one or three are chosen; for inks
    of which GDAL makes no colours.
    """
    check_bands(bands, dataset.count, path)
    if bands is None and dataset.colorinterp[0] == ColorInterp.cyan:  # of 8 bit GDAL says red
        raise InputError(f"{path}: is CMYK of {dataset.dtypes[0]}; convert it to RGB, or choose bands with --bands")
    bands, notes = _default_bands(dataset) if bands is None else (bands, ())
    check_types(dataset, bands, path, "choose bands of one type with --bands")
    palette = read_palette(dataset) if len(bands) == 1 else None
    flags = {flag.name for flag in dataset.mask_flag_enums[bands[0] - 1]}
    is_inverted = bands == (1,) and palette is None and lowest_is_white(dataset)
    if is_inverted:
        notes = (*notes, "0 is white and large values are black, as the TIFF says and viewers show")
    return (
        Layout(
            bands=bands,
            palette=palette,
            largest=None if palette is not None else largest_of_few_bits(dataset, bands[0]),
            nodata=tuple(dataset.nodatavals[band - 1] for band in bands),
            has_mask_band="per_dataset" in flags and "alpha" not in flags,
            is_inverted=is_inverted,
        ),
        notes,
    )


def check_bands(bands: tuple[int, ...] | None, count: int, path: Path) -> None:
    """Raises InputError for bands, counted from 1, that an image with `count` of them lacks, unless one or three."""
    if bands is not None and len(bands) not in (1, 3):
        raise InputError(f"{path}: --bands {_listed(bands)}: give one band or three, got {len(bands)}")
    if bands is not None and not all(1 <= band <= count for band in bands):
        raise InputError(f"{path}: --bands {_listed(bands)}: the image has bands 1 to {count}")


def check_types(dataset: DatasetReader, bands: tuple[int, ...], path: Path, advice: str) -> None:
    """Raises InputError if the bands are not all of one type."""
    types = [str(dataset.dtypes[band - 1]) for band in bands]
    if len(set(types)) > 1:
        told = ", ".join(f"band {band} {dtype}" for band, dtype in zip(bands, types, strict=True))
        raise InputError(f"{path}: its bands are of several types ({told}); {advice}")


def read_palette(dataset: DatasetReader) -> NDArray[np.uint8] | None:
    """(entries, 4) RGBA for every index that the type can hold, black and transparent where none is given."""
    if dataset.colorinterp[0] != ColorInterp.palette or dataset.dtypes[0] not in ("uint8", "uint16"):
        return None
    palette = np.zeros((1 << (8 * np.dtype(dataset.dtypes[0]).itemsize), 4), np.uint8)
    for index, colour in dataset.colormap(1).items():
        palette[index] = colour
    return palette


def largest_of_few_bits(dataset: DatasetReader, band: int) -> int | None:
    """The largest value of a band with fewer than 8 bits a pixel, which GDAL gives as uint8; None for others."""
    bits = int(dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 8))
    return (1 << bits) - 1 if dataset.dtypes[band - 1] == "uint8" and bits < 8 else None


def lowest_is_white(dataset: DatasetReader) -> bool:
    """Whether a TIFF's photometric interpretation is MinIsWhite; of one bit GDAL makes a palette of it."""
    return bool(dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES")


def is_colour_nodata(dataset: DatasetReader) -> bool:
    """Whether a colour is nodata (NODATA_VALUES), of which GDAL makes a mask band."""
    flags = {flag.name for flag in dataset.mask_flag_enums[0]}
    return flags >= {"per_dataset", "nodata"}


def valid_pixels(layout: Layout, values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which of (bands, h, w) stored values are a picture, (h, w); None if all are, as far as the values tell.

    A pixel is invalid if one of its bands is not a finite number, or if all of them hold nodata: one black band of a
    colour is no hole where nodata is 0.
    """
    valid = None
    if values.dtype.kind == "f":
        valid = np.isfinite(values).all(axis=0)
    known = [value for value in layout.nodata if value is not None and not np.isnan(value)]
    if len(known) == len(layout.nodata):
        is_nodata = np.ones(values.shape[1:], np.bool_)
        for band, value in zip(values, known, strict=True):
            is_nodata &= band == value
        valid = ~is_nodata if valid is None else valid & ~is_nodata
    return valid


def _default_bands(dataset: DatasetReader) -> tuple[tuple[int, ...], tuple[str, ...]]:
    last_is_alpha = dataset.colorinterp[-1] == ColorInterp.alpha
    match dataset.count:
        case 1:
            return (1,), ()
        case 2:
            what = "alpha is ignored" if last_is_alpha else "has 2 bands; band 1 is used, choose another with --bands"
            return (1,), (what,)
        case 3:
            return (1, 2, 3), ()
        case 4:
            return (1, 2, 3), ("alpha is ignored" if last_is_alpha else _FIRST_THREE.format(4),)
    return (1, 2, 3), (_FIRST_THREE.format(dataset.count),)


def _listed(bands: tuple[int, ...]) -> str:
    return ",".join(str(band) for band in bands)

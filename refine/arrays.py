"""Images in memory as the engine reads them: 8-bit RGB, shown by the rules that rasters are shown by."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.geometry import RGB, BoolArray
from refine.raster.pixels import SAMPLE_SIDE, every_kth
from refine.raster.scaling import PERCENTILES, Scaling, fixed_scaling, percentile_scaling
from refine.sources import ArrayImage


def array_image(
    image: NDArray[np.generic],
    *,
    bands: tuple[int, ...] | None = None,
    value_range: tuple[float, ...] | None = None,
    percentiles: tuple[float, ...] | None = None,
) -> ArrayImage:
    """An ImageSource over `image`, (H, W) or (H, W, C), uint8, uint16 or float; C is 1 or 3, or `bands` choose.

    Values are shown from `value_range`, or from `percentiles` of each band; if neither is given, 8 bit is taken as it
    is, and others from percentile 0.5 to 99.5. A pixel that is NaN or infinite in a band is invalid.
    Raises InputError for any other shape or type.
    """
    values = np.asarray(image)
    values = values[:, :, None] if values.ndim == 2 else values
    if values.ndim != 3 or 0 in values.shape:
        raise InputError(f"expected an image (H, W, 3) or (H, W) with pixels, got shape {np.shape(image)}")
    if values.dtype not in (np.uint8, np.uint16) and values.dtype.kind != "f":
        raise InputError(f"expected an image of uint8, uint16 or float, got {values.dtype}")
    values = _chosen(values, bands)
    valid = np.isfinite(values).all(axis=2) if values.dtype.kind == "f" else None
    if valid is not None and not valid.any():
        raise InputError("the image has no valid pixel: all are NaN or infinite")
    return ArrayImage(_colours(values, valid, value_range, percentiles), valid)


def _chosen(values: NDArray[np.generic], bands: tuple[int, ...] | None) -> NDArray[np.generic]:
    count = values.shape[2]
    if bands is not None:
        if max(bands) > count:
            raise InputError(f"--bands {','.join(map(str, bands))}: the image has bands 1 to {count}")
        return values[:, :, [band - 1 for band in bands]]
    if count not in (1, 3):
        raise InputError(f"expected an image of 1 or 3 bands, got {count}; choose with bands, such as (1, 2, 3)")
    return values


def _colours(
    values: NDArray[np.generic],
    valid: BoolArray | None,
    value_range: tuple[float, ...] | None,
    percentiles: tuple[float, ...] | None,
) -> RGB:
    if value_range is not None:
        scaling = fixed_scaling((value_range[0], value_range[1]), values.shape[2], str(values.dtype))
    elif values.dtype != np.uint8 or percentiles is not None:
        low, high = percentiles or PERCENTILES
        scaling = _percentiles(values, valid, (low, high))
    else:
        scaling = None
    bands = [values[:, :, index] for index in range(values.shape[2])]
    if scaling is None:
        shown = bands
    else:
        shown = [scaling.apply(index, np.ascontiguousarray(band)) for index, band in enumerate(bands)]
    return np.ascontiguousarray(np.stack(shown * 3 if len(shown) == 1 else shown, axis=2), dtype=np.uint8)


def _percentiles(values: NDArray[np.generic], valid: BoolArray | None, percentiles: tuple[float, float]) -> Scaling:
    height, width = values.shape[:2]
    step = ceil(max(height, width) / SAMPLE_SIDE)
    rows, cols = every_kth(height, step), every_kth(width, step)
    usable = np.ones((height, width), np.bool_) if valid is None else valid
    if not usable[np.ix_(rows, cols)].any():
        rows, cols = np.arange(height), np.arange(width)
    samples = values[np.ix_(rows, cols)].transpose(2, 0, 1)
    return percentile_scaling(samples, np.broadcast_to(usable[np.ix_(rows, cols)], samples.shape), percentiles)

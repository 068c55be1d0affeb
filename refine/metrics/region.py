"""Measures of the area: which pixels are foreground, and how far the values lie from the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.geometry import BoolArray

AnyMask = NDArray[np.bool_] | NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.float64]


def foreground(mask: AnyMask) -> BoolArray:
    """Pixels whose value is above 0.5 in 0..1, which in 8 bit is 128 and more; bool comes back as it is.

    CascadePSP's code and pysodmetrics cut 8-bit masks at 129 instead; the two differ only where 128 occurs.
    """
    if mask.dtype == np.bool_:
        return mask.astype(np.bool_, copy=False)
    if mask.dtype == np.uint8:
        return mask >= 128
    return mask > 0.5


def iou(prediction: AnyMask, truth: AnyMask) -> float:
    """Intersection over union of the foregrounds, 0..1; 1 where both are empty."""
    intersection, union = intersection_and_union(prediction, truth)
    return intersection / union if union else 1.0


def intersection_and_union(prediction: AnyMask, truth: AnyMask) -> tuple[int, int]:
    """Pixels that are foreground in both, and in either; their sums over a set give its overall IoU."""
    require_one_grid(prediction, truth)
    predicted, actual = foreground(prediction), foreground(truth)
    return int(np.count_nonzero(predicted & actual)), int(np.count_nonzero(predicted | actual))


def mean_absolute_error(prediction: AnyMask, truth: AnyMask) -> float:
    """Mean of |prediction - truth| with both in 0..1, soft values as they are (8 bit over 255)."""
    require_one_grid(prediction, truth)
    return float(np.mean(np.abs(_unit(prediction) - _unit(truth)), dtype=np.float64))


def require_one_grid(prediction: AnyMask, truth: AnyMask) -> None:
    """Raises InputError unless both are (H, W) of one size and have a pixel."""
    if prediction.ndim != 2 or prediction.shape != truth.shape or not prediction.size:
        raise InputError(
            f"prediction and truth must be (height, width) of one size, got {prediction.shape} and {truth.shape};"
            " resize the prediction to the truth"
        )


def _unit(mask: AnyMask) -> NDArray[np.float32]:
    if mask.dtype == np.uint8:
        mask = mask.astype(np.float32) / np.float32(255)
    return mask.astype(np.float32, copy=False)

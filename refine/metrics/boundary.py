"""Measures of the outline: mean boundary accuracy, Boundary IoU, contour precision and recall.

Definitions and edge cases as the codes that made the published tables have them: CascadePSP for mBA, the
boundary-iou-api for Boundary IoU (arXiv 2103.16562).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from refine.geometry import BoolArray
from refine.metrics.region import AnyMask, foreground, iou, require_one_grid

_BANDS = 5


def mean_boundary_accuracy(
    prediction: AnyMask, truth: AnyMask, *, bands: Sequence[BoolArray] | None = None
) -> float | None:
    """Share of right pixels near the truth's outline, 0..1, averaged over five band widths; None without an outline.

    About 0.5 says that the outline is off by half a band everywhere. Not symmetric. `bands` are
    `boundary_bands(truth)`, for a caller who scores several predictions against one truth.
    """
    accuracies = boundary_accuracies(prediction, truth, bands=bands)
    return float(np.mean(accuracies)) if accuracies else None


def boundary_accuracies(
    prediction: AnyMask, truth: AnyMask, *, bands: Sequence[BoolArray] | None = None
) -> tuple[float, ...]:
    """The accuracy in each of the five bands, narrowest first; empty where the truth has no outline."""
    require_one_grid(prediction, truth)
    bands = boundary_bands(truth) if bands is None else bands
    if not bands[0].any():
        return ()
    right = foreground(prediction) == foreground(truth)
    return tuple(float(np.mean(right[band])) for band in bands)


def boundary_bands(truth: AnyMask) -> tuple[BoolArray, ...]:
    """Five bands on the truth's outline: its morphological gradients by ellipses of radius 1 to ~0.8 (H + W) / 300.

    The paper's text lets the radii start at 3; the code behind the published tables starts at 1, and so do we.
    """
    mask = foreground(truth).astype(np.uint8)
    radii = band_radii(*mask.shape)
    by_radius = {radius: _gradient(mask, radius) for radius in set(radii)}
    return tuple(by_radius[radius] for radius in radii)


def band_radii(height: int, width: int) -> tuple[int, ...]:
    """Radii of the five bands in pixels."""
    widest = (height + width) / 300
    return tuple(1 + int((widest - 1) / _BANDS * index) for index in range(_BANDS))


def boundary_iou(prediction: AnyMask, truth: AnyMask, *, ratio: float = 0.02) -> float:
    """IoU of the two inner boundaries, 0..1; their width is `ratio` of the diagonal. 1 where both masks are empty."""
    require_one_grid(prediction, truth)
    width = max(1, round(ratio * float(np.hypot(*truth.shape))))
    return iou(inner_boundary(prediction, width), inner_boundary(truth, width))


def inner_boundary(mask: AnyMask, width: int) -> BoolArray:
    """Foreground pixels at most `width` from the background in chessboard distance, beyond the image too.

    The same pixels as mask minus its `width`-fold erosion by a 3 x 3 square, at a cost that does not grow with `width`.
    """
    solid = foreground(mask)
    framed = np.pad(solid.astype(np.uint8), 1)
    distance = cv2.distanceTransform(framed, cv2.DIST_C, 3)[1:-1, 1:-1]
    return solid & (distance <= width)


class ContourScore(NamedTuple):
    """Precision, recall and F1 of contour pixels, each 0..1."""

    precision: float
    recall: float
    f1: float


def boundary_f(prediction: AnyMask, truth: AnyMask, *, tolerance: int | None = None) -> ContourScore:
    """How much of either contour lies within `tolerance` px of the other; by default 0.75 % of the diagonal.

    A contour is the inner boundary of width 1. Both empty scores 1, one empty 0.
    """
    require_one_grid(prediction, truth)
    if tolerance is None:
        tolerance = max(1, round(0.0075 * float(np.hypot(*truth.shape))))
    predicted, actual = inner_boundary(prediction, 1), inner_boundary(truth, 1)
    if not predicted.any() or not actual.any():
        both = float(not predicted.any() and not actual.any())
        return ContourScore(both, both, both)
    precision = float(np.mean(_distance_to(actual)[predicted] <= tolerance))
    recall = float(np.mean(_distance_to(predicted)[actual] <= tolerance))
    total = precision + recall
    return ContourScore(precision, recall, 2 * precision * recall / total if total else 0.0)


def _distance_to(contour: BoolArray) -> NDArray[np.float32]:
    """Euclidean distance of every pixel to the nearest contour pixel."""
    distance = cv2.distanceTransform((~contour).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance, dtype=np.float32)


def _gradient(mask: NDArray[np.uint8], radius: int) -> BoolArray:
    """Dilation minus erosion; computed inside the box that it can reach, because the kernel is what it costs."""
    changes = np.zeros(mask.shape, dtype=np.bool_)
    vertical, horizontal = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    changes[1:] |= vertical
    changes[:, 1:] |= horizontal
    rows, cols = np.flatnonzero(changes.any(axis=1)), np.flatnonzero(changes.any(axis=0))
    band = np.zeros(mask.shape, dtype=np.bool_)
    if not rows.size:
        return band
    margin = 2 * radius + 1  # the gradient reaches `radius` from a change, and reads `radius` beyond that
    box = np.s_[
        max(0, rows[0] - margin) : rows[-1] + margin + 1,
        max(0, cols[0] - margin) : cols[-1] + margin + 1,
    ]
    band[box] = cv2.morphologyEx(mask[box], cv2.MORPH_GRADIENT, _ellipse(radius)) > 0
    return band


def _ellipse(radius: int) -> NDArray[np.uint8]:
    """OpenCV 4's `MORPH_ELLIPSE` of side 2 radius + 1; drawn here, because OpenCV 5 draws another one."""
    offsets = np.arange(-radius, radius + 1)
    half_widths = np.rint(radius * np.sqrt((radius**2 - offsets**2) / radius**2)).astype(int)
    inside: BoolArray = np.abs(offsets)[None, :] <= half_widths[:, None]
    return inside.astype(np.uint8)

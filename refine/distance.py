"""Distances between pixels, the same wherever in memory an array lies.

Intel's IPP, which OpenCV 5.0 takes for them, rounds its last bit by that; a resumed run would not be the twin of one
that was not interrupted.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from refine.geometry import Mask

TOO_SHORT = 0.02
"""Distances along paths of 5 x 5 steps are 1.8 % too short at worst, and 1.9 % too long."""


def exact_distance(hard: NDArray[np.uint8]) -> Mask:
    """Distance of each pixel (H, W) above zero to the nearest zero, in pixels; huge where there is none."""
    return _distance(hard, cv2.DIST_MASK_PRECISE)


def ample_distance(hard: NDArray[np.uint8]) -> Mask:
    """The same, up to 4 % too long and never too short, in a third of the time."""
    ample: Mask = _distance(hard, cv2.DIST_MASK_5) * np.float32(1 + TOO_SHORT)
    return ample


def _distance(hard: NDArray[np.uint8], size: int) -> Mask:
    used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)  # for this thread
    try:
        return cv2.distanceTransform(hard, cv2.DIST_L2, size).astype(np.float32, copy=False)
    finally:
        cv2.ipp.setUseIPP(used)

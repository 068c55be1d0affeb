"""Exact distances between pixels, the same wherever in memory an array lies."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from refine.geometry import Mask


def exact_distance(hard: NDArray[np.uint8]) -> Mask:
    """Distance of each pixel (H, W) above zero to the nearest zero, in pixels; huge where there is none.

    Intel's IPP, which OpenCV 5.0 takes for it, rounds its last bit by where the array lies in memory; a resumed run
    would not be the twin of one that was not interrupted.
    """
    used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)  # for this thread
    try:
        return cv2.distanceTransform(hard, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float32)
    finally:
        cv2.ipp.setUseIPP(used)

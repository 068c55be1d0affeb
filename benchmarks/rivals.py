"""What others would do with a rough mask: guided filter, GrabCut and closed-form matting near its outline.

Each takes image (H, W, 3) uint8 RGB, the mask (H, W) float32 enlarged to the image, and how far, in pixels, it may be
wrong; each gives a mask (H, W) float32. None of them is part of refine.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from refine.geometry import RGB, Mask

MOST_MATTING_PIXELS = 500_000
"""Closed-form matting solves a sparse system of the image's size: beyond this it takes minutes."""

GUIDED_EPSILON = 1e-4
"""He et al. 2010 use (0.01)^2 for feathering binary masks, on intensities in 0..1."""

GRABCUT_ROUNDS = 3


def guided_filter(image: RGB, mask: Mask, reach: float) -> Mask:
    """He et al., Guided Image Filtering (ECCV 2010), with the grey image as guide and a radius of the reach."""
    guide = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / np.float32(255)
    side = 2 * max(2, ceil(reach)) + 1

    def mean(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.blur(plane, (side, side), borderType=cv2.BORDER_REFLECT), np.float32)

    guide_mean, mask_mean = mean(guide), mean(mask)
    slope = (mean(guide * mask) - guide_mean * mask_mean) / (mean(guide * guide) - guide_mean**2 + GUIDED_EPSILON)
    filtered = mean(slope) * guide + mean(mask_mean - slope * guide_mean)
    return np.clip(np.where(near_outline(mask, reach), filtered, mask), 0, 1).astype(np.float32)


def grab_cut(image: RGB, mask: Mask, reach: float) -> Mask:
    """Rother et al., GrabCut (2004), as OpenCV has it: only pixels near the outline may change sides."""
    band, hard = near_outline(mask, reach), mask > 0.5
    labels = np.where(hard, cv2.GC_FGD, cv2.GC_BGD).astype(np.uint8)
    labels[band & hard], labels[band & ~hard] = cv2.GC_PR_FGD, cv2.GC_PR_BGD
    sides = {int(label) for label in np.unique(labels)}
    if not sides & {cv2.GC_FGD, cv2.GC_PR_FGD} or not sides & {cv2.GC_BGD, cv2.GC_PR_BGD}:
        return mask  # one side is empty: there is nothing to model
    cv2.setRNGSeed(0)
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    models = np.zeros((2, 1, 65), np.float64)
    cv2.grabCut(bgr, labels, (0, 0, 0, 0), models[0], models[1], GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)


def closed_form_matting(image: RGB, mask: Mask, reach: float) -> Mask:
    """Levin et al., A Closed Form Solution to Natural Image Matting (2008), by PyMatting; unknown near the outline."""
    from pymatting import estimate_alpha_cf

    trimap = np.where(near_outline(mask, reach), 0.5, (mask > 0.5).astype(np.float64))
    if not (trimap == 0).any() or not (trimap == 1).any():
        return mask  # without both sides known there is nothing to spread
    return np.asarray(estimate_alpha_cf(image / 255.0, trimap), np.float32)


def near_outline(mask: Mask, reach: float) -> NDArray[np.bool_]:
    """Pixels within the reach of the mask's outline at 0.5."""
    side = 2 * ceil(reach) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    band: NDArray[np.bool_] = cv2.morphologyEx((mask > 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, kernel) > 0
    return band


RIVALS: dict[str, Callable[[RGB, Mask, float], Mask]] = {
    "guided": guided_filter,
    "grabcut": grab_cut,
    "matting": closed_form_matting,
}

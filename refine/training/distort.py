"""The changes of IS-Net's tuning project: elastic bending, CLAHE, gamma, noise, and blur in patches along the outline.

Each is off by default, and draws nothing from the generator then.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from refine.training.config import Augment

RGB = NDArray[np.uint8]
Truth = NDArray[np.float32]

ELASTIC_SHARE = 0.8
ELASTIC_SIGMA = 6.0
"""Share of images that are bent, and the blur of the field in pixels of 1024, as published."""

PUBLISHED_SIDE = 1024
CLAHE_TILES = (8, 8)
CLAHE_LIMIT = 4.0
BLUR_KERNELS = (6, 10)
"""Sides of the box that blurs a patch."""


def random_part(image: RGB, mask: NDArray[np.uint8], share: float, rng: Generator) -> tuple[RGB, NDArray[np.uint8]]:
    """A part of both whose sides are `share` of theirs; 1 takes all and draws nothing."""
    if share == 1:
        return image, mask
    height, width = (max(1, round(share * side)) for side in mask.shape)
    top, left = int(rng.integers(mask.shape[0] - height + 1)), int(rng.integers(mask.shape[1] - width + 1))
    part = np.s_[top : top + height, left : left + width]
    return image[part], mask[part]


def bend(image: RGB, truth: Truth, alpha: float, rng: Generator) -> tuple[RGB, Truth]:
    """Both moved by one smooth field; `alpha` is its strength at 1024 px, 50 as published; 0 leaves them."""
    if alpha == 0 or rng.random() >= ELASTIC_SHARE:
        return image, truth
    height, width = truth.shape
    unit = max(height, width) / PUBLISHED_SIDE
    field = rng.uniform(-1, 1, (2, height, width)).astype(np.float32)
    across, down = (cv2.GaussianBlur(plane, (0, 0), max(0.5, ELASTIC_SIGMA * unit)) * alpha * unit for plane in field)
    rows, cols = np.mgrid[0:height, 0:width].astype(np.float32)
    where = (cols + across).astype(np.float32), (rows + down).astype(np.float32)
    bent = cv2.remap(image, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    moved = cv2.remap(truth, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return bent.astype(np.uint8), moved.astype(np.float32)


def recolour(image: RGB, config: Augment, rng: Generator) -> RGB:
    """CLAHE on the lightness of a share of images, a gamma, and noise, as far as the config asks for them."""
    if config.clahe and rng.random() < config.clahe:
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lab[:, :, 0] = cv2.createCLAHE(float(rng.uniform(1, CLAHE_LIMIT)), CLAHE_TILES).apply(lab[:, :, 0])
        image = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).astype(np.uint8)
    if config.gamma:
        exponent = np.exp(rng.uniform(-config.gamma, config.gamma))
        table = np.round(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
        image = cv2.LUT(image, table).astype(np.uint8)
    if config.noise:
        noise = rng.normal(0, rng.uniform(0, config.noise), image.shape).astype(np.float32)
        image = np.clip(np.round(image + noise), 0, 255).astype(np.uint8)
    return image


def blur_patches(image: RGB, truth: Truth, patches: int, size: float, rng: Generator) -> RGB:
    """`image` with exactly `patches` squares blurred, centred on the outline of the truth's largest object.

    Half a square's side is drawn from [size / 2, size] pixels, for each anew; squares are cut at the border. Without an
    object the image comes back as it is. (The published code makes one square fewer, and lets them shrink.)
    """
    contours, _ = cv2.findContours((truth > 0.5).astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return image
    outline = max(contours, key=cv2.contourArea)[:, 0]  # (N, 2) columns and rows
    blurred: RGB = np.copy(image)
    for _ in range(patches):
        col, row = (int(place) for place in outline[int(rng.integers(len(outline)))])
        half = max(1, round(float(rng.uniform(size / 2, size))))
        part = np.s_[max(0, row - half) : row + half + 1, max(0, col - half) : col + half + 1]
        kernel = int(rng.integers(BLUR_KERNELS[0], BLUR_KERNELS[1] + 1))
        blurred[part] = cv2.blur(blurred[part], (kernel, kernel))
    return blurred

"""The image at a coarser level: exact means of blocks of pixels, in whole numbers."""

from __future__ import annotations

import numpy as np

from refine.geometry import RGB, BoolArray

BLOCK_MEAN_BYTES = 32 << 20
"""Working memory of `block_mean`, which goes by strips of whole blocks."""


def block_mean(image: RGB, valid: BoolArray | None, decimation: int) -> tuple[RGB, BoolArray | None]:
    """Means of d x d blocks of an (H, W, 3) image over valid pixels, rounded half up; blocks with none are invalid.

    Whole-number arithmetic, blocks cut at the border; the result is (ceil(H / d), ceil(W / d), 3) and its valid pixels.
    """
    height, width = image.shape[:2]
    starts = np.arange(0, width, decimation)
    means = np.empty((-(-height // decimation), len(starts), 3), np.uint8)
    counted = np.empty(means.shape[:2], np.bool_)
    blocks = max(1, BLOCK_MEAN_BYTES // (decimation * width * 3 * 8))
    for first in range(0, len(means), blocks):
        rows = slice(first * decimation, min((first + blocks) * decimation, height))
        pixels = image[rows].astype(np.int64)
        weight = np.ones(pixels.shape[:2], np.int64) if valid is None else valid[rows].astype(np.int64)
        pixels *= weight[:, :, None]
        tops = np.arange(0, len(pixels), decimation)
        total = np.add.reduceat(np.add.reduceat(pixels, tops, axis=0), starts, axis=1)
        count = np.add.reduceat(np.add.reduceat(weight, tops, axis=0), starts, axis=1)
        divisor = 2 * np.maximum(count, 1)[:, :, None]
        means[first : first + blocks] = (2 * total + count[:, :, None]) // divisor
        counted[first : first + blocks] = count > 0
    return means, None if valid is None else counted

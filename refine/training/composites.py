"""Windows whose truth is exact by construction: a cut-out on another photograph.

Hand-traced masks are right to a pixel or two, and a network trained on them alone learns no better. Here the alpha is
made first and the picture from it, so the truth is exact at every scale (the idea of deep matting's composites, Xu et
al. 2017). Two ways: a foreground cut a few pixels inside its own mask, where all is surely foreground; or any mask's
shape filled with the texture of one photograph and laid on another.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from refine.distance import exact_distance

RGB = NDArray[np.uint8]
Alpha = NDArray[np.float32]

LEAST_SHARE = 0.01
"""Below this share of the window a cut-out has all but vanished."""


def cut_inside(truth: Alpha, scale: float, rng: Generator) -> Alpha:
    """An alpha (S, S) within the foreground of `truth`, clear of its tracing errors of up to 2 px of the source.

    `scale`: window pixels a pixel of the source.
    """
    return outlined(truth, scale, inset=float(rng.uniform(2, 4)) * max(1.0, scale), rng=rng)


def same_shape(truth: Alpha, scale: float, rng: Generator) -> Alpha:
    """An alpha (S, S) with the shape of `truth`, its outline as fine as the window's pixels."""
    return outlined(truth, scale, inset=0.0, rng=rng)


def outlined(truth: Alpha, scale: float, *, inset: float, rng: Generator) -> Alpha:
    """The region of `truth` above 0.5, smoothed by a source pixel, shrunk by `inset` px; the edge's width is drawn."""
    smooth = cv2.GaussianBlur(truth, (0, 0), max(0.6, 0.6 * scale)).astype(np.float32)
    distance = signed_distance(smooth) - np.float32(inset)
    # Sharp edges are the rule; motion and focus blur the rest.
    width = rng.uniform(0.5, max(1.0, 0.4 * scale)) if rng.random() < 0.85 else rng.uniform(1.0, 5.0)
    alpha: Alpha = np.clip(np.float32(0.5) + distance / np.float32(2 * width), 0, 1)
    return alpha


def signed_distance(smooth: Alpha) -> Alpha:
    """Distance to the 0.5 contour of `smooth` in pixels, positive inside, to a part of a pixel near the contour."""
    hard = (smooth > 0.5).astype(np.uint8)
    inside, outside = exact_distance(hard), exact_distance(1 - hard)
    whole: Alpha = np.where(hard > 0, inside - 0.5, 0.5 - outside).astype(np.float32)
    return cv2.GaussianBlur(whole, (0, 0), 0.8).astype(np.float32)


def is_visible(alpha: Alpha) -> bool:
    return float((alpha > 0.5).mean()) >= LEAST_SHARE


def lay_over(foreground: RGB, background: RGB, alpha: Alpha, rng: Generator) -> RGB:
    """`alpha` * foreground + (1 - alpha) * background; half of the time the colours are drawn nearer to each other."""
    front, back = foreground.astype(np.float32), background.astype(np.float32)
    if rng.random() < 0.5:
        shift = front[alpha > 0.5].mean(axis=0) - back[alpha <= 0.5].mean(axis=0) if is_mixed(alpha) else 0.0
        back = np.clip(back + np.float32(rng.uniform(0.2, 0.9)) * shift, 0, 255)
    share = alpha[:, :, None]
    return np.round(share * front + (1 - share) * back).astype(np.uint8)


def is_mixed(alpha: Alpha) -> bool:
    inside = alpha > 0.5
    return bool(inside.any()) and not bool(inside.all())

"""Whole images made of two: the foreground of one pair before a part of another's photograph that shows no foreground.

A network that finds objects learns a few thousand photographs by heart. Copies pasted elsewhere keep it guessing
(Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method", 2021), and their truth is exact. Soft edges of
exact pairs keep what is mixed into their colours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from refine.training.composites import is_visible, lay_over, outlined
from refine.training.data import Pair

RGB = NDArray[np.uint8]

LONG_SIDE = (0.35, 0.95)
"""Longer side of the foreground's box, as a share of the picture's side."""

STRETCH = 0.2
"""Pictures are squeezed into the network's square, so that shapes come in other aspects: by exp(+-this) and more."""

TRACED_WRONG = (1.0, 3.0)
"""Pixels of the source by which a traced outline is cut back, so that nothing of the old background is taken along."""

LEAST_EMPTY = 0.2
"""A strip that shows no foreground serves as background if it is at least this share of its photograph,"""
MOST_ASPECT = 2.0
"""of which at most this many times its shorter side is taken."""

SEEN = 26
"""Of 255: a pixel of the mask from here on may show some foreground."""

TRIES = 4


class Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def transplanted(
    pair: Pair, draw: Callable[[], Pair], side: int, rng: Generator
) -> tuple[RGB, NDArray[np.uint8]] | None:
    """The pair's foreground before a part of one of `draw`'s pairs: image (side, side, 3), mask (side, side) 0..255.

    None where the pair shows no foreground, or none of a few draws leaves room for a background. A foreground that its
    photograph's border cuts lies at the same border: half a person does not float.
    """
    box = bounds(pair.mask, 1 if pair.is_exact else 128)
    if box is None or pair.void is not None:
        return None
    behind = next((part for part in (empty_part(draw(), rng) for _ in range(TRIES)) if part is not None), None)
    if behind is None:
        return None
    place = _place(box, pair.mask.shape, side, rng)
    alpha = _laid(pair.mask[box.slices], place, side).astype(np.float32) / np.float32(255)
    if not pair.is_exact:
        scale = max(place.height / box.height, place.width / box.width)
        alpha = outlined(alpha, scale, inset=float(rng.uniform(*TRACED_WRONG)) * scale, rng=rng)
        within = np.zeros_like(alpha)
        within[place.slices] = 1
        alpha *= within  # smoothing mirrors a foreground over the pixel between it and the border
    if not is_visible(alpha):
        return None
    background = cv2.resize(behind, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8)
    image = lay_over(_laid(pair.image[box.slices], place, side), background, alpha, rng)
    return image, np.round(alpha * 255).astype(np.uint8)


def empty_part(pair: Pair, rng: Generator) -> RGB | None:
    """The largest of the strips above, below and beside all foreground, or the part of it that is not too long."""
    if pair.void is not None:
        return None
    height, width = pair.mask.shape
    box = bounds(pair.mask, SEEN) or Box(height, 0, 0, width)
    strips = (
        Box(0, 0, box.top, width),
        Box(box.top + box.height, 0, height - box.top - box.height, width),
        Box(0, 0, height, box.left),
        Box(0, box.left + box.width, height, width - box.left - box.width),
    )
    strip = max(strips, key=lambda strip: strip.height * strip.width)
    if strip.height * strip.width < LEAST_EMPTY * height * width:
        return None
    most_high = min(strip.height, round(MOST_ASPECT * strip.width))
    most_wide = min(strip.width, round(MOST_ASPECT * strip.height))
    top = strip.top + int(rng.integers(strip.height - most_high + 1))
    left = strip.left + int(rng.integers(strip.width - most_wide + 1))
    return pair.image[Box(top, left, most_high, most_wide).slices]


def bounds(mask: NDArray[np.uint8], least: int) -> Box | None:
    """The smallest box of the pixels from `least` on; None without any."""
    left, top, width, height = cv2.boundingRect((mask >= least).astype(np.uint8))
    return Box(top, left, height, width) if width else None


def _place(box: Box, source: tuple[int, ...], side: int, rng: Generator) -> Box:
    """Where the foreground of `box` lies in the picture; along an axis whose ends both cut it, it fills the picture."""
    scale = side * rng.uniform(*LONG_SIDE) / max(box.height, box.width)
    stretch = np.exp(rng.uniform(-STRETCH, STRETCH))
    top, height = _along(box.top, box.height, source[0], scale * stretch, side, rng)
    left, width = _along(box.left, box.width, source[1], scale / stretch, side, rng)
    return Box(top, left, height, width)


def _along(start: int, length: int, source: int, scale: float, side: int, rng: Generator) -> tuple[int, int]:
    """Start and length in the picture, of what covers `length` of `source` pixels from `start` on."""
    cut_before, cut_after = start <= 1, start + length >= source - 1
    new = side if cut_before and cut_after else min(side, max(1, round(length * scale)))
    anywhere = int(rng.integers(side - new + 1))
    return (0 if cut_before else side - new if cut_after else anywhere), new


def _laid(plane: NDArray[np.uint8], place: Box, side: int) -> NDArray[np.uint8]:
    """The plane at its place in a square of `side`, zero around it."""
    shrinks = place.height * place.width < plane.shape[0] * plane.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    whole = np.zeros((side, side, *plane.shape[2:]), np.uint8)
    whole[place.slices] = cv2.resize(plane, (place.width, place.height), interpolation=way)
    return whole

"""Fur and hair along an outline, drawn strand by strand, so that its alpha is exact.

Hand-traced masks cut fur off and photographs with true alphas are few. Strands that grow out of a cut-out, in its own
colours, teach where fur ends; as in `drawn`, they span what fur differs in rather than look real.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from refine.fill import fill_invalid
from refine.training.composites import signed_distance
from refine.training.drawn import FINE, RGB, Alpha, Points, averaged, fill_polygon

MOST_STRANDS = 700

JOINTS = 7
"""Points along a strand."""

EVEN = 128
"""A strand this bright has the colour of what it grows from."""


def with_fringe(picture: RGB, alpha: Alpha, rng: Generator) -> tuple[RGB, Alpha]:
    """A cut-out (S, S, 3) and its alpha (S, S) with strands that grow outwards from parts of its outline.

    Beyond the cut-out the picture is continued from its nearest pixel that is surely foreground; strands differ in
    brightness. A cut-out without an outline in view comes back as it is.
    """
    roots, headings = _roots(alpha, rng)
    inside = alpha > 0.98
    if not len(roots) or not inside.any():
        return picture, alpha
    cover = np.zeros((FINE * alpha.shape[0], FINE * alpha.shape[1]), np.uint8)
    light = np.full_like(cover, EVEN)
    contrast = rng.uniform(0, 50)
    for strand in _strands(roots, headings, rng):
        fill_polygon(cover, FINE * strand - 0.5, 255)
        fill_polygon(light, FINE * strand - 0.5, np.clip(EVEN + rng.normal(0, contrast), 20, 250))
    strands = averaged(cover, alpha.shape[0]) * np.float32(rng.uniform(0.7, 1))
    if rng.random() < 0.5:
        strands = cv2.GaussianBlur(strands, (0, 0), rng.uniform(0.3, 0.9)).astype(np.float32)
    coloured = fill_invalid(picture, inside) * (averaged(light, alpha.shape[0]) * np.float32(255 / EVEN))[:, :, None]
    grown: Alpha = np.clip(1 - (1 - alpha) * (1 - strands), 0, 1)
    return np.clip(np.round(coloured), 0, 255).astype(np.uint8), grown


def _roots(alpha: Alpha, rng: Generator) -> tuple[Points, NDArray[np.float64]]:
    """Points (n, 2) as col, row a little inside the outline, on parts of it, and where outwards is, in radians."""
    distance = cv2.GaussianBlur(signed_distance(alpha), (0, 0), 2)
    slope_row, slope_col = np.gradient(distance)
    parts = cv2.resize(rng.standard_normal((6, 6), dtype=np.float32), alpha.shape[::-1], interpolation=cv2.INTER_CUBIC)
    rows, cols = np.nonzero((np.abs(distance) < 0.8) & (parts > rng.uniform(-2, 0.5)))
    density = np.exp(rng.uniform(np.log(0.08), np.log(0.8)))
    chosen = rng.permutation(len(rows))[: min(MOST_STRANDS, round(density * len(rows)))]
    rows, cols = rows[chosen], cols[chosen]
    outwards = np.arctan2(-slope_row[rows, cols], -slope_col[rows, cols])
    inset = rng.uniform(1, 4, len(rows))
    roots = np.stack([cols - inset * np.cos(outwards), rows - inset * np.sin(outwards)], axis=1) + 0.5
    return roots, outwards


def _strands(roots: Points, headings: NDArray[np.float64], rng: Generator) -> Points:
    """Outlines (n, 2 JOINTS, 2) of strands: combed one way, bent, thinner towards their tips."""
    count = len(roots)
    lengths = np.exp(rng.uniform(np.log(5), np.log(50))) * rng.uniform(0.4, 1.3, count)
    widths = np.exp(rng.uniform(np.log(0.7), np.log(3))) * rng.uniform(0.6, 1.3, count)
    disorder, wave = rng.uniform(0.05, 0.5), rng.uniform(0, 0.8)
    start = headings + rng.uniform(-1, 1) + rng.normal(0, disorder, count)
    turn = rng.uniform(-1, 1) + rng.normal(0, wave, count)
    along = np.linspace(0, 1, JOINTS)
    angles = start[:, None] + turn[:, None] * along
    headed = np.stack([np.cos(angles), np.sin(angles)], axis=2)
    steps = headed * (lengths / (JOINTS - 1))[:, None, None]
    middle = roots[:, None] + np.cumsum(steps, axis=1) - steps[:, :1]
    half = (widths[:, None] * (1 - 0.85 * along) / 2)[:, :, None] * np.stack([-headed[..., 1], headed[..., 0]], axis=2)
    outlines: Points = np.concatenate([middle + half, (middle - half)[:, ::-1]], axis=1)
    return outlines

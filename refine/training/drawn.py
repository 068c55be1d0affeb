"""Windows whose truth is drawn, so that it is exact: roofs seen from above, and thin structures.

Photographs with traced masks hold few wires, spokes, hairs, letters and fences, and none of the pairs at hand is taken
from the air. What is drawn here is not meant to look real; it spans what such pictures differ in (domain randomisation,
Tobin et al. 2017): tones, sizes, shadows, sharpness, grain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
Alpha = NDArray[np.float32]
Points = NDArray[np.float64]
Canvas = NDArray[np.float32]

FINE = 4
"""Outlines are drawn this many times larger and averaged."""

FINE_SCENE = 2
"""The same of whole scenes, which are blurred afterwards."""

SHIFT = 4
"""Points are handed to OpenCV in sixteenths of a pixel."""


def thin_structures(side: int, rng: Generator) -> Alpha:
    """An alpha (side, side) of one or two kinds of thin structure, at times on a solid body."""
    canvas = np.zeros((FINE * side, FINE * side), np.uint8)
    kinds: Sequence[Callable[[NDArray[np.uint8], Generator], None]] = (_strands, _fence, _spokes, _letters, _leaves)
    for kind in rng.choice(len(kinds), size=int(rng.integers(1, 3)), replace=False):
        kinds[int(kind)](canvas, rng)
    if rng.random() < 0.5:
        fill_polygon(canvas, _blob(side, rng) * FINE, 255)
    alpha = averaged(canvas, side)
    if rng.random() < 0.5:
        alpha = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.3, 1.0)).astype(np.float32)
    return np.clip(alpha, 0, 1)  # smoothing may overshoot by a rounding


def roofs(side: int, texture: RGB, rng: Generator) -> tuple[RGB, Alpha]:
    """An aerial picture (side, side, 3) of roofs with shadows, roads and trees, and the alpha of the roofs in view.

    `texture` (side, side, 3) gives the ground its unevenness. Trees in front of a roof hide it.
    """
    size = FINE_SCENE * side
    colour = _palette(rng)
    scene = np.empty((size, size, 3), np.float32)
    scene[:] = colour(40, 190)
    if rng.random() < 0.5:
        _woods(scene, colour, rng)
    for _ in range(int(rng.integers(0, 4))):
        _road(scene, colour, rng)
    plots = _plots(size, rng)
    for plot in plots:
        if rng.random() < 0.5:  # bare ground, a drive or a lawn beside it
            fill_polygon(scene, plot.mean(axis=0) + _yard(plot, rng), colour(30, 250))
    sun = _direction(rng) * rng.uniform(1, 12) * FINE_SCENE
    _shade(scene, [plot + sun * step for plot in plots for step in np.linspace(0, 1, 6)], rng)
    truth = np.zeros((size, size), np.uint8)
    for plot in plots:
        _roof(scene, plot, colour, rng)
        fill_polygon(truth, plot, 255)
    uneven = _unevenness(cv2.resize(texture, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.uint8), rng)
    scene *= uneven
    crowns = _trees(scene, uneven, rng)
    truth[crowns > 0] = 0
    scene = cv2.GaussianBlur(scene, (0, 0), FINE_SCENE * rng.uniform(0.3, 0.9)).astype(np.float32)
    picture = cv2.resize(scene, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    picture += rng.normal(0, rng.uniform(1, 8), (side, side, 1)).astype(np.float32)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8), averaged(truth, side)


# Thin structures, on a canvas FINE times as large.


def _strands(canvas: NDArray[np.uint8], rng: Generator) -> None:
    side = len(canvas)
    for _ in range(int(rng.integers(3, 25))):
        ends = rng.uniform(-0.1, 1.1, (3, 2)) * side
        t = np.linspace(0, 1, 24)[:, None]
        curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
        _line(canvas, curve, _width(rng, 0.7, 5))


def _fence(canvas: NDArray[np.uint8], rng: Generator) -> None:
    side, width = len(canvas), _width(rng, 0.7, 4)
    start, turns = rng.uniform(0, np.pi), int(rng.integers(1, 3))
    for angle in start + np.array([0, rng.uniform(0.9, 2.2)])[:turns]:
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        for offset in np.arange(-side, side, FINE * rng.uniform(8, 40)):
            middle = side / 2 + across * offset
            _line(canvas, np.stack([middle - along * side, middle + along * side]), width)


def _spokes(canvas: NDArray[np.uint8], rng: Generator) -> None:
    side, width = len(canvas), _width(rng, 0.7, 3)
    centre, radius = rng.uniform(0.2, 0.8, 2) * side, rng.uniform(0.15, 0.6) * side
    angles = np.linspace(0, 2 * np.pi, 64)
    rim = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    _line(canvas, rim, _width(rng, 1, 8))
    for angle in np.arange(0, 2 * np.pi, 2 * np.pi / int(rng.integers(5, 37))):
        _line(canvas, np.stack([centre, centre + radius * np.array([np.cos(angle), np.sin(angle)])]), width)


def _letters(canvas: NDArray[np.uint8], rng: Generator) -> None:
    side = len(canvas)
    height = rng.uniform(0.05, 0.4) * side
    font = int(rng.integers(0, 8))  # OpenCV's Hershey fonts
    thickness = max(1, round(height * rng.uniform(0.06, 0.25)))
    for row in np.arange(rng.uniform(0, height) + height, side + height, height * rng.uniform(1.3, 2.5)):
        text = "".join(chr(int(c)) for c in rng.integers(33, 127, size=24))
        at = int(rng.uniform(-0.2, 0.3) * side), int(row)
        cv2.putText(canvas, text, at, font, height / 22, 255, thickness)


def _leaves(canvas: NDArray[np.uint8], rng: Generator) -> None:
    side = len(canvas)
    for _ in range(int(rng.integers(1, 5))):
        foot, tip = rng.uniform(0, 1, (2, 2)) * side
        _line(canvas, np.stack([foot, tip]), _width(rng, 0.7, 3))
        length, slimness = rng.uniform(0.04, 0.25) * side, rng.uniform(0.08, 0.4)
        for share in np.linspace(0.1, 1, int(rng.integers(4, 20))):
            angle = rng.uniform(0, 2 * np.pi)
            t = np.linspace(0, 1, 10)
            half = slimness * length * np.sin(np.pi * t) / 2
            outline = np.concatenate([np.stack([t * length, half], 1), np.stack([t * length, -half], 1)[::-1]])
            turned = outline @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            fill_polygon(canvas, foot + share * (tip - foot) + turned, 255)


def _blob(side: int, rng: Generator) -> Points:
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.ones_like(angles)
    for waves in range(2, 6):
        radius += rng.uniform(0, 0.25) * np.sin(waves * angles + rng.uniform(0, 2 * np.pi))
    shape = np.stack([radius * np.cos(angles), rng.uniform(0.4, 1) * radius * np.sin(angles)], axis=1)
    blob: Points = rng.uniform(0.1, 0.9, 2) * side + shape * side * rng.uniform(0.08, 0.35)
    return blob


def _width(rng: Generator, low: float, high: float) -> int:
    """A thickness of `low` to `high` pixels, in pixels of the fine canvas."""
    return max(1, round(FINE * float(np.exp(rng.uniform(np.log(low), np.log(high))))))


# Aerial scenes, on a canvas FINE_SCENE times as large.


def _palette(rng: Generator) -> Callable[[float, float], NDArray[np.float32]]:
    """Draws colours with a brightness in a range; all grey in half of the scenes, as panchromatic sensors see."""
    strength = 0.0 if rng.random() < 0.5 else rng.uniform(0, 0.35)

    def colour(low: float, high: float) -> NDArray[np.float32]:
        return (rng.uniform(low, high) * (1 + rng.uniform(-strength, strength, 3))).astype(np.float32)

    return colour


def _plots(size: int, rng: Generator) -> list[Points]:
    """Outlines of buildings that do not meet: on a jittered grid, most of them turned alike."""
    length = FINE_SCENE * float(np.exp(rng.uniform(np.log(20), np.log(110))))
    pitch = length * rng.uniform(1.25, 2.5)
    angle = rng.uniform(0, np.pi)
    found: list[Points] = []
    share = rng.uniform(0.3, 1)
    for row in np.arange(rng.uniform(-0.5, 0.5) * pitch, size + pitch, pitch):
        for col in np.arange(rng.uniform(-0.5, 0.5) * pitch, size + pitch, pitch):
            if rng.random() > share:
                continue
            turned = angle + (rng.normal(0, 0.05) if rng.random() < 0.8 else rng.uniform(0, np.pi))
            shape = _footprint(length * rng.uniform(0.4, 1), rng)
            rotation = np.array([[np.cos(turned), np.sin(turned)], [-np.sin(turned), np.cos(turned)]])
            found.append(shape @ rotation + np.array([col, row]) + rng.normal(0, 0.08 * pitch, 2))
    return found


def _footprint(length: float, rng: Generator) -> Points:
    """A rectangle, an L, a T or a rectangle with a corner cut, about the origin."""
    a, b = length / 2, length / 2 * rng.uniform(0.4, 1)
    c, d = a * rng.uniform(-0.6, 0.6), b * rng.uniform(-0.6, 0.6)
    e = rng.uniform(c, a)
    shapes = (
        [(-a, -b), (a, -b), (a, b), (-a, b)],
        [(-a, -b), (a, -b), (a, d), (c, d), (c, b), (-a, b)],
        [(-a, -b), (a, -b), (a, d), (e, d), (e, b), (c, b), (c, d), (-a, d)],
        [(-a, -b), (a, -b), (a, d), (c, b), (-a, b)],
    )
    return np.array(shapes[int(rng.choice(4, p=[0.45, 0.25, 0.2, 0.1]))])


def _roof(scene: Canvas, plot: Points, colour: Callable[[float, float], NDArray[np.float32]], rng: Generator) -> None:
    """Flat, or two sides of unlike brightness; with things on it at times."""
    tone = colour(20, 90) if rng.random() < 0.35 else colour(70, 250)
    fill_polygon(scene, plot, tone)
    centre = plot.mean(axis=0)
    if rng.random() < 0.5:
        half = (plot[0] + plot[-1]) / 2, (plot[1] + plot[2 % len(plot)]) / 2
        fill_polygon(scene, np.stack([plot[0], plot[1], half[1], half[0]]), tone * np.float32(rng.uniform(0.6, 1.4)))
    for _ in range(int(rng.integers(0, 5)) if rng.random() < 0.4 else 0):
        corner = centre + (plot[int(rng.integers(len(plot)))] - centre) * rng.uniform(0, 0.7)
        fill_polygon(scene, corner + rng.uniform(1, 4) * FINE_SCENE * (_footprint(2, rng)), colour(20, 250))


def _yard(plot: Points, rng: Generator) -> Points:
    """An outline about the origin that mostly reaches beyond the plot."""
    length = np.abs(plot - plot.mean(axis=0)).max()
    shape = _blob(1, rng)
    unit = (shape - shape.mean(axis=0)) / np.abs(shape - shape.mean(axis=0)).max()
    yard: Points = length * (unit * rng.uniform(0.6, 2.2) + rng.normal(0, 0.7, 2))
    return yard


def _woods(scene: Canvas, colour: Callable[[float, float], NDArray[np.float32]], rng: Generator) -> None:
    """Tree tops side by side: blobs of light and shade as large as trees, over some or all of the scene."""
    size = len(scene)
    grain = rng.uniform(2, 8) * FINE_SCENE
    cells = int(size / grain) + 2
    light = cv2.resize(
        rng.standard_normal((cells, cells), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )
    where = cv2.resize(rng.standard_normal((5, 5), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    tone = colour(20, 110) * (1 + np.float32(rng.uniform(0.2, 0.6)) * light[:, :, None])
    np.copyto(scene, np.clip(tone, 2, 255), where=(where > rng.uniform(-2, 0.5))[:, :, None])


def _road(scene: Canvas, colour: Callable[[float, float], NDArray[np.float32]], rng: Generator) -> None:
    size = len(scene)
    ends = rng.uniform(-0.2, 1.2, (3, 2)) * size
    t = np.linspace(0, 1, 24)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    tone = tuple(float(v) for v in colour(50, 220))
    points = [np.round(curve * (1 << SHIFT)).astype(np.int32)]
    cv2.polylines(scene, points, False, tone, int(rng.integers(4, 24)) * FINE_SCENE // 2, cv2.LINE_8, SHIFT)


def _shade(scene: Canvas, shadows: list[Points], rng: Generator) -> None:
    mask = np.zeros(scene.shape[:2], np.float32)
    for shadow in shadows:
        fill_polygon(mask, shadow, 1.0)
    scene *= 1 - np.float32(rng.uniform(0, 0.75)) * cv2.GaussianBlur(mask, (0, 0), 1.0)[:, :, None]


def _trees(scene: Canvas, uneven: Canvas, rng: Generator) -> NDArray[np.uint8]:
    """Crowns over whatever is there; gives where they are."""
    size = len(scene)
    crowns = np.zeros((size, size), np.uint8)
    count = int(rng.integers(0, 60)) if rng.random() < 0.7 else 0
    for row, col, radius in zip(*rng.uniform(0, size, (2, count)), rng.uniform(2, 16, count), strict=True):
        outline = _blob(1, rng)
        shape = outline - outline.mean(axis=0)
        fill_polygon(crowns, np.array([col, row]) + shape / np.abs(shape).max() * radius * FINE_SCENE, 255)
    clumps = rng.normal(0, 1, (size // 3 + 1, size // 3 + 1)).astype(np.float32)
    clumps = cv2.resize(clumps, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    tone = np.float32(rng.uniform(15, 110)) * (1 + np.float32(rng.uniform(0.1, 0.4)) * clumps[:, :, None]) * uneven
    np.copyto(scene, np.clip(tone, 0, 255), where=crowns[:, :, None] > 0)
    return crowns


def _unevenness(texture: RGB, rng: Generator) -> Canvas:
    """Factors (H, W, 1) about one: a photograph's relief, blotches and grain."""
    grey = cv2.cvtColor(texture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    relief = (grey - np.float32(grey.mean())) / np.float32(grey.std() + 1)
    grain = rng.standard_normal(grey.shape, dtype=np.float32)
    uneven = 1 + np.float32(rng.uniform(0.02, 0.3)) * relief + np.float32(rng.uniform(0, 0.08)) * grain
    factors: Canvas = np.clip(uneven, 0.3, 1.9)[:, :, None].astype(np.float32)
    return factors


def _direction(rng: Generator) -> Points:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def averaged(canvas: NDArray[np.uint8], side: int) -> Alpha:
    """A square canvas averaged down to (side, side), 255 as 1."""
    small = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    alpha: Alpha = small.astype(np.float32) / np.float32(255)
    return alpha


def fill_polygon(canvas: NDArray[np.uint8] | Canvas, outline: Points, value: float | NDArray[np.float32]) -> None:
    """Fill what `outline` (n, 2), col and row of the canvas's pixel centres, goes around."""
    colour = tuple(float(v) for v in np.atleast_1d(np.asarray(value)))
    cv2.fillPoly(canvas, [np.round(outline * (1 << SHIFT)).astype(np.int32)], colour, cv2.LINE_8, SHIFT)


def _line(canvas: NDArray[np.uint8], points: Points, thickness: int) -> None:
    cv2.polylines(canvas, [np.round(points * (1 << SHIFT)).astype(np.int32)], False, 255, thickness, cv2.LINE_8, SHIFT)

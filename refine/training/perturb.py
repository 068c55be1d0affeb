"""Damage a true mask on purpose, the way coarse masks are wrong: what MOS_H learns to undo.

The kinds and their recipes are those of a mix that holds both ends, masks that are nearly right and masks that are
far off: CascadePSP's generator (CVPR 2020) alone never makes a good mask, and a network trained on it alone makes
good masks worse. Everything is drawn from the generator that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from refine.metrics import iou

Mask = NDArray[np.float32]
Name = TypeVar("Name", bound=str)
Damage = tuple[Mask, float]
"""A damaged mask (H, W) in 0..1 and its reach: how far, in pixels, it may now be wrong; at least 1."""

MIN_IOU = 0.6
"""Below this the damage has changed what the object is: draw again."""

TRIES = 5

LEAST_STATED, MOST_STATED = 1.2, 64.0
"""The smallest reach that is told of a mask that is not exact, and the largest."""


def perturb(truth: Mask, kind: str, rng: Generator, *, reduce_max: float = 16, hard_share: float = 0.5) -> Damage:
    """A coarse mask made from `truth` (H, W) in 0..1 by one kind of damage, and its reach.

    `kind` is a key of `KINDS`; "model" and "cascade" need a network and fall back to "reduce" here. Masks whose IoU
    with the truth falls below 0.6 are drawn again, five times, then reduced instead.
    """
    recipe = KINDS.get(kind, reduced)
    for _ in range(TRIES):
        coarse, reach = recipe(truth, rng, reduce_max)
        if iou(coarse, truth) >= MIN_IOU:
            break
    else:
        coarse, reach = reduced(truth, rng, reduce_max)
    if kind != "exact":
        coarse = finish(coarse, reach, rng, hard_share)
    return coarse, max(1.0, reach)


def draw_kind(shares: Mapping[Name, float], rng: Generator) -> Name:
    names = list(shares)
    weights = np.array([shares[name] for name in names], dtype=np.float64)
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def stated_reach(reach: float, rng: Generator) -> float:
    """What the network is told of `reach`: people and plans only know it roughly."""
    return float(np.clip(reach * rng.uniform(0.8, 1.6), 1.0, MOST_STATED))


# The kinds. Each takes (truth, rng, largest reduce factor) and gives (mask, reach).


def exact(truth: Mask, rng: Generator, reduce_max: float) -> Damage:
    return truth.copy(), 1.0


def reduced(truth: Mask, rng: Generator, reduce_max: float) -> Damage:
    """Area-reduced by a factor and enlarged again, with a random phase of the grid: what a coarse grid leaves."""
    height, width = truth.shape
    factor = float(np.exp(rng.uniform(np.log(1.5), np.log(reduce_max))))
    shift_row, shift_col = (int(v) for v in rng.integers(0, int(np.ceil(factor)), size=2))
    padded = cv2.copyMakeBorder(truth, shift_row, 0, shift_col, 0, cv2.BORDER_REFLECT)
    small_size = (max(1, round(padded.shape[1] / factor)), max(1, round(padded.shape[0] / factor)))
    small = cv2.resize(padded, small_size, interpolation=cv2.INTER_AREA)
    way = int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST], p=[0.5, 0.3, 0.2]))
    large = cv2.resize(small, (padded.shape[1], padded.shape[0]), interpolation=way)
    return _mask(np.clip(large[shift_row : shift_row + height, shift_col : shift_col + width], 0, 1)), factor


def contour(truth: Mask, rng: Generator, reduce_max: float, lowest_iou: float = 0.8) -> Damage:
    """CascadePSP's generator: contours thinned to a tenth of their points, then random local dilation and erosion."""
    hard = _hard(truth)
    target = rng.uniform(lowest_iou, 1.0)
    damaged = _thinned_contours(hard, rng)
    for _ in range(250):
        for _ in range(4):
            _dilate_or_erode_somewhere(damaged, rng)
        if _iou_bytes(damaged, hard) < target:
            break
    return _mask(damaged), measured_reach(damaged, hard)


def morph(truth: Mask, rng: Generator, reduce_max: float) -> Damage:
    """The whole outline too fat, too thin, or smoothed."""
    hard = _hard(truth)
    way = rng.integers(3)
    if way == 0:
        radius = int(rng.integers(1, 9))
        operation = cv2.dilate if rng.random() < 0.5 else cv2.erode
        return _mask(operation(hard, disk(radius))), float(radius)
    if way == 1:
        radius = int(rng.integers(2, 7))
        which = cv2.MORPH_OPEN if rng.random() < 0.5 else cv2.MORPH_CLOSE
        return _mask(cv2.morphologyEx(hard, which, disk(radius))), float(radius)
    sigma = float(rng.uniform(1, 6))
    blurred = cv2.GaussianBlur(_mask(hard), (0, 0), sigma)
    return _mask(blurred > rng.uniform(0.3, 0.7)), sigma


def reduced_contour(truth: Mask, rng: Generator, reduce_max: float) -> Damage:
    """A contour drawn wrongly on a coarse grid, then enlarged."""
    height, width = truth.shape
    factor = int(rng.integers(2, 9))
    small = cv2.resize(truth, (max(8, width // factor), max(8, height // factor)), interpolation=cv2.INTER_AREA)
    coarse, reach = contour(_mask(small), rng, reduce_max, lowest_iou=0.85)
    return _mask(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)), max(1.0, reach) * factor


def warp(truth: Mask, rng: Generator, reduce_max: float) -> Damage:
    """Shifted by up to 6 px and bent by a smooth field of up to 6 px."""
    height, width = truth.shape
    sigma, amplitude = rng.uniform(8, 32), rng.uniform(0, 6)
    field = rng.uniform(-1, 1, (2, height, width)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in field])
    smooth *= amplitude / max(float(np.abs(smooth).max()), 1e-6)
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0, 6)
    shift_row, shift_col = distance * np.sin(angle), distance * np.cos(angle)
    rows, cols = np.mgrid[0:height, 0:width].astype(np.float32)
    moved = cv2.remap(
        truth, cols + smooth[1] + np.float32(shift_col), rows + smooth[0] + np.float32(shift_row),
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    return _mask(moved), float(max(1.0, distance + amplitude / 2))


def structure(truth: Mask, rng: Generator, reduce_max: float) -> Damage:
    """A part missing, a hole filled, or a blob too many: at most 5 % of the window, reach left to chance."""
    hard = _hard(truth)
    ways: Sequence[Callable[[NDArray[np.uint8], Generator], NDArray[np.uint8]]] = (_drop_part, _fill_hole, _add_blob)
    damaged = ways[int(rng.integers(3))](hard, rng)
    return _mask(damaged), float(np.exp(rng.uniform(0, np.log(8))))


KINDS: dict[str, Callable[[Mask, Generator, float], Damage]] = {
    "exact": exact,
    "reduce": reduced,
    "contour": contour,
    "morph": morph,
    "reduce+contour": reduced_contour,
    "warp": warp,
    "structure": structure,
}


def finish(coarse: Mask, reach: float, rng: Generator, hard_share: float) -> Mask:
    """Hard or soft, a little contrast, 8 bit or not: how masks are handed over."""
    if rng.random() < hard_share:
        coarse = _mask(coarse > 0.5)
    elif rng.random() < 0.5:
        coarse = _mask(cv2.GaussianBlur(coarse, (0, 0), rng.uniform(0.5, max(0.6, min(reach, 8.0)))))
    if rng.random() < 0.1:
        gamma = np.float32(np.exp(rng.uniform(np.log(0.6), np.log(1.6))))
        coarse = np.power(coarse, gamma, dtype=np.float32)
    if rng.random() < 0.5:
        coarse = np.round(coarse * 255) / np.float32(255)
    return np.clip(_mask(coarse), 0, 1)  # smoothing may overshoot by a rounding


def measured_reach(damaged: NDArray[np.uint8], hard: NDArray[np.uint8]) -> float:
    """Distance from the true outline within which 95 % of the wrong pixels lie; at least 1."""
    wrong = damaged != hard
    if not wrong.any() or not hard.any() or hard.all():
        return 1.0
    inside = cv2.distanceTransform(hard, cv2.DIST_L2, 3)
    outside = cv2.distanceTransform(1 - hard, cv2.DIST_L2, 3)
    return float(max(1.0, np.percentile((inside + outside)[wrong], 95)))


def disk(radius: int) -> NDArray[np.uint8]:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(np.uint8)


def _mask(values: NDArray[np.generic]) -> Mask:
    return np.asarray(values, dtype=np.float32)


def _hard(truth: Mask) -> NDArray[np.uint8]:
    return (truth > 0.5).astype(np.uint8)


def _iou_bytes(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    union = cv2.countNonZero(a | b)
    return 1.0 if union == 0 else cv2.countNonZero(a & b) / union


def _thinned_contours(hard: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    contours, _ = cv2.findContours(hard, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    polygons = [_thinned(c[:, 0, :].astype(np.int32), rng) for c in contours if len(c) >= 10]
    polygons = [p for p in polygons if len(p) >= 3]
    if not polygons:
        return np.copy(hard)
    filled = np.zeros_like(hard)
    cv2.fillPoly(filled, polygons, 1)  # even-odd: holes stay holes
    return filled


def _thinned(points: NDArray[np.int32], rng: Generator) -> NDArray[np.int32]:
    """Cut off one run of a tenth of the points where its ends are near one another; keep a tenth of the rest."""
    count = len(points)
    run = count // 10
    if run:
        gap = np.linalg.norm(points - np.roll(points, -run, axis=0), axis=1)
        nearest = np.argsort(gap, kind="stable")[: max(1, count // 10)]
        start = int(rng.choice(nearest))
        points = np.roll(points, -start, axis=0)[run:]
    kept = rng.random(len(points)) < 0.1
    return np.ascontiguousarray(points[kept])


def _dilate_or_erode_somewhere(mask: NDArray[np.uint8], rng: Generator) -> None:
    height, width = mask.shape
    row, col = int(rng.integers(height)), int(rng.integers(width))
    stop_row, stop_col = int(rng.integers(row + 1, height + 1)), int(rng.integers(col + 1, width + 1))
    part = mask[row:stop_row, col:stop_col]
    if rng.random() < 0.25:
        part[part.shape[0] // 2, part.shape[1] // 2] = rng.integers(2)
    operation = cv2.dilate if rng.random() < 0.5 else cv2.erode
    mask[row:stop_row, col:stop_col] = operation(part, _random_kernel(rng))


def _random_kernel(rng: Generator) -> NDArray[np.uint8]:
    size = int(rng.integers(3, 10))
    shape, kernel_size = (
        (cv2.MORPH_RECT, (size, size)),
        (cv2.MORPH_ELLIPSE, (size, size)),
        (cv2.MORPH_ELLIPSE, (size, size // 2)),
        (cv2.MORPH_ELLIPSE, (size // 2, size)),
    )[int(rng.integers(4))]
    return cv2.getStructuringElement(shape, kernel_size).astype(np.uint8)


def _drop_part(hard: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """Without one small component, or without one thin part (what an opening removes)."""
    opened = cv2.morphologyEx(hard, cv2.MORPH_OPEN, disk(int(rng.integers(2, 6)))).astype(np.uint8)
    thin = hard - opened
    for source in (hard, thin) if rng.random() < 0.5 else (thin, hard):
        part = _one_component(source, rng)
        if part is not None:
            return np.where(part, 0, hard).astype(np.uint8)
    return np.copy(hard)


def _fill_hole(hard: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    hole = _one_component(1 - hard, rng)
    return np.copy(hard) if hole is None else np.where(hole, 1, hard).astype(np.uint8)


def _add_blob(hard: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    height, width = hard.shape
    area = rng.uniform(0.002, 0.05) * height * width
    stretch = rng.uniform(0.5, 2.0)
    axes = (max(1, int(np.sqrt(area / np.pi) * stretch)), max(1, int(np.sqrt(area / np.pi) / stretch)))
    centre = (int(rng.integers(width)), int(rng.integers(height)))
    damaged = np.copy(hard)
    cv2.ellipse(damaged, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return damaged


def _one_component(source: NDArray[np.uint8], rng: Generator) -> NDArray[np.bool_] | None:
    """One component of at least 10 px and at most 5 % of the window."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(source, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    fitting = np.flatnonzero((areas >= 10) & (areas <= 0.05 * source.size)) + 1
    if not len(fitting):
        return None
    chosen: NDArray[np.bool_] = labels == int(rng.choice(fitting))
    return chosen

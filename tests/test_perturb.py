"""Damage to masks: each kind does what it says, within its reach, from its generator alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refine.metrics import iou
from refine.training.perturb import KINDS, MIN_IOU, Mask, draw_kind, measured_reach, perturb, reduced, stated_reach


def star(side: int = 224, radius: float = 70, teeth: int = 7, depth: float = 18) -> Mask:
    rows, cols = np.mgrid[0:side, 0:side] - side / 2
    outline = radius + depth * np.sin(teeth * np.arctan2(rows, cols))
    inside: NDArray[np.bool_] = np.hypot(rows, cols) < outline
    return inside.astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**32 - 1))
def test_every_kind_gives_a_mask_of_the_same_object(kind: str, seed: int) -> None:
    truth = star()
    coarse, reach = perturb(truth, kind, np.random.default_rng(seed))
    assert coarse.shape == truth.shape
    assert coarse.dtype == np.float32
    assert 0 <= coarse.min() <= coarse.max() <= 1
    # Quantising, smoothing and contrast come after the check at 0.6, and may cost a little.
    assert iou(coarse, truth) >= MIN_IOU - 0.1
    assert reach >= 1


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_same_generator_gives_the_same_damage(kind: str) -> None:
    first, second = (perturb(star(), kind, np.random.default_rng(11)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"exact"}))
def test_every_kind_does_damage(kind: str) -> None:
    truth = star()
    damaged = (perturb(truth, kind, np.random.default_rng(seed))[0] for seed in range(12))
    assert max(np.mean((coarse > 0.5) != (truth > 0.5)) for coarse in damaged) > 0.002


def test_exact_is_the_truth_to_the_bit() -> None:
    truth = star() * np.float32(0.7)
    np.testing.assert_array_equal(perturb(truth, "exact", np.random.default_rng(0))[0], truth)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_reduced_mask_is_wrong_within_its_factor(seed: int) -> None:
    truth = star()
    coarse, factor = reduced(truth, np.random.default_rng(seed), 16)
    assert 1.5 <= factor <= 16
    wrong = (coarse > 0.5) != (truth > 0.5)
    assert measured_reach(coarse_bytes(coarse), coarse_bytes(truth)) <= 1.5 * factor
    assert wrong.mean() < 0.25


def coarse_bytes(mask: Mask) -> NDArray[np.uint8]:
    return (mask > 0.5).astype(np.uint8)


def test_contour_damage_never_makes_a_good_mask() -> None:
    """The published generator's distribution: median IoU 0.84, none above 0.98 (300 star shapes, measured)."""
    values = [iou(KINDS["contour"](star(), np.random.default_rng(seed), 16)[0], star()) for seed in range(60)]
    assert 0.78 <= np.median(values) <= 0.90
    assert max(values) < 0.98


def test_measured_reach_is_the_distance_an_outline_moved() -> None:
    truth = star()
    moved = cv2.dilate(coarse_bytes(truth), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (11, 11)))
    assert measured_reach(moved.astype(np.uint8), coarse_bytes(truth)) == pytest.approx(5, abs=1)
    assert measured_reach(coarse_bytes(truth), coarse_bytes(truth)) == 1


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_windows_without_an_outline_pass(kind: str, value: float) -> None:
    truth = np.full((96, 96), value, np.float32)
    coarse, reach = perturb(truth, kind, np.random.default_rng(3))
    assert np.isfinite(coarse).all()
    assert reach >= 1


def test_kinds_are_drawn_in_their_shares() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_kind({"exact": 1.0, "morph": 3.0, "warp": 0.0}, rng) for _ in range(2000)]
    assert drawn.count("morph") / 2000 == pytest.approx(0.75, abs=0.03)
    assert "warp" not in drawn


def test_stated_reach_is_near_the_true_one() -> None:
    rng = np.random.default_rng(0)
    stated = [stated_reach(8.0, rng) for _ in range(200)]
    assert 6.4 <= min(stated) < max(stated) <= 12.8
    assert min(stated_reach(1.0, rng) for _ in range(50)) == 1.0

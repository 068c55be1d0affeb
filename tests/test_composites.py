"""Cut-outs whose alpha is known by construction."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refine.distance import ample_distance, exact_distance
from refine.training.composites import (
    cut_inside,
    is_visible,
    lay_over,
    same_shape,
    signed_distance,
)

SIDE = 96


def disc(radius: float) -> NDArray[np.float32]:
    rows, cols = np.mgrid[0:SIDE, 0:SIDE]
    distance = np.hypot(rows - 47.3, cols - 48.1)
    return np.asarray(np.clip(radius - distance + 0.5, 0, 1), np.float32)


@given(seed=st.integers(0, 2**16))
def test_ample_distances_are_never_too_short_and_hardly_too_long(seed: int) -> None:
    hard = (np.random.default_rng(seed).random((70, 90)) > 0.002).astype(np.uint8)
    exact, ample = exact_distance(hard), ample_distance(hard)
    assert (ample >= exact).all()
    assert (ample <= 1.04 * exact + 1e-3).all()


def test_signed_distance_is_that_of_a_disc() -> None:
    rows, cols = np.mgrid[0:SIDE, 0:SIDE]
    expected = 30 - np.hypot(rows - 47.3, cols - 48.1)
    near = np.abs(expected) < 8
    assert np.abs(signed_distance(disc(30)) - expected)[near].max() < 0.7


@given(seed=st.integers(0, 10**6), scale=st.floats(0.3, 4.0), radius=st.floats(25, 40))
@settings(deadline=None)
def test_a_cut_out_holds_nothing_of_its_old_background(seed: int, scale: float, radius: float) -> None:
    """Where the alpha is above a trace, the source is foreground even if its outline was drawn a pixel too wide."""
    truth = disc(radius)
    alpha = cut_inside(truth, scale, np.random.default_rng(seed))
    assert alpha.dtype == np.float32
    assert not (alpha[truth < 0.5] > 0.5).any()
    if (alpha > 0.5).any():
        outside = cv2.distanceTransform((truth > 0.5).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        assert outside[alpha > 0.5].min() > 1.0


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_shape_keeps_its_outline(scale: float) -> None:
    alpha = same_shape(disc(30), scale, np.random.default_rng(0))
    assert abs(float((alpha > 0.5).sum()) / (np.pi * 30**2) - 1) < 0.05


@given(seed=st.integers(0, 10**6))
@settings(deadline=None)
def test_the_picture_is_the_mix_that_the_alpha_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    front, back = (rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(2))
    alpha = disc(30)
    picture = lay_over(front, back, alpha, rng)
    assert np.array_equal(picture[alpha == 1], front[alpha == 1])


def test_an_empty_cut_out_is_not_used() -> None:
    assert not is_visible(np.zeros((SIDE, SIDE), np.float32))
    assert is_visible(disc(20))


def test_distances_do_not_depend_on_where_the_array_lies() -> None:
    """OpenCV 5.0 with IPP fails this for one shape in a few."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        smooth = cv2.GaussianBlur(rng.random((128, 128)).astype(np.float32), (0, 0), 6)
        hard = (smooth > 0.5).astype(np.uint8)
        found = set()
        for start in (0, 1, 4, 8, 16, 32):
            memory = np.empty(hard.size + 64, np.uint8)
            moved = memory[start : start + hard.size].reshape(hard.shape)
            moved[...] = hard
            found.add(exact_distance(moved).tobytes())
        assert len(found) == 1

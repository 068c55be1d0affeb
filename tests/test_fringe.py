"""Drawn fur: it grows out of a cut-out, in its colours, and nowhere else."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from refine.training.fringe import with_fringe

SIDE = 160
RED, GREEN = (np.array(colour, np.uint8) for colour in ((200, 40, 40), (30, 160, 60)))


def disc() -> NDArray[np.float32]:
    rows, cols = np.mgrid[0:SIDE, 0:SIDE]
    return np.asarray(np.clip(45 - np.hypot(rows - 80, cols - 76) + 0.5, 0, 1), np.float32)


def picture_of(alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.where((alpha > 0)[..., None], RED, GREEN)


seeds = st.integers(0, 10**6)


@given(seed=seeds)
def test_strands_are_added_in_the_colours_of_the_cut_out(seed: int) -> None:
    alpha = disc()
    picture, grown = with_fringe(picture_of(alpha), alpha, np.random.default_rng(seed))
    assert picture.dtype == np.uint8
    assert grown.dtype == np.float32
    assert grown.min() >= 0
    assert grown.max() <= 1
    assert (grown >= alpha - 1e-6).all()  # nothing is taken away
    seen = grown > 0
    assert (picture[seen, 0] > 2 * picture[seen, 1].astype(int)).all()  # red, if brighter or darker


def test_strands_are_thin_and_reach_out() -> None:
    alpha = disc()
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    left, reached = [], []
    for seed in range(40):
        _, grown = with_fringe(picture_of(alpha), alpha, np.random.default_rng(seed))
        added = ((grown > 0.5) & (alpha < 0.5)).astype(np.uint8)
        left.append(cv2.morphologyEx(added, cv2.MORPH_OPEN, kernel).sum() / max(1, added.sum()))
        rows, cols = np.nonzero(added)
        reached.append(np.hypot(rows - 80, cols - 76).max(initial=45) - 45)
    assert np.median(left) < 0.3
    assert np.median(reached) > 5
    assert max(reached) < 70


@given(seed=seeds)
def test_without_an_outline_in_view_nothing_grows(seed: int) -> None:
    for value in (0.0, 1.0):
        alpha = np.full((SIDE, SIDE), value, np.float32)
        picture, grown = with_fringe(picture_of(disc()), alpha, np.random.default_rng(seed))
        np.testing.assert_array_equal(grown, alpha)
        np.testing.assert_array_equal(picture, picture_of(disc()))


def test_the_same_seed_grows_the_same_fur() -> None:
    first, again = (with_fringe(picture_of(disc()), disc(), np.random.default_rng(3)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)

"""Drawn windows: as exact as they claim, and unlike one another."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from refine.training.drawn import roofs, thin_structures

SIDE = 160


@pytest.mark.parametrize("seed", range(6))
def test_thin_structures_are_thin(seed: int) -> None:
    """Most of what is drawn without a body vanishes where nothing narrower than 9 px stays."""
    alphas = [thin_structures(SIDE, np.random.default_rng((seed, i))) for i in range(12)]
    assert all(a.dtype == np.float32 and a.min() >= 0 and a.max() <= 1 for a in alphas)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    left = [cv2.morphologyEx((a > 0.5).astype(np.uint8), cv2.MORPH_OPEN, kernel).sum() for a in alphas]
    drawn = [(a > 0.5).sum() for a in alphas]
    assert np.median(np.array(left) / np.maximum(drawn, 1)) < 0.6


def test_the_outline_of_a_roof_is_an_edge_of_the_picture() -> None:
    """The picture changes more along the truth's outline than elsewhere, in nearly every scene."""
    texture = np.full((SIDE, SIDE, 3), 128, np.uint8)
    wins, scenes = 0, 0
    for seed in range(30):
        picture, alpha = roofs(SIDE, texture, np.random.default_rng(seed))
        assert picture.shape == (SIDE, SIDE, 3)
        grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
        change = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
        hard = (alpha > 0.5).astype(np.uint8)
        outline = cv2.morphologyEx(hard, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        if outline.sum() < 40:
            continue
        scenes += 1
        wins += change[outline].mean() > 1.5 * change[~outline].mean()
    assert scenes >= 20
    assert wins >= 0.8 * scenes


def test_scenes_follow_from_the_generator_alone() -> None:
    texture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    first, again, other = (roofs(SIDE, texture, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert np.abs(first[1] - other[1]).mean() > 0.01

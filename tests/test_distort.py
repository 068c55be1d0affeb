"""Augmentation that is off by default: what it changes, what it leaves, and that image and truth move alike."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_data import small_config, tiny_network, write_pairs

from refine.training.config import Augment, parse_config
from refine.training.data import load_pairs
from refine.training.distort import bend, blur_patches, random_part, recolour
from refine.training.samples import WholeImageSamples

NOISE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)


def disc(row: int, col: int, radius: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    rows, cols = np.mgrid[0:96, 0:128]
    return np.where(np.hypot(rows - row, cols - col) < radius, 1, 0).astype(np.float32)


def test_bending_moves_image_and_truth_alike_and_by_pixels() -> None:
    truth = disc(48, 64, 25)
    image = np.repeat((255 * truth).astype(np.uint8)[:, :, None], 3, axis=2)
    bent, moved = bend(image, truth, 100.0, np.random.default_rng(1))
    assert np.abs(bent[:, :, 0] / 255 - moved).max() < 0.02
    assert 0.01 < float(np.abs(moved - truth).mean()) < 0.1
    rng = np.random.default_rng(1)
    same, _ = bend(image, truth, 0.0, rng)
    assert same is image
    assert rng.bit_generator.state == np.random.default_rng(1).bit_generator.state


def test_colours_change_as_asked_and_not_otherwise() -> None:
    rng = np.random.default_rng(2)
    assert recolour(NOISE, Augment(), rng) is NOISE
    flat = np.full((64, 64, 3), 100, np.uint8)
    noisy = recolour(flat, Augment(noise=40.0), rng).astype(float)
    assert noisy.mean() == pytest.approx(100, abs=1.5)
    assert 1 < noisy.std() < 41
    darker = recolour(flat, Augment(gamma=0.5), rng)
    exponent = np.log(darker[0, 0, 0] / 255) / np.log(100 / 255)
    assert np.exp(-0.51) < exponent < np.exp(0.51)
    faint = (100 + (NOISE[:64, :64] >> 5)).astype(np.uint8)
    assert recolour(faint, Augment(clahe=1.0), rng).std() > 1.2 * faint.std()


@given(seed=st.integers(0, 10**6), patches=st.integers(1, 6), size=st.floats(2, 12))
@settings(max_examples=40, deadline=None)
def test_blurred_squares_lie_on_the_outline_of_the_largest_object(seed: int, patches: int, size: float) -> None:
    truth = np.maximum(disc(40, 40, 20), disc(80, 118, 5))
    blurred = blur_patches(NOISE, truth, patches, size, np.random.default_rng(seed))
    changed = (blurred != NOISE).any(axis=2)
    assert changed.any()
    # No pixel is farther from the outline than half the largest square.
    contour = ((cv2.dilate(truth, np.ones((3, 3))) - truth > 0) & (np.arange(128) < 80)).astype(np.uint8)
    reach = round(size) + 1
    assert not (changed & (cv2.dilate(contour, np.ones((2 * reach + 1, 2 * reach + 1))) == 0)).any()
    assert int(changed.sum()) <= patches * (2 * round(size) + 1) ** 2


def test_the_number_of_squares_is_the_number_asked_for() -> None:
    """The outline is one pixel, so each square of a fixed size blurs the same place once more."""
    truth = np.zeros((96, 128), np.float32)
    truth[48, 64] = 1
    steps = [float(blur_patches(NOISE, truth, n, 8.0, np.random.default_rng(0)).std()) for n in range(5)]
    assert steps[0] == float(NOISE.std())
    assert all(a > b for a, b in pairwise(steps))
    empty = np.zeros((96, 128), np.float32)
    assert blur_patches(NOISE, empty, 5, 8.0, np.random.default_rng(0)) is NOISE


def test_a_part_is_one_place_of_both() -> None:
    mask = NOISE[:, :, 0]
    image, part = random_part(NOISE, mask, 0.5, np.random.default_rng(4))
    assert part.shape == (48, 64)
    assert np.array_equal(image[:, :, 0], part)


def test_samples_turn_image_and_truth_alike(tmp_path: Path) -> None:
    """The discs are bright, so brightness tells truth."""
    augment = {
        "jitter": [0.0] * 4, "grey": 0.0, "jpeg": 0.0, "upside_down": 0.5, "quarter_turns": 0.5, "elastic": 50.0,
        "crop": 0.8, "rotate_degrees": 20.0, "noise": 5.0,
    }  # fmt: skip
    raw = small_config(write_pairs(tmp_path), model=tiny_network("mos_l_lite", 64), augment=augment)
    config = parse_config(raw, "test")
    samples = WholeImageSamples(load_pairs(config.data, frozenset()), config)
    items = [samples[i] for i in range(24)]
    agreement = [float(((i["image"].float().mean(dim=-1) > 115) == (i["truth"] > 0.5)).float().mean()) for i in items]
    assert np.mean(agreement) > 0.95
    middles = torch.stack([(i["truth"] * torch.arange(64.0)[:, None]).sum() / i["truth"].sum() for i in items])
    assert middles.std() > 2

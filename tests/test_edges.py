"""Edge maps against OpenCV's, and losses on them on cases worked by hand; the other losses by their formulas."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refine.training.edges import edge_loss, edge_map
from refine.training.loss_config import Terms
from refine.training.losses import focal_loss, output_loss

ALL = torch.ones(1, 1, 8, 8, dtype=torch.bool)


@given(seed=st.integers(0, 10**6), blur=st.floats(0.6, 5))
@settings(max_examples=40, deadline=None)
def test_contours_are_those_that_opencv_draws(seed: int, blur: float) -> None:
    """The recipe of the tuning project: all contours in a tree, every pixel, one pixel thick."""
    noise = np.random.default_rng(seed).random((40, 50)).astype(np.float32)
    hard = (cv2.GaussianBlur(noise, (0, 0), blur) > 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(hard, cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    drawn = np.zeros_like(hard)
    cv2.drawContours(drawn, contours, -1, 1, 1)
    found = edge_map(torch.from_numpy(hard).float()[None, None], "contour")[0, 0].numpy()
    assert np.array_equal(found, drawn)


def test_gradient_and_canny_of_a_square() -> None:
    truth = torch.zeros(2, 1, 20, 20)
    truth[0, 0, 5:15, 5:15] = 1
    gradient = edge_map(truth, "gradient")
    assert gradient[0].sum() == 12 * 12 - 8 * 8  # one pixel outside, one inside
    canny = edge_map(truth, "canny")
    plane = truth[0, 0].numpy().astype(np.uint8) * 255
    assert np.array_equal(canny[0, 0].numpy() > 0, cv2.Canny(plane, 100, 200) > 0)
    assert 30 < canny[0].sum() < 50
    for method in ("contour", "gradient", "canny"):
        assert edge_map(truth, method)[1].sum() == 0


def test_a_result_with_the_edges_of_the_truth_costs_nothing_and_none_costs_most() -> None:
    truth = torch.zeros(1, 1, 16, 16)
    truth[..., 8:] = 1
    sharp = 40 * (truth - 0.5)
    assert float(edge_loss(sharp, truth, "gradient", "of_gradient").mean()) < 1e-5
    flat = edge_loss(torch.zeros_like(truth), truth, "gradient", "of_gradient")
    edges = edge_map(truth, "gradient")
    weight = (256 - 32) / 32
    assert float(flat[edges > 0].mean()) == pytest.approx(weight * -math.log(1e-6), rel=1e-4)
    assert float(flat[edges == 0].abs().max()) < 1e-5


def test_a_band_weighs_five_times() -> None:
    truth = torch.zeros(1, 1, 16, 16)
    truth[..., 8:] = 1
    loss = edge_loss(torch.zeros_like(truth), truth, "contour", "band") / math.log(2)
    assert loss[0, 0, 5].tolist() == pytest.approx([1] * 7 + [5] * 3 + [1] * 4 + [5] * 2)  # the border is a contour too


def test_focal_loss_is_the_papers() -> None:
    """FL = -alpha_t (1 - p_t)^2 log p_t with alpha 0.25 for foreground (arXiv 1708.02002, equation 5)."""
    logit = torch.tensor([-2.0, 0.0, 3.0])
    p = torch.sigmoid(logit)
    assert focal_loss(logit, torch.ones(3)).tolist() == pytest.approx((-0.25 * (1 - p) ** 2 * p.log()).tolist())
    assert focal_loss(logit, torch.zeros(3)).tolist() == pytest.approx((-0.75 * p**2 * (1 - p).log()).tolist())


def test_terms_are_summed_by_weight_and_untrusted_pixels_do_not_count() -> None:
    truth = torch.ones(1, 1, 8, 8)
    flat = torch.zeros(1, 1, 8, 8)
    assert float(output_loss(flat, truth, ALL, Terms(rms=2))) == pytest.approx(1, abs=1e-6)
    assert float(output_loss(flat, truth, ALL, Terms(focal=1))) == pytest.approx(0.25 * 0.25 * math.log(2), rel=1e-5)
    both = float(output_loss(flat, truth, ALL, Terms(focal=1, rms=2, edge=1, edge_loss="band")))
    assert both > 1 + math.log(2)
    trusted = ALL.clone()
    trusted[..., 4:] = False
    wrong = truth.clone()
    wrong[..., 4:] = 0
    terms = Terms(rms=1, focal=1)
    assert float(output_loss(40 * truth, wrong, trusted, terms)) < 2e-4
    assert float(output_loss(40 * truth, wrong, ALL, terms)) > 0.5

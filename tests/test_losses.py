"""Losses: their value on cases worked by hand, and what does not count."""

from __future__ import annotations

import math

import pytest
import torch

from refine.models.blocks import coarse_logit
from refine.training.loss_config import Loss, Terms
from refine.training.losses import gradient, output_loss, right_and_far, soft_iou_loss, total_loss


def plane(value: float, side: int = 8) -> torch.Tensor:
    return torch.full((1, 1, side, side), value)


ALL = torch.ones(1, 1, 8, 8, dtype=torch.bool)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (Terms(bce=1), math.log(2)),
        (Terms(l1=1), 0.5),
        (Terms(l2=1), 0.25),
        (Terms(iou=1), 0.5),
        (Terms(bce=2, l1=4), 2 * math.log(2) + 2),
        (Terms(), 0.0),
    ],
)
def test_an_undecided_pixel_costs_what_the_formula_says(terms: Terms, expected: float) -> None:
    assert float(output_loss(plane(0.0), plane(1.0), ALL, terms)) == pytest.approx(expected, abs=1e-6)


def test_a_confident_error_has_a_gradient_through_bce_and_hardly_one_without() -> None:
    """0.990, 0.0196 and 0.0099 at a logit of 4.595 against truth 0."""
    slopes = []
    for terms in (Terms(bce=1), Terms(l2=1), Terms(l1=1)):
        logit = plane(4.595).requires_grad_()
        (slope,) = torch.autograd.grad(output_loss(logit, plane(0.0), ALL, terms), logit)
        slopes.append(float(slope.sum()))
    assert slopes == pytest.approx([0.990, 0.0196, 0.0099], abs=1e-4)


def test_sobel_of_a_step_and_of_nothing() -> None:
    step = torch.zeros(1, 1, 9, 9)
    step[..., 5:] = 1
    inner = gradient(step)[0, 0, 4]
    assert float(gradient(plane(0.3, 9))[0, 0, 4, 4]) == pytest.approx(0.01)  # the root of 1e-4
    # The 3 x 3 mean turns the step into 0, 1/3, 2/3, 1; the kernel over 4 takes differences over two pixels.
    assert inner[3:7].tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1 / 3], abs=1e-3)


def test_pixels_that_are_not_trusted_do_not_count() -> None:
    trusted = ALL.clone()
    trusted[..., 4:] = False
    truth = plane(1.0)
    truth[..., 4:] = 0
    terms = Terms(bce=1, l1=1, l2=1, iou=1)
    assert float(output_loss(plane(20.0), truth, trusted, terms)) == pytest.approx(0, abs=1e-5)
    assert float(output_loss(plane(20.0), truth, ALL, terms)) > 1


def test_empty_pair_has_no_iou_loss() -> None:
    assert float(soft_iou_loss(plane(0.0), plane(0.0), ALL)) == pytest.approx(0, abs=1e-6)


def test_terms_are_those_of_the_longest_key() -> None:
    config = Loss(outputs={"s": Terms(bce=1), "s4": Terms(bce=2), "final": Terms(bce=3)})
    assert [config.terms_of(name).bce for name in ("s8_0", "s4_2", "final", "other")] == [1, 2, 3, 0]


def test_identity_term_counts_change_where_the_mask_was_right_and_far_from_outlines() -> None:
    truth = torch.zeros(1, 1, 64, 64)
    truth[..., 40:] = 1
    settled = right_and_far(truth, truth)
    assert settled[..., :24].min() == 1
    assert settled[..., 24:56].max() == 0
    assert settled[..., 56:].min() == 1
    config = Loss(outputs={"final": Terms()}, identity=1.0)
    start = torch.logit(truth.clamp(0.01, 0.99))
    change = torch.zeros_like(start)
    change[..., :20] = 0.5
    total, _ = total_loss({"final": start + change}, truth, torch.ones_like(truth, dtype=torch.bool), config, start)
    assert float(total) == pytest.approx(0.5 * 20 / 32, abs=1e-5)


def test_relative_weights_let_a_good_mask_count_beside_a_bad_one() -> None:
    """Two samples, right but for blur and badly wrong: the share of the good one in the gradient grows."""
    truth = torch.zeros(2, 1, 32, 32)
    truth[:, :, :, 16:] = 1
    coarse = truth.clone()
    coarse[0, :, :, 15:17] = 0.5  # a ramp on the outline
    coarse[1] = 1 - truth[1]
    start = coarse_logit(coarse)
    trusted = torch.ones_like(truth, dtype=torch.bool)
    shares = []
    for relative in (0.0, 0.05):
        logit = start.clone().requires_grad_()
        config = Loss(outputs={"final": Terms(bce=1.0)}, relative=relative)
        loss, _ = total_loss({"final": logit}, truth, trusted, config, start)
        (gradient_of,) = torch.autograd.grad(loss, logit)
        good, bad = (float(part.abs().sum()) for part in gradient_of)
        shares.append(good / (good + bad))
    assert shares[1] > 10 * shares[0]


def test_weights_of_one_change_no_loss() -> None:
    torch.manual_seed(0)
    logit, truth = torch.randn(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    trusted = torch.rand(2, 1, 16, 16) > 0.3
    terms = Terms(bce=1.0, l1=0.5, l2=0.5, sobel=2.0, iou=1.0)
    torch.testing.assert_close(
        output_loss(logit, truth, trusted, terms, torch.ones(2)), output_loss(logit, truth, trusted, terms)
    )

"""A reach that the user gives is kept to: nothing changes far beyond it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Unchanging

from refine.cascade import FREE, FURTHEST, INSIDE_FREE, INSIDE_FURTHEST, agreement_of
from refine.engine import refine_mask
from refine.geometry import RGB, BoolArray, Mask
from refine.identity import plan_identity
from refine.limit import Inside, Limit
from refine.plan import Plan, make_plan
from refine.plan_table import plan_table
from refine.sources import ArrayImage, ArrayMask, ArraySink

SIDE = 300


class Opposite(Unchanging):
    """A Refiner that says the contrary of every mask."""

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        contrary: Mask = 1 - 2 * coarse
        return contrary


def square(side: int = SIDE) -> Mask:
    mask = np.zeros((side, side), np.float32)
    mask[side // 3 : 2 * side // 3, side // 3 : 2 * side // 3] = 1
    return mask


def away_from_outline(mask: Mask) -> Mask:
    """From each pixel's middle to the nearest on the other side."""
    hard = (mask > 0.5).astype(np.uint8)
    both = (cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for side in (hard, 1 - hard))
    return np.maximum(*both).astype(np.float32)


@given(seed=st.integers(0, 2**16), reach=st.floats(1, 20))
def test_a_correction_is_whole_near_the_outline_and_nothing_far_from_it(seed: int, reach: float) -> None:
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=(64, 64)).astype(np.float32), (0, 0), 6)
    coarse = (noise > 0).astype(np.float32)
    correction = rng.uniform(-1, 1, (64, 64)).astype(np.float32)
    held = Limit(reach, 0.05, 0.95)(correction, coarse)
    away = away_from_outline(coarse) / reach
    near = away <= 0.96 * FREE  # distances are up to 4 % too long
    np.testing.assert_array_equal(held[near], correction[near])
    assert not held[away > FURTHEST].any()
    assert (np.abs(held) <= np.abs(correction)).all()


def test_what_the_mask_is_unsure_of_may_change_everywhere() -> None:
    correction = np.full((64, 64), 0.3, np.float32)
    unsure = np.full((64, 64), 0.4, np.float32)
    np.testing.assert_array_equal(Limit(1.0, 0.05, 0.95)(correction, unsure), correction)
    for sure in (0.0, 1.0):
        assert not Limit(1.0, 0.05, 0.95)(correction, np.full((64, 64), sure, np.float32)).any()


def changed(plan: Plan, mask: Mask) -> BoolArray:
    sink = ArraySink(SIDE, SIDE, np.float32)
    image = ArrayImage(np.zeros((SIDE, SIDE, 3), np.uint8))
    refine_mask(image, ArrayMask(mask), Opposite(), plan, sink, as_float=True)
    differs: BoolArray = np.abs(sink.rows - mask) > 1e-6
    return differs


@pytest.mark.parametrize("reach", [2.0, 5.0, 8.9])
def test_nothing_changes_beyond_three_times_a_reach_that_is_given(reach: float) -> None:
    mask = square()
    plan = make_plan(SIDE, SIDE, mask_height=SIDE, mask_width=SIDE, tile=160, overlap=64, reach=reach, select="all")
    assert plan.holds_reach
    away, moved = away_from_outline(mask), changed(plan, mask)
    assert not moved[away > FURTHEST * reach].any()
    assert moved[away <= 0.96 * FREE * reach].all()
    assert changed(replace(plan, holds_reach=False), mask).all()


@pytest.mark.parametrize("reach", [2.0, 8.9])
def test_what_windows_say_within_the_reach_is_heard(reach: float) -> None:
    """A window that sees no outline says nothing; its neighbour's word about the reach of one loses little by that."""
    shift = np.arange(0, 224 - 64, 8)
    for column in shift + SIDE // 3:
        mask = np.zeros((SIDE, SIDE), np.float32)
        mask[:, column:] = 1
        sink = ArraySink(SIDE, SIDE, np.float32)
        plan = make_plan(SIDE, SIDE, mask_height=SIDE, mask_width=SIDE, reach=reach, select="all")
        image = ArrayImage(np.zeros((SIDE, SIDE, 3), np.uint8))
        refine_mask(image, ArrayMask(mask), Opposite(), plan, sink, as_float=True)
        moved = np.abs(sink.rows - mask)[:, column - int(reach) : column + int(reach)]
        assert moved.min() > 0.9


@pytest.mark.parametrize(
    ("reach", "overlap", "held"),
    [(None, 64, False), (2.0, 64, True), (9.0, 64, False), (4.0, 16, False), (2.0, 0, False)],
)
def test_a_reach_is_held_if_it_is_given_and_one_level_and_the_overlap_hold_it(
    reach: float | None, overlap: int, held: bool
) -> None:
    plan = make_plan(2000, 2000, mask_height=2000, mask_width=2000, reach=reach, overlap=overlap)
    assert plan.holds_reach == held
    assert ("nothing changes beyond 6.0 px" in plan_table(plan)) == held


@pytest.mark.parametrize(("side", "small"), [(501, 126), (1001, 251), (1023, 256)])
def test_half_a_pixel_of_a_mask_whose_size_was_rounded_up_is_trusted(side: int, small: int) -> None:
    sizes = side, side, small, small
    assert agreement_of(*sizes, is_network_output=False, ramp=1.0, given_reach=2.0) == 1
    assert agreement_of(*sizes, is_network_output=False, ramp=1.0, given_reach=2.1) == 0


def test_a_reach_that_is_given_is_another_run_than_the_same_one_found() -> None:
    given_, found = (make_plan(SIDE, SIDE, mask_height=SIDE, mask_width=SIDE, reach=reach) for reach in (2.0, None))
    assert given_.reach == found.reach
    assert {name for name, value in plan_identity(given_).items() if plan_identity(found)[name] != value} == {
        "whether the reach is kept to"
    }


@given(seed=st.integers(0, 2**16), reach=st.floats(1, 20))
def test_nothing_is_taken_from_far_inside_and_all_else_is_free(seed: int, reach: float) -> None:
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=(64, 64)).astype(np.float32), (0, 0), 6)
    coarse = (noise > np.quantile(noise, rng.uniform(0, 0.9))).astype(np.float32)
    correction = rng.uniform(-1, 1, (64, 64)).astype(np.float32)
    held = Inside(reach, 0.95)(correction, coarse)
    inside = np.where(coarse > 0, away_from_outline(coarse) / reach, 0)
    free = (correction >= 0) | (inside <= 0.96 * INSIDE_FREE)
    np.testing.assert_array_equal(held[free], correction[free])
    assert (held[inside > INSIDE_FURTHEST] >= 0).all()
    assert (np.abs(held) <= np.abs(correction)).all()


@pytest.mark.parametrize("is_network_output", [True, False])
def test_only_the_runs_own_first_mask_is_kept_inside(is_network_output: bool) -> None:
    small = cv2.resize(square(), (60, 60), interpolation=cv2.INTER_AREA)
    plan = make_plan(
        SIDE, SIDE, mask_height=60, mask_width=60, mask_is_network_output=is_network_output, is_hard=False, tile=64,
        overlap=16, reach=6.0, minimum_tile=32,
    )  # fmt: skip
    assert plan.keeps_inside == is_network_output
    sink = ArraySink(SIDE, SIDE)
    refine_mask(ArrayImage(np.zeros((SIDE, SIDE, 3), np.uint8)), ArrayMask(small), Opposite(), plan, sink)
    assert len(plan.levels) == 1  # this refiner would undo at the next what it did at the first
    assert bool((sink.rows[120:125, 120:180] == 255).all()) == is_network_output

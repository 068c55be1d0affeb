"""A refined mask, averaged over the first mask's pixels, is that mask again, if it was reduced from an exact one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import Unchanging

from refine.agree import CLOSE_ENOUGH, Agreement
from refine.cascade import FIRST_REACH, agreement_of
from refine.engine import refine_mask
from refine.geometry import RGB, Mask, Window
from refine.plan import Plan, make_plan
from refine.sources import ArrayImage, ArrayMask, ArraySink

SIDE, PIXEL = 480, 8
"""An image's, and that of a mask pixel in it."""


def disc(radius: float, shift: float = 0.0) -> Mask:
    """An antialiased disc in the middle of the image, moved to the right."""
    rows, cols = np.mgrid[:SIDE, :SIDE] + 0.5
    distance = radius - np.hypot(rows - SIDE / 2, cols - SIDE / 2 - shift)
    shade: Mask = np.clip(distance + 0.5, 0, 1).astype(np.float32)
    return shade


def reduced(truth: Mask) -> Mask:
    count = len(truth) // PIXEL
    means: Mask = truth.reshape(count, PIXEL, count, PIXEL).mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
    return means


def picture(truth: Mask) -> RGB:
    """An image that shows where `truth` is."""
    return np.repeat(np.rint(255 * truth).astype(np.uint8)[..., None], 3, axis=2)


class Seeing(Unchanging):
    """A Refiner to whom the mask is what the image shows."""

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        seen: Mask = image[..., 0].astype(np.float32) / np.float32(255) - coarse
        return seen


def plan(agreement: float = 1.0, *, tile: int = 96, batch: int = 4, roi: Window | None = None) -> Plan:
    size = SIDE // PIXEL
    made = make_plan(
        SIDE, SIDE, mask_height=size, mask_width=size, mask_ramp=1.0, tile=tile, overlap=32, batch=batch, roi=roi
    )
    assert made.agreement == 1
    return replace(made, agreement=agreement)


def run(image: RGB, mask: Mask, plan: Plan, refiner: Unchanging | None = None) -> NDArray[np.float32]:
    sink = ArraySink(plan.output.height, plan.output.width, np.float32)
    refine_mask(ArrayImage(image), ArrayMask(mask), refiner or Seeing(), plan, sink, as_float=True)
    return sink.rows.astype(np.float32)


def test_the_outline_moves_to_where_the_averages_are_those_of_the_mask() -> None:
    truth = disc(150)
    mask, image = reduced(truth), picture(disc(150, shift=0.6))
    alone, agreed = run(image, mask, plan(0)), run(image, mask, plan())
    assert np.abs(reduced(alone) - mask).max() > 0.06
    assert np.abs(reduced(agreed) - mask).max() < 0.02
    assert np.abs(agreed - truth).mean() < 0.5 * np.abs(alone - truth).mean()


def test_averages_that_all_miss_by_the_same_are_not_overshot() -> None:
    mask = reduced(np.full((SIDE, SIDE), 0.5, np.float32))
    agreed = run(picture(np.full((SIDE, SIDE), 0.55, np.float32)), mask, plan())
    assert np.abs(reduced(agreed) - mask).max() < CLOSE_ENOUGH


def test_the_shape_that_the_network_found_stays() -> None:
    rows = np.arange(SIDE) / 6
    teeth = (np.arange(SIDE)[:, None] < SIDE / 2 + 3 * np.sign(np.sin(rows))[None]).astype(np.float32)
    mask = reduced(teeth)
    agreed = run(picture(teeth), mask, plan())
    assert np.abs(agreed - teeth).mean() < 0.2 * np.abs(run(picture(teeth), mask, plan(0), Unchanging()) - teeth).mean()


def test_half_the_agreement_goes_half_the_way() -> None:
    mask, image = reduced(disc(150)), picture(disc(150, shift=0.6))
    none, half, whole = (run(image, mask, plan(share)) for share in (0.0, 0.5, 1.0))
    assert np.allclose(half, (none + whole) / 2, atol=1e-5)


@pytest.mark.parametrize("wrong_by", [-1.0, 0.5, 1.0])
def test_a_mask_that_the_image_contradicts_is_not_agreed_with(wrong_by: float) -> None:
    mask, image = reduced(disc(150 + wrong_by * PIXEL)), picture(disc(150))
    assert np.array_equal(run(image, mask, plan()), run(image, mask, plan(0)))


def test_a_network_that_changes_nothing_gives_the_first_mask_to_the_bit() -> None:
    image, mask = picture(disc(150)), reduced(disc(150))
    assert np.array_equal(run(image, mask, plan(), Unchanging()), run(image, mask, plan(0), Unchanging()))


@pytest.mark.parametrize("roi", [Window(0, 0, 40, 480), Window(170, 90, 77, 201)])
def test_a_part_and_other_batches_have_the_bytes_of_the_whole(roi: Window) -> None:
    image, mask = picture(disc(150, shift=0.6)), reduced(disc(150))
    whole = run(image, mask, plan())
    assert not np.array_equal(whole, run(image, mask, plan(0)))
    assert np.array_equal(run(image, mask, plan(roi=roi)), whole[roi.slices])
    assert np.array_equal(run(image, mask, plan(batch=1)), whole)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(30, 4000), count=st.integers(8, 400), decimation=st.integers(1, 4), place=st.floats(0, 1)
)  # fmt: skip
def test_a_window_reads_the_mask_pixels_that_lie_whole_in_it(
    length: int, count: int, decimation: int, place: float
) -> None:
    made = make_plan(
        length, length, mask_height=count, mask_width=count, tile=96, reach=float(FIRST_REACH) * decimation
    )
    step = made.levels[0]
    agreement = Agreement(ArrayMask(np.arange(count * count).reshape(count, count) / count**2), length, length, step, 1)
    origins = step.grid.rows.origins
    index = round(place * (len(origins) - 1))
    origin, side = origins[index] * step.level.decimation, length / count
    stop = min(origin + 96 * step.level.decimation, length)
    whole = [pixel for pixel in range(count) if pixel * side >= origin - 1e-9 and (pixel + 1) * side <= stop + 1e-9]
    read = agreement.read((index, index))
    assert agreement.is_needed == (1.5 <= side / step.level.decimation <= 32)
    if whole:
        assert read.shape == (len(whole), len(whole))
        assert read[0, 0] == pytest.approx(whole[0] * (count + 1) / count**2)


@pytest.mark.parametrize(
    ("mask", "is_network_output", "ramp", "share"),
    [
        ((60, 60), False, 1.0, 1.0),
        ((60, 60), False, 1.6, 0.5),
        ((60, 60), False, 2.0, 0.0),
        ((60, 60), False, None, 0.0),  # hard
        ((60, 60), True, 1.0, 0.0),
        ((480, 480), False, 1.0, 0.0),
    ],
)
def test_only_small_masks_that_look_averaged_are_agreed_with(
    mask: tuple[int, int], is_network_output: bool, ramp: float | None, share: float
) -> None:
    found = agreement_of(SIDE, SIDE, *mask, is_network_output=is_network_output, ramp=ramp, given_reach=None)
    assert found == pytest.approx(share)


@pytest.mark.parametrize(("size", "trusted", "not_trusted"), [(60, 4.0, 4.1), (SIDE, 1.0, 1.1)])
@pytest.mark.parametrize("ramp", [1.0, 2.5])
def test_a_reach_of_half_the_mask_s_pixel_says_that_it_is_right_and_a_longer_one_that_it_is_not(
    size: int, trusted: float, not_trusted: float, ramp: float
) -> None:
    for reach, share in ((1.0, 1), (trusted, 1), (not_trusted, 0)):
        assert make_plan(SIDE, SIDE, mask_height=size, mask_width=size, mask_ramp=ramp, reach=reach).agreement == share


def test_a_hard_mask_s_values_are_no_averages() -> None:
    assert make_plan(SIDE, SIDE, mask_height=60, mask_width=60, is_hard=True, reach=1.0).agreement == 0


@pytest.mark.parametrize("side", [SIDE, SIDE - 1])
def test_a_trusted_mask_of_the_image_s_size_is_kept_over_blocks(side: int) -> None:
    truth, seen = (disc(150, shift)[:side, :side] for shift in (0.0, 0.3))
    corner = Window(side - 60, side - 60, 60, 60)
    whole, part = (
        make_plan(side, side, mask_height=side, mask_width=side, reach=1.0, tile=96, overlap=32, roi=roi)
        for roi in (None, corner)
    )
    alone, agreed = (run(picture(seen), truth, replace(whole, agreement=share)) for share in (0.0, 1.0))
    assert np.abs(agreed - truth).mean() < 0.5 * np.abs(alone - truth).mean()
    assert np.array_equal(run(picture(seen), truth, part), agreed[corner.slices])

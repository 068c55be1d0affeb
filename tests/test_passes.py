"""Each window is refined several times, each time from the result of the last, and seen another way round."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from strategies import Unchanging

from refine import Settings
from refine.api import refine_with
from refine.engine import RunReport, refine_mask
from refine.geometry import RGB, Mask
from refine.plan import make_plan
from refine.sources import ArrayImage, ArrayMask, ArraySink, Refiner

SIDE = 96


class Halving(Unchanging):
    """Takes half of what the mask lacks of the picture."""

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        half = (image[..., 0].astype(np.float32) / np.float32(255) - coarse) / 2
        return np.asarray(half, np.float32)


class Brightening(Unchanging):
    """Adds more than there is room for."""

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        return np.full_like(coarse, 0.75)


class Leaning(Unchanging):
    """Moves the mask one pixel to the right, and with a second pass in the mirror back again."""

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        return np.asarray(np.roll(coarse, 1, axis=2) - coarse, np.float32)


class Failing(Halving):
    """Has a number for an answer in its first call only."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        self.calls += 1
        return np.asarray(super().__call__(image, coarse, reach) + np.float32(0 if self.calls == 1 else np.nan))


def picture() -> tuple[RGB, NDArray[np.uint8]]:
    """A gradient to the right and down, and a first mask of a square."""
    rows, cols = np.mgrid[:SIDE, :SIDE]
    image = np.repeat(np.asarray(2 * cols + rows // 2, np.uint8)[..., None], 3, axis=2)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[30:60, 30:60] = 255
    return image, mask


def refined(network: Refiner, passes: int) -> tuple[Mask, RunReport]:
    image, mask = picture()
    plan = make_plan(SIDE, SIDE, mask_height=SIDE, mask_width=SIDE, reach=4.0, tile=SIDE, overlap=32, passes=passes)
    plan = replace(plan, holds_reach=False)  # these networks change all of a window
    sink = ArraySink(SIDE, SIDE, np.float32)
    report = refine_mask(ArrayImage(image), ArrayMask(mask), network, plan, sink, as_float=True)
    return np.asarray(sink.rows, np.float32), report


@pytest.mark.parametrize("passes", [1, 2, 3, 4])
def test_each_pass_goes_on_from_the_last_ones_result(passes: int) -> None:
    image, mask = picture()
    shown, first = image[..., 0] / 255, mask / 255
    found, _ = refined(Halving(), passes)
    assert np.abs(found - (shown + (first - shown) / 2**passes)).max() < 1e-5


def test_what_goes_beyond_the_mask_is_not_carried_along() -> None:
    found, _ = refined(Brightening(), 2)
    assert np.array_equal(found, np.ones_like(found))


def test_the_second_pass_sees_the_window_in_a_mirror() -> None:
    _, mask = picture()
    found, _ = refined(Leaning(), 2)
    once, _ = refined(Leaning(), 1)
    assert np.array_equal(found[:, 1:-1], (mask / np.float32(255))[:, 1:-1])
    assert not np.array_equal(once[:, 1:-1], found[:, 1:-1])


def test_a_pass_without_an_answer_leaves_the_result_of_the_one_before() -> None:
    once, _ = refined(Halving(), 1)
    found, report = refined(Failing(), 2)
    assert np.array_equal(found, once)
    assert report.not_finite == 1


def test_the_mask_is_agreed_with_in_each_pass() -> None:
    # Half a pixel too large is believed to be the network's error, a whole one that of the mask: two passes that each
    # grow by half a pixel stay at the mask only if the first one is brought back to it.
    class Growing(Unchanging):
        calls = 0

        def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
            self.calls += 1
            now = coarse if self.calls > 1 else image[..., 0].astype(np.float32) / np.float32(255)
            grown = np.stack([cv2.dilate(window, np.ones((3, 3), np.uint8)) for window in now])
            return np.asarray((now + grown) / 2 - coarse, np.float32)

    rows, cols = np.mgrid[:SIDE, :SIDE] + 0.5
    truth = np.clip(30.5 - np.hypot(rows - SIDE / 2, cols - SIDE / 2), 0, 1).astype(np.float32)
    image = np.repeat(np.rint(255 * truth).astype(np.uint8)[..., None], 3, axis=2)
    small = truth.reshape(SIDE // 8, 8, SIDE // 8, 8).mean(axis=(1, 3)).astype(np.float32)
    plan = make_plan(SIDE, SIDE, mask_height=12, mask_width=12, mask_ramp=1.0, tile=SIDE, overlap=32, passes=2)
    sink = ArraySink(SIDE, SIDE, np.float32)
    refine_mask(ArrayImage(image), ArrayMask(small), Growing(), plan, sink, as_float=True)
    means = sink.rows.reshape(12, 8, 12, 8).mean(axis=(1, 3))
    uncertain = (small > 0.1) & (small < 0.9)
    assert np.sqrt(np.mean(np.square(means - small)[uncertain])) < 0.03


class Counting(Halving):
    """Knows how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        self.calls += 1
        return super().__call__(image, coarse, reach)


def calls(**chosen: object) -> int:
    image, mask = picture()
    network = Counting()
    refine_with(network, image, mask, settings=Settings(device="cpu", tile=SIDE, **chosen))
    return network.calls


def test_the_setting_asks_that_often() -> None:
    assert [calls(), *(calls(passes=passes) for passes in (1, 2, 3, 4))] == [2, 1, 2, 3, 4]


def test_a_mask_that_is_right_to_a_pixel_is_refined_once() -> None:
    assert [calls(reach=reach, passes=2) for reach in (1.0, 1.5)] == [1, 2]

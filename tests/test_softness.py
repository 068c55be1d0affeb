"""A ramp's width is measured in the mask's pixels, whatever its direction."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from refine.cascade import AVERAGED_RAMP, NETWORK_RAMP, ROUGH, SHAPED_SMOOTH, SMOOTH, has_image_shape, telling_ramp
from refine.first_mask import facts_of_mask
from refine.geometry import Mask
from refine.softness import SHARPEST, USUAL, measure_ramp, measure_texture
from refine.sources import ArrayMask


def edge(height: int, width: int, angle: float, ramp: float) -> Mask:
    """A straight edge through the middle whose value goes from 0 to 1 over `ramp` pixels, linearly."""
    rows, cols = np.mgrid[:height, :width]
    distance = (cols - width / 2) * np.cos(angle) + (rows - height / 2) * np.sin(angle)
    shade: Mask = np.clip(distance / ramp + 0.5, 0, 1).astype(np.float32)
    return shade


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 4, 1.2, np.pi / 2, 2.5, 4.0])
@pytest.mark.parametrize("ramp", [4.0, 20.0, 90.0])
def test_the_ramp_of_a_straight_edge_is_its_10_to_90_percent_width(angle: float, ramp: float) -> None:
    assert measure_ramp(ArrayMask(edge(300, 400, angle, ramp)), USUAL) == pytest.approx(0.8 * ramp, rel=0.03, abs=0.1)


def test_a_hard_mask_has_a_ramp_below_a_pixel_and_an_even_one_none() -> None:
    mask = np.zeros((60, 60), np.bool_)
    mask[10:40, 20:50] = True
    assert measure_ramp(ArrayMask(mask), USUAL) == pytest.approx(0.8)
    assert measure_ramp(ArrayMask(np.full((60, 60), 0.3, np.float32)), USUAL) is None
    assert measure_ramp(ArrayMask(np.full((1, 1), 1.0, np.float32)), USUAL) is None


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_an_enlarged_mask_tells_the_factor(factor: int) -> None:
    rows, cols = np.mgrid[:64, :64]
    small = (np.hypot(rows - 30, cols - 33) < 20).astype(np.float32)
    large = cv2.resize(small, (64 * factor, 64 * factor), interpolation=cv2.INTER_LINEAR)
    assert measure_ramp(ArrayMask(large), USUAL) == pytest.approx(factor, rel=0.3)


def test_hard_means_nothing_but_zero_and_one() -> None:
    assert ArrayMask(np.array([[0, 1]], np.uint8)).is_hard
    assert ArrayMask(np.array([[0, 255]], np.uint8)).is_hard
    assert not ArrayMask(np.array([[0, 128, 255]], np.uint8)).is_hard
    assert not ArrayMask(np.array([[0, 0.5]], np.float32)).is_hard


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_an_averaged_mask_is_sharp_somewhere_whatever_is_soft_in_it(factor: int) -> None:
    """A disc, hard on one side and a ramp of eight of the mask's pixels on the other; a network blurs all of it."""
    rows, cols = np.mgrid[: 64 * factor, : 64 * factor] / factor
    ramp = np.where(cols > 32, 0.01, 8)
    truth = np.clip((21.3 - np.hypot(rows - 30.8, cols - 33.1)) / ramp + 0.5, 0, 1).astype(np.float32)
    averaged = cv2.resize(truth, (64, 64), interpolation=cv2.INTER_AREA)
    by_a_network = cv2.GaussianBlur(averaged, (0, 0), 0.8)
    sharp, blurred = (measure_ramp(ArrayMask(mask), SHARPEST) for mask in (averaged, by_a_network))
    assert sharp is not None
    assert sharp < AVERAGED_RAMP
    assert blurred is not None
    assert blurred > NETWORK_RAMP


def test_thin_things_that_were_averaged_are_as_sharp_as_others_and_what_a_network_hardly_saw_is_not() -> None:
    rows, cols = np.mgrid[:512, :512]
    wires = (np.abs((0.3 * rows + cols) % 90 - 45) < 2).astype(np.float32)
    averaged = cv2.resize(wires, (64, 64), interpolation=cv2.INTER_AREA)
    assert averaged.max() < 0.9
    hazy = 0.6 * cv2.GaussianBlur((averaged > 0).astype(np.float32), (0, 0), 1.5)
    sharp, blurred = (measure_ramp(ArrayMask(mask), SHARPEST) for mask in (averaged, hazy))
    assert sharp is not None
    assert sharp < AVERAGED_RAMP
    assert blurred is not None
    assert blurred > NETWORK_RAMP


def hair(size: int, factor: int) -> Mask:
    """Short strokes all over, a third to one and a half of a pixel wide once reduced by `factor`, and that reduced."""
    rng = np.random.default_rng(5)
    full = np.zeros((size * factor, size * factor), np.uint8)
    for _ in range(size * size // 8):
        start, turn = rng.uniform(0, size * factor, 2), rng.uniform(0, np.pi)
        end = start + 4 * factor * np.array([np.cos(turn), np.sin(turn)])
        width = max(1, round(factor * rng.uniform(0.3, 1.5)))
        cv2.line(full, start.astype(int).tolist(), end.astype(int).tolist(), 255, width)
    averaged = cv2.resize(full, (size, size), interpolation=cv2.INTER_AREA)
    shade: Mask = averaged.astype(np.float32) / np.float32(255)
    return shade


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_averaged_hair_is_rough_and_a_network_s_map_of_it_smooth(factor: int) -> None:
    averaged = hair(64, factor)
    rough = measure_texture(ArrayMask(averaged))
    smooth = measure_texture(ArrayMask(cv2.GaussianBlur(averaged, (0, 0), 1.5)))
    assert rough is not None
    assert smooth is not None
    assert rough > ROUGH
    assert smooth < SMOOTH


@pytest.mark.parametrize("angle", [0.3, 0.8, 1.3])
def test_a_blurred_edge_is_smoother_the_more_it_is_blurred(angle: float) -> None:
    hard = edge(80, 90, angle, 1e-3)
    found = [measure_texture(ArrayMask(cv2.GaussianBlur(hard, (0, 0), sigma))) or 0 for sigma in (0.7, 1.4, 2.8)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 1.5 * found[1] > 2 * found[2] > 0
    assert (measure_texture(ArrayMask(edge(80, 90, angle, 20.0))) or 1) < 0.01  # straight


def test_a_mask_that_is_hard_or_all_but_hard_has_no_texture() -> None:
    assert measure_texture(ArrayMask(np.eye(40, dtype=np.float32))) is None
    assert measure_texture(ArrayMask(np.full((40, 40), 0.5, np.float32))) is None
    assert measure_texture(ArrayMask(np.full((1, 1), 0.5, np.float32))) is None


def test_strips_do_not_change_the_texture(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = ArrayMask(hair(128, 4))
    whole = measure_texture(mask)
    monkeypatch.setattr("refine.softness.STRIP_ROWS", 64)
    assert measure_texture(mask) == pytest.approx(whole, rel=0.05)  # rows at a strip's end are left out


@pytest.mark.parametrize(
    ("ramp", "texture", "is_shaped", "told"),
    [
        (1.6, None, False, 1.6),
        (1.6, SMOOTH, False, 1.6),
        (1.6, ROUGH, False, AVERAGED_RAMP),
        (1.7, 2.0, False, AVERAGED_RAMP),
        (1.5, (SMOOTH + ROUGH) / 2, False, 1.5),
        (1.3, ROUGH, False, 1.3),  # sharp already
        (2.4, 2.0, False, NETWORK_RAMP),  # no sharper than a network's
        (2.4, 2.0, True, AVERAGED_RAMP),
        (2.4, SHAPED_SMOOTH, True, NETWORK_RAMP),
    ],
)
def test_where_ramps_leave_it_open_the_texture_tells(
    ramp: float, texture: float | None, is_shaped: bool, told: float
) -> None:
    assert telling_ramp(ramp, texture, is_shaped=is_shaped) == pytest.approx(told)


@pytest.mark.parametrize(
    ("image", "mask", "shaped"),
    [
        ((600, 800), (300, 400), True),
        ((601, 799), (301, 400), True),  # halved and rounded
        ((600, 800), (320, 320), False),
        ((600, 800), (200, 267), False),  # by three
        ((640, 640), (320, 320), True),
    ],
)
def test_a_mask_has_the_image_s_shape_if_both_sides_were_reduced_alike(
    image: tuple[int, int], mask: tuple[int, int], shaped: bool
) -> None:
    assert has_image_shape(*image, *mask) == shaped


def test_soft_hair_that_was_averaged_is_taken_for_averaged_and_only_if_it_is_smaller_than_the_image() -> None:
    mask = cv2.GaussianBlur(hair(96, 4), (0, 0), 0.45)
    ramp, texture = measure_ramp(ArrayMask(mask), SHARPEST), measure_texture(ArrayMask(mask))
    assert ramp is not None
    assert texture is not None
    assert AVERAGED_RAMP < ramp < NETWORK_RAMP
    assert texture > SMOOTH
    small, large = (facts_of_mask(ArrayMask(mask), (side, side)).ramp for side in (384, 96))
    assert small == telling_ramp(ramp, texture, is_shaped=False) < ramp
    assert large == measure_ramp(ArrayMask(mask), USUAL)

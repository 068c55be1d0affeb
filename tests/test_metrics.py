"""Worked examples of the measures, computed with NumPy 2.3 and OpenCV 4.14, and their laws."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refine.errors import InputError
from refine.metrics import (
    boundary_accuracies,
    boundary_bands,
    boundary_f,
    boundary_iou,
    foreground,
    inner_boundary,
    iou,
    mean_absolute_error,
    mean_boundary_accuracy,
)
from refine.metrics.boundary import band_radii

TOLERANCE = 1e-6


def rectangle(side: int, rows: tuple[int, int], cols: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros((side, side), dtype=np.bool_)
    mask[slice(*rows), slice(*cols)] = True
    return mask


def square(side: int, start: int, stop: int) -> NDArray[np.bool_]:
    return rectangle(side, (start, stop), (start, stop))


def test_a_square_shifted_by_two_pixels() -> None:
    truth, prediction = square(100, 20, 80), rectangle(100, (20, 80), (22, 82))
    assert iou(prediction, truth) == pytest.approx(3480 / 3720, abs=TOLERANCE)
    assert mean_boundary_accuracy(prediction, truth) == pytest.approx(0.7436974790, abs=TOLERANCE)
    assert boundary_iou(prediction, truth) == pytest.approx(0.5, abs=TOLERANCE)


def test_a_large_square_made_five_pixels_smaller_on_each_side() -> None:
    truth, prediction = square(1500, 300, 1200), square(1500, 305, 1195)
    expected = (0.5002779322, 0.5008337966, 0.5018070614, 0.5851872451, 0.6888255337)
    assert boundary_accuracies(prediction, truth) == pytest.approx(expected, abs=TOLERANCE)
    assert mean_boundary_accuracy(prediction, truth) == pytest.approx(0.5553863138, abs=TOLERANCE)
    assert iou(prediction, truth) == pytest.approx(0.9779012346, abs=TOLERANCE)
    assert boundary_iou(prediction, truth) == pytest.approx(0.7872340426, abs=TOLERANCE)


def test_a_large_square_made_five_pixels_larger_on_each_side() -> None:
    truth, prediction = square(1500, 300, 1200), square(1500, 295, 1205)
    assert iou(prediction, truth) == pytest.approx(0.9781427364, abs=TOLERANCE)
    assert mean_boundary_accuracy(prediction, truth) == pytest.approx(0.5526520973, abs=TOLERANCE)
    assert boundary_iou(prediction, truth) == pytest.approx(0.7872340426, abs=TOLERANCE)


def test_the_truth_itself_scores_one_everywhere() -> None:
    truth = square(1500, 300, 1200)
    assert iou(truth, truth) == 1
    assert mean_boundary_accuracy(truth, truth) == 1
    assert boundary_iou(truth, truth) == 1
    assert boundary_f(truth, truth) == (1, 1, 1)


EMPTY, FULL = np.zeros((100, 100), dtype=np.bool_), np.ones((100, 100), dtype=np.bool_)


def test_empty_against_empty_is_perfect_and_has_no_outline() -> None:
    assert iou(EMPTY, EMPTY) == 1
    assert boundary_iou(EMPTY, EMPTY) == 1
    assert boundary_f(EMPTY, EMPTY) == (1, 1, 1)
    assert mean_boundary_accuracy(EMPTY, EMPTY) is None


def test_full_against_an_empty_truth_scores_nothing() -> None:
    assert iou(FULL, EMPTY) == 0
    assert boundary_f(FULL, EMPTY) == (0, 0, 0)
    assert mean_boundary_accuracy(FULL, EMPTY) is None


def test_the_border_of_the_image_counts_as_boundary_of_a_full_mask() -> None:
    assert boundary_iou(FULL, FULL) == 1
    assert mean_boundary_accuracy(FULL, FULL) is None
    assert np.count_nonzero(inner_boundary(FULL, 3)) == 100 * 100 - 94 * 94


@pytest.mark.parametrize(
    ("height", "width", "radii"),
    [
        (336, 336, (1, 1, 1, 1, 1)),
        (600, 900, (1, 1, 2, 3, 4)),
        (1024, 1024, (1, 2, 3, 4, 5)),
        (1500, 1500, (1, 2, 4, 6, 8)),
        (3000, 4000, (1, 5, 9, 14, 18)),
    ],
)
def test_band_radii_follow_the_size(height: int, width: int, radii: tuple[int, ...]) -> None:
    assert band_radii(height, width) == radii


@pytest.mark.parametrize(
    ("factor", "expected_iou", "expected_mba", "expected_boundary_iou"),
    [
        (2, 0.99939, 0.98201, 0.99733),
        (4, 0.99811, 0.94427, 0.99026),
        (8, 0.99396, 0.83668, 0.95816),
        (16, 0.98312, 0.70071, 0.88096),
    ],
)
def test_reducing_a_star_hardly_shows_in_iou_and_shows_in_mba(
    factor: int, expected_iou: float, expected_mba: float, expected_boundary_iou: float
) -> None:
    rows, cols = np.mgrid[:896, :896] - 448.0
    truth = np.hypot(rows, cols) < 300 + 25 * np.sin(24 * np.arctan2(rows, cols))
    small = cv2.resize(truth.astype(np.uint8) * 255, (896 // factor,) * 2, interpolation=cv2.INTER_AREA)
    prediction = cv2.resize(small, (896, 896), interpolation=cv2.INTER_LINEAR) > 127.5
    tolerance = 2e-4  # resize kernels differ between OpenCV's versions
    assert iou(prediction, truth) == pytest.approx(expected_iou, abs=tolerance)
    assert mean_boundary_accuracy(prediction, truth) == pytest.approx(expected_mba, abs=tolerance)
    assert boundary_iou(prediction, truth) == pytest.approx(expected_boundary_iou, abs=tolerance)


def test_the_cut_is_the_same_in_eight_bit_and_in_floats() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(foreground(values), foreground((values / 255).astype(np.float32)))
    assert np.count_nonzero(foreground(values)) == 128


def test_absolute_error_counts_soft_values() -> None:
    prediction = np.array([[1.0, 0.8, 0.4, 0.0], [0.6, 0.2, 0.2, 0.0]], dtype=np.float32)
    truth = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], dtype=np.bool_)
    assert mean_absolute_error(prediction, truth) == pytest.approx(0.25, abs=TOLERANCE)


def test_contours_within_the_tolerance_count_as_found() -> None:
    truth, prediction = square(100, 20, 80), square(100, 21, 79)
    assert boundary_f(prediction, truth, tolerance=1).precision == 1
    assert boundary_f(square(100, 25, 75), truth, tolerance=1) == (0, 0, 0)
    half = rectangle(100, (20, 80), (20, 50))
    score = boundary_f(half, truth, tolerance=1)
    assert score.precision < 1
    assert score.recall == pytest.approx(116 / 236, abs=0.02)


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(InputError, match=r"got \(100, 100\) and \(50, 50\)"):
        iou(EMPTY, EMPTY[:50, :50])


masks = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).random((23, 31)) < np.random.default_rng(seed + 1).random()
)


@settings(max_examples=50, deadline=None)
@given(mask=masks, width=st.integers(1, 6))
def test_inner_boundary_is_the_mask_minus_its_repeated_erosion(mask: NDArray[np.bool_], width: int) -> None:
    framed = np.pad(mask.astype(np.uint8), 1)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    np.testing.assert_array_equal(inner_boundary(mask, width), mask & (eroded == 0))


@settings(max_examples=50, deadline=None)
@given(mask=masks, other=masks)
def test_measures_lie_between_nothing_and_one_and_iou_is_symmetric(
    mask: NDArray[np.bool_], other: NDArray[np.bool_]
) -> None:
    accuracy = mean_boundary_accuracy(mask, other)
    for value in (iou(mask, other), boundary_iou(mask, other), accuracy, *boundary_f(mask, other)):
        assert value is None or 0 <= value <= 1
    assert iou(mask, other) == iou(other, mask)


def test_bands_given_by_the_caller_change_nothing() -> None:
    truth, prediction = square(600, 100, 400), square(600, 103, 395)
    bands = boundary_bands(truth)
    assert mean_boundary_accuracy(prediction, truth, bands=bands) == mean_boundary_accuracy(prediction, truth)

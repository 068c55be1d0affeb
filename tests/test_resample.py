"""Resampling is exact: crops equal crops of the whole, and values equal the definition."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refine.block_means import block_mean
from refine.geometry import Mask
from refine.resample import Taps, level_taps, mask_taps, resample

sizes = st.integers(1, 60)


def drawn_mask(seed: int, height: int, width: int) -> Mask:
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


def dense(taps: Taps, source_length: int) -> NDArray[np.float64]:
    """Taps as a matrix, (n, source_length)."""
    matrix = np.zeros((len(taps.first), source_length))
    for pixel, (first, weights) in enumerate(zip(taps.first, taps.weights, strict=True)):
        for tap, weight in enumerate(weights):
            if weight:
                matrix[pixel, first + tap] += weight
    return matrix


def defined_weights(pixel: int, decimation: int, length: int, source_length: int) -> dict[int, Fraction]:
    """The definition in exact fractions: area mean if the pixel covers more than one mask pixel, else bilinear."""
    ratio = Fraction(source_length, length)
    low, high = pixel * decimation * ratio, min((pixel + 1) * decimation, length) * ratio
    if high - low > 1:
        cover = {i: min(Fraction(i + 1), high) - max(Fraction(i), low) for i in range(source_length)}
        return {i: share / (high - low) for i, share in cover.items() if share > 0}
    position = (low + high) / 2 - Fraction(1, 2)
    left = floor(position)
    share = position - left
    weights: dict[int, Fraction] = {}
    for index, weight in ((left, 1 - share), (left + 1, share)):
        inside = min(max(index, 0), source_length - 1)
        weights[inside] = weights.get(inside, Fraction(0)) + weight
    return weights


@settings(deadline=None)
@given(length=sizes, source_length=sizes, decimation=st.integers(1, 20))
def test_weights_are_those_of_the_definition(length: int, source_length: int, decimation: int) -> None:
    count = -(-length // decimation)
    matrix = dense(mask_taps(0, count, decimation, length, source_length), source_length)
    for pixel in range(count):
        expected = np.zeros(source_length)
        for index, weight in defined_weights(pixel, decimation, length, source_length).items():
            expected[index] = float(weight)
        np.testing.assert_allclose(matrix[pixel], expected, rtol=0, atol=1e-15)


@settings(deadline=None)
@given(seed=st.integers(0, 99), height=sizes, width=sizes, mask_height=sizes, mask_width=sizes, data=st.data())
def test_a_crop_is_the_crop_of_the_whole(
    seed: int, height: int, width: int, mask_height: int, mask_width: int, data: st.DataObject
) -> None:
    decimation = data.draw(st.integers(1, 8))
    mask = drawn_mask(seed, mask_height, mask_width)
    level_height, level_width = -(-height // decimation), -(-width // decimation)
    top, left = data.draw(st.integers(0, level_height - 1)), data.draw(st.integers(0, level_width - 1))
    bottom = data.draw(st.integers(top + 1, level_height))
    right = data.draw(st.integers(left + 1, level_width))
    whole = resample(
        mask,
        mask_taps(0, level_height, decimation, height, mask_height),
        mask_taps(0, level_width, decimation, width, mask_width),
    )
    rows = mask_taps(top, bottom, decimation, height, mask_height)
    cols = mask_taps(left, right, decimation, width, mask_width)
    source = mask[rows.start : rows.stop, cols.start : cols.stop]
    crop = resample(source, rows, cols, (rows.start, cols.start))
    assert np.array_equal(crop, whole[top:bottom, left:right])


@settings(deadline=None)
@given(seed=st.integers(0, 99), height=sizes, width=sizes)
def test_a_mask_of_the_images_size_is_itself(seed: int, height: int, width: int) -> None:
    mask = drawn_mask(seed, height, width)
    rows, cols = mask_taps(0, height, 1, height, height), mask_taps(0, width, 1, width, width)
    assert np.array_equal(resample(mask, rows, cols), mask)


@settings(deadline=None)
@given(value=st.floats(0, 1, width=32), length=sizes, source_length=st.integers(1, 3000), decimation=st.integers(1, 60))
def test_a_uniform_mask_stays_uniform_to_the_bit(
    value: float, length: int, source_length: int, decimation: int
) -> None:
    mask = np.full((source_length, 1), value, np.float32)
    rows = mask_taps(0, -(-length // decimation), decimation, length, source_length)
    assert np.all(resample(mask, rows, mask_taps(0, 1, 1, 1, 1)) == np.float32(value))


@given(length=sizes, decimation=st.integers(1, 5), step=st.integers(1, 4))
def test_a_linear_ramp_is_enlarged_to_a_linear_ramp(length: int, decimation: int, step: int) -> None:
    coarser = decimation * step
    centres = (np.arange(-(-length // coarser)) + 0.5) * coarser
    taps = level_taps(0, -(-length // decimation), decimation, length, coarser)
    starts = np.arange(-(-length // decimation)) * decimation
    positions = (starts + np.minimum(starts + decimation, length)) / 2
    expected = np.clip(positions, centres[0], centres[-1])
    np.testing.assert_allclose(dense(taps, len(centres)) @ centres, expected, rtol=0, atol=1e-9)


@given(seed=st.integers(0, 99), height=sizes, width=sizes, decimation=st.integers(1, 20), gaps=st.booleans())
def test_block_means_are_rounded_half_up_over_valid_pixels(
    seed: int, height: int, width: int, decimation: int, gaps: bool
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    valid = rng.random((height, width)) < 0.3 if gaps else None
    means, counted = block_mean(image, valid, decimation)
    assert (counted is None) == (valid is None)
    row, col = rng.integers(0, means.shape[0]), rng.integers(0, means.shape[1])
    block = (slice(row * decimation, (row + 1) * decimation), slice(col * decimation, (col + 1) * decimation))
    pixels = image[block][np.ones(image[block].shape[:2], bool) if valid is None else valid[block]].astype(int)
    if counted is not None:
        assert counted[row, col] == (len(pixels) > 0)
    if len(pixels):
        expected = [floor(Fraction(int(band.sum()), len(band)) + Fraction(1, 2)) for band in pixels.T]
        assert means[row, col].tolist() == expected

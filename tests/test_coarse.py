"""The first mask: what the network is shown, and how its maps become one."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refine.coarse import (
    MAX_ASPECT,
    MAX_READ_PIXELS,
    bring_to_size,
    coarse_decimation,
    coarse_size,
    make_coarse,
)
from refine.errors import InputError
from refine.fill import fill_invalid
from refine.geometry import RGB, Mask
from refine.sources import ArrayImage


class Brightness:
    """A coarse network that calls bright what is bright, and remembers what it saw."""

    def __init__(self, side: int = 32) -> None:
        self.input_height = self.input_width = side
        self.seen: list[RGB] = []

    def __call__(self, rgb: RGB) -> Mask:
        assert rgb.shape == (self.input_height, self.input_width, 3)
        self.seen.append(rgb)
        mask: Mask = (rgb.mean(axis=2) / 255).astype(np.float32)
        return mask


def gradient(height: int, width: int) -> RGB:
    """Brighter to the lower right, smoothly."""
    ramp = np.add.outer(np.linspace(0, 127, height), np.linspace(0, 127, width))
    return np.repeat(ramp.astype(np.uint8)[..., None], 3, axis=2)


def expected(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """Area means over the map's grid, by sums over fractional pixels."""

    def means(source: int, target: int) -> NDArray[np.float64]:
        edges = np.arange(target + 1) * source / target
        pixels = np.arange(source)
        cover = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        return np.asarray(cover.clip(0) * target / source)

    plane: NDArray[np.float64] = means(image.shape[0], height) @ (image[..., 0] / 255) @ means(image.shape[1], width).T
    return plane


def prepared(image: RGB, side: int, valid: NDArray[np.bool_] | None = None) -> ArrayImage:
    source = ArrayImage(image, valid)
    source.prepare([coarse_decimation(source.height, source.width, side, side)])
    return source


@pytest.mark.parametrize(("height", "width"), [(32, 32), (200, 96), (97, 203), (64, 192)])
def test_an_image_up_to_three_to_one_is_shown_whole(height: int, width: int) -> None:
    network = Brightness()
    image = gradient(height, width)
    mask = make_coarse(prepared(image, 32), network)
    assert len(network.seen) == 1
    assert mask.shape == (32, 32)
    assert mask.dtype == np.float32
    # Two roundings to 8 bit on the way: the decimated level, and what the network is shown.
    np.testing.assert_allclose(mask, expected(image, 32, 32), rtol=0, atol=1.001 / 255)


@pytest.mark.parametrize("wide", [True, False])
def test_a_long_image_is_run_in_squares_and_keeps_its_proportion(wide: bool) -> None:
    network = Brightness()
    image = gradient(100, 730) if wide else gradient(730, 100)
    mask = make_coarse(prepared(image, 32), network)
    length = round(7.3 * 32)
    assert mask.shape == ((32, length) if wide else (length, 32))
    assert len(network.seen) == ceil((length - 32) / 16) + 1
    np.testing.assert_allclose(mask, expected(image, *mask.shape), rtol=0, atol=1.001 / 255)


def test_squares_that_disagree_meet_in_a_ramp() -> None:
    class Counting(Brightness):
        def __call__(self, rgb: RGB) -> Mask:
            self.seen.append(rgb)
            return np.full(rgb.shape[:2], len(self.seen) % 2, np.float32)

    mask = make_coarse(prepared(gradient(64, 640), 32), Counting())
    steps = np.abs(np.diff(mask[0]))
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert 0 < steps.max() < np.pi / 2 / 16 + 1e-6  # the steepest step of a half cosine over 16 pixels
    assert np.all(mask == mask[0])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (3, 7), (31, 33)])
def test_images_smaller_than_the_network_work(height: int, width: int) -> None:
    image = np.full((height, width, 3), 51, np.uint8)
    mask = make_coarse(prepared(image, 32), Brightness())
    np.testing.assert_allclose(mask, 0.2, atol=1e-6)
    assert mask.shape == coarse_size(height, width, 32, 32)


sides = st.integers(1, 10**6)


@given(height=sides, width=sides, side=st.sampled_from([336, 1024]))
@settings(max_examples=300)
def test_the_decimated_image_has_the_maps_pixels_and_fits_into_memory(height: int, width: int, side: int) -> None:
    decimation = coarse_decimation(height, width, side, side)
    rows, cols = ceil(height / decimation), ceil(width / decimation)
    assert rows * cols <= MAX_READ_PIXELS
    map_rows, map_cols = coarse_size(height, width, side, side)
    if decimation > 1 and ceil(height / (decimation - 1)) * ceil(width / (decimation - 1)) <= MAX_READ_PIXELS:
        assert rows >= map_rows
        assert cols >= map_cols
    larger = decimation + 1
    assert height // larger < map_rows or width // larger < map_cols


@given(height=sides, width=sides)
def test_the_map_is_square_up_to_three_to_one_and_at_most_sixteen_squares_long(height: int, width: int) -> None:
    rows, cols = coarse_size(height, width, 336, 336)
    longest = max(height / width, width / height)
    assert min(rows, cols) == 336
    assert max(rows, cols) == (336 if longest <= MAX_ASPECT else round(336 * min(longest, 16)))
    if longest > MAX_ASPECT:
        assert (rows > cols) == (height > width)


def test_fine_stripes_become_grey_not_a_pattern() -> None:
    stripes = np.zeros((640, 330, 3), np.uint8)
    stripes[:, ::2] = 255
    mask = make_coarse(prepared(stripes, 32), Brightness())
    np.testing.assert_allclose(mask, 0.5, atol=0.06)  # 330 / 32 columns: bright ones weigh 5 or 6 of 10.3


def test_an_axis_that_shrinks_is_averaged_also_where_the_other_grows() -> None:
    stripes = np.zeros((640, 20, 3), np.uint8)
    stripes[::2] = 255
    np.testing.assert_array_equal(bring_to_size(stripes, 1, (640, 20), 32, 32), 128)


def test_invalid_pixels_are_shown_as_their_nearest_valid_ones() -> None:
    image = gradient(64, 64)
    valid = np.ones((64, 64), bool)
    valid[:, 40:] = False
    image[:, 40:] = 255
    network = Brightness()
    mask = make_coarse(prepared(image, 32, valid), network)
    np.testing.assert_array_equal(network.seen[0][:, 20:], np.repeat(network.seen[0][:, 19:20], 12, axis=1))
    assert mask.max() < 0.9


@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 20), width=st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_filling_takes_a_nearest_valid_pixel(seed: int, height: int, width: int) -> None:
    random = np.random.default_rng(seed)
    valid = random.random((height, width)) < 0.3
    valid.flat[random.integers(valid.size)] = True
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.mgrid[:height, :width]
    filled = fill_invalid(pixels, valid)
    np.testing.assert_array_equal(filled[valid], pixels[valid])
    rows, cols = np.nonzero(valid)
    for row, col in zip(*np.nonzero(~valid), strict=True):
        source_row, source_col = int(filled[row, col, 0]), int(filled[row, col, 1])
        assert valid[source_row, source_col]
        nearest = np.hypot(rows - row, cols - col).min()
        # OpenCV's labels follow its 5 x 5 distance, which is off by at most 2 % and a pixel's fraction.
        assert np.hypot(source_row - row, source_col - col) <= 1.03 * nearest + 0.5


def test_nothing_valid_is_an_error() -> None:
    with pytest.raises(InputError, match="no valid pixel"):
        fill_invalid(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), bool))


def test_the_squares_of_a_long_image_are_told_one_by_one() -> None:
    shares: list[float] = []
    make_coarse(prepared(gradient(64, 640), 32), Brightness(), shares.append)
    assert len(shares) > 3
    np.testing.assert_allclose(shares, np.arange(1, len(shares) + 1) / len(shares))
    shares.clear()
    make_coarse(prepared(gradient(64, 96), 32), Brightness(), shares.append)
    assert shares == [1]

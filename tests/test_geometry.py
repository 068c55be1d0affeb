"""Windows are plain values; ramps partition every axis; mirroring goes on for as long as it takes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import axes

from refine.errors import InputError
from refine.geometry import Axis, Grid, Window, mirror

places = st.integers(-50, 50)
lengths = st.integers(0, 60)
windows = st.builds(Window, places, places, lengths, lengths)


@settings(max_examples=80, deadline=None)
@given(axis=axes())
def test_ramps_sum_to_one_at_every_pixel(axis: Axis) -> None:
    total = np.zeros(max(axis.length, axis.tile))
    for origin, ramp in zip(axis.origins, axis.ramps, strict=True):
        assert ramp.shape == (axis.tile,)
        assert ramp.min() > 0
        total[origin : origin + axis.tile] += ramp
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(axis=axes())
def test_a_ramp_is_a_windows_share_of_all_half_cosines(axis: Axis) -> None:
    """Summed over the whole axis, to the bit what is made of a window's neighbours alone."""
    shared = [before + axis.tile - after for before, after in pairwise(axis.origins)]
    profiles = np.ones((len(axis.origins), axis.tile))
    for index, length in enumerate(shared):
        rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / max(length, 1))
        profiles[index, axis.tile - length :] *= rise[::-1]
        profiles[index + 1, :length] *= rise
    total = np.zeros(max(axis.length, axis.tile))
    for origin, profile in zip(axis.origins, profiles, strict=True):
        total[origin : origin + axis.tile] += profile
    for origin, profile, ramp in zip(axis.origins, profiles, axis.ramps, strict=True):
        np.testing.assert_array_equal(ramp, (profile / total[origin : origin + axis.tile]).astype(np.float32))


def test_the_ramps_of_a_long_axis_take_no_more_than_those_of_a_short_one() -> None:
    few, many = (len(set(map(id, Axis(length, 224, 64).ramps))) for length in (5_000, 5_000_000))
    assert few == many < 10


@settings(max_examples=80, deadline=None)
@given(axis=axes())
def test_windows_lie_inside_on_the_stride_and_leave_no_gap(axis: Axis) -> None:
    stride = axis.tile - axis.overlap
    assert axis.origins[0] == 0
    assert axis.origins[-1] == max(0, axis.length - axis.tile)
    assert all(origin % stride == 0 for origin in axis.origins[:-1])
    assert all(0 < after - before <= stride for before, after in zip(axis.origins, axis.origins[1:], strict=False))


@given(axis=axes(longest=300, largest_tile=60), data=st.data())
def test_touching_names_exactly_the_windows_that_meet_the_pixels(axis: Axis, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, axis.length - 1))
    stop = data.draw(st.integers(start + 1, axis.length))
    first, last = axis.touching(start, stop)
    for index, origin in enumerate(axis.origins):
        assert (origin < stop and origin + axis.tile > start) == (first <= index < last)


def test_two_dimensional_weights_sum_to_one_where_the_image_is() -> None:
    grid = Grid(100, 17, 32, 9)
    total = np.zeros((100, 32))
    for row in range(len(grid.rows.origins)):
        for col in range(len(grid.cols.origins)):
            total[grid.window(row, col).slices] += grid.weight(row, col)
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)
    assert grid.count == 4


@given(one=windows, other=windows)
def test_an_intersection_holds_the_pixels_of_both(one: Window, other: Window) -> None:
    def pixels(window: Window) -> set[tuple[int, int]]:
        return {(r, c) for r in range(window.row, window.stop_row) for c in range(window.col, window.stop_col)}

    assert pixels(one.intersect(other)) == pixels(one) & pixels(other)


@given(window=windows, margin=st.integers(0, 9))
def test_growing_and_shrinking_back_gives_the_window(window: Window, margin: int) -> None:
    assert window.grow(margin).grow(-margin) == window


def test_an_impossible_overlap_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"--overlap 32 .* --tile 32"):
        Axis(100, 32, 32)


def test_mirroring_repeats_the_edge_and_turns_as_often_as_needed() -> None:
    line = np.array([[1, 2, 3]])
    assert mirror(line, 1, 11).tolist() == [[1, 2, 3, 3, 2, 1, 1, 2, 3, 3, 2]]
    assert mirror(line[:, :1], 4, 3).tolist() == [[1] * 3] * 4
    assert mirror(np.ones((2, 2, 3)), 5, 7).shape == (5, 7, 3)

"""Corrections are summed by weight, in the order of their windows, and rows are handed on once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine.blend import Strip, blend_rows
from refine.geometry import Grid, Mask
from refine.run import bounded
from refine.stream import Band, Corrections


def results(grid: Grid, corrections: dict[tuple[int, int], Mask], size: int) -> Iterator[Corrections]:
    """All bands and the given corrections, `size` windows at a time, late bands with the batch that needs them."""
    bands = []
    origins = grid.rows.origins
    for index, origin in enumerate(origins):
        stop = origins[index + 1] if index + 1 < len(origins) else grid.height
        bands.append(Band(index, origin, np.zeros((stop - origin, grid.width), np.float32), None))
    places = sorted(corrections)
    for start in range(0, len(places), size):
        chosen = tuple(places[start : start + size])
        new = tuple(band for band in bands if band.index <= chosen[-1][0])
        bands = bands[len(new) :]
        yield Corrections(new, chosen, np.stack([corrections[place] for place in chosen]), chosen[-1][0], 0)
    yield Corrections(tuple(bands), (), None, len(origins), 0)


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    tile=st.integers(1, 20),
    data=st.data(),
    seed=st.integers(0, 999),
    size=st.integers(1, 7),
)
def test_the_rows_are_the_weighted_sum_of_all_corrections(
    height: int, width: int, tile: int, data: st.DataObject, seed: int, size: int
) -> None:
    grid = Grid(height, width, tile, data.draw(st.integers(0, tile - 1)))
    rng = np.random.default_rng(seed)
    share = rng.random()
    corrections = {
        (row, col): rng.uniform(-1, 1, (tile, tile)).astype(np.float32)
        for row in range(len(grid.rows.origins))
        for col in range(len(grid.cols.origins))
        if rng.random() < share
    }
    expected = np.zeros((height + tile, width + tile))
    for place, correction in corrections.items():
        expected[grid.window(*place).slices] += correction.astype(np.float64) * grid.weight(*place)
    total = np.zeros((height, width), np.float32)
    written = np.zeros(height, int)
    for final in blend_rows(results(grid, corrections, size), Strip(grid)):
        rows = slice(final.band.row, final.band.stop_row)
        written[rows] += 1
        total[rows] = final.correction
        untouched = np.ones(width, np.bool_)
        for cols in final.touched:
            untouched[cols] = False
        assert not final.correction[:, untouched].any()
    assert np.all(written == 1)
    np.testing.assert_allclose(total, expected[:height, :width], rtol=0, atol=1e-5)


def test_the_order_of_batches_does_not_change_a_bit() -> None:
    grid = Grid(50, 70, 16, 11)
    rng = np.random.default_rng(0)
    places = [(r, c) for r in range(len(grid.rows.origins)) for c in range(len(grid.cols.origins))]
    corrections = {place: rng.uniform(-1, 1, (16, 16)).astype(np.float32) for place in places}
    sums = [
        np.concatenate([final.correction.copy() for final in blend_rows(results(grid, corrections, size), Strip(grid))])
        for size in (1, 5, len(places))
    ]
    assert np.array_equal(sums[0], sums[1])
    assert np.array_equal(sums[0], sums[2])


def test_corrections_are_kept_within_bounds_and_windows_with_nan_dropped() -> None:
    corrections = np.array([[[3.0, -0.5]], [[np.nan, 0.5]], [[np.inf, 0.5]], [[0.0, -7.0]]], np.float32)
    kept, sound = bounded(corrections)
    assert sound.tolist() == [True, False, False, True]
    assert kept.tolist() == [[[1.0, -0.5]], [[0.0, 0.0]], [[0.0, 0.0]], [[0.0, -1.0]]]


@pytest.mark.parametrize("overlap", [16, 32, 64])
def test_windows_that_disagree_meet_in_a_ramp(overlap: int) -> None:
    # One window says +1 throughout, the next -1: the steepest disagreement there is, along rows and columns.
    tile = 96
    grid = Grid(300, 300, tile, overlap)
    rows, cols = len(grid.rows.origins), len(grid.cols.origins)
    signs = {(row, col): np.float32((-1) ** (row + col)) for row in range(rows) for col in range(cols)}
    corrections = {place: np.full((tile, tile), sign, np.float32) for place, sign in signs.items()}
    sums = [final.correction.copy() for final in blend_rows(results(grid, corrections, 4), Strip(grid))]
    blended = np.concatenate(sums)
    assert blended.min() < -0.99
    assert blended.max() > 0.99
    # Half a cosine over the overlap goes from one window to the other: no step is larger than its slope in the middle.
    steepest = 2 * np.sin(np.pi / 2 / overlap)
    for axis in (0, 1):
        assert np.abs(np.diff(blended, axis=axis)).max() <= steepest + 1e-6

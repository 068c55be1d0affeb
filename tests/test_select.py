"""Selection finds every window that could see an outline, and its work follows the outline's length."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import axes

from refine.geometry import Axis, Mask
from refine.plan import Plan, make_plan
from refine.select import select_windows, worth_running


def chosen(mask: Mask, plan: Plan) -> NDArray[np.bool_]:
    """Which windows of a single level run."""
    (step,) = plan.levels
    ran = np.zeros((len(step.grid.rows.origins), len(step.grid.cols.origins)), np.bool_)
    for row in select_windows(lambda start, stop: (mask[start:stop], None), step, plan):
        ran[row.band.index, list(row.cols)] = True
    return ran


def plan_for(mask: Mask, tile: int, overlap: int, reach: float = 1.0) -> Plan:
    height, width = mask.shape
    return make_plan(
        height, width, mask_height=height, mask_width=width, tile=tile, overlap=overlap, reach=reach, minimum_tile=1
    )


@settings(max_examples=60, deadline=None)
@given(
    axis=axes(longest=200, largest_tile=50),
    seed=st.integers(0, 999),
    halo=st.integers(0, 30),
    share=st.floats(0, 1),
)
def test_a_window_is_skipped_only_if_all_its_grown_pixels_are_certain_alike(
    axis: Axis, seed: int, halo: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    strip = np.where(np.sort(rng.random((3, axis.length))) < share, 0.0, 0.99).astype(np.float32)
    worth = worth_running(strip, axis, halo, 0.05, 0.95)
    for origin, runs in zip(axis.origins, worth, strict=True):
        grown = strip[:, max(origin - halo, 0) : origin + axis.tile + halo]
        assert runs == (not (np.all(grown < 0.05) or np.all(grown > 0.95)))


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    at=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    thick=st.sampled_from([1, 3]),
    hole=st.booleans(),
)
def test_a_wire_and_a_hole_are_never_lost(
    size: tuple[int, int], at: tuple[float, float], thick: int, hole: bool
) -> None:
    mask = np.full(size, float(hole), np.float32)
    row, col = int(at[0] * size[0]), int(at[1] * size[1])
    mask[row : row + thick, col : col + thick if hole else None] = 1 - hole
    if (mask != hole).all(axis=0).any():
        return  # it fills the image's height, so that it has an inside
    plan = plan_for(mask, tile=32, overlap=8)
    ran = chosen(mask, plan)
    grid = plan.levels[0].grid
    for wire_row, wire_col in np.argwhere(mask != hole):
        for i in range(*grid.rows.touching(int(wire_row), int(wire_row) + 1)):
            for j in range(*grid.cols.touching(int(wire_col), int(wire_col) + 1)):
                assert ran[i, j]


@pytest.mark.parametrize("tile", [96, 224])
@pytest.mark.parametrize("count", [1, 3, 6])
def test_twice_the_outline_costs_at_most_little_more_than_twice_the_windows(tile: int, count: int) -> None:
    def bars(number: int) -> Mask:
        rows = np.arange(100, 1400)
        mask = np.zeros((1500, 6000), np.float32)
        for bar in range(number):
            for offset in range(10):  # bars lean, so that they meet the grid of windows everywhere
                mask[rows, 450 * bar + 100 + rows // 5 + offset] = 1
        return mask

    once, twice = bars(count), bars(2 * count)
    few = chosen(once, plan_for(once, tile, tile // 4)).sum()
    assert chosen(twice, plan_for(twice, tile, tile // 4)).sum() <= 2.2 * few + 8


@pytest.mark.parametrize(("reach", "halo"), [(1.0, 2), (2.4, 4)])
def test_reach_and_one_more_pixel_are_seen_around_a_window(reach: float, halo: int) -> None:
    mask = np.zeros((32, 200), np.float32)
    mask[:, 100] = 1
    origins = np.flatnonzero(chosen(mask, plan_for(mask, tile=32, overlap=31, reach=reach))[0])
    assert origins.tolist() == list(range(100 - halo - 31, 100 + halo + 1))


def test_all_runs_everything_and_asks_for_each_row_once() -> None:
    asked: list[tuple[int, int]] = []
    plan = make_plan(500, 300, mask_height=9, mask_width=9, tile=96, overlap=32, select="all")
    for step in plan.levels:
        asked.clear()

        def rows(start: int, stop: int, width: int = step.level.width) -> tuple[Mask, None]:
            asked.append((start, stop))
            return np.zeros((stop - start, width), np.float32), None

        selected = list(select_windows(rows, step, plan))
        assert all(row.cols == tuple(range(len(step.grid.cols.origins))) for row in selected)
        assert asked[0][0] == 0
        assert asked[-1][1] == step.level.height
        assert all(before[1] == after[0] for before, after in itertools.pairwise(asked))
        bands = [row.band for row in selected]
        assert sum(len(band.coarse) for band in bands) == step.level.height

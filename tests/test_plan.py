"""A plan follows from sizes and options alone, and its figures add up."""

from __future__ import annotations

import itertools
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine.cascade import FIRST_REACH, LEFT_ERROR, choose_reach, make_levels
from refine.errors import InputError, MemoryBudgetError
from refine.geometry import Window
from refine.memory import MIB
from refine.plan import Plan, make_plan
from refine.plan_table import plan_table

sizes = st.integers(1, 60_000)
GIB = 1 << 30


def plan_of(height: int, width: int, **options: object) -> Plan:
    chosen: dict[str, object] = {"mask_height": 336, "mask_width": 336, "mask_is_network_output": True}
    return make_plan(height, width, **(chosen | options))  # type: ignore[arg-type]  # any subset of the options


@settings(deadline=None)
@given(height=sizes, width=sizes, reach=st.floats(1, 5000))
def test_levels_fall_to_the_image_in_steps_of_about_four(height: int, width: int, reach: float) -> None:
    levels = make_levels(height, width, reach)
    decimations = [level.decimation for level in levels]
    assert decimations[0] == max(1, round(reach / FIRST_REACH))
    assert decimations[-1] == 1
    for coarser, finer in itertools.pairwise(decimations):
        assert finer < coarser <= 4 * (finer + 0.5)
    for level in levels:
        assert (level.height, level.width) == (ceil(height / level.decimation), ceil(width / level.decimation))
        assert 1 <= level.reach <= max(1.5 * FIRST_REACH, LEFT_ERROR * 4.5)
        assert level.reach * level.decimation <= reach * (1 + 1e-9) or level.reach == 1


@pytest.mark.parametrize(
    ("reach", "decimations"),
    [(1, [1]), (8.9, [1]), (12, [2, 1]), (24, [4, 1]), (48, [8, 3, 1]), (384, [64, 16, 4, 1])],
)
def test_the_levels_of_common_reaches(reach: float, decimations: list[int]) -> None:
    assert [level.decimation for level in make_levels(4096, 4096, reach)] == decimations


def test_a_level_after_the_first_is_wrong_by_four_pixels_of_the_one_before() -> None:
    assert [level.reach for level in make_levels(4096, 4096, 384)] == [6, 16, 16, 16]
    assert [level.reach for level in make_levels(4096, 4096, 15)] == [7.5, 8]
    assert [level.reach for level in make_levels(4096, 4096, 10)] == [5, 8]


@pytest.mark.parametrize(
    ("image", "mask", "network", "ramp", "reach"),
    [
        ((4000, 6000), (400, 300), False, None, 20.0),
        ((4000, 6000), (400, 300), True, None, 80.0),
        ((336, 336), (336, 336), True, None, 4.0),
        ((4096, 6000), (4096, 6000), False, None, 8.0),
        ((1024, 2048), (1024, 2048), False, None, 4.0),
        ((300, 200), (300, 200), False, None, 2.0),
        ((4000, 6000), (4000, 5999), False, 37.5, 37.5),
        ((4000, 6000), (400, 600), False, 1.6, 22.5),  # of either
        ((4000, 6000), (400, 600), False, 1.2, 5.0),  # a truth reduced
        ((4000, 6000), (400, 600), False, 2.1, 40.0),  # a network's
        ((4000, 6000), (400, 600), False, 6.0, 40.0),  # one that hardly saw a thing
        ((4000, 6000), (8000, 12000), False, 0.3, 2.0),
    ],
)
def test_reach_follows_from_the_mask(
    image: tuple[int, int], mask: tuple[int, int], network: bool, ramp: float | None, reach: float
) -> None:
    assert choose_reach(*image, *mask, is_network_output=network, ramp=ramp) == pytest.approx(reach, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(height=sizes, width=sizes, data=st.data())
def test_a_roi_sweeps_whole_parts_that_hold_all_it_needs(height: int, width: int, data: st.DataObject) -> None:
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    roi = Window(row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col)))
    whole, part = plan_of(height, width), plan_of(height, width, roi=roi)
    assert [step.level for step in whole.levels] == [step.level for step in part.levels]
    for step, full in zip(part.levels, whole.levels, strict=True):
        first, last = step.window_rows
        assert step.part_rows == full.part_rows
        assert first % step.part_rows == 0
        assert last % step.part_rows == 0 or last == len(step.grid.rows.origins)
        begin, end = step.grid.rows.touching(*step.rows)
        assert first <= begin
        assert end <= last
    assert part.levels[-1].rows == (roi.row, roi.stop_row)


@settings(max_examples=60, deadline=None)
@given(height=sizes, width=sizes, batch=st.integers(1, 32))
def test_memory_grows_with_the_image_and_with_the_batch(height: int, width: int, batch: int) -> None:
    plan = plan_of(height, width, batch=batch, reach=64.0)
    assert plan.planned_peak == sum(plan.memory.values())
    assert all(size >= 0 for size in plan.memory.values())
    assert plan_of(height, width, batch=batch + 1, reach=64.0).planned_peak >= plan.planned_peak
    # A part of 256 windows has fewer rows where the image is one window wider, so growth goes in teeth.
    assert plan_of(height, width + 100, batch=batch, reach=64.0).planned_peak >= plan.planned_peak * 0.95


def test_memory_follows_the_width_and_not_the_height() -> None:
    low, high = plan_of(20_000, 20_000, reach=48.0), plan_of(2_000_000, 20_000, reach=48.0)
    growing = high.planned_peak - low.planned_peak
    assert growing <= low.memory["corrections of levels"]  # which go to disk where they are many
    assert high.temporary["corrections"] > 0


@settings(max_examples=60, deadline=None)
@given(side=st.integers(500, 40_000), budget=st.integers(900 * MIB, 6 * GIB))
def test_a_budget_is_kept_or_refused_with_the_figure_that_works(side: int, budget: int) -> None:
    try:
        plan = plan_of(side, side, budget_bytes=budget)
    except MemoryBudgetError as error:
        smallest = int(str(error).rsplit(" ", 1)[1].removesuffix("MiB")) * MIB
        assert smallest > budget
        plan = plan_of(side, side, budget_bytes=smallest)
        assert plan.planned_peak > smallest - MIB
        budget = smallest
    assert plan.planned_peak <= budget
    assert [step.level for step in plan.levels] == [step.level for step in plan_of(side, side).levels]


def test_a_small_image_does_not_fill_a_batch_with_copies() -> None:
    assert plan_of(100, 100).batch == 1
    assert plan_of(400, 400, reach=1.0).batch_sizes == (1, 2, 4, 8)
    assert plan_of(5000, 5000, device="cuda").batch_sizes == (64,)
    assert plan_of(5000, 5000, batch=6).batch_sizes == (1, 2, 4, 6)


def test_on_a_gpu_activations_are_not_main_memory() -> None:
    plan = plan_of(5000, 5000, device="cuda")
    assert "network activations" not in plan.memory
    assert plan.device_memory["network activations"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 64}, "--tile 64 is below 96"),
        ({"tile": 100, "stride": 16}, "--tile 100 .* stride 16; try --tile 96"),
        ({"overlap": 224}, "--overlap 224 is not smaller than --tile 224; try --overlap 56"),
        ({"reach": 0.5}, "--reach 0.5"),
        ({"reach": float("nan")}, "--reach nan"),
        ({"batch": 0}, "--batch 0"),
        ({"roi": Window(90, 0, 11, 5)}, "--roi 90,0,11,5 .* 100 rows and 200 columns"),
        ({"roi": Window(0, 0, 0, 5)}, "--roi 0,0,0,5"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(100, 200, **options)


def test_an_overview_serves_a_level_that_its_factor_divides() -> None:
    plan = plan_of(8192, 8192, reach=384.0, overviews=(4, 8, 32))
    assert [(step.level.decimation, step.overview) for step in plan.levels] == [(64, 32), (16, 8), (4, 4), (1, None)]
    assert plan.temporary["image levels"] == 0
    # Where there are more, the one of which a level pixel averages some: what the reader takes.
    plan = plan_of(8192, 8192, reach=384.0, overviews=(2, 4, 8, 16, 32, 64))
    assert [step.overview for step in plan.levels] == [32, 8, 2, None]
    assert plan_of(8192, 8192, reach=24.0).temporary["image levels"] == 2048 * 2048 * 3


def test_only_a_given_mask_is_taken_as_hard_unseen() -> None:
    assert not plan_of(300, 300).notes
    (note,) = plan_of(300, 300, mask_height=300, mask_width=300, mask_is_network_output=False).notes
    assert "is taken as hard" in note
    seen = plan_of(300, 300, mask_height=300, mask_width=300, mask_is_network_output=False, is_hard=False)
    assert not seen.notes  # soft, but without a ramp to measure


def test_the_table_names_every_level_and_every_figure() -> None:
    plan = plan_of(3000, 5000, roi=Window(10, 20, 30, 40), budget_bytes=4 * GIB, is_hard=None)
    table = plan_table(plan)
    assert "5000 x 3000 (width x height)" in table
    assert "rows 10 to 40, columns 20 to 60" in table
    for step in plan.levels:
        assert f"1/{step.level.decimation} " in table
    for name in (*plan.memory, *plan.temporary):
        assert name in table
    assert f"{plan.planned_peak / MIB:.1f} MiB" in table
    assert "4096.0 MiB" in table
    assert max(map(len, table.splitlines())) < 120


def test_a_mask_of_the_images_size_that_was_not_read_is_said_to_be_taken_as_hard() -> None:
    unread = make_plan(4096, 4096, mask_height=4096, mask_width=4096)
    assert "taken as hard, wrong by 8 px" in unread.notes[0]
    assert unread.notes[0] in plan_table(unread)
    assert not make_plan(4096, 4096, mask_height=4096, mask_width=4096, is_hard=True).notes


@pytest.mark.parametrize("reach", [None, 1.0, 30.0])
@pytest.mark.parametrize("ramp", [None, 1.0, 2.0])
def test_headers_foresee_that_a_mask_is_agreed_with(reach: float | None, ramp: float | None) -> None:
    before = make_plan(3000, 4000, mask_height=375, mask_width=500, reach=reach)
    after = make_plan(3000, 4000, mask_height=375, mask_width=500, reach=reach, mask_ramp=ramp, is_hard=ramp is None)
    use = "agreement with the mask"
    assert (use in after.memory) == (after.agreement > 0)
    assert after.memory.get(use, 0) <= before.memory.get(use, 0)


def test_a_reach_of_a_quarter_of_the_image_is_told() -> None:
    assert not plan_of(400, 600, reach=150.0).notes
    (note,) = plan_of(400, 600, reach=151.0).notes
    assert note == "--reach 151 says that the mask may be wrong nearly anywhere in 600 x 400 px"

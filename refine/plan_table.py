"""A plan in words and figures, as `--plan` prints it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil

from refine.cascade import FURTHEST
from refine.memory import MIB
from refine.plan import Plan


def plan_table(plan: Plan) -> str:
    """All that the plan decides, in several lines."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    yield f"image       {plan.width} x {plan.height} (width x height)"
    if plan.roi is not None:
        yield f"part        rows {plan.roi.row} to {plan.roi.stop_row}, columns {plan.roi.col} to {plan.roi.stop_col}"
    held = f", nothing changes beyond {FURTHEST * plan.reach:.1f} px" if plan.holds_reach else ""
    yield f"mask        wrong by up to {plan.reach:.1f} px{held}; windows run: {plan.select}"
    if plan.agreement > 0:
        yield f"{'':12}averaged over its pixels the result is to be the mask again, where a window sees enough of them"
    often = _times(max(plan.passes_over(step.level) for step in plan.levels))
    yield f"windows     {plan.tile} px, {plan.overlap} of them shared with the next window, each refined {often}"
    yield f"batch       {plan.batch} windows on {plan.device}, {plan.look_ahead} batches read ahead"
    yield ""
    yield f"{'level':<8}{'width x height':>18}{'reach':>8}{'grid':>14}{'parts':>7}{'windows':>10}  correction"
    for step in plan.levels:
        rows, cols = len(step.grid.rows.origins), len(step.grid.cols.origins)
        parts = ceil(step.window_rows[1] / step.part_rows) - step.window_rows[0] // step.part_rows
        size = f"{step.level.width} x {step.level.height}"
        kept = "written" if step.is_last else "on disk" if step.on_disk else "in memory"
        yield (
            f"1/{step.level.decimation:<6}{size:>18}{step.level.reach:>8.1f}{f'{cols} x {rows}':>14}{parts:>7}"
            f"{step.windows:>10}  {kept}" + (f", image from overview 1/{step.overview}" if step.overview else "")
        )
    yield ""
    if plan.first_mask:
        yield from _sizes("first mask", plan.first_mask, "together, before the sweep")
    yield from _sizes("memory", plan.memory, "together, in the sweep" if plan.first_mask else "planned peak")
    if plan.first_mask:
        yield f"{'':12}{'planned peak':<28}{_mebibytes(plan.planned_peak):>12}"
    if plan.budget_bytes is not None:
        yield f"{'':12}{'of a budget of':<28}{_mebibytes(plan.budget_bytes):>12}"
    if plan.device_memory:
        yield from _sizes("on the GPU", plan.device_memory, "together")
    yield from _sizes("disk", plan.temporary, "temporary files")
    yield from (f"{'note':<12}{note}" for note in plan.notes)


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count} times"


def _sizes(title: str, sizes: Mapping[str, int], total: str) -> Iterator[str]:
    for name, size in (*sizes.items(), (total, sum(sizes.values()))):
        yield f"{title:<12}{name:<28}{_mebibytes(size):>12}"
        title = ""


def _mebibytes(size: int) -> str:
    return f"{size / MIB:.1f} MiB"

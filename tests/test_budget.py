"""`--max-memory` as the operating system counts: the smallest budget that the plan names is kept."""

from __future__ import annotations

from pathlib import Path

from memory import run_with_smallest
from scenes import write_layout


def test_a_run_keeps_within_the_smallest_budget_that_the_plan_names(tmp_path: Path) -> None:
    image, mask = write_layout(tmp_path, "four16-stripped", 250, 1500)
    found = run_with_smallest(image, ["--mask", str(mask)])
    assert found["holds"], found

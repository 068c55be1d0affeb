"""The short version of benchmarks/training_kills.py: killed at random steps, a run ends as if left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_data import small_config, tiny_network, write_pairs
from training_kills import compare

from refine.training.config import parse_config

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_twice_is_the_twin_of_one_that_was_not(tmp_path: Path, processes: int) -> None:
    if processes > 1 and not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    raw = small_config(
        write_pairs(tmp_path / "pairs"),
        model=tiny_network("mos_h_lite", 32),
        schedule={"steps": 8, "batch": 2, "warmup_steps": 2},
        checkpoint={"every": 1, "log_every": 1},
    )
    result = compare("tiny", parse_config(raw, "tiny"), tmp_path, kills=2, seed=processes, processes=processes)
    assert result.differing == []
    assert result.tensors > 100
    assert len(result.killed_at) == 2

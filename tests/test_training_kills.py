"""The short version of benchmarks/training_kills.py: killed at random steps, a run ends as if left alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_data import small_config, tiny_network, write_pairs
from training_kills import compare

from refine.training.config import parse_config


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A fork does not take OpenMP's threads with it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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

"""The short version of benchmarks/training_kills.py: killed at random steps, a run ends as if left alone."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import NoReturn

import pytest
import torch
import training_kills
from tqdm import tqdm
from training_data import small_config, tiny_network, write_pairs
from training_kills import Training, compare

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


def training_of(command: Callable[[int], object], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    """Two processes that run `command` with their rank instead of train.py."""
    monkeypatch.setattr(training_kills, "run_command", lambda *_, **__: command(int(os.environ["RANK"])))
    monkeypatch.setattr(training_kills, "PATIENCE", 2)
    monkeypatch.setattr(training_kills, "SAYING", 0.5)
    return Training(folder / "config.json", folder / "run", 2)


def test_processes_that_hang_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = training_of(lambda _rank: signal.pause(), tmp_path, monkeypatch)
    children = training.start()
    with pytest.raises(SystemExit) as failed:
        training.finish(children)
    assert "run: neither a step nor the end within 2 s" in str(failed.value)
    assert str(failed.value).count("in _fork") == 2  # a stack of each
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_process_that_fails_ends_the_other_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would wait for it for hours, where they have not met yet."""
    training = training_of(lambda rank: sys.exit(3) if rank else signal.pause(), tmp_path, monkeypatch)
    children = training.start()
    with pytest.raises(SystemExit, match="run: a process ended with 3"):
        training.finish(children)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # of Python 3.12 and later
def test_a_bar_of_one_fork_does_not_wait_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it did for ever where that other one was killed while it had tqdm's lock, a semaphore of all forks."""

    def draw(_rank: int) -> NoReturn:
        tqdm(total=1, disable=True)
        sys.exit(0)

    def hold() -> None:
        with tqdm.get_lock():
            held.set()
            done.wait()

    held, done = Event(), Event()
    holder = Thread(target=hold)
    holder.start()
    held.wait()
    training = training_of(draw, tmp_path, monkeypatch)
    try:
        training.finish(training.start())
    finally:
        done.set()
        holder.join()

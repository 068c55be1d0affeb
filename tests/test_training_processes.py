"""Two processes of torchrun train the network that one trains, and resume to the bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from training_data import small_config, tiny_network, write_pairs

from refine.training import processes
from refine.training.config import load_config
from refine.training.run import NEWEST, run_training

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


pytestmark = pytest.mark.usefixtures("one_thread")


def train_in_two(config: Path, run: Path, *, resume: Path | None = None) -> None:
    """Two processes that meet as those of torchrun do; forked, since imports would take most of the time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    shares = [context.Process(target=_share, args=(config, run, resume, rank, port)) for rank in range(2)]
    for share in shares:
        share.start()
    for share in shares:
        share.join(timeout=120)
    assert [share.exitcode for share in shares] == [0, 0]


def _share(config: Path, run: Path, resume: Path | None, rank: int, port: int) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with processes.joined():
        assert run_training(load_config(config), run, device="cpu", precision="fp32", workers=0, resume=resume)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_two_processes_are_one_with_the_double_batch(tmp_path: Path) -> None:
    """BatchNorm sees the batch of both, and means are over the batch of both: the loss and the weights agree.

    Windows are enlarged, so that the pixels that count differ from sample to sample.
    """
    config = tmp_path / "small.json"
    changes: dict[str, object] = {
        "model": tiny_network("mos_h_lite", 64),
        "augment": {"scale": [1.0, 3.0]},
        "optim": {"rate": 1e-4, "encoder_rate": 1e-4},
        "schedule": {"steps": 3, "batch": 4, "warmup_steps": 0},
        "checkpoint": {"every": 2, "log_every": 1},
    }
    config.write_text(json.dumps(small_config(write_pairs(tmp_path / "pairs"), **changes)))
    one, two = tmp_path / "one", tmp_path / "two"
    assert run_training(load_config(config), one, device="cpu", precision="fp32", workers=0)
    train_in_two(config, two)
    assert losses(two) == pytest.approx(losses(one), rel=2e-4)
    alone, shared = (tensors(run / "state-00000002.safetensors") for run in (one, two))
    assert alone.keys() == shared.keys()
    for name in alone:
        if "running" in name:
            torch.testing.assert_close(shared[name], alone[name], rtol=2e-3, atol=2e-4)

    # A run that was cut after two steps and resumed is the twin of the one above.
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "state-00000002.safetensors").write_bytes((two / "state-00000002.safetensors").read_bytes())
    train_in_two(config, cut, resume=NEWEST)
    twin, straight = (tensors(run / "state-00000003.safetensors") for run in (cut, two))
    assert [name for name in straight if not torch.equal(twin[name], straight[name])] == []


def test_torchrun_is_told_of_a_batch_that_cannot_be_shared_evenly(tmp_path: Path) -> None:
    """Without the lone dashes torchrun would take `--run` for an option of its own."""
    config = tmp_path / "odd.json"
    config.write_text(json.dumps(small_config(write_pairs(tmp_path / "pairs"), schedule={"steps": 3, "batch": 3})))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--")
    done = subprocess.run(
        [sys.executable, *launcher, str(ROOT / "train.py"), "--config", str(config), "--run", str(tmp_path / "run")],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode != 0
    assert "train.py: schedule.batch: 3 samples in 1 parts cannot be shared by 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()

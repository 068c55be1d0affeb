"""A file system that fills up while a state is saved."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_data import small_config, tiny_network, write_pairs

from refine.errors import CheckpointError
from refine.training.config import TrainingConfig, parse_config
from refine.training.own_folder import LOCK
from refine.training.run import NEWEST, run_training
from refine.training.state import states

MOUNT = shutil.which("mount")


pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(root: Path, **changes: object) -> TrainingConfig:
    raw = small_config(
        write_pairs(root / "pairs"),
        model=tiny_network("mos_h_lite", 32),
        schedule={"steps": 4, "batch": 2, "warmup_steps": 0},
        checkpoint={"every": 2, "log_every": 1},
    )
    return parse_config({**raw, **changes}, "small")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs; the test is skipped where nothing can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    call = [MOUNT or "", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if MOUNT is None or subprocess.run(call, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here; it takes root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def resize(disk: Path, size: int) -> None:
    assert MOUNT is not None
    subprocess.run([MOUNT, "-o", f"remount,size={size}", str(disk)], check=True)


def test_a_full_file_system_leaves_the_last_state_whole_and_training_goes_on(tmp_path: Path, small_disk: Path) -> None:
    config, run = config_of(tmp_path), small_disk / "run"
    asked = iter([False, True])
    assert not run_training(config, run, device="cpu", precision="fp32", workers=0, should_stop=lambda: next(asked))
    (kept,) = states(run)
    before = kept.read_bytes()
    used = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    resize(small_disk, used + len(before) // 2)
    with pytest.raises(CheckpointError, match=r"the state was not saved .*; the one before it is whole$"):
        run_training(config, run, device="cpu", precision="fp32", workers=0, resume=NEWEST)
    assert states(run) == [kept]
    assert kept.read_bytes() == before
    assert [path.name for path in run.glob(".*")] == [LOCK]
    resize(small_disk, 2**26)
    assert run_training(config, run, device="cpu", precision="fp32", workers=0, resume=NEWEST)
    assert states(run)[0].name == "state-00000004.safetensors"

"""A run that is killed and resumed is the twin, to the bit, of one that was not; refusals leave it whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from training_data import small_config, tiny_network, write_pairs

from refine.errors import CheckpointError, ConfigError, InputError
from refine.models.checkpoint import load_model
from refine.training.config import TrainingConfig, parse_config
from refine.training.loop import TrainingStopped
from refine.training.run import NEWEST, run_training
from refine.training.schedules import learning_rate_share
from refine.training.state import newest_readable, states

ROOT = Path(__file__).parent.parent


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def config(folder: Path) -> TrainingConfig:
    return parse_config(small_config(folder), "test")


def train_here(
    config: TrainingConfig,
    run: Path,
    *,
    resume: Path | None = None,
    extend: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    return run_training(
        config, run, device="cpu", precision="fp32", workers=0, resume=resume, extend=extend, should_stop=should_stop
    )


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the file is no dict


def assert_equal_to_the_bit(first: Path, second: Path) -> None:
    """The same tensors and the same metadata; the library writes the entries of the latter in no fixed order."""
    a, b = tensors(first), tensors(second)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    with safe_open(first, framework="pt") as one, safe_open(second, framework="pt") as other:
        assert one.metadata() == other.metadata()


def start(config_path: Path, run: Path, *options: str) -> subprocess.Popen[bytes]:
    """`train.py` in a process group of its own."""
    fixed = ("--device", "cpu", "--precision", "fp32", "--workers", "1")
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "--config", str(config_path), "--run", str(run), *fixed, *options],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_a_state(process: subprocess.Popen[bytes], run: Path) -> None:
    deadline = time.monotonic() + 120
    while not states(run) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def finish(process: subprocess.Popen[bytes]) -> bytes:
    """What a process said that went well."""
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return said


def test_eight_steps_equal_four_then_kill_then_four(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(small_config(folder)))
    # More steps after the state than a kill can miss; they are done again.
    killed = start(path, tmp_path / "killed")
    wait_for_a_state(killed, tmp_path / "killed")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert [p.name for p in states(tmp_path / "killed")] == ["state-00000004.safetensors"]
    finish(start(path, tmp_path / "killed", "--resume"))
    finish(start(path, tmp_path / "straight"))
    resumed, straight = tmp_path / "killed", tmp_path / "straight"
    assert_equal_to_the_bit(resumed / "state-00000008.safetensors", straight / "state-00000008.safetensors")
    assert (resumed / "last.safetensors").read_bytes() == (straight / "last.safetensors").read_bytes()


def test_sigterm_to_the_whole_group_saves_and_leaves(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text(json.dumps(small_config(folder, schedule={"steps": 100000, "batch": 2})))
    process = start(path, tmp_path / "run")
    wait_for_a_state(process, tmp_path / "run")
    os.killpg(process.pid, signal.SIGTERM)
    assert b"--resume" in finish(process)
    newest_readable(tmp_path / "run")


def test_resume_is_exact_within_a_process_too(config: TrainingConfig, tmp_path: Path) -> None:
    assert train_here(config, tmp_path / "straight")
    asked = iter([False, False, True])
    assert not train_here(config, tmp_path / "stopped", should_stop=lambda: next(asked))
    assert [path.name for path in states(tmp_path / "stopped")] == ["state-00000003.safetensors"]
    assert train_here(config, tmp_path / "stopped", resume=NEWEST)
    assert_equal_to_the_bit(*(tmp_path / run / "state-00000008.safetensors" for run in ("straight", "stopped")))
    # Killed after its last state and before the checkpoint, it has only that left to do.
    released = (tmp_path / "stopped" / "last.safetensors").read_bytes()
    (tmp_path / "stopped" / "last.safetensors").unlink()
    assert train_here(config, tmp_path / "stopped", resume=NEWEST)
    assert (tmp_path / "stopped" / "last.safetensors").read_bytes() == released


def test_weights_that_a_run_started_from_may_go(folder: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    train_here(parse_config(small_config(folder), "test"), before, should_stop=lambda: True)
    raw = small_config(folder)
    raw["model"] = {"architecture": "mos_h_lite", "size": 64, "init": str(before / "last.safetensors")}
    config = parse_config(raw, "test")
    train_here(config, tmp_path / "run", should_stop=lambda: True)
    (before / "last.safetensors").unlink()
    train_here(config, tmp_path / "run", resume=NEWEST, should_stop=lambda: True)
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        train_here(config, tmp_path / "other", should_stop=lambda: True)


def test_released_weights_are_a_checkpoint_that_loads(config: TrainingConfig, tmp_path: Path) -> None:
    train_here(config, tmp_path)
    model, metadata = load_model(tmp_path / "last.safetensors", expect="refiner")
    assert (metadata.architecture, metadata.step) == ("mos_h_lite", 8)
    assert metadata.training["samples"] == 16
    with pytest.raises(CheckpointError, match="not a training state"):
        train_here(config, tmp_path, resume=tmp_path / "last.safetensors")
    state = tensors(tmp_path / "state-00000008.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[f"ema.{name}"], rtol=1e-3, atol=1e-4)


def test_used_folder_and_changed_config_are_refused(config: TrainingConfig, folder: Path, tmp_path: Path) -> None:
    train_here(config, tmp_path)
    with pytest.raises(InputError, match="--resume"):
        train_here(config, tmp_path)
    with pytest.raises(InputError, match="--extend"):
        train_here(config, tmp_path, resume=NEWEST)
    changed = parse_config(small_config(folder, seed=4), "test")
    with pytest.raises(ConfigError, match=r"\(seed\)"):
        train_here(changed, tmp_path, resume=NEWEST, extend=12)
    listed = tmp_path / "held.csv"
    listed.write_text("set,id\nshapes,01\n")
    other_data = parse_config(small_config(folder, validation={"held_out": str(listed)}), "test")
    with pytest.raises(ConfigError, match=r"\(validation\.held_out\)"):
        train_here(other_data, tmp_path, resume=NEWEST, extend=12)
    assert train_here(config, tmp_path, resume=NEWEST, extend=10)
    assert states(tmp_path)[0].name == "state-00000010.safetensors"


def test_validations_that_decide_are_part_of_what_a_run_is(folder: Path, tmp_path: Path) -> None:
    """Of others it may be changed how often they look on."""

    def config(schedule: dict[str, object], **validation: object) -> TrainingConfig:
        raw = small_config(folder, model=tiny_network("mos_l_lite", 32), validation={"every": 5, **validation})
        return parse_config({**raw, "schedule": {"steps": 8, "batch": 2, "warmup_steps": 0, **schedule}}, "test")

    deciding: list[dict[str, object]] = [{"decay": "plateau"}, {"early_stop": 3}, {"stop_at": 90}]
    for i, schedule in enumerate([{}, *deciding]):
        run = tmp_path / str(i)
        train_here(config(schedule), run, should_stop=lambda: True)
        changed = config(schedule, every=4, images=3)
        if schedule:
            with pytest.raises(ConfigError, match=r"\(validation\.every, validation\.images\)"):
                train_here(changed, run, resume=NEWEST, should_stop=lambda: True)
        else:
            assert not train_here(changed, run, resume=NEWEST, should_stop=lambda: True)


def test_data_that_changed_since_the_state_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same bytes elsewhere and with other times are the same data."""
    data, run = write_pairs(tmp_path / "pairs"), tmp_path / "run"

    def go_on(folder: Path, *, resume: Path | None = NEWEST) -> str:
        config = parse_config(small_config(folder, model=tiny_network("mos_l_lite", 32)), "test")
        train_here(config, run, resume=resume, should_stop=lambda: True)
        return capsys.readouterr().err

    assert go_on(data, resume=None) == ""
    moved = shutil.copytree(data, tmp_path / "moved", copy_function=shutil.copy)
    assert go_on(moved) == ""
    image, mask = (moved / "shapes" / name for name in ("01.jpg", "02.png"))
    image.write_bytes(image.read_bytes() + b"!")
    plane = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
    assert plane is not None
    cv2.imwrite(str(mask), plane[::-1])
    for end in (".jpg", ".png"):
        (moved / "shapes" / f"00{end}").rename(moved / "shapes" / f"07{end}")
    state = states(run)[0]
    assert go_on(moved) == (
        f"the data has changed since {state}: 1 added (shapes/shapes/07), 2 edited (shapes/shapes/01,"
        " shapes/shapes/02), 1 removed; training goes on with it as it is now, not to the bits of a run that was left"
        " alone\n"
    )
    assert go_on(moved) == ""  # it has been told


def test_a_state_of_before_prints_tells_nothing(
    config: TrainingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here(config, tmp_path, should_stop=lambda: True)
    state = states(tmp_path)[0]
    with safe_open(state, framework="pt") as file:
        metadata = file.metadata()
    del metadata["digest"]  # which earlier versions did not have either
    save_file({name: tensor for name, tensor in tensors(state).items() if name != "data"}, state, metadata=metadata)
    assert not train_here(config, tmp_path, resume=NEWEST, should_stop=lambda: True)
    assert "changed" not in capsys.readouterr().err
    assert "data" in tensors(states(tmp_path)[0])


def test_options_without_effect_in_a_state_of_before_do_not_keep_it_from_going_on(folder: Path, tmp_path: Path) -> None:
    """Earlier versions took them and passed them over."""
    config = parse_config(small_config(folder, model=tiny_network("mos_l_lite", 32)), "test")
    old = config.model_copy(update={"perturb": config.perturb.model_copy(update={"hard": 0.9})})
    train_here(old, tmp_path, should_stop=lambda: True)
    assert not train_here(config, tmp_path, resume=NEWEST, should_stop=lambda: True)


def test_truncated_newest_state_is_passed_over(config: TrainingConfig, tmp_path: Path) -> None:
    train_here(config, tmp_path)
    newest, before = states(tmp_path)
    newest.write_bytes(newest.read_bytes()[:5000])
    assert newest_readable(tmp_path) == before
    before.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a readable training state"):
        newest_readable(tmp_path)


def test_a_loss_that_is_not_finite_stops_before_the_step(config: TrainingConfig, folder: Path, tmp_path: Path) -> None:
    wild = parse_config(small_config(folder, optim={"rate": 1e30, "encoder_rate": 1e30, "clip_norm": 1e30}), "test")
    with pytest.raises(TrainingStopped, match="no step was taken"):
        train_here(wild, tmp_path)


def test_schedule_warms_up_and_ends_low(config: TrainingConfig) -> None:
    schedule = config.schedule.model_copy(update={"steps": 100, "warmup_steps": 10})
    shares = [learning_rate_share(step, schedule) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == shares[9] == shares[10] == 1
    assert all(a >= b for a, b in pairwise(shares[10:]))
    assert shares[100] == pytest.approx(0.01)


def test_accumulating_sees_every_sample_once(config: TrainingConfig, tmp_path: Path) -> None:
    """Loss and gradient are means over parts of equal size, so one sample a part is still the whole batch."""
    parts = config.model_copy(update={"schedule": config.schedule.model_copy(update={"accumulate": 2, "steps": 1})})
    whole = config.model_copy(update={"schedule": config.schedule.model_copy(update={"steps": 1})})
    train_here(parts, tmp_path / "parts")
    train_here(whole, tmp_path / "whole")
    a, b = (tensors(tmp_path / run / "state-00000001.safetensors") for run in ("parts", "whole"))
    # Heads that start at zero give their biases a gradient that BatchNorm, which sees smaller batches, has no part in.
    first, second = a["optim.exp_avg.heads.s2.bias"], b["optim.exp_avg.heads.s2.bias"]
    torch.testing.assert_close(first, second, rtol=0.1, atol=1e-5)

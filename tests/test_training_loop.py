"""The loop's choices: rates, early stop, precision, what is kept, what a dry run and an overfitted one say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from training_data import small_config, tiny_network, write_pairs

from refine.errors import ConfigError, InputError
from refine.training.config import Schedule, TrainingConfig, parse_config
from refine.training.dry_run import dry_run
from refine.training.loop import TrainingStopped
from refine.training.run import NEWEST, TrainingPrecision, make_samples, run_training
from refine.training.schedules import Gains, learning_rate_share
from refine.training.state import read_state, states

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def coarse_config(folder: Path, **changes: object) -> TrainingConfig:
    """A network without mask, the cheapest to train here."""
    return parse_config(small_config(folder, model=tiny_network("mos_l_lite", 32), **changes), "test")


def train_here(
    config: TrainingConfig,
    run: Path,
    *,
    precision: TrainingPrecision = "fp32",
    scores: Iterator[float] | None = None,
    resume: Path | None = None,
    stops: Iterator[bool] | None = None,
) -> bool:
    """Scores stand for validations, in their order."""
    return run_training(
        config, run, device="cpu", precision=precision, workers=0, resume=resume,
        make_validator=None if scores is None else lambda _config, _pause: lambda _path: {"score": next(scores)},
        should_stop=(lambda: False) if stops is None else lambda: next(stops),
    )  # fmt: skip


def logged(run: Path, group: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["group"] == group]


def test_rates_of_each_schedule() -> None:
    common = {"steps": 100, "batch": 1, "warmup_steps": 10, "final_share": 0.02}
    step = Schedule.model_validate({**common, "decay": "step", "drops": [0.5, 0.8]})
    shares = [learning_rate_share(i, step) for i in (9, 49, 50, 79, 80, 99)]
    assert shares == pytest.approx([1, 1, 0.1, 0.1, 0.02, 0.02])  # a hundredth is below the final share
    plateau = Schedule.model_validate({**common, "decay": "plateau", "drop_factor": 0.5})
    assert [learning_rate_share(50, plateau, drops) for drops in range(4)] == [1, 0.5, 0.25, 0.125]
    constant = Schedule.model_validate({**common, "decay": "constant"})
    assert learning_rate_share(99, constant, drops=3) == 1


@given(scores=st.lists(st.floats(0, 100), min_size=1, max_size=40), patience=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_the_plateau_is_torchs(scores: list[float], patience: int) -> None:
    """ReduceLROnPlateau in its mode "max" with an absolute threshold."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", patience=patience, threshold=0.5, threshold_mode="abs", factor=0.5, eps=0
    )
    schedule = Schedule(
        steps=9,
        batch=1,
        warmup_steps=0,
        decay="plateau",
        patience=patience,
        min_gain=0.5,
        drop_factor=0.5,
        final_share=0,
    )
    gains = Gains()
    for score in scores:
        theirs.step(score)
        gains = gains.after(score, schedule)
        assert learning_rate_share(5, schedule, gains.drops) == optimizer.param_groups[0]["lr"]
    assert gains.best == max(scores)


def test_plateau_and_early_stop_follow_the_validations_and_resume_alike(folder: Path, tmp_path: Path) -> None:
    schedule = {"steps": 50, "batch": 2, "warmup_steps": 0, "decay": "plateau", "patience": 0, "early_stop": 3}
    config = coarse_config(folder, schedule=schedule, validation={"every": 1})
    scores = [5.0, 7.0, 7.0, 6.0, 8.0, 8.0, 8.0, 8.0, 99.0]
    assert train_here(config, tmp_path / "straight", scores=iter(scores))
    straight = read_state(states(tmp_path / "straight")[0])[1]
    assert (straight.step, straight.gains.drops, straight.gains.best) == (8, 5, 8.0)

    stopped = tmp_path / "stopped"
    # Asked to stop after its fourth step, it leaves that one's validation to the run that goes on.
    assert not train_here(config, stopped, scores=iter(scores[:3]), stops=iter([False] * 3 + [True]))
    assert train_here(config, stopped, scores=iter(scores[3:]), resume=NEWEST)
    for name in ("state-00000008.safetensors", "last.safetensors", "best.safetensors"):
        assert _tensors(tmp_path / "straight" / name) == _tensors(stopped / name), name
    with pytest.raises(InputError, match="early_stop"):
        train_here(config, stopped, scores=iter([]), resume=NEWEST)


def test_early_stop_without_validations_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"validation\.every"):
        coarse_config(folder, schedule={"steps": 5, "batch": 2, "early_stop": 2})


def test_float16_learns_scales_its_loss_and_resumes_to_the_bit(folder: Path, tmp_path: Path) -> None:
    config = coarse_config(folder, schedule={"steps": 6, "batch": 2, "warmup_steps": 0}, augment={"grey": 0.0})
    assert train_here(config, tmp_path / "straight", precision="fp16")
    assert not train_here(config, tmp_path / "stopped", precision="fp16", stops=iter([False, True]))
    assert read_state(states(tmp_path / "stopped")[0])[1].scaler["scale"] > 1
    assert train_here(config, tmp_path / "stopped", precision="fp16", resume=NEWEST)
    straight, stopped = (tmp_path / run / "state-00000006.safetensors" for run in ("straight", "stopped"))
    assert _tensors(straight) == _tensors(stopped)
    assert read_state(straight)[1] == read_state(stopped)[1]
    assert any(name.startswith("optim.exp_avg.") for name in _tensors(straight))


def test_a_step_beyond_float16_is_left_out_and_the_scale_halved(folder: Path, tmp_path: Path) -> None:
    """A loss of 10 000 times the usual, scaled by 65 536, has gradients that float16 cannot hold."""
    loss = {"outputs": {"final": {"bce": 1e4}}}
    config = coarse_config(folder, loss=loss, schedule={"steps": 1, "batch": 2, "warmup_steps": 0})
    train_here(config, tmp_path, precision="fp16")
    state, progress = read_state(states(tmp_path)[0])
    assert progress.scaler["scale"] == 32768
    assert not any(name.startswith("optim.") for name in state)  # Adam has taken no step


def test_a_batch_whose_loss_is_not_finite_is_kept_and_named(folder: Path, tmp_path: Path) -> None:
    optim = {"rate": 1e30, "encoder_rate": 1e30, "clip_norm": 1e30}
    config = coarse_config(folder, optim=optim, checkpoint={"every": 1})
    with pytest.raises(TrainingStopped, match=r"no step was taken; its batch \(samples \d+ to \d+\) is in") as stopped:
        train_here(config, tmp_path)
    (path,) = tmp_path.glob("bad-batch-*.safetensors")
    assert str(path) in str(stopped.value)
    step = int(path.stem.rpartition("-")[2])
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"step": str(step), "samples": f"{2 * step - 2} to {2 * step - 1}"}
        again = make_samples(config)[2 * step - 1]
        assert all(torch.equal(file.get_tensor(name)[1], again[name]) for name in again)
    assert read_state(states(tmp_path)[0])[1].step == step - 1
    assert all(torch.isfinite(tensor).all() for tensor in read_state(states(tmp_path)[0])[0].values())


def test_best_last_and_every_nth_weights_are_kept(folder: Path, tmp_path: Path) -> None:
    config = coarse_config(
        folder, checkpoint={"every": 2, "keep_every": 3}, validation={"every": 2},
        schedule={"steps": 8, "batch": 2, "warmup_steps": 0},
    )  # fmt: skip
    assert train_here(config, tmp_path, scores=iter([3.0, 9.0, 4.0, 9.0]))
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "best.safetensors", "last.safetensors", "state-00000006.safetensors", "state-00000008.safetensors",
        "weights-00000003.safetensors", "weights-00000006.safetensors",
    ]  # fmt: skip
    with safe_open(tmp_path / "best.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["metrics"]) == {"score": 9.0}
        assert json.loads(file.metadata()["step"]) == 4


def test_a_dry_run_says_sizes_and_limits_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    config = coarse_config(folder)
    seen = dry_run(config, device="cpu", precision="fp32", workers=0)
    assert seen.shapes == {"image": (2, 32, 32, 3), "truth": (2, 32, 32)}
    assert seen.parameters == sum(t.numel() for t in _weights(config))
    assert seen.memory > 50 * 2**20
    assert 1 / seen.rate == pytest.approx(1 / seen.loader_rate + 1 / seen.step_rate)
    limit = "loader" if seen.loader_rate < seen.step_rate else "device"
    assert f"the {limit} limits" in seen.lines(config)
    assert list(tmp_path.iterdir()) == []


def test_an_overfitted_run_sees_its_few_samples_only_and_learns_them(folder: Path, tmp_path: Path) -> None:
    config = coarse_config(folder, schedule={"steps": 24, "batch": 2, "warmup_steps": 0}, optim={"rate": 3e-3})
    config = config.model_copy(update={"overfit": 2})
    samples = make_samples(config)
    assert torch.equal(samples[0]["image"], samples[2]["image"])
    assert torch.equal(samples[1]["truth"], samples[41]["truth"])
    assert not torch.equal(samples[0]["image"], samples[1]["image"])
    config = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"log_every": 4})})
    assert train_here(config, tmp_path)
    losses = [entry["loss"] for entry in logged(tmp_path, "train")]
    assert losses[-1] < 0.7 * losses[0]
    assert sum(a > b for a, b in pairwise(losses)) >= 4


def _weights(config: TrainingConfig) -> list[torch.Tensor]:
    from refine.training.run import build_network

    return list(build_network(config)[0].parameters())


def _tensors(path: Path) -> dict[str, bytes]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118  # it is no dict

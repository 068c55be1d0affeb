"""A run that is to stop while it validates: it leaves at the next image, and the run that goes on is the twin."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from safetensors import safe_open
from training_data import small_config, tiny_network, write_pairs

from refine.models.checkpoint import load_model
from refine.training.config import TrainingConfig, parse_config
from refine.training.own_folder import LOCK
from refine.training.run import NEWEST, run_training
from refine.training.state import read_state, states

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = 5


class Validations:
    """Validations of `IMAGES` images each; before image `at`, counted over all of them, SIGTERM comes."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.seen: Iterator[int] = count()
        self.scored = 0

    def __call__(self, _config: TrainingConfig, before_each: Callable[[], None]) -> Callable[[Path], dict[str, float]]:
        def score(checkpoint: Path) -> dict[str, float]:
            for _ in range(IMAGES):
                if next(self.seen) == self.at:
                    os.kill(os.getpid(), signal.SIGTERM)
                before_each()
                self.scored += 1
            weights = load_model(checkpoint)[0].state_dict().values()
            return {"score": 50 + float(sum(w.float().mean() for w in weights))}

        return score


def config_of(root: Path) -> TrainingConfig:
    """Validations after steps 2, 4 and 5, states after 3 and 5."""
    raw = small_config(
        root / "pairs" if (root / "pairs").exists() else write_pairs(root / "pairs"),
        model=tiny_network("mos_l_lite", 32),
        schedule={"steps": 5, "batch": 2, "warmup_steps": 0, "decay": "plateau", "patience": 0, "min_gain": 5},
        validation={"every": 2},
        checkpoint={"every": 3, "log_every": 1, "keep_every": 4},
    )
    return parse_config(raw, "test")


def train_here(config: TrainingConfig, run: Path, validations: Validations, *, resume: Path | None = None) -> bool:
    return run_training(
        config, run, device="cpu", precision="fp32", workers=0, resume=resume, make_validator=validations
    )


def content(path: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """Tensors and metadata; the library writes the entries of the latter in no fixed order."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118  # it is no dict
        return tensors, file.metadata()


@pytest.mark.parametrize("validation", [2, 3])
def test_sigterm_in_a_validation_acts_at_the_next_image_and_resume_is_exact(tmp_path: Path, validation: int) -> None:
    config, straight, stopped = config_of(tmp_path), tmp_path / "straight", tmp_path / "stopped"
    assert train_here(config, straight, Validations())

    cut = Validations(at=(validation - 1) * IMAGES + 2)
    assert not train_here(config, stopped, cut)
    assert cut.scored == (validation - 1) * IMAGES + 2
    progress = read_state(states(stopped)[0])[1]
    assert (progress.step, progress.awaits_validation) == ([2, 4, 5][validation - 1], True)
    assert [path.name for path in stopped.glob(".*")] == [LOCK]
    # Killed as early again, it has lost nothing.
    assert not train_here(config, stopped, Validations(at=0), resume=NEWEST)
    assert read_state(states(stopped)[0])[1] == progress

    assert train_here(config, stopped, left := Validations(), resume=NEWEST)
    assert left.scored == (3 - validation + 1) * IMAGES
    for name in ("state-00000005", "last", "best", "weights-00000004"):
        assert content(straight / f"{name}.safetensors") == content(stopped / f"{name}.safetensors"), name
    assert not read_state(states(stopped)[0])[1].awaits_validation

"""What the `train` command does: reads the config, starts or resumes the run, says where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from refine.training.config import load_config

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """The options of one invocation; none of them changes what is learnt, but for `extend` and the data's places."""

    config: Path
    folder: Path | None = None  # None: runs/<config's stem>
    data: Mapping[str, str] = field(default_factory=dict)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: int = 1
    threads: int | None = None
    resume: bool = False
    resume_from: Path | None = None
    extend: int | None = None
    stop_after_minutes: float | None = None


def train_network(request: TrainRequest) -> str:
    """Train, and give one line that says how it ended and what to do next.

    Raises RefineError: ConfigError for a wrong config, InputError for data that cannot be used or a folder that holds
    a run already, CheckpointError for a state that cannot be read.
    """
    config = load_config(request.config, dict(request.data))
    folder = request.folder or RUNS / request.config.stem
    import torch

    from refine.training.run import NEWEST, run_training
    from refine.validation import make_validator

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    resume = request.resume_from or (NEWEST if request.resume else None)
    finished = run_training(
        config,
        folder,
        device=request.device,
        precision=request.precision,
        workers=request.workers,
        resume=resume,
        extend=request.extend,
        stop_after_minutes=request.stop_after_minutes,
        make_validator=partial(make_validator, device=request.device),
    )
    if finished:
        return f"finished; the averaged weights are {folder / 'last.safetensors'}"
    extended = "" if request.extend is None else f" --extend {request.extend}"
    return f"stopped and saved; go on with: python train.py --config {request.config} --run {folder} --resume{extended}"

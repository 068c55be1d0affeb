"""What the `train` command does: reads the config, starts or resumes the run, says where it stands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from refine.allocation import keep_freed_memory
from refine.training.config import TrainingConfig, load_config

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """The options of one invocation; none of them changes what is learnt, but for `extend` and the data's places."""

    config: Path
    folder: Path | None = None  # None: runs/<config's stem>, with -overfit where that is asked for
    data: Mapping[str, str] = field(default_factory=dict)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    workers: int = 1
    threads: int | None = None
    resume: bool = False
    resume_from: Path | None = None
    extend: int | None = None
    stop_after_minutes: float | None = None
    dry_run: bool = False
    overfit: int | None = None


UNCHANGED = TrainRequest(Path())
"""The defaults, which a command need not name."""


def train_network(request: TrainRequest) -> str:
    """Train, and say how it ended and what to do next; with `dry_run`, what training would be like.

    Under torchrun every process calls this; all but the first get an empty text.

    Raises RefineError: ConfigError for a wrong config, InputError for data that cannot be used or a folder that holds
    a run already, CheckpointError for a state that cannot be read.
    """
    config = load_config(request.config, dict(request.data))
    stem = request.config.stem
    if request.overfit is not None:
        config, stem = config.model_copy(update={"overfit": request.overfit}), f"{stem}-overfit"
    folder = request.folder or RUNS / stem
    keep_freed_memory()
    import torch

    from refine.training import processes

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    with processes.joined():
        text = _dry_run(request, config) if request.dry_run else _train(request, config, folder)
        return text if processes.rank() == 0 else ""


def _dry_run(request: TrainRequest, config: TrainingConfig) -> str:
    from refine.training.dry_run import dry_run

    seen = dry_run(config, device=request.device, precision=request.precision, workers=request.workers)
    return seen.lines(config)


def _train(request: TrainRequest, config: TrainingConfig, folder: Path) -> str:
    from refine.training.run import NEWEST, run_training
    from refine.validation import make_validator

    finished = run_training(
        config,
        folder,
        device=request.device,
        precision=request.precision,
        workers=request.workers,
        resume=request.resume_from or (NEWEST if request.resume else None),
        extend=request.extend,
        stop_after_minutes=request.stop_after_minutes,
        make_validator=partial(make_validator, device=request.device),
    )
    if finished and config.overfit:
        from refine.training.overfit import iou_by_heart

        score = iou_by_heart(config, folder / "last.safetensors", request.device)
        return f"finished; IoU {score:.3f} on the {config.overfit} samples; above 0.98 the network can learn by heart"
    if finished:
        return f"finished; the averaged weights are {folder / 'last.safetensors'}"
    return f"stopped and saved; go on with: {_command(request, folder)}"


def _command(request: TrainRequest, folder: Path) -> str:
    """What goes on with a run, with the options that it was given."""
    words = ["python", "train.py", "--config", str(request.config), "--run", str(folder)]
    for name, path in request.data.items():
        words += ["--data", f"{name}={path}"]
    for name in ("device", "precision", "workers", "threads"):
        value = getattr(request, name)
        words += [f"--{name}", str(value)] if value != getattr(UNCHANGED, name) else []
    words.append("--resume")
    words += [] if request.extend is None else ["--extend", str(request.extend)]
    words += [] if request.overfit is None else ["--overfit", str(request.overfit)]
    return shlex.join(words)

"""All of a run in one safetensors file, written whole or not at all: weights, EMA, optimizer, step, config."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from refine.errors import CheckpointError
from refine.training.own_folder import UNFINISHED
from refine.training.schedules import Gains

FORMAT = 1
DATA = "data"
DIGEST = "digest"
KEPT = 2
"""States that are kept: the newest, and one before it in case the disk damages a file."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands. Every random draw follows from the config's seed and `step`, so no generator is stored."""

    step: int
    gains: Gains
    config: dict[str, object]
    scaler: Mapping[str, float] = field(default_factory=dict)  # of float16's loss; empty in other precisions
    awaits_validation: bool = False  # the one of `step` was due, and is what a resumed run begins with
    files: Mapping[str, str] = field(default_factory=dict)  # sha256 of what the weights come from, by place in `config`
    data: Tensor | None = field(default=None, compare=False)  # `fingerprint.numbers` of it; none in older states


def save_state(
    folder: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> Path:
    """Write state-<step>.safetensors into `folder` by rename, then drop all but the newest `KEPT`."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.state_dict().items()}
    tensors |= {f"optim.{k}": v for k, v in optimizer_tensors(model, optimizer).items()}
    tensors |= {} if progress.data is None else {DATA: progress.data}
    # Tensors that share memory are refused by the format, so each is stored as a copy of its own.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "format": str(FORMAT),
        "step": str(progress.step),
        "best": json.dumps(progress.gains.best),
        "gains": json.dumps(asdict(progress.gains), sort_keys=True),
        "scaler": json.dumps(dict(progress.scaler), sort_keys=True),
        "awaits_validation": json.dumps(progress.awaits_validation),
        "files": json.dumps(dict(progress.files), sort_keys=True),
        "config": json.dumps(progress.config, sort_keys=True),
    }
    metadata[DIGEST] = _digest(tensors, metadata)
    path = folder / f"state-{progress.step:08d}.safetensors"
    unfinished = folder / UNFINISHED
    hidden = unfinished / path.name
    try:
        unfinished.mkdir(exist_ok=True)
        save_file(tensors, hidden, metadata=metadata)
        hidden.chmod(unfinished.stat().st_mode & 0o666)  # safetensors gives 0600; the folder's follows the umask
        _flush(hidden)
        hidden.replace(path)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        before = "; the one before it is whole" if states(folder) else ""
        raise CheckpointError(f"{path}: the state was not saved ({error}){before}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for old in states(folder)[KEPT:]:
        old.unlink()
    return path


def states(folder: Path) -> list[Path]:
    """Saved states, newest first."""
    return sorted(folder.glob("state-*.safetensors"), reverse=True)


def last_state(folder: Path, then: str = "") -> str:
    """The end of a message on what stopped a run: that its last state is whole, if it has one yet."""
    return f"; the last state is whole{then}" if states(folder) else ""


def load_state(path: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put the state in `path` back. Raises CheckpointError if the file is damaged or of another network."""
    tensors, progress = read_state(path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optim": {}, DATA: {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    try:
        model.load_state_dict(parts["model"])
        ema.load_state_dict(parts["ema"])
    except RuntimeError as error:
        raise CheckpointError(f"{path}: belongs to another network: {str(error).splitlines()[-1].strip()}") from None
    restore_optimizer(model, optimizer, parts["optim"])
    return progress


def read_state(path: Path) -> tuple[dict[str, Tensor], Progress]:
    """Raises CheckpointError if the file is damaged or no state; those of earlier versions have no digest to tell."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the file is no dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable training state: {error}") from None
    if metadata.get("format") != str(FORMAT) or not {"step", "best", "config"} <= metadata.keys():
        raise CheckpointError(f"{path}: not a training state of this version (format {metadata.get('format')})")
    if metadata.get(DIGEST, "") not in ("", _digest(tensors, metadata)):
        raise CheckpointError(f"{path}: damaged: its content is not what was saved")
    # States of the first version knew the best score alone.
    gains = json.loads(metadata.get("gains", json.dumps({"best": json.loads(metadata["best"])})))
    return tensors, Progress(
        step=int(metadata["step"]),
        gains=Gains(**gains),
        config=json.loads(metadata["config"]),
        scaler=json.loads(metadata.get("scaler", "{}")),
        awaits_validation=json.loads(metadata.get("awaits_validation", "false")),
        files=json.loads(metadata.get("files", "{}")),
        data=tensors.get(DATA),
    )


def newest_readable(folder: Path) -> Path:
    """The newest state that can be read whole; a truncated one is passed over, and named on stderr."""
    problems: list[str] = []
    for path in states(folder):
        try:
            read_state(path)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            for problem in problems:
                print(f"{problem}; {path.name} is taken", file=sys.stderr)
            return path
    raise CheckpointError(problems[0] if problems else f"{folder}: no saved state to resume from")


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts under the names of the parameters they belong to."""
    named = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            named[f"{key}.{name}"] = torch.as_tensor(value)
    return named


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        key, _, parameter_name = name.partition(".")
        parameter = parameters[parameter_name]
        # Adam keeps its step count on the CPU, its moments beside the parameter.
        value = tensor if key == "step" else tensor.to(parameter.device)
        optimizer.state[parameter][key] = value


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 of all that a state says, its own digest aside: names, types, shapes and bytes in the order of names."""
    digest = sha256(json.dumps(sorted(item for item in metadata.items() if item[0] != DIGEST)).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

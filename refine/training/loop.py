"""The training loop, read top to bottom: batch, coarse mask, loss, step, average, log, save."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from statistics import fmean
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from refine.errors import RefineError
from refine.models.blocks import coarse_logit
from refine.models.preprocessing import Preprocessing
from refine.training.config import Optim, Schedule, TrainingConfig
from refine.training.depthwise import keep_in_float32
from refine.training.log import Log
from refine.training.losses import total_loss
from refine.training.samples import Sample
from refine.training.state import Progress, save_state

Validator = Callable[[nn.Module, int], dict[str, float]]
"""Scores the averaged weights at a step, on whole images; the figure under "score" is the one that picks the best."""


class TrainingStopped(RefineError):
    """Training cannot go on: the loss is not finite."""


@dataclass(frozen=True)
class Machine:
    """Where and how to run; none of it changes what is learnt, but for rounding."""

    device: torch.device
    use_bf16: bool
    workers: int

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.use_bf16 else nullcontext()


@dataclass
class Run:
    """What changes while training runs."""

    model: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: float | None = None


def new_run(model: nn.Module, config: TrainingConfig, device: torch.device) -> Run:
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    return Run(model, ema, make_optimizer(model, config.optim))


def train(
    run: Run,
    samples: Dataset[Sample],
    config: TrainingConfig,
    preprocessing: Preprocessing,
    machine: Machine,
    folder: Path,
    log: Log,
    *,
    validator: Validator | None = None,
    keep_best: Callable[[], object] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train from `run.step` to the end of the schedule; True when it got there, False when `should_stop` said so.

    The state is saved every `checkpoint.every` steps, at the end, and on stopping.
    """
    schedule = config.schedule
    if machine.device.type == "cpu" and machine.use_bf16:
        keep_in_float32(run.model)
    with tqdm(total=schedule.steps, initial=run.step, unit="step", disable=None, dynamic_ncols=True) as bar:
        started, since_log = time.monotonic(), []
        for batch in batches(samples, schedule, machine, first_step=run.step):
            since_log.append(training_step(run, batch, config, preprocessing, machine))
            run.step += 1
            bar.update()
            if run.step % config.checkpoint.log_every == 0:
                now = time.monotonic()
                losses = {name: fmean(step[name] for step in since_log) for name in since_log[0]}
                losses["samples_per_second"] = config.checkpoint.log_every * schedule.batch / (now - started)
                losses["rate"] = learning_rate_share(run.step, schedule) * config.optim.rate
                started, since_log = now, []
                log.scalars("train", losses, run.step)
                bar.set_postfix(loss=f"{losses['loss']:.4f}")
            finished = run.step >= schedule.steps
            leaving = finished or should_stop()
            if validator and config.validation.every and (finished or run.step % config.validation.every == 0):
                _validate(run, validator, keep_best, log)
            if leaving or run.step % config.checkpoint.every == 0:
                save_state(folder, run.model, run.ema, run.optimizer, Progress(run.step, run.best, dump(config)))
                log.pictures(batch, run.ema, preprocessing, run.step)
            if leaving:
                return finished
    return True


def training_step(
    run: Run, batch: Sample, config: TrainingConfig, preprocessing: Preprocessing, machine: Machine
) -> dict[str, float]:
    """One optimizer step over a batch, in `accumulate` parts; gives the losses by name."""
    torch.manual_seed(config.seed * 1_000_003 + run.step)
    set_rates(run.optimizer, learning_rate_share(run.step, config.schedule), config.optim)
    run.model.train()
    if config.optim.freeze_encoder_norm:
        freeze_norm(run.model.get_submodule("encoder"))
    totals: dict[str, float] = {}
    parts = config.schedule.accumulate
    for i in range(parts):
        part = {k: v[i::parts].to(machine.device, non_blocking=True) for k, v in batch.items()}
        image = preprocessing.normalise(part["image"])
        truth, trusted = part["truth"][:, None], part["trusted"][:, None]
        coarse, reach = coarse_input(run.ema, part, preprocessing, machine) if "coarse" in part else (None, None)
        with machine.autocast():
            outputs = run.model(image, coarse, reach)
        start = coarse_logit(coarse) if coarse is not None else None
        loss, named = total_loss(outputs, truth, trusted, config.loss, start)
        if not torch.isfinite(loss):
            place, value = f"step {run.step + 1}", float(loss.detach())
            raise TrainingStopped(f"{place}: the loss is {value}; no step was taken, the last state is whole")
        torch.autograd.backward(loss / parts)
        for name, value in {**named, "loss": float(loss.detach())}.items():
            totals[name] = totals.get(name, 0.0) + value / parts
    totals["gradient_norm"] = float(nn.utils.clip_grad_norm_(run.model.parameters(), config.optim.clip_norm))
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    average(run.ema, run.model, config.optim.ema, run.step)
    return totals


@torch.no_grad()
def coarse_input(ema: nn.Module, part: Sample, preprocessing: Preprocessing, machine: Machine) -> tuple[Tensor, Tensor]:
    """(B, 1, H, W) coarse masks and (B,) reaches; samples of kind "cascade" get the network's own coarser result."""
    coarse, reach = part["coarse"][:, None], part["reach"]
    correction = cast(Callable[[Tensor, Tensor, Tensor], Tensor], ema.correction)
    for factor in sorted(set(part["factor"].tolist()) - {0}):
        chosen = part["factor"] == factor
        outer = part["outer_coarse"][chosen][:, None]
        image = preprocessing.normalise(part["outer_image"][chosen])
        with machine.autocast():
            refined = outer + correction(image, outer, part["outer_reach"][chosen])
        enlarged = F.interpolate(refined.clamp(0, 1), scale_factor=factor, mode="bilinear", align_corners=False)
        side = coarse.shape[-1]
        edge = (enlarged.shape[-1] - side) // 2
        coarse[chosen] = enlarged[..., edge : edge + side, edge : edge + side]
    return coarse, reach


def batches(samples: Dataset[Sample], schedule: Schedule, machine: Machine, first_step: int) -> Iterator[Sample]:
    """The batches of steps `first_step`... to the end; step s holds samples s * batch to (s + 1) * batch - 1."""
    numbers = range(first_step * schedule.batch, schedule.steps * schedule.batch)
    loader = DataLoader(
        samples,
        batch_size=schedule.batch,
        sampler=numbers,
        num_workers=machine.workers,
        # The decoded pairs are shared with the workers by fork; any other way would copy them.
        multiprocessing_context="fork" if machine.workers else None,
        pin_memory=machine.device.type == "cuda",
        generator=torch.Generator(),
        worker_init_fn=_leave_signals_to_the_loop,
    )
    return iter(loader)


def _leave_signals_to_the_loop(_worker: int) -> None:
    """A signal to the whole process group must not kill the workers before the loop has saved its state."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def make_optimizer(model: nn.Module, config: Optim) -> torch.optim.Optimizer:
    """AdamW in four groups: encoder or decoder, with weight decay or (BatchNorm and biases) without."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "is_encoder": encoder, "weight_decay": config.weight_decay if decays else 0.0}
            for (encoder, decays), parameters in groups.items()
        ],
        lr=config.rate,
        betas=config.betas,
    )


def set_rates(optimizer: torch.optim.Optimizer, share: float, config: Optim) -> None:
    for group in optimizer.param_groups:
        group["lr"] = share * (config.encoder_rate if group["is_encoder"] else config.rate)


def learning_rate_share(step: int, schedule: Schedule) -> float:
    """Share of the peak rate at `step`: a linear warm-up, then a cosine down to `final_share`."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps)
    return schedule.final_share + (1 - schedule.final_share) * (1 + cos(pi * min(1.0, done))) / 2


@torch.no_grad()
def average(ema: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights, BatchNorm statistics included, towards the model's; faster in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for old, new in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


def freeze_norm(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()


def dump(config: TrainingConfig) -> dict[str, object]:
    plain: dict[str, object] = config.model_dump(mode="json")
    return plain


def _validate(run: Run, validator: Validator, keep_best: Callable[[], object], log: Log) -> None:
    scores = validator(run.ema, run.step)
    log.scalars("validation", scores, run.step)
    if run.best is None or scores["score"] > run.best:
        run.best = scores["score"]
        keep_best()

"""The training loop, read top to bottom: batch, coarse mask, loss, step, average, log, save."""

from __future__ import annotations

import copy
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import fmean
from traceback import clear_frames
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from refine.errors import InputError, RefineError
from refine.models.blocks import coarse_logit
from refine.models.preprocessing import Preprocessing
from refine.training import processes
from refine.training.config import Schedule, TrainingConfig, dump
from refine.training.deferred import damaged
from refine.training.depthwise import keep_in_float32
from refine.training.guidance import Guide, load_guide, split_features
from refine.training.inspection import keep_batch
from refine.training.log import Log, SilentLog
from refine.training.losses import total_loss
from refine.training.optimizer import average, freeze_norm, make_optimizer, set_rates
from refine.training.samples import Sample
from refine.training.schedules import Gains, learning_rate_share
from refine.training.shown import network_input
from refine.training.state import Progress, last_state, save_state

WORKERS_OUTLIVE_SECONDS = 120
"""For so long the workers go on after SIGTERM: time for the loop to finish its step, or an image of a validation, and
save. A worker that ended before would end the run with an error instead."""

HANG_UP = tuple(getattr(signal, name) for name in ("SIGHUP",) if hasattr(signal, name))
"""What a terminal sends that closes; Windows has no such signal."""

Validator = Callable[[nn.Module, int], dict[str, float]]
"""Scores the averaged weights at a step, on whole images; the figure under "score" is the one that picks the best.

Raises ValidationStopped between two images if the run is to end.
"""


class ValidationStopped(Exception):
    """The run is to end before its validation does; the state says that this is still to come."""


class TrainingStopped(RefineError):
    """Training cannot go on: a loss or a gradient is not finite."""


@dataclass(frozen=True)
class Machine:
    """Where and how to run; none of it changes what is learnt, but for rounding. `dtype` None: float32 throughout."""

    device: torch.device
    dtype: torch.dtype | None
    workers: int

    def autocast(self) -> AbstractContextManager[object]:
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)


@dataclass
class Run:
    """What changes while training runs. `parallel` is `model`, with gradients shared where several processes train."""

    model: nn.Module
    ema: nn.Module
    parallel: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    gains: Gains = field(default_factory=Gains)
    guide: Guide | None = None  # what the network's features are to become, where the loss says so
    awaits_validation: bool = False  # that of `step`, which is due and has not been made
    files: dict[str, str] = field(default_factory=dict)  # as in Progress
    data: Tensor | None = None  # as in Progress

    def progress(self, config: TrainingConfig) -> Progress:
        scaler = self.scaler.state_dict()
        return Progress(self.step, self.gains, dump(config), scaler, self.awaits_validation, self.files, self.data)


@dataclass(frozen=True)
class Callbacks:
    """What a loop calls and does not know: scores, files of averaged weights, and who wants it to end."""

    validator: Validator | None = None
    keep_best: Callable[[], object] = field(default=lambda: None)
    keep_weights: Callable[[int], object] = field(default=lambda step: None)
    should_stop: Callable[[], bool] = field(default=lambda: False)


def new_run(model: nn.Module, config: TrainingConfig, machine: Machine) -> Run:
    device = machine.device
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    if device.type == "cpu" and machine.dtype == torch.bfloat16:
        keep_in_float32(model)
    # float16 has gradients too small for it, so the loss is enlarged by a factor that adapts.
    scaler = torch.amp.GradScaler(device.type, enabled=machine.dtype == torch.float16)
    guide = load_guide(config, device)
    parallel = processes.parallel(model, device)
    return Run(model, ema, parallel, make_optimizer(model, config.optim), scaler, guide=guide)


def train(
    run: Run,
    samples: Dataset[Sample],
    config: TrainingConfig,
    preprocessing: Preprocessing,
    machine: Machine,
    folder: Path,
    log: Log | SilentLog,
    callbacks: Callbacks | None = None,
) -> bool:
    """Train from `run.step` to the end of the schedule; True when it got there, False when `should_stop` said so.

    The state is saved every `checkpoint.every` steps, at the end, and on stopping. Validations without a gain end the
    schedule early where it says so. A validation that is due when the run is to stop is left to the run that goes on
    with the state, which begins with it.
    """
    schedule, calls = config.schedule, callbacks or Callbacks()
    is_first = processes.rank() == 0
    hidden = None if is_first else True  # None: tqdm looks whether there is a terminal
    with (
        tqdm(total=schedule.steps, initial=run.step, unit="step", disable=hidden, dynamic_ncols=True) as bar,
        _lost_workers_named(folder),
        closing(batches(samples, schedule, machine, first_step=run.step, folder=folder)) as loader,
    ):

        def after_step(batch: Sample | None) -> bool | None:
            """Validate, keep, save; None to go on, else whether the schedule has come to its end."""
            is_leaving = processes.any_of(calls.should_stop())
            if run.awaits_validation and not is_leaving:
                is_leaving = _validate(run, calls, schedule, log)
            is_last = run.step >= schedule.steps and not run.awaits_validation
            if run.gains.ends(schedule) and not is_last:
                why = f"no gain in {run.gains.stale} validations"
                if run.gains.reaches(schedule):
                    why = f"score {run.gains.best:.2f} reaches schedule.stop_at"
                if is_first:
                    bar.write(f"{why}: ends at step {run.step}", file=sys.stderr)
                is_last = True
            if config.checkpoint.keep_every and run.step % config.checkpoint.keep_every == 0 and is_first:
                calls.keep_weights(run.step)
            if (is_leaving or is_last or run.step % config.checkpoint.every == 0) and is_first:
                save_state(folder, run.model, run.ema, run.optimizer, run.progress(config))
                if batch is not None:
                    log.pictures(batch, run.ema, preprocessing, run.step)
            return is_last if is_leaving or is_last else None

        if run.awaits_validation and (ended := after_step(None)) is not None:
            return ended
        started, since_log = time.monotonic(), []
        for loaded in loader:
            batch = damaged(loaded, config.perturb, machine.device)
            try:
                since_log.append(training_step(run, batch, config, preprocessing, machine))
            except TrainingStopped as stopped:
                raise TrainingStopped(f"{stopped}; {keep_batch(batch, folder, run.step, schedule.batch)}") from None
            run.step += 1
            bar.update()
            if run.step % config.checkpoint.log_every == 0:
                now = time.monotonic()
                losses = _averaged(since_log)
                losses["samples_per_second"] = len(since_log) * schedule.batch / (now - started)
                losses["rate"] = learning_rate_share(run.step, schedule, run.gains.drops) * config.optim.rate
                started, since_log = now, []
                log.scalars("train", losses, run.step)
                bar.set_postfix(loss=f"{losses['loss']:.4f}")
            every = config.validation.every
            run.awaits_validation = every > 0 and (run.step % every == 0 or run.step >= schedule.steps)
            if (ended := after_step(batch)) is not None:
                return ended
    return True


def training_step(
    run: Run, batch: Sample, config: TrainingConfig, preprocessing: Preprocessing, machine: Machine
) -> dict[str, float]:
    """One optimizer step over this process's share of a batch, in `accumulate` parts; gives the losses by name.

    Raises TrainingStopped, before the weights change, if a loss or a gradient is not finite. In float16 a gradient
    beyond its range is no error: the step is left out and the scale halved, down to a scale of 1.
    """
    torch.manual_seed(config.seed * 1_000_003 + run.step + (processes.rank() << 40))
    set_rates(run.optimizer, learning_rate_share(run.step, config.schedule, run.gains.drops), config.optim)
    run.parallel.train()
    if config.optim.freeze_encoder_norm:
        freeze_norm(run.model.get_submodule("encoder"))
    totals: dict[str, float] = {}
    parts = config.schedule.accumulate
    for i in range(parts):
        part = {k: v[i::parts].to(machine.device, non_blocking=True) for k, v in batch.items()}
        image = network_input(run.model, part, preprocessing)
        truth, trusted = part["truth"][:, None], part["trusted"][:, None]
        coarse, reach = coarse_input(run.ema, part, preprocessing, machine) if "coarse" in part else (None, None)
        with _unshared(run.parallel) if i < parts - 1 else nullcontext():
            with machine.autocast():
                outputs, features = split_features(run.parallel(image, coarse, reach))
            start = coarse_logit(coarse) if coarse is not None else None
            depth = part["depth"][:, None] if "depth" in part else None
            loss, named = total_loss(outputs, truth, trusted, config.loss, start, depth)
            if run.guide is not None:
                synchronised = run.guide.loss(features, truth)
                loss, named["features"] = loss + synchronised, float(synchronised.detach())
            if not torch.isfinite(processes.mean(loss.detach())):
                wrong = ", ".join(f"{name} {value}" for name, value in named.items() if not isfinite(value))
                raise TrainingStopped(f"step {run.step + 1}: the loss is not finite ({wrong}); no step was taken")
            torch.autograd.backward(run.scaler.scale(loss / parts))
        for name, value in {**named, "loss": float(loss.detach())}.items():
            totals[name] = totals.get(name, 0.0) + value / parts
    run.scaler.unscale_(run.optimizer)
    totals["gradient_norm"] = float(nn.utils.clip_grad_norm_(run.model.parameters(), config.optim.clip_norm))
    if not isfinite(totals["gradient_norm"]) and (not run.scaler.is_enabled() or run.scaler.get_scale() < 1):
        raise TrainingStopped(f"step {run.step + 1}: a gradient is not finite; no step was taken")
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    average(run.ema, run.model, config.optim.ema, run.step)
    return totals


@torch.no_grad()
def coarse_input(ema: nn.Module, part: Sample, preprocessing: Preprocessing, machine: Machine) -> tuple[Tensor, Tensor]:
    """(B, 1, H, W) coarse masks and (B,) reaches.

    Samples of kind "cascade" get the network's own coarser result, and those to be refined `again` its result there.
    """
    coarse, reach = part["coarse"][:, None].clone(), part["reach"]  # a batch that fails is kept as it came
    for factor in sorted(set(part["factor"].tolist()) - {0}):
        chosen = part["factor"] == factor
        outer = part["outer_coarse"][chosen][:, None]
        image = preprocessing.normalise(part["outer_image"][chosen])
        refined = _refined(ema, image, outer, part["outer_reach"][chosen], machine)
        enlarged = F.interpolate(refined, scale_factor=factor, mode="bilinear", align_corners=False)
        side = coarse.shape[-1]
        edge = (enlarged.shape[-1] - side) // 2
        coarse[chosen] = enlarged[..., edge : edge + side, edge : edge + side]
    if (again := part["again"]).any():
        image = preprocessing.normalise(part["image"][again])
        coarse[again] = _refined(ema, image, coarse[again], reach[again], machine)
    return coarse, reach


def _refined(ema: nn.Module, image: Tensor, coarse: Tensor, reach: Tensor, machine: Machine) -> Tensor:
    """What the averaged network makes of (B, 1, H, W) coarse masks, in 0..1."""
    correction = cast(Callable[[Tensor, Tensor, Tensor], Tensor], ema.correction)
    with machine.autocast():
        refined = coarse + correction(image, coarse, reach)
    return refined.clamp(0, 1).to(coarse.dtype)


def batches(
    samples: Dataset[Sample], schedule: Schedule, machine: Machine, first_step: int, folder: Path | None = None
) -> Generator[Sample, None, None]:
    """The batches of steps `first_step`... to the end; step s holds samples s * batch to (s + 1) * batch - 1.

    Of these a process takes every n-th, so that what a run sees does not depend on the number of processes. The workers
    end when the generator is closed. `folder` is that of the run, whose last state an error tells of.
    """
    own = range(first_step * schedule.batch + processes.rank(), schedule.steps * schedule.batch, processes.count())
    loader = DataLoader(
        samples,
        batch_size=schedule.batch // processes.count(),
        sampler=own,
        num_workers=machine.workers,
        # The decoded pairs are shared with the workers by fork; any other way would copy them.
        multiprocessing_context="fork" if machine.workers else None,
        pin_memory=machine.device.type == "cuda",
        generator=torch.Generator(),
        worker_init_fn=_leave_signals_to_the_loop,
    )
    try:
        yield from loader
        return
    except Exception as error:
        clear_frames(error.__traceback__)  # they and the error hold each other, and with them the loader's workers
        if not isinstance(error, InputError):
            raise
        said = _said(error)  # a worker's error comes with its traceback; what it has to say is the last line
    end = "" if folder is None else last_state(folder, ", mend the file and go on with --resume")
    raise InputError(f"{said}{end}")


@contextmanager
def _lost_workers_named(folder: Path) -> Iterator[None]:
    """One line for a worker of the loader that was killed, which torch's handler of SIGCHLD raises anywhere.

    Where its batch was on the way the connection to it is lost first.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        said = str(error).strip().splitlines() if isinstance(error, RuntimeError) else ["DataLoader worker"]
        if not said or not said[0].startswith("DataLoader worker"):
            raise
        how = said[0].partition("signal: ")[2].partition(".")[0] or "it has ended"
        end = last_state(folder, ", go on with --resume")
        raise InputError(f"a worker of the loader was lost ({how}): out of memory? give fewer --workers{end}") from None


def _said(error: InputError) -> str:
    """The message alone, which ends a worker's traceback after the name of the class."""
    text = str(error).strip()
    return text.splitlines()[-1].partition("Error: ")[2] if "Original Traceback" in text else text


def _leave_signals_to_the_loop(_worker: int) -> None:
    """A signal to the whole process group must not kill the workers before the loop has saved its state.

    Told to end it does so in the end: Python waits for its workers when it leaves, whatever became of them.
    """
    for number in (signal.SIGINT, *HANG_UP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKERS_OUTLIVE_SECONDS))


def _validate(run: Run, calls: Callbacks, schedule: Schedule, log: Log | SilentLog) -> bool:
    """Score the averaged weights; True if the run is to end before that is done, which the first process alone sees."""
    scores: dict[str, float] | None = None
    stopped = False
    if processes.rank() == 0 and calls.validator is not None:
        try:
            scores = calls.validator(run.ema, run.step)
        except ValidationStopped:
            stopped = True
        else:
            log.scalars("validation", scores, run.step)
            if run.gains.best is None or scores["score"] > run.gains.best:
                calls.keep_best()
    scores, stopped = processes.from_first((scores, stopped))
    if scores is not None:
        run.gains = run.gains.after(scores["score"], schedule)
    run.awaits_validation = stopped
    return stopped


def _averaged(steps: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over steps and processes."""
    names = list(steps[0])
    figures = torch.tensor([fmean(step[name] for step in steps) for name in names], dtype=torch.float64)
    return dict(zip(names, processes.mean(figures).tolist(), strict=True))


def _unshared(parallel: nn.Module) -> AbstractContextManager[object]:
    """Gradients stay in this process until the last part of a batch."""
    return parallel.no_sync() if isinstance(parallel, nn.parallel.DistributedDataParallel) else nullcontext()

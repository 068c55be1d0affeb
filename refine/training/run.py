"""A training run as a folder: begin, resume, stop, extend; what `train.py` calls."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from pathlib import Path
from types import FrameType
from typing import Literal

import torch
from pydantic import JsonValue
from torch import nn
from torch.utils.data import Dataset

from refine import __version__
from refine.errors import CheckpointError, ConfigError, InputError, RefineError
from refine.models.checkpoint import load_model, read_encoder_weights, save_checkpoint
from refine.models.device import choose_device, choose_dtype
from refine.models.encoder import Encoder
from refine.models.isnet import ISNet
from refine.models.metadata import FORMAT, Metadata, read_metadata
from refine.models.preprocessing import Preprocessing
from refine.models.registry import build_model, default_preprocessing, full_config
from refine.training import processes
from refine.training.config import TrainingConfig, dump, meant
from refine.training.data import Pairs, load_pairs, read_held_out
from refine.training.fingerprint import numbers
from refine.training.log import Log, SilentLog
from refine.training.loop import HANG_UP, Callbacks, Machine, Run, ValidationStopped, new_run, train
from refine.training.own_folder import owned
from refine.training.placed import PlacedSamples
from refine.training.resumed import ENCODER_WEIGHTS, check_same_config, check_same_guide, files_of, tell_of_changed_data
from refine.training.samples import FirstSamples, Sample, WholeImageSamples, WindowSamples
from refine.training.state import last_state, load_state, newest_readable, states
from refine.training.supervised import check_outputs

TrainingPrecision = Literal["auto", "fp32", "bf16", "fp16"]

NEWEST = Path("newest")
"""`resume=NEWEST` takes the newest readable state of the run's folder."""


def run_training(
    config: TrainingConfig,
    folder: Path,
    *,
    device: str = "auto",
    precision: TrainingPrecision = "auto",
    workers: int = 1,
    resume: Path | None = None,
    extend: int | None = None,
    stop_after_minutes: float | None = None,
    make_validator: Callable[[TrainingConfig, Callable[[], None]], Callable[[Path], dict[str, float]]] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train as `config` says in `folder`; True when the schedule was finished, False when stopped before.

    `resume` continues from a state (NEWEST: of this folder), whose config must be the same but for `extend`, a larger
    number of steps; stderr is told of data that has changed since. On SIGTERM, SIGINT, after `stop_after_minutes`, or
    when `should_stop`, asked after every step, says so, the state is saved and the call returns. `make_validator` gives
    what scores a checkpoint, and calls its second argument before each image: that is how a validation ends where the
    run is to stop.

    Raises InputError if the folder holds a run and `resume` is None; ConfigError if the config differs.
    """
    if extend is not None:
        config = config.model_copy(update={"schedule": config.schedule.model_copy(update={"steps": extend})})
    if resume is None and states(folder):
        raise InputError(f"{folder}: holds a run already; add --resume to continue it, or give another --run folder")
    start, saved = None, None
    if resume is not None:
        start = newest_readable(folder) if resume == NEWEST else resume
        check_same_config(start, config, may_extend=extend is not None)
        if resume != NEWEST:
            _check_goes_on_with(folder, start)

    machine = choose_machine(device, precision, workers)
    check_shares(config)
    model, preprocessing = build_network(config if start is None else _without_start(config))
    run = new_run(model, config, machine)
    if start is not None:
        saved = load_state(start, run.model, run.ema, run.optimizer)
        check_same_guide(start, saved, run.guide)
        run.step, run.gains, run.awaits_validation = saved.step, saved.gains, saved.awaits_validation
        if saved.scaler and run.scaler.is_enabled():
            run.scaler.load_state_dict(dict(saved.scaler))
    run.files = files_of(config, run.guide, saved)
    if run.gains.ends(config.schedule) or (run.step >= config.schedule.steps and not run.awaits_validation):
        _finish(run, config, preprocessing, folder)
        return True

    pairs = read_pairs(config)
    if start is not None and saved is not None:
        tell_of_changed_data(start, saved, pairs.prints)
    run.data = numbers(pairs.prints)
    samples = samples_of(pairs, config)
    stop = _StopRequest(stop_after_minutes, should_stop)
    if processes.rank() > 0:
        with stop:
            calls = Callbacks(should_stop=stop.is_due)
            return train(run, samples, config, preprocessing, machine, folder, SilentLog(), calls)
    score = make_validator(config, stop.end_validation) if make_validator and config.validation.every else None
    with owned(folder):
        try:
            return _train_first(run, samples, config, preprocessing, machine, folder, stop, score)
        except RefineError:
            raise
        except OSError as error:  # of the log, most likely: a full disk
            why = f"{error.filename or folder}: {error.strerror or error}"
            raise InputError(f"{why}{last_state(folder, ', go on with --resume')}") from error


def _train_first(
    run: Run,
    samples: Dataset[Sample],
    config: TrainingConfig,
    preprocessing: Preprocessing,
    machine: Machine,
    folder: Path,
    stop: _StopRequest,
    score: Callable[[Path], dict[str, float]] | None,
) -> bool:
    """What the first process does, which alone validates and writes files."""
    (folder / "config.json").write_text(json.dumps(dump(config), indent=2) + "\n", encoding="utf-8")
    candidate, best = folder / ".candidate.safetensors", folder / "best.safetensors"

    def keep(path: Path, scores: dict[str, float]) -> None:
        release(run.ema, config, preprocessing, path, step=run.step, metrics=scores, files=run.files)

    def validate(_ema: nn.Module, _step: int) -> dict[str, float]:
        assert score is not None
        keep(candidate, {})
        scores = score(candidate)
        keep(candidate, scores)
        return scores

    log = Log(folder, run.step)
    try:
        with stop:
            calls = Callbacks(
                validator=validate if score else None,
                keep_best=lambda: candidate.replace(best),
                keep_weights=lambda step: keep(folder / f"weights-{step:08d}.safetensors", {}),
                should_stop=stop.is_due,
            )
            finished = train(run, samples, config, preprocessing, machine, folder, log, calls)
    finally:
        log.close()
        candidate.unlink(missing_ok=True)
    keep(folder / "last.safetensors", {})
    return finished


def _finish(run: Run, config: TrainingConfig, preprocessing: Preprocessing, folder: Path) -> None:
    """Release what a run left that was killed between its last state and this. Raises InputError if it did that."""
    released, schedule = folder / "last.safetensors", config.schedule
    decided = run.gains.ends(schedule)
    is_shorter = run.step > schedule.steps and not decided  # an --extend to less than there is
    if not is_shorter and not processes.from_first(_step_of(released) == run.step):
        if processes.rank() == 0:
            with owned(folder):
                release(run.ema, config, preprocessing, released, step=run.step, metrics={}, files=run.files)
        return
    if decided:
        raise InputError(f"{folder}: ended at step {run.step}, as its validations decided; start a new --run to go on")
    raise InputError(
        f"{folder}: the schedule of {schedule.steps} steps is finished; add --extend STEPS, more than the {run.step}"
        " that are done"
    )


def _step_of(released: Path) -> int | None:
    """The step of a checkpoint; None where there is none that can be read."""
    try:
        return read_metadata(released).step
    except CheckpointError:
        return None


def _check_goes_on_with(folder: Path, start: Path) -> None:
    """Raises InputError if `folder` holds a later state than `start`, or another run's: it would outlive the new ones.

    States are told apart by their steps, and the highest are kept.
    """
    held = states(folder)
    if held and held[0].resolve() != start.resolve():
        raise InputError(
            f"{folder}: holds {held[0].name}, which the next --resume would take; give another --run to go on from"
            f" {start}"
        )


def make_samples(config: TrainingConfig) -> Dataset[Sample]:
    """All samples of the run, by number. Raises InputError for data that cannot be used."""
    return samples_of(read_pairs(config), config)


def read_pairs(config: TrainingConfig) -> Pairs:
    """All pairs of the run; what is left out of them is said. Raises InputError for data that cannot be used."""
    pairs = load_pairs(config.data, read_held_out(_path(config.validation.held_out)))
    if processes.rank() == 0:
        for note in pairs.notes:
            print(note, file=sys.stderr)
    return pairs


def samples_of(pairs: Pairs, config: TrainingConfig) -> Dataset[Sample]:
    """The samples that the config's network takes, made of these pairs."""
    late = int(config.perturb.late_from * config.schedule.steps) * config.schedule.batch
    samples: Dataset[Sample]
    if config.model.architecture == "unet6":
        samples = PlacedSamples(pairs, config)
    elif config.model.takes_mask:
        samples = WindowSamples(pairs, config, first_late=late)
    else:
        samples = WholeImageSamples(pairs, config)
    return FirstSamples(samples, config.overfit) if config.overfit else samples


def build_network(config: TrainingConfig) -> tuple[nn.Module, Preprocessing]:
    """The config's network at its start: random, from ImageNet encoder weights, or from a checkpoint.

    Raises ConfigError for a file that is not there or another network's, for losses of outputs that the network does
    not have and for options that it cannot be trained with; CheckpointError for a file that cannot be read.
    """
    torch.manual_seed(config.seed)
    known = type(full_config(config.model.architecture)).model_fields
    if unknown := [key for key in config.model.options if key not in known]:
        raise ConfigError(f"model.options.{unknown[0]}: unknown key{meant(unknown[0], known)}")
    try:
        model = build_model(config.model.architecture, config.model.options)
    except RefineError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"model.options: there is no {config.model.architecture} with these: {why}") from None
    preprocessing = default_preprocessing(config.model.architecture, model)
    if preprocessing.height is not None:
        side = config.model.size
        preprocessing = preprocessing.model_copy(update={"height": side, "width": side})
    if isinstance(model, ISNet):
        model.gives_features = config.loss.features is not None
    check_outputs(model, config, preprocessing)
    if config.model.encoder_weights is not None:
        encoder, weights = model.get_submodule("encoder"), Path(config.model.encoder_weights)
        assert isinstance(encoder, Encoder)
        if not weights.is_file():
            raise ConfigError(
                f"model.encoder_weights: there is no {weights}; save timm's state dict of the encoder there, as .pth or"
                " .safetensors, or write null to start at random"
            )
        encoder.load_rgb_weights(read_encoder_weights(weights))
    if config.model.init is not None:
        source, metadata = load_model(config.model.init)
        held, wanted = metadata.architecture, config.model.architecture
        if held != wanted:
            raise ConfigError(f"model.init: {config.model.init} holds {held}, not {wanted}")
        try:
            model.load_state_dict(source.state_dict())
        except RuntimeError:
            raise ConfigError(f"model.init: {_other_options(config, metadata)}") from None
    return model, preprocessing


def _other_options(config: TrainingConfig, start: Metadata) -> str:
    """How the network of a checkpoint differs from the config's, which its weights do not fit."""
    own = full_config(config.model.architecture, config.model.options).model_dump(mode="json")
    differing = [f"{key} {start.config.get(key)!r}" for key, value in own.items() if start.config.get(key) != value]
    return f"{config.model.init} has {', '.join(differing)}; give model.options the same"


def _without_start(config: TrainingConfig) -> TrainingConfig:
    """The weights of a resumed run are its state's; the files that it started from may be gone."""
    return config.model_copy(update={"model": config.model.model_copy(update={"encoder_weights": None, "init": None})})


def release(
    ema: nn.Module,
    config: TrainingConfig,
    preprocessing: Preprocessing,
    path: Path,
    *,
    step: int,
    metrics: dict[str, float],
    files: Mapping[str, str] | None = None,
) -> None:
    """Write averaged weights as a checkpoint for inference, with all that its user must know; `files` as in a state."""
    training: dict[str, JsonValue] = {
        "about": config.about,
        "config": json.loads(json.dumps(dump(config))),
        "samples": step * config.schedule.batch,
        "encoder_weights_sha256": (files or {}).get(ENCODER_WEIGHTS),
    }
    metadata = Metadata(
        format=FORMAT,
        refine_version=__version__,
        architecture=config.model.architecture,
        config=full_config(config.model.architecture, config.model.options).model_dump(mode="json"),
        preprocessing=preprocessing,
        training=training,
        metrics=dict(metrics),
        licence=config.checkpoint.licence,
        step=step,
    )
    save_checkpoint(path, ema.state_dict(), metadata)


def choose_machine(device: str, precision: TrainingPrecision, workers: int) -> Machine:
    """Raises InputError for CUDA where there is none."""
    place = processes.local_device(choose_device(device))
    dtype = torch.float16 if precision == "fp16" else choose_dtype(precision, place)
    return Machine(place, None if dtype == torch.float32 else dtype, workers)


def check_shares(config: TrainingConfig) -> None:
    """Raises ConfigError if a batch cannot be shared out evenly; means over shares would not be those of the batch."""
    shares = processes.count() * config.schedule.accumulate
    if config.schedule.batch % shares:
        batch, parts = config.schedule.batch, config.schedule.accumulate
        raise ConfigError(
            f"schedule.batch: {batch} samples in {parts} parts cannot be shared by {processes.count()} processes; "
            f"choose a multiple of {shares}"
        )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


class _StopRequest:
    """Due from the first SIGTERM, SIGHUP or Ctrl-C on, when the time is up, or when `asked` says so.

    Signals count and the time runs inside a `with`; the loop then saves and leaves.
    """

    def __init__(self, minutes: float | None, asked: Callable[[], bool]) -> None:
        self._minutes, self._asked = minutes, asked
        self._deadline = inf
        self._signalled = False
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def is_due(self) -> bool:
        return self._signalled or time.monotonic() >= self._deadline or self._asked()

    def end_validation(self) -> None:
        if self.is_due():
            raise ValidationStopped

    def __enter__(self) -> None:
        if self._minutes is not None:
            self._deadline = time.monotonic() + 60 * self._minutes
        for number in (signal.SIGTERM, signal.SIGINT, *HANG_UP):
            if number not in HANG_UP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                self._previous[number] = signal.signal(number, self._ask)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if not self._signalled and processes.rank() == 0:
            with suppress(OSError):  # of a terminal that has gone
                os.write(2, b"\nstopping after this step; the state will be saved\n")  # print may be interrupted here
        self._signalled = True

"""What a run of a config would be like: sizes, memory, speed, and what limits it, from two steps that keep nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import psutil
import torch
from torch import nn

from refine.training.config import TrainingConfig
from refine.training.deferred import damaged
from refine.training.loop import Machine, batches, new_run, training_step
from refine.training.run import TrainingPrecision, build_network, check_shares, choose_machine, make_samples
from refine.training.samples import Sample

MIB = 2**20


@dataclass(frozen=True, slots=True)
class DryRun:
    """What two steps showed. Rates are samples/s: of the loader alone, of the steps alone, of both as they will run."""

    shapes: dict[str, tuple[int, ...]]
    parameters: int
    memory: int  # bytes
    memory_of: str
    loss: float
    loader_rate: float
    step_rate: float
    workers: int

    @property
    def rate(self) -> float:
        if self.workers == 0:  # the samples are made between the steps
            return 1 / (1 / self.loader_rate + 1 / self.step_rate)
        return min(self.loader_rate, self.step_rate)

    def lines(self, config: TrainingConfig) -> str:
        sizes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in self.shapes.items())
        hours = config.schedule.steps * config.schedule.batch / self.rate / 3600
        limits = "loader" if self.loader_rate < self.step_rate else "device"
        return "\n".join(
            [
                f"batch: {sizes}",
                f"network: {config.model.architecture}, {self.parameters:,} parameters; loss {self.loss:.4f}",
                f"memory: {self.memory / MIB:,.0f} MiB, {self.memory_of}",
                f"loader alone: {self.loader_rate:.1f} samples/s with {self.workers} workers",
                f"steps alone: {self.step_rate:.1f} samples/s",
                f"the {limits} limits: {self.rate:.1f} samples/s, {hours:.1f} h for the schedule",
            ]
        )


def dry_run(
    config: TrainingConfig, *, device: str = "auto", precision: TrainingPrecision = "auto", workers: int = 1
) -> DryRun:
    """Take two training steps of a fresh network, the first to warm up; nothing is written.

    Raises RefineError as a run would: for data that cannot be used, a device that is not there, a loss that is not
    finite.
    """
    machine = choose_machine(device, precision, workers)
    check_shares(config)
    network, preprocessing = build_network(config)
    samples = make_samples(config)
    # What the workers have made ahead says nothing of their speed, so as many batches are taken first.
    ahead = 2 * workers
    measured = max(2, workers)
    longer = config.schedule.model_copy(update={"steps": ahead + measured + 1})
    size = config.schedule.batch
    with closing(batches(samples, longer, machine, first_step=0)) as loaded:
        batch = next(loaded)
        _take(loaded, ahead)
        loader_rate = measured * size / _seconds(partial(_take, loaded, measured), machine)

    run = new_run(network, config, machine)

    def step() -> dict[str, float]:
        return training_step(run, damaged(batch, config.perturb, machine.device), config, preprocessing, machine)

    losses = step()
    step_rate = size / _seconds(step, machine)
    if machine.device.type == "cuda":
        memory, memory_of = torch.cuda.max_memory_allocated(machine.device), "peak on the device"
    else:
        memory, memory_of = psutil.Process().memory_info().rss, "of this process after two steps, pairs included"
    names = [name for name in batch if name in ("image", "truth", "coarse")]
    shapes = {name: tuple(batch[name].shape) for name in names}
    return DryRun(shapes, _count(network), memory, memory_of, losses["loss"], loader_rate, step_rate, workers)


def _take(loaded: Iterator[Sample], number: int) -> None:
    for _ in range(number):
        next(loaded)


def _seconds(work: Callable[[], object], machine: Machine) -> float:
    started = time.perf_counter()
    work()
    if machine.device.type == "cuda":
        torch.cuda.synchronize(machine.device)
    return time.perf_counter() - started


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())

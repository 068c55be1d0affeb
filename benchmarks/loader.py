"""Samples a second that the loader makes alone, beside those that the steps of a config take: which of them limits.

    python benchmarks/loader.py --config configs/MOS_H_lite.json --data 'pack=DATA/train-*.tar' --out loader.json

Per config: one process makes `--samples` samples; then two steps are taken, the first to warm up. For networks that
take a mask also with perturb.where "device": what the loader has left to do, what the batched damage of the config's
kinds costs a crop on `--device`, and kind by kind what the damage alone costs both ways. All in CPU milliseconds on a
CPU, so that other work on the machine does not count. The figures say how many workers keep the device busy. IS-Net
follows a truth encoder of random weights, which takes as long as any.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from refine.allocation import keep_freed_memory
from refine.models.device import choose_device
from refine.training.batched_perturb import NAMES, perturb_batch
from refine.training.config import TrainingConfig, Validation, load_config
from refine.training.deferred import damaged
from refine.training.draws import Draws
from refine.training.loop import batches, new_run, training_step
from refine.training.perturb import perturb
from refine.training.run import build_network, choose_machine, make_samples, release
from refine.training.samples import Sample


def seconds(device: str) -> float:
    """Of this process on a CPU, of the clock where a device works beside it."""
    if choose_device(device).type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def milliseconds(samples: Dataset[Sample], number: int) -> float:
    """Time of one sample, made in this process."""
    loader = DataLoader(samples, batch_size=None, sampler=range(number + 1))
    made = iter(loader)
    next(made)
    started = time.process_time()
    for _ in made:
        pass
    return 1e3 * (time.process_time() - started) / number


def batched_milliseconds(config: TrainingConfig, device: str, batches_made: int = 2) -> float:
    """Time of one crop's damage, done a batch at a time on the device."""
    machine = choose_machine(device, "auto", 0)
    loaded = batches(make_samples(config), config.schedule, machine, first_step=0)
    made = [next(loaded) for _ in range(batches_made + 1)]
    damaged(made[0], config.perturb, machine.device)
    started = seconds(device)
    for batch in made[1:]:
        damaged(batch, config.perturb, machine.device)
    return 1e3 * (seconds(device) - started) / (batches_made * config.schedule.batch)


def by_kind(config: TrainingConfig, number: int, device: str) -> dict[str, tuple[float, float]]:
    """Milliseconds of a crop's damage, by kind: one after the other in the loader, and all at once on the device."""
    samples, place = make_samples(config), choose_device(device)
    made = (samples[i] for i in range(10 * number))
    truths = [sample["wide_truth"] for sample in made if sample["kind"] >= 0][:number]
    planes = torch.stack(truths)[:, None].to(place)
    found = {}
    for kind in NAMES:
        rng = np.random.default_rng(0)
        started = time.process_time()
        for truth in truths:
            perturb(truth.numpy(), kind, rng)
        one_by_one = time.process_time() - started
        perturb_batch(planes[:2], [NAMES.index(kind)] * 2, Draws.seeded([0, 1], place))
        started = seconds(device)
        perturb_batch(planes, [NAMES.index(kind)] * number, Draws.seeded(list(range(number)), place))
        at_once = seconds(device) - started
        found[kind] = (round(1e3 * one_by_one / number, 2), round(1e3 * at_once / number, 2))
    return found


def perturbed(config: TrainingConfig, **changes: object) -> TrainingConfig:
    return config.model_copy(update={"perturb": config.perturb.model_copy(update=changes)})


def step_seconds(config: TrainingConfig, device: str) -> float:
    machine = choose_machine(device, "auto", 0)
    network, preprocessing = build_network(config)
    run = new_run(network, config, machine)
    batch = next(batches(make_samples(config), config.schedule, machine, first_step=0))
    training_step(run, batch, config, preprocessing, machine)
    started = seconds(device)
    training_step(run, batch, config, preprocessing, machine)
    return seconds(device) - started


def with_random_guide(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """The config, where it wants a truth encoder with one that is there."""
    if config.loss.features is None:
        return config
    model = config.model.model_copy(update={"architecture": "gt_encoder"})
    own = config.model_copy(update={"model": model})
    encoder, preprocessing = build_network(own)
    path = folder / "gt_encoder.safetensors"
    release(encoder, own, preprocessing, path, step=0, metrics={})
    features = config.loss.features.model_copy(update={"encoder": str(path)})
    return config.model_copy(update={"loss": config.loss.model_copy(update={"features": features})})


def measure(path: Path, data: dict[str, str], number: int, device: str, batch: int | None) -> dict[str, object]:
    config = load_config(path, data)
    config = config.model_copy(update={"validation": Validation()})
    if batch is not None:
        schedule = config.schedule.model_copy(update={"batch": batch, "accumulate": 1})
        config = config.model_copy(update={"schedule": schedule})
    cost = milliseconds(make_samples(config), number)
    with tempfile.TemporaryDirectory(prefix="refine-loader-") as folder:
        step_rate = config.schedule.batch / step_seconds(with_random_guide(config, Path(folder)), device)
    kinds: dict[str, tuple[float, float]] = {}
    left: dict[str, float] = {}
    if config.model.takes_mask:
        on_device = perturbed(config, where="device")
        left["loader"] = round(milliseconds(make_samples(on_device), number), 2)
        left["batched"] = round(batched_milliseconds(on_device, device), 2)
        kinds = by_kind(on_device, min(16, number), device)
    return {
        "config": path.name,
        "batch": config.schedule.batch,
        "loader_samples_per_second": round(1e3 / cost, 1),
        "milliseconds_a_sample": round(cost, 2),
        "milliseconds_of_damage_in_the_loader_and_batched": kinds,
        "milliseconds_with_damage_on_the_device": left,
        "step_samples_per_second": round(step_rate, 1),
        "workers_that_keep_up": math.ceil(step_rate * cost / 1e3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, nargs="+", required=True)
    keep_freed_memory()
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--batch", type=int, help="samples a step, where the config's own are too many for memory")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    data = dict(entry.split("=", 1) for entry in options.data)
    rows = []
    for path in options.config:
        rows.append(measure(path, data, options.samples, options.device, options.batch))
        print(json.dumps(rows[-1]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

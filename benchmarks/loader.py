"""Samples a second that the loader makes alone, beside those that the steps of a config take: which of them limits.

    python benchmarks/loader.py --config configs/MOS_H_lite.json --data 'pack=DATA/train-*.tar' --out loader.json

Per config: one process makes `--samples` samples, by kind of damage too; then two steps are taken, the first to warm
up. Run it on an otherwise idle machine; the figures say how many workers keep the device busy.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from refine.training.config import TrainingConfig, load_config
from refine.training.loop import batches, new_run, training_step
from refine.training.run import build_network, choose_machine, make_samples
from refine.training.samples import Sample


def milliseconds(samples: Dataset[Sample], number: int) -> float:
    """Time of one sample, made in this process."""
    loader = DataLoader(samples, batch_size=None, sampler=range(number + 1))
    made = iter(loader)
    next(made)
    started = time.perf_counter()
    for _ in made:
        pass
    return 1e3 * (time.perf_counter() - started) / number


def of_kind(config: TrainingConfig, kind: str) -> TrainingConfig:
    perturb = config.perturb.model_copy(update={"kinds": {kind: 1.0}, "late_kinds": {}})
    return config.model_copy(update={"perturb": perturb})


def step_seconds(config: TrainingConfig, device: str) -> float:
    machine = choose_machine(device, "auto", 0)
    network, preprocessing = build_network(config)
    run = new_run(network, config, machine)
    batch = next(batches(make_samples(config), config.schedule, machine, first_step=0))
    training_step(run, batch, config, preprocessing, machine)
    started = time.perf_counter()
    training_step(run, batch, config, preprocessing, machine)
    if machine.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(path: Path, data: dict[str, str], number: int, device: str) -> dict[str, object]:
    config = load_config(path, data)
    cost = milliseconds(make_samples(config), number)
    kinds = {}
    if config.model.takes_mask:
        for kind in (kind for kind, share in config.perturb.kinds.items() if share):
            kinds[kind] = round(milliseconds(make_samples(of_kind(config, kind)), max(8, number // 8)), 2)
    step_rate = config.schedule.batch / step_seconds(config, device)
    return {
        "config": path.name,
        "loader_samples_per_second": round(1e3 / cost, 1),
        "milliseconds_a_sample": round(cost, 2),
        "milliseconds_by_kind": kinds,
        "step_samples_per_second": round(step_rate, 1),
        "workers_that_keep_up": math.ceil(step_rate * cost / 1e3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, nargs="+", required=True)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    data = dict(entry.split("=", 1) for entry in options.data)
    rows = [measure(path, data, options.samples, options.device) for path in options.config]
    for row in rows:
        print(json.dumps(row))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Whether each network can learn 8 images by heart: the simplest proof that it, its losses and its config are right.

    python benchmarks/overfit.py --data 'DATA/train-*.tar' --sets ecssd          # all networks, 128 px, on this machine
    python benchmarks/overfit.py --data DATA --networks u2netp,isnet --out overfit.json

Every network trains with the losses of its own config (configs/), at --size, without augmentation and at a rate that
falls from --rate to nothing over --steps, until the mean IoU at 0.5 of its results in eval mode is above 0.98, or
--steps or --minutes of CPU time are over. IS-Net follows a truth encoder that learns the same images first. Depth for
the 6-channel U-Net is a ramp made for this. A short schedule that ends low and Adam's squares averaged over 50 steps
instead of 1000 are what makes this fast: the first gradients are far larger than all later ones.

Before each look the running statistics of BatchNorm are taken anew from the 8 images. The usual average follows with
a tenth of a step's change, so over the first hundred steps of a deep network they belong to weights long gone: U2-NetP
had an IoU of 0.20 with them after 5 steps, and 0.54 with its own.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from refine.allocation import keep_freed_memory
from refine.models.preprocessing import Preprocessing
from refine.training.config import TrainingConfig, parse_config
from refine.training.data import Pairs, load_pairs
from refine.training.loop import Machine, batches, coarse_input, new_run, training_step
from refine.training.overfit import mean_iou
from refine.training.run import TrainingPrecision, build_network, choose_machine, release, samples_of
from refine.training.samples import Sample
from refine.training.shown import network_input

ROOT = Path(__file__).parent.parent
CONFIGS = {
    "mos_h_lite": "MOS_H_lite", "mos_l_lite": "MOS_L_lite", "mos_h": "MOS_H", "mos_l": "MOS_L",
    "gt_encoder": "gt_encoder", "gt_encoder_enlarged": "gt_encoder_enlarged",
    "isnet": "isnet", "u2netp": "u2netp", "u2net": "u2net", "basnet": "basnet", "unet6": "unet6",
}  # fmt: skip
GUIDED = "isnet"
ENOUGH = 0.98
LOOK_EVERY = 10
LOOK_FROM = 0.4
"""Share of the steps before which no look is taken but at every tenth of them: each takes as long as a step."""


@dataclass(frozen=True, slots=True)
class Result:
    network: str
    iou: float
    steps: int
    cpu_seconds: float
    seconds: float
    size: int
    loss: float
    precision: str

    def line(self) -> str:
        verdict = "learnt" if self.iou > ENOUGH else "NOT LEARNT"
        return (
            f"{self.network:20} {verdict}: IoU {self.iou:.4f} after {self.steps} steps of 8 images at {self.size} px,"
            f" {self.cpu_seconds:.0f} CPU s ({self.seconds:.0f} s), loss {self.loss:.4f}, {self.precision}"
        )


@dataclass(frozen=True, slots=True)
class Choice:
    data: str
    size: int
    steps: int
    minutes: float
    device: str
    precision: TrainingPrecision
    sets: tuple[str, ...]
    rate: float


def config_of(name: str, choice: Choice, folder: Path) -> TrainingConfig:
    """The network's own config, brought to a few images."""
    raw = json.loads((ROOT / "configs" / f"{CONFIGS[name]}.json").read_text(encoding="utf-8"))
    raw["data"] = [{"name": "pack", "path": choice.data, "sets": list(choice.sets)}]
    raw["augment"] = {"jitter": [0.0] * 4, "grey": 0.0, "jpeg": 0.0}
    raw["model"] |= {"size": choice.size, "encoder_weights": None}
    raw["schedule"] = {"steps": choice.steps, "batch": 8, "warmup_steps": 10}
    rates = {"rate": choice.rate, "encoder_rate": choice.rate}
    raw["optim"] = {**rates, "betas": [0.9, 0.98], "weight_decay": 0.0, "ema": 0.0}
    raw["validation"] = {}
    raw["overfit"] = 8
    if name == GUIDED:
        raw["loss"]["features"]["encoder"] = str(folder / "gt_encoder.safetensors")
    if name == "unet6":
        raw["composites"]["depths"] = str(folder / "depths")
    return parse_config(raw, CONFIGS[name])


def learn(name: str, choice: Choice, pairs: Pairs, folder: Path) -> Result:
    """Train until it knows the images; a truth encoder's weights stay in `folder`."""
    if name == "unet6":
        write_depths(pairs, folder / "depths")
    config = config_of(name, choice, folder)
    machine = choose_machine(choice.device, choice.precision, 0)
    model, preprocessing = build_network(config)
    run, samples = new_run(model, config, machine), InMemory(samples_of(pairs, config), config.overfit)
    began, worked, score, losses = time.monotonic(), time.process_time(), 0.0, {"loss": float("nan")}
    for batch in batches(samples, config.schedule, machine, first_step=0):
        losses = training_step(run, batch, config, preprocessing, machine)
        run.step += 1
        is_last = time.process_time() - worked > 60 * choice.minutes or run.step == choice.steps
        often = LOOK_EVERY if run.step >= LOOK_FROM * choice.steps else choice.steps // 10
        if run.step % often == 0 or is_last:
            take_statistics_anew(run.model, batch, preprocessing, machine)
            score = mean_iou(run.model, preprocessing, samples, config, machine)
            print(f"  {name} step {run.step}: loss {losses['loss']:.4f}, IoU {score:.4f}", flush=True)
            if score > ENOUGH or is_last:
                break
    if name == "gt_encoder":
        release(run.model, config, preprocessing, folder / f"{name}.safetensors", step=run.step, metrics={})
    seconds = time.process_time() - worked, time.monotonic() - began
    precision = "float32" if machine.dtype is None else str(machine.dtype).removeprefix("torch.")
    return Result(name, score, run.step, *seconds, choice.size, losses["loss"], precision)


class InMemory(Dataset[Sample]):
    """The first `count` samples, made once."""

    def __init__(self, samples: Dataset[Sample], count: int) -> None:
        self.made = [samples[i] for i in range(count)]

    def __getitem__(self, index: int) -> Sample:
        return self.made[index % len(self.made)]


@torch.no_grad()
def take_statistics_anew(model: nn.Module, batch: Sample, preprocessing: Preprocessing, machine: Machine) -> None:
    """Let BatchNorm's running statistics be those of this batch under the weights as they are now."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    part = {name: tensor.to(machine.device) for name, tensor in batch.items()}
    coarse, reach = coarse_input(model.eval(), part, preprocessing, machine) if "coarse" in part else (None, None)
    model.train()(network_input(model, part, preprocessing), coarse, reach)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def write_depths(pairs: Pairs, folder: Path) -> None:
    """A depth map for every image: nearer to the bottom, and nearest in the middle of the object."""
    for pair in pairs.pairs:
        path = folder / pair.key[0] / f"{pair.key[1]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        inside = cv2.distanceTransform((pair.mask >= 128).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        ramp = np.linspace(0, 1, pair.mask.shape[0])[:, None] + inside / max(1.0, float(inside.max()))
        cv2.imwrite(str(path), np.round(ramp / 2 * 65535).astype(np.uint16))


def results(names: tuple[str, ...], choice: Choice) -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="refine-overfit-") as name:
        folder = Path(name)
        if GUIDED in names and "gt_encoder" not in names:
            names = ("gt_encoder", *names)
        pairs = load_pairs(config_of(names[0], choice, folder).data, frozenset())
        for network in sorted(names, key=list(CONFIGS).index):
            yield learn(network, choice, pairs, folder)


@click.command(help=__doc__)
@click.option("--data", required=True, help="a folder of <set>/<id>.jpg + .png, or tar shards")
@click.option("--sets", default="", help="only these sets of it, with commas")
@click.option("--networks", default=",".join(CONFIGS), show_default=True)
@click.option("--size", default=128, show_default=True)
@click.option("--steps", default=200, show_default=True)
@click.option("--rate", default=3e-3, show_default=True)
@click.option("--minutes", default=20.0, show_default=True, help="of CPU time at most, for each network")
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", default="auto", show_default=True, type=click.Choice(["auto", "fp32", "bf16"]))
@click.option("--out", type=click.Path(path_type=Path), help="also write the figures, as JSON")
def main(
    data: str,
    sets: str,
    networks: str,
    size: int,
    steps: int,
    rate: float,
    minutes: float,
    device: str,
    precision: TrainingPrecision,
    out: Path | None,
) -> None:
    """Learn and print."""
    keep_freed_memory()
    chosen = tuple(filter(None, sets.split(",")))
    choice = Choice(data, size, steps, minutes, device, precision, chosen, rate)
    found = []
    for result in results(tuple(networks.split(",")), choice):
        print(result.line(), flush=True)
        found.append(asdict(result))
        if out:
            out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

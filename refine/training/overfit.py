"""How well a network has learnt the few samples of an overfitted run: the simplest proof that it can learn at all."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from refine.models.checkpoint import load_model
from refine.models.device import choose_device
from refine.models.preprocessing import Preprocessing
from refine.training.config import TrainingConfig
from refine.training.deferred import damaged
from refine.training.loop import Machine, coarse_input
from refine.training.run import make_samples
from refine.training.samples import Sample
from refine.training.shown import network_input


def iou_by_heart(config: TrainingConfig, checkpoint: Path, device: str) -> float:
    """Mean IoU at 0.5 of a checkpoint's results on the `config.overfit` samples, over pixels whose truth is trusted."""
    machine = Machine(choose_device(device), None, 0)
    network, metadata = load_model(checkpoint)
    return mean_iou(network.to(machine.device), metadata.preprocessing, make_samples(config), config, machine)


@torch.no_grad()
def mean_iou(
    network: nn.Module,
    preprocessing: Preprocessing,
    samples: Dataset[Sample],
    config: TrainingConfig,
    machine: Machine,
) -> float:
    """The same of a network in memory, on the first `config.overfit` samples; it is left in eval mode."""
    network.eval()
    scores = []
    for loaded in DataLoader(samples, batch_size=1, sampler=range(config.overfit)):
        batch = damaged(loaded, config.perturb, machine.device)
        part = {name: tensor.to(machine.device) for name, tensor in batch.items()}
        image = network_input(network, part, preprocessing)
        coarse, reach = (None, None)
        if "coarse" in part:
            coarse, reach = coarse_input(network, part, preprocessing, machine)
        found = network(image, coarse, reach)["final"][:, 0] > 0
        truth, trusted = part["truth"] > 0.5, part["trusted"]
        union = int(((found | truth) & trusted).sum())
        scores.append(1.0 if union == 0 else int((found & truth & trusted).sum()) / union)
    return sum(scores) / len(scores)

"""The optimizer's groups and rates, and the running average of the weights."""

from __future__ import annotations

import torch
from torch import nn

from refine.training.config import Optim


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
        if isinstance(part, nn.BatchNorm2d | nn.SyncBatchNorm):
            part.eval()

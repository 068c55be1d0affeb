"""Losses on logits, summed per output as the config weighs them; pixels whose truth is not trusted do not count."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from refine.training.config import Loss, Terms

FAR = 16
"""The identity term counts pixels farther than this from the outlines of truth and coarse mask."""


def total_loss(
    outputs: Mapping[str, Tensor], truth: Tensor, trusted: Tensor, config: Loss, coarse_logit: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum over outputs, and each output's share of it for the log.

    `outputs` are logits (B, 1, H, W); `truth` (B, 1, H, W) in 0..1; `trusted` (B, 1, H, W) bool.
    """
    parts = {
        name: output_loss(logit.float(), truth, trusted, terms_for(name, config)) for name, logit in outputs.items()
    }
    if config.identity and coarse_logit is not None:
        change = (outputs["final"].float() - coarse_logit).abs()
        settled = right_and_far(truth, torch.sigmoid(coarse_logit))
        parts["identity"] = config.identity * weighted_mean(change, settled)
    total = torch.stack(list(parts.values())).sum()
    return total, {name: float(value.detach()) for name, value in parts.items()}


def terms_for(name: str, config: Loss) -> Terms:
    """The terms of the longest key that `name` starts with; none: the output is not supervised."""
    keys = [key for key in config.outputs if name.startswith(key)]
    return config.outputs[max(keys, key=len)] if keys else Terms()


def output_loss(logit: Tensor, truth: Tensor, trusted: Tensor, terms: Terms) -> Tensor:
    loss = logit.new_zeros(())
    if terms.bce:
        entropy = F.binary_cross_entropy_with_logits(logit, truth, reduction="none")
        loss = loss + terms.bce * weighted_mean(entropy, trusted)
    if not (terms.l1 or terms.l2 or terms.sobel or terms.iou):
        return loss
    probability = torch.sigmoid(logit)
    if terms.l1:
        loss = loss + terms.l1 * weighted_mean((probability - truth).abs(), trusted)
    if terms.l2:
        loss = loss + terms.l2 * weighted_mean((probability - truth).square(), trusted)
    if terms.sobel:
        loss = loss + terms.sobel * weighted_mean((gradient(probability) - gradient(truth)).abs(), trusted)
    if terms.iou:
        loss = loss + terms.iou * soft_iou_loss(probability, truth, trusted)
    return loss


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    weights = weights.to(values)
    return (values * weights).sum() / weights.sum().clamp(min=1.0)


def soft_iou_loss(probability: Tensor, truth: Tensor, trusted: Tensor) -> Tensor:
    """1 - intersection over union of each image, both softened by products; 1e-6 keeps an empty pair at 0."""
    p, g = probability * trusted, truth * trusted
    both = (p * g).sum(dim=(1, 2, 3))
    union = (p + g - p * g).sum(dim=(1, 2, 3))
    return (1 - (both + 1e-6) / (union + 1e-6)).mean()


def gradient(plane: Tensor) -> Tensor:
    """Sobel magnitude of the 3 x 3 mean, as in CascadePSP's gradient loss: kernels over 4, 1e-4 under the root."""
    mean = F.pad(F.avg_pool2d(plane, 3, stride=1, padding=1), (1, 1, 1, 1))
    # Differences of slices: the same sums as a 3 x 3 convolution, whose backward pass is ten times slower on a CPU.
    across = mean[..., 2:] - mean[..., :-2]
    down = mean[..., 2:, :] - mean[..., :-2, :]
    col = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 4
    row = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 4
    return (col.square() + row.square() + 1e-4).sqrt()


def right_and_far(truth: Tensor, coarse: Tensor) -> Tensor:
    """Pixels where truth and coarse agree at 0.5 and no outline of either lies within `FAR` pixels."""
    t, c = (truth > 0.5).float(), (coarse > 0.5).float()
    return ((t == c) & uniform_around(t) & uniform_around(c)).float()


def uniform_around(hard: Tensor) -> Tensor:
    """Pixels (B, 1, H, W) with one value only within `FAR` pixels, found on a grid of 4 px: never too many."""
    cell = 4

    def highest(plane: Tensor) -> Tensor:
        plane = F.max_pool2d(plane, cell, ceil_mode=True)
        side = 2 * (FAR // cell) + 1
        return F.max_pool2d(plane, side, stride=1, padding=side // 2)

    uniform = highest(hard) == -highest(-hard)
    whole = uniform.repeat_interleave(cell, dim=2).repeat_interleave(cell, dim=3)
    return whole[..., : hard.shape[-2], : hard.shape[-1]]

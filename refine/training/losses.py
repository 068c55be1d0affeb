"""Losses on logits, summed per output as the config weighs them; pixels whose truth is not trusted do not count."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from refine.installation import import_torchvision
from refine.training import processes
from refine.training.edges import edge_loss
from refine.training.loss_config import Loss, Terms
from refine.training.similarity import depth_loss, dice_loss, structural_similarity

FAR = 16
"""The identity term counts pixels farther than this from the outlines of truth and coarse mask."""


def total_loss(
    outputs: Mapping[str, Tensor],
    truth: Tensor,
    trusted: Tensor,
    config: Loss,
    coarse_logit: Tensor | None = None,
    depth: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum over outputs, and each output's share of it for the log.

    `outputs` are logits (B, 1, H, W); `truth` (B, 1, H, W) in 0..1; `trusted` (B, 1, H, W) bool. `depth`, like `truth`,
    is what an output of that name is compared with.
    """
    weights = None
    if config.relative and coarse_logit is not None:
        weights = forbearance(coarse_logit, truth, trusted, config.terms_of("final"), config.relative)
    whole = processes.mean(trusted.float().sum())  # where several processes share a batch, each adds to one mean
    parts = {
        name: output_loss(logit.float(), truth, trusted, config.terms_of(name), weights, whole)
        for name, logit in outputs.items()
        if name != "depth"
    }
    if depth is not None and "depth" in outputs:
        logit = outputs["depth"].float()
        parts["depth"] = output_loss(logit, depth, trusted, config.terms_of("depth"), whole=whole)
        if config.depth is not None:
            relative = depth_loss(torch.sigmoid(logit), depth, gradients=config.depth.gradients)
            parts["depth"] = parts["depth"] + config.depth.weight * relative
    if config.identity and coarse_logit is not None:
        change = (outputs["final"].float() - coarse_logit).abs()
        settled = right_and_far(truth, torch.sigmoid(coarse_logit))
        parts["identity"] = config.identity * weighted_mean(change, settled)
    total = torch.stack(list(parts.values())).sum()
    return total, {name: float(value.detach()) for name, value in parts.items()}


@torch.no_grad()
def forbearance(coarse_logit: Tensor, truth: Tensor, trusted: Tensor, terms: Terms, relative: float) -> Tensor:
    """A weight for each sample, (B,): `relative / (relative + loss of its coarse mask)`.

    What is left to mend of a good mask is little beside a bad one's error, so a sum lets the bad ones teach the network
    to put no trust in any mask. Relative to where it started, every mask counts.
    """
    single = [slice(i, i + 1) for i in range(len(truth))]
    before = torch.stack([output_loss(coarse_logit[i], truth[i], trusted[i], terms) for i in single])
    return relative / (relative + before)


def output_loss(
    logit: Tensor,
    truth: Tensor,
    trusted: Tensor,
    terms: Terms,
    weights: Tensor | None = None,
    whole: Tensor | None = None,
) -> Tensor:
    """The sum of the terms over a batch; `weights` (B,) count one sample's pixels more than another's.

    `whole`: what means divide by, if not the number of trusted pixels.
    """
    counted = trusted.float() if weights is None else trusted * weights[:, None, None, None]
    pixels = (trusted.float().sum() if whole is None else whole).clamp(min=1.0)

    def mean(values: Tensor) -> Tensor:
        return (values * counted).sum() / pixels

    loss = logit.new_zeros(())
    if terms.bce:
        loss = loss + terms.bce * mean(F.binary_cross_entropy_with_logits(logit, truth, reduction="none"))
    if terms.focal:
        loss = loss + terms.focal * mean(focal_loss(logit, truth))
    if terms.edge:
        loss = loss + terms.edge * mean(edge_loss(logit, truth, terms.edge_map, terms.edge_loss))
    if not (terms.rms or terms.l1 or terms.l2 or terms.sobel or terms.iou or terms.dice or terms.ssim):
        return loss
    probability = torch.sigmoid(logit)
    if terms.l1:
        loss = loss + terms.l1 * mean((probability - truth).abs())
    if terms.l2:
        loss = loss + terms.l2 * mean((probability - truth).square())
    if terms.rms:
        roots = root_mean_square(probability - truth, trusted)
        loss = loss + terms.rms * (roots if weights is None else roots * weights).mean()
    if terms.sobel:
        loss = loss + terms.sobel * mean((gradient(probability) - gradient(truth)).abs())
    if terms.iou:
        loss = loss + terms.iou * soft_iou_loss(probability, truth, trusted, weights)
    if terms.dice:
        dice = dice_loss(probability, truth, trusted)
        loss = loss + terms.dice * (dice if weights is None else dice * weights).mean()
    if terms.ssim:
        loss = loss + terms.ssim * mean(1 - structural_similarity(probability, truth))
    return loss


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """The mean; where several processes share a batch, this process's part of the mean over the whole of it."""
    weights = weights.to(values)
    return (values * weights).sum() / processes.mean(weights.sum()).clamp(min=1.0)


def soft_iou_loss(probability: Tensor, truth: Tensor, trusted: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - intersection over union of each image, both softened by products; 1e-6 keeps an empty pair at 0."""
    p, g = probability * trusted, truth * trusted
    both = (p * g).sum(dim=(1, 2, 3))
    union = (p + g - p * g).sum(dim=(1, 2, 3))
    loss = 1 - (both + 1e-6) / (union + 1e-6)
    return (loss if weights is None else loss * weights).mean()


def root_mean_square(difference: Tensor, trusted: Tensor) -> Tensor:
    """(B,) of each image, over trusted pixels; 1e-8 under the root."""
    count = trusted.sum(dim=(1, 2, 3)).clamp(min=1)
    return ((difference.square() * trusted).sum(dim=(1, 2, 3)) / count + 1e-8).sqrt()


def focal_loss(logit: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy of each pixel that counts less the surer it is right (arXiv 1708.02002); torchvision's."""
    loss: Tensor = import_torchvision().ops.sigmoid_focal_loss(logit, truth)
    return loss


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

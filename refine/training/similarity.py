"""Losses that compare pictures as wholes: structural similarity, Dice, and depth up to scale and shift."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_SIDE, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """The SSIM map (B, 1, H, W) of planes in 0..1, as in BASNet: a Gaussian of 11 px, sigma 1.5, zeros outside.

    Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004, equation 13.
    """
    mean_a, mean_b = _blurred(a), _blurred(b)
    variance_a = _blurred(a * a) - mean_a.square()
    variance_b = _blurred(b * b) - mean_b.square()
    covariance = _blurred(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a.square() + mean_b.square() + SSIM_C1)
    return luminance * (2 * covariance + SSIM_C2) / (variance_a + variance_b + SSIM_C2)


def dice_loss(probability: Tensor, truth: Tensor, trusted: Tensor) -> Tensor:
    """1 - (2 pg + 1) / (p + g + 1) of each image, (B,)."""
    p, g = probability * trusted, truth * trusted
    both = (p * g).sum(dim=(1, 2, 3))
    return 1 - (2 * both + 1) / ((p + g).sum(dim=(1, 2, 3)) + 1)


def depth_loss(depth: Tensor, goal: Tensor, *, gradients: float) -> Tensor:
    """How far relative depth (B, 1, H, W) is from `goal` once scale and shift are fitted to it, image by image.

    The mean square of what the least-squares line leaves, over the goal's variance; and `gradients` times the mean size
    of its gradient at four scales. Ranftl et al., Towards Robust Monocular Depth Estimation, arXiv 1907.01341, section
    5. We divide by the variance so that flat and deep scenes count alike; a goal of one depth counts nothing.
    """
    own, wanted = depth.flatten(1), goal.flatten(1)
    centred, target = own - own.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True)
    spread = target.square().mean(1, keepdim=True)
    known = (spread > 1e-6).to(own)
    scale = (centred * target).mean(1, keepdim=True) / (centred.square().mean(1, keepdim=True) + 1e-6)
    # Depth upside down is not the same depth: a fit may not turn it over.
    rest = known * (scale.clamp(min=0) * centred - target) / (spread + 1e-6).sqrt()
    loss = rest.square().mean()
    if gradients:
        plane = rest.view_as(depth)
        for _ in range(4):
            steps = plane[..., 1:, :] - plane[..., :-1, :], plane[..., 1:] - plane[..., :-1]
            loss = loss + gradients * sum(step.abs().mean() for step in steps)
            plane = plane[..., ::2, ::2]
    return loss


def _blurred(plane: Tensor) -> Tensor:
    offsets = torch.arange(SSIM_SIDE, dtype=plane.dtype, device=plane.device) - SSIM_SIDE // 2
    weights = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    weights = weights / weights.sum()
    down = F.conv2d(plane, weights.view(1, 1, -1, 1), padding=(SSIM_SIDE // 2, 0))
    return F.conv2d(down, weights.view(1, 1, 1, -1), padding=(0, SSIM_SIDE // 2))

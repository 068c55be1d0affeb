"""Parts that several networks share: resizing, pyramid pooling, the coarse mask as logit, the weight of points."""

from __future__ import annotations

from functools import lru_cache
from math import ceil, floor, log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COARSE_EPSILON = 0.01
"""A coarse mask is clipped this far from 0 and 1 before its logit is taken: +-4.595."""

COARSE_LIMIT = log((1 - COARSE_EPSILON) / COARSE_EPSILON)

POINT_RAMP = (0.1, 0.4)
"""Uncertainty at which the point head starts to count, and at which it counts fully."""

MOST_LOG_GAIN = 2.0
"""The coarse logit is scaled by at most e to this, either way: 7.4 makes the steepest ramp of a reduced mask hard."""

REACH_SCALE = 4.0
"""The reach plane is log2(reach) / 4: one pixel is 0, sixteen pixels are 1."""


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """(B, C, h, w) to (B, C, height, width), bilinear, pixel centres aligned."""
    if x.shape[-2:] == (height, width):
        return x
    if x.shape[1] <= 2:  # one or two planes, channels last, take a CPU three times as long
        x = x.contiguous()
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int = 3, *, bias: bool = False) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class PyramidPooling(nn.Module):
    """Pooling to 1, 2, 3, 6 cells a side, a 1x1 convolution each, enlarged again beside the input (PSPNet, 1612.01105).

    `branch_channels` = `in_channels` is the MeticulousNet reproduction; a quarter of it is the original PSPNet.
    (B, in_channels, h, w) gives (B, out_channels, h, w).
    """

    bins = (1, 2, 3, 6)

    def __init__(self, in_channels: int, branch_channels: int, out_channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(in_channels, branch_channels, 1, bias=False) for _ in self.bins)
        total = in_channels + branch_channels * len(self.bins)
        self.bottleneck = conv_bn_relu(total, out_channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        parts = [x]
        for bins, branch in zip(self.bins, self.branches, strict=True):
            pooled = _along_axes(x, pooling_matrix(height, bins), pooling_matrix(width, bins))  # (B, C, bins, bins)
            up = _along_axes(branch(pooled), enlarging_matrix(bins, height), enlarging_matrix(bins, width))
            parts.append(up)
        pooled_features: Tensor = self.bottleneck(torch.cat(parts, dim=1))
        return pooled_features


def _along_axes(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    rows, cols = rows.to(x), cols.to(x)
    return rows @ x @ cols.transpose(0, 1)


@lru_cache(maxsize=64)
def pooling_matrix(length: int, bins: int) -> Tensor:
    """(bins, length); cell i is the mean of pixels floor(i n / b) to ceil((i + 1) n / b), as `adaptive_avg_pool2d`."""
    with torch.inference_mode(False):  # a matrix kept from an inference must serve a later training step
        matrix = torch.zeros(bins, length, device="cpu")  # whatever the default is: it is kept for all devices
        for i in range(bins):
            start, stop = floor(i * length / bins), ceil((i + 1) * length / bins)
            matrix[i, start:stop] = 1 / (stop - start)
        return matrix


@lru_cache(maxsize=64)
def enlarging_matrix(length: int, target: int) -> Tensor:
    """(target, length); bilinear, pixel centres aligned. A constant matrix exports to every runtime, odd cells too."""
    with torch.inference_mode(False):
        eye = torch.eye(length, device="cpu")[None, None]  # (1, 1, length, length)
        return resize(eye, target, length)[0, 0]


def coarse_logit(coarse: Tensor) -> Tensor:
    """Logit of a coarse mask in 0..1, finite for a hard one."""
    return torch.logit(coarse.float().clamp(COARSE_EPSILON, 1 - COARSE_EPSILON))


def uncertainty(logit: Tensor) -> Tensor:
    """How much a pixel may gain from the point head: 1 on an outline, however hard, and 0 where the mask is flat.

    `1 - 2 |p - 0.5|` alone ties all pixels of a hard mask, so the range of p in a 5 x 5 window is added.
    """
    p = torch.sigmoid(logit)
    return 1 - 2 * (p - 0.5).abs() + (_highest_around(p) + _highest_around(-p))


def _highest_around(p: Tensor) -> Tensor:
    """The highest value of each 5 x 5 window. Pooling of a single plane takes ten times as long on a CPU."""
    p = F.pad(p, (2, 2, 2, 2), mode="replicate")
    for axis in (-2, -1):
        two = torch.maximum(p.narrow(axis, 0, p.shape[axis] - 1), p.narrow(axis, 1, p.shape[axis] - 1))
        four = torch.maximum(two.narrow(axis, 0, two.shape[axis] - 2), two.narrow(axis, 2, two.shape[axis] - 2))
        p = torch.maximum(four.narrow(axis, 0, four.shape[axis] - 1), p.narrow(axis, 4, p.shape[axis] - 4))
    return p


def soft_point_weight(logit: Tensor) -> Tensor:
    """Weight 0..1 of the point head, continuous in the logit, so that rounding cannot swap points.

    A choice of places, which the loss must not learn to open or close: it carries no gradient.
    """
    low, high = POINT_RAMP
    return ((uncertainty(logit.detach()) - low) / (high - low)).clamp(0, 1)


class ReachGate(nn.Module):
    """A learned factor on each change of the logit, a function of the reach alone; 1 at the start.

    What a network knows is worth the less the better the mask already is. The reach plane says how good, but to turn a
    constant plane into restraint takes a network many more samples than to learn these few numbers. The factor is
    linear in log2(reach) between knots at 2^0, 2^0.5 ... 2^6 pixels: (B,) gives (B, channels, 1, 1).
    """

    knots, step, rate = 13, 0.5, 8.0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(self.knots, channels))

    def forward(self, reach: Tensor) -> Tensor:
        place = torch.log2(reach.float()).clamp(0, self.step * (self.knots - 1)) / self.step
        hats = F.relu(1 - (place[:, None] - torch.arange(self.knots, device=reach.device)).abs())  # (B, knots)
        # `rate` lets the gate move as far in a step as a weight of a convolution moves its output.
        return (1 + self.rate * (hats @ self.weight.float()))[:, :, None, None]


def mask_planes(image: Tensor, coarse: Tensor, reach: Tensor | None) -> Tensor:
    """What a refining network reads: RGB, `2 coarse - 1`, and with `reach` (B,) in pixels its constant plane."""
    planes = [image, (2 * coarse - 1).to(image)]
    if reach is not None:
        plane = (torch.log2(reach.float()) / REACH_SCALE).to(image).view(-1, 1, 1, 1)
        planes.append(plane.expand(-1, 1, *image.shape[-2:]))
    return torch.cat(planes, dim=1)  # (B, 4 or 5, H, W)


def changed_logit(start: Tensor, change: Tensor, *, bounded: bool = False) -> Tensor:
    """The logit (B, 1, H, W) after a change (B, 1 or 2, H, W); a change of zero is none, to the bit.

    The first channel is added. The second is the logarithm of a factor on `start`: it sharpens a ramp in place, where a
    sum could do so only by copying the ramp, and every error of the copy would move the outline. `bounded`: the factor
    counts where the coarse mask is undecided and fades to 1 at the limit of its logit, so that one factor may serve a
    whole window, and a sharpened outline is as easily moved as any.
    """
    if change.shape[1] == 1:
        return start + change
    factor = change[:, 1:].clamp(-MOST_LOG_GAIN, MOST_LOG_GAIN).exp()
    if bounded:
        factor = factor / (1 + (factor - 1) * (start.abs() / COARSE_LIMIT))
    return start * factor + change[:, :1]


def correction_of(logit: Tensor, coarse: Tensor, *, residual: bool) -> Tensor:
    """Refined minus coarse mask, (B, 1, H, W) float32; exactly 0 where a residual network changed nothing."""
    refined = torch.sigmoid(logit.float())
    before = torch.sigmoid(coarse_logit(coarse)) if residual else coarse.float()
    return refined - before

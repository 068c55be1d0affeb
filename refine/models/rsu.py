"""Residual U-blocks: the small U-Nets that U2-Net, IS-Net and its truth encoder are made of, and how they are joined.

U2-Net: Going Deeper with Nested U-Structure, arXiv 2005.09007, section 3.1; module names are those of the public code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBlock(nn.Module):
    """conv3x3, BatchNorm, ReLU; padding equals dilation, so height and width stay."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(out_channels)
        self.relu_s1 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu_s1(self.bn_s1(self.conv_s1(x)))
        return y


class PooledU(nn.Module):
    """RSU-L: x0 + U(x0), where U halves the size L - 2 times and ends in one dilated block (L = `depth`)."""

    def __init__(self, depth: int, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depth = depth
        self.rebnconvin = ConvBlock(in_channels, out_channels)
        self.add_module("rebnconv1", ConvBlock(out_channels, mid_channels))
        for level in range(2, depth):
            self.add_module(f"rebnconv{level}", ConvBlock(mid_channels, mid_channels))
        self.add_module(f"rebnconv{depth}", ConvBlock(mid_channels, mid_channels, dilation=2))
        for level in range(depth - 1, 1, -1):
            self.add_module(f"rebnconv{level}d", ConvBlock(2 * mid_channels, mid_channels))
        self.add_module("rebnconv1d", ConvBlock(2 * mid_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        x0: Tensor = self.rebnconvin(x)
        skips = [self.get_submodule("rebnconv1")(x0)]
        for level in range(2, self.depth):
            skips.append(self.get_submodule(f"rebnconv{level}")(halve(skips[-1])))
        y: Tensor = self.get_submodule(f"rebnconv{self.depth}")(skips[-1])
        for level in range(self.depth - 1, 0, -1):
            skip = skips[level - 1]
            y = self.get_submodule(f"rebnconv{level}d")(torch.cat([enlarge(y, skip), skip], dim=1))
        return y + x0


class DilatedU(nn.Module):
    """RSU-4F: the same at one size, dilation 1, 2, 4, 8 in place of pooling."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.rebnconvin = ConvBlock(in_channels, out_channels)
        self.rebnconv1 = ConvBlock(out_channels, mid_channels)
        self.rebnconv2 = ConvBlock(mid_channels, mid_channels, dilation=2)
        self.rebnconv3 = ConvBlock(mid_channels, mid_channels, dilation=4)
        self.rebnconv4 = ConvBlock(mid_channels, mid_channels, dilation=8)
        self.rebnconv3d = ConvBlock(2 * mid_channels, mid_channels, dilation=4)
        self.rebnconv2d = ConvBlock(2 * mid_channels, mid_channels, dilation=2)
        self.rebnconv1d = ConvBlock(2 * mid_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x0: Tensor = self.rebnconvin(x)
        x1 = self.rebnconv1(x0)
        x2 = self.rebnconv2(x1)
        x3 = self.rebnconv3(x2)
        y: Tensor = self.rebnconv4(x3)
        y = self.rebnconv3d(torch.cat([y, x3], dim=1))
        y = self.rebnconv2d(torch.cat([y, x2], dim=1))
        y = self.rebnconv1d(torch.cat([y, x1], dim=1))
        return x0 + y


class NestedU(nn.Module):
    """A U-Net of such blocks. Subclasses make its modules, of whatever kind and width.

    `stage1` ... `stage6` lead down, `stage5d` ... `stage1d` up, if there is a way up; `side1` ... `side6` give masks.
    """

    def down(self, x: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the six stages, finest first, each half the size of the one before."""
        features = [self.get_submodule("stage1")(x)]
        for level in range(2, 7):
            features.append(self.get_submodule(f"stage{level}")(halve(features[-1])))
        return tuple(features)

    def up(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Outputs of the six decoder stages at the sizes of `features`, finest first; the last is the last of them."""
        decoded = [features[-1]]
        for level in range(5, 0, -1):
            skip = features[level - 1]
            decoded.append(self.get_submodule(f"stage{level}d")(torch.cat([enlarge(decoded[-1], skip), skip], dim=1)))
        return tuple(reversed(decoded))

    def side_logits(self, features: tuple[Tensor, ...], image: Tensor) -> tuple[Tensor, ...]:
        """The six side outputs at the image's size, finest first, each (B, 1, H, W)."""
        heads = (self.get_submodule(f"side{level}") for level in range(1, 7))
        return tuple(enlarge(head(feature), image) for head, feature in zip(heads, features, strict=True))


def named_sides(sides: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Side outputs, given finest first, as "side1" and so on; the coarsest comes first."""
    return {f"side{level}": sides[level - 1] for level in range(len(sides), 0, -1)}


def halve(x: Tensor) -> Tensor:
    """2 x 2 maximum; an odd row or column at the end is kept, as in the public code."""
    return F.max_pool2d(x, 2, stride=2, ceil_mode=True)


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear to the height and width of `like`, pixel centres aligned."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)

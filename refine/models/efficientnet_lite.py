"""timm's `tf_efficientnet_lite0` without its head, built without timm: names, order and arithmetic are the same.

Importing timm, and torchvision with it, takes longer than torch itself and 200 MB. To train, timm's own network is
built, whose random start and options are timm's; to run weights that exist, this one is enough. A test holds the two
together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

NAME = "tf_efficientnet_lite0"
MEAN = STD = (0.5, 0.5, 0.5)

STEM = 32
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
"""Blocks, kernel, stride of the first, expansion, channels: those of EfficientNet-B0 (1905.11946, table 1).

The lite variant has ReLU6, no squeeze-and-excitation, and a stem and a head that do not scale.
"""

BATCH_NORM_EPSILON = 1e-3  # TensorFlow's, whose weights these are


class EfficientNetLite(nn.Module):
    """Features after the stages whose strides are `taps`: (B, C_i, H / s_i, W / s_i), finest first."""

    def __init__(self, in_channels: int, taps: Sequence[int]) -> None:
        super().__init__()
        self.conv_stem = _convolution(in_channels, STEM, 3, 2)
        self.bn1 = BatchNormAct2d(STEM)
        width, stride, found = STEM, 2, {}
        stages = []
        for number, (count, kernel, first_stride, expansion, channels) in enumerate(STAGES):
            blocks = []
            for index in range(count):
                step = first_stride if index == 0 else 1
                blocks.append(
                    InvertedResidual(width, channels, kernel, step, expansion)
                    if expansion > 1
                    else DepthwiseSeparable(width, channels, kernel, step)
                )
                width = channels
            stages.append(nn.Sequential(*blocks))
            stride *= first_stride
            found[stride] = number, channels  # where several stages share a stride the last one is meant
        self.strides = list(taps)
        self._tapped = [found[tap][0] for tap in taps]
        self.channels = [found[tap][1] for tap in taps]
        self.blocks = nn.Sequential(*stages[: max(self._tapped) + 1])

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.bn1(self.conv_stem(x))
        features = []
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            if number in self._tapped:
                features.append(x)
        return features


class DepthwiseSeparable(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = _convolution(in_channels, in_channels, kernel, stride, groups=in_channels)
        self.bn1 = BatchNormAct2d(in_channels)
        self.conv_pw = _convolution(in_channels, out_channels, 1, 1)
        self.bn2 = _batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.bn2(self.conv_pw(self.bn1(self.conv_dw(x))))
        return changed + x if changed.shape == x.shape else changed


class InvertedResidual(nn.Module):
    """MobileNetV2's block (1801.04381): expand, depthwise, project; added to its input where the shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.conv_pw = _convolution(in_channels, inner, 1, 1)
        self.bn1 = BatchNormAct2d(inner)
        self.conv_dw = _convolution(inner, inner, kernel, stride, groups=inner)
        self.bn2 = BatchNormAct2d(inner)
        self.conv_pwl = _convolution(inner, out_channels, 1, 1)
        self.bn3 = _batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv_dw(self.bn1(self.conv_pw(x))))
        changed: Tensor = self.bn3(self.conv_pwl(inner))
        return changed + x if changed.shape == x.shape else changed


class BatchNormAct2d(nn.BatchNorm2d):
    """BatchNorm that carries its activation."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=BATCH_NORM_EPSILON)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, input: Tensor) -> Tensor:
        activated: Tensor = self.act(super().forward(input))
        return activated


class Conv2dSame(nn.Conv2d):
    """Pads as TensorFlow does: as much as the outputs need, and the odd pixel on the right and below."""

    def forward(self, input: Tensor) -> Tensor:
        pads: list[int] = []
        for length, kernel, stride in zip(input.shape[-2:], self.kernel_size, self.stride, strict=True):
            missing = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            pads = [missing // 2, missing - missing // 2, *pads]  # F.pad wants the last axis first
        return F.conv2d(F.pad(input, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    if stride == 1:
        return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=False)
    return Conv2dSame(in_channels, out_channels, kernel, stride=stride, groups=groups, bias=False)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON)

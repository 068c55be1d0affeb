"""The small network for CPUs: one pass over a MobileNet-like encoder, and a point head at full size.

Same duty and same outputs as MeticulousNet, at about a hundredth of its cost: no cycles, no mask encoding,
depthwise-separable decoder blocks. A 224 window costs below 2 G multiply-adds; a test holds that.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from refine.models.blocks import (
    PyramidPooling,
    ReachGate,
    changed_logit,
    conv_bn_relu,
    resize,
    soft_point_weight,
)
from refine.models.encoder import Encoder
from refine.models.mask_network import MaskNetwork, MaskNetworkConfig, start_at_zero
from refine.models.points import change_where


class LiteConfig(MaskNetworkConfig):
    """What fixes a LiteNet's tensors.

    The defaults are those of the first shipped networks, so that checkpoints whose header lacks a key stay what they
    are; `configs/` has what is shipped now.
    """

    encoder: str = "tf_efficientnet_lite0"
    bounded_gain: bool = Field(False, description="gain only: the scale fades to 1 where the coarse mask is decided")
    reach_gate: bool = Field(False, description="residual only: changes are scaled by a learned function of the reach")
    widths: tuple[int, int, int, int] = Field((96, 64, 32, 16), description="decoder channels at strides 16, 8, 4, 2")
    point_width: int = Field(16, ge=4, description="channels of the head at full size")
    deep: bool = Field(False, description="the encoder goes on to stride 32, which tells things apart by what they are")


class Deepest(nn.Module):
    """What the features at stride 32, and their means over the window, add to those at stride 16; 0 at the start."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pooling = PyramidPooling(in_channels, in_channels // 4, out_channels)
        self.added = nn.Conv2d(out_channels, out_channels, 1)
        start_at_zero([self.added])

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return resize(self.added(self.pooling(x)), height, width)


class LiteRecover(nn.Module):
    """Features one step finer: resize, join the skip, two depthwise-separable convolutions, a 1x1 shortcut."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.merge = conv_bn_relu(in_channels + skip_channels, out_channels, 1)
        self.body = nn.Sequential(
            *separable(out_channels, out_channels), nn.ReLU(inplace=True), *separable(out_channels, out_channels)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        merged = self._merged(x, skip)
        return F.relu(merged + self.body(merged))

    def _merged(self, x: Tensor, skip: Tensor) -> Tensor:
        """The convolution of both; once BatchNorm is folded into it, of `x` before that is enlarged.

        Enlarging and a 1x1 convolution are linear and change places: the same function, less to enlarge, and no copy.
        """
        convolution, norm, relu = self.merge
        assert isinstance(convolution, nn.Conv2d)
        if not isinstance(norm, nn.Identity):
            merged: Tensor = self.merge(torch.cat([resize(x, *skip.shape[-2:]), skip], dim=1))
            return merged
        channels = x.shape[1]
        coarse = F.conv2d(x, convolution.weight[:, :channels])
        fine = F.conv2d(skip, convolution.weight[:, channels:], convolution.bias)
        both: Tensor = relu(fine + resize(coarse, *skip.shape[-2:]))
        return both


def averaged_planes(x: Tensor) -> list[Tensor]:
    """The input's planes beyond RGB at strides 2, 4, 8, 16, each averaged from the one before."""
    planes, averaged = x[:, 3:], []
    for _ in range(4):  # as avg_pool2d adds them, which takes a CPU thrice the time
        top, bottom = planes[..., ::2, :], planes[..., 1::2, :]
        planes = (top[..., ::2] + top[..., 1::2] + bottom[..., ::2] + bottom[..., 1::2]) / 4
        averaged.append(planes)
    return averaged


def with_planes(features: Tensor, planes: Tensor) -> Tensor:
    """Features with planes of their size beside them, in the memory format of the features."""
    planes = planes.to(features)
    if features.is_contiguous(memory_format=torch.channels_last):
        planes = planes.contiguous(memory_format=torch.channels_last)
    return torch.cat([features, planes], dim=1)


def separable(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


class LiteNet(MaskNetwork):
    """MOS_L_lite (`takes_mask` False) or MOS_H_lite.

    `forward(image (B, 3, H, W) normalised, coarse (B, 1, H, W) in 0..1, reach (B,) in pixels)` gives logits
    (B, 1, H, W): in training those of strides 16, 8, 4 and "final", else only "final". H and W are multiples of
    `stride`. With `is_loaded` all weights are about to be loaded: see `Encoder`.
    """

    stride = 16

    def __init__(self, config: LiteConfig | None = None, *, is_loaded: bool = False) -> None:
        config = config or LiteConfig()
        super().__init__(config)
        self.config = config
        taps = (2, 4, 8, 16, 32)[: 5 if config.deep else 4]
        name, planes = config.encoder, self.planes
        self.encoder = Encoder(name, in_channels=planes, output_stride=32, taps=taps, is_loaded=is_loaded)
        # The mask goes to every decoder block as well: the stem's mask weights start at zero and learn late.
        beside = self.planes - 3
        c2, c4, c8, c16 = (channels + beside for channels in self.encoder.channels[:4])
        w16, w8, w4, w2 = config.widths
        self.pooling = PyramidPooling(c16, c16 // 4, w16)
        self.deepest = Deepest(self.encoder.channels[4], w16) if config.deep else None
        self.recover16 = LiteRecover(w16, c8, w8)
        self.recover8 = LiteRecover(w8, c4, w4)
        self.recover4 = LiteRecover(w4, c2, w2)
        self.heads = nn.ModuleDict(
            {f"s{s}": nn.Conv2d(w, self.changes, 1) for s, w in zip((16, 8, 4, 2), config.widths, strict=True)}
        )
        self.points = nn.Sequential(
            nn.Conv2d(w2 + self.planes + 1, config.point_width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(config.point_width, config.point_width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(config.point_width, self.changes, 1),
        )
        self.gate = ReachGate(self.changes) if self.residual and config.reach_gate else None
        if self.residual:
            start_at_zero([*self.heads.values(), self.points[-1]])

    def forward(self, image: Tensor, coarse: Tensor | None = None, reach: Tensor | None = None) -> dict[str, Tensor]:
        x, start = self.inputs(image, coarse, reach)
        features: list[Tensor] = self.encoder(x)
        features, deep = features[:4], features[4:]
        if x.shape[1] > 3:
            features = [with_planes(*pair) for pair in zip(features, averaged_planes(x), strict=True)]
        e2, e4, e8, e16 = features
        d16 = self.pooling(e16)
        if self.deepest is not None:
            d16 = d16 + self.deepest(*deep, *d16.shape[-2:])
        d8 = self.recover16(d16, e8)
        d4 = self.recover8(d8, e4)
        d2 = self.recover4(d4, e2)

        change, changes = None, {}
        for name, features in (("s16", d16), ("s8", d8), ("s4", d4), ("s2", d2)):
            value = self.heads[name](features).float()  # (B, 1 or 2, h, w)
            change = value if change is None else value + resize(change, *value.shape[-2:])
            changes[name] = change
        factor = image.new_ones(())
        if self.gate is not None:
            assert reach is not None
            factor = self.gate(reach)
        changes = {name: factor * change for name, change in changes.items()}
        full = resize(changes["s2"], *x.shape[-2:])
        changed = partial(changed_logit, start, bounded=self.config.bounded_gain)
        final = changed(full + factor * self._at_full_size(x, d2, changed(full)))
        if not self.training:
            return {"final": final}
        coarser = {name: changed(resize(changes[name], *x.shape[-2:])) for name in ("s16", "s8", "s4")}
        return {**coarser, "final": final}

    def _at_full_size(self, x: Tensor, d2: Tensor, logit: Tensor) -> Tensor:
        """The point head's change: the only layers that see single pixels; it counts where the mask is uncertain."""
        weight = soft_point_weight(logit)
        if not self.training and x.device.type == "cpu" and not torch.onnx.is_in_onnx_export():
            return change_where(self.points, d2, x, logit, weight)
        features = resize(d2, *x.shape[-2:])  # (B, w2, H, W)
        planes = torch.cat([x.to(features), (logit / 4).to(features)], dim=1)
        if self.training:
            change: Tensor = self.points(torch.cat([features, planes], dim=1)).float()
        else:  # the first convolution in two parts: joined, the planes are no multiple of what a CPU takes at once
            first, channels = self.points[0], features.shape[1]
            assert isinstance(first, nn.Conv2d)
            joined = F.conv2d(features, first.weight[:, :channels], first.bias, padding=1)
            joined = joined + F.conv2d(planes, first.weight[:, channels:], padding=1)
            change = self.points[1:](joined).float()
        return weight * change

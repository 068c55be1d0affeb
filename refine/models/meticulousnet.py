"""MeticulousNet (arXiv 2012.07181): MOS_L makes a coarse mask, MOS_H refines one, from one architecture.

encoder at stride 8 -> pyramid pooling -> decoder in three cycles, with a HierPR layer (mask head and point
perceptron) at strides 8, 4 and 2. After the public reproduction (CENG501 2021, project_Uner), with these changes:
everything in logits, points by a continuous weight, no normalisation in the shared perceptron, points chosen from
the mask that is changed, and, for MOS_H, a correction of the coarse logit that starts at zero.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from refine.models.blocks import (
    PyramidPooling,
    changed_logit,
    conv_bn_relu,
    resize,
    soft_point_weight,
    uncertainty,
)
from refine.models.encoder import Encoder
from refine.models.mask_network import MaskNetwork, MaskNetworkConfig, start_at_zero

POINT_SHARE = 0.1
"""Share of the pixels that a HierPR layer refines when points are chosen hard [paper, via the reproduction]."""


class MeticulousConfig(MaskNetworkConfig):
    """What fixes a MeticulousNet's tensors. The defaults are MOS_H as shipped."""

    encoder: str = "resnet50"
    points: Literal["soft", "topk"] = "soft"
    pooling: Literal["reduced", "full"] = "reduced"
    width: int = Field(256, ge=16, description="channels at stride 8; halved at stride 4, quartered at stride 2")


class RecoverBlock(nn.Module):
    """Features one step finer, with the encoder's features of that size as skip (after CascadePSP)."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.merge = nn.Sequential(
            conv_bn_relu(in_channels + skip_channels, out_channels, bias=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))
        self.body = nn.Sequential(
            conv_bn_relu(out_channels, out_channels, bias=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = resize(x, *skip.shape[-2:])  # (B, in, 2h, 2w)
        merged = self.merge(torch.cat([x, skip], dim=1)) + self.shortcut(x)
        return F.relu(merged + self.body(merged))  # (B, out, 2h, 2w)


class PointPerceptron(nn.Module):
    """PointRend's three layers on [stem feature, mask logit], shared by all levels and cycles; as 1x1 convolutions."""

    def __init__(self, feature_channels: int, changes: int, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(feature_channels + 1, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, changes, 1),
        )

    def forward(self, features: Tensor, logit: Tensor) -> Tensor:
        value: Tensor = self.layers(torch.cat([features, logit.to(features)], dim=1))
        return value


class MaskHead(nn.Sequential):
    """(B, C, h, w) features to (B, changes, h, w): a logit, or a change of one."""

    def __init__(self, in_channels: int, changes: int) -> None:
        super().__init__(conv_bn_relu(in_channels, 32, 1), nn.Conv2d(32, changes, 1))


class MeticulousNet(MaskNetwork):
    """MOS_L (`takes_mask` False) or MOS_H.

    `forward(image (B, 3, H, W) normalised, coarse (B, 1, H, W) in 0..1, reach (B,) in pixels)` gives logits
    (B, 1, H, W): in training all seven supervised outputs in the order of the cycles, else only "final".
    H and W are multiples of `stride`.
    """

    stride = 8

    def __init__(self, config: MeticulousConfig | None = None) -> None:
        config = config or MeticulousConfig()
        super().__init__(config)
        self.config = config
        self.encoder = Encoder(config.encoder, in_channels=self.planes, output_stride=8, taps=(2, 4, 8))
        c2, c4, c8 = self.encoder.channels
        width = config.width
        self.pooling = PyramidPooling(c8, c8 if config.pooling == "full" else c8 // 4, width)
        self.mask_encoding = nn.Sequential(conv_bn_relu(width + 2, width + 2), conv_bn_relu(width + 2, width))
        self.recover8 = RecoverBlock(width, c4, width // 2)
        self.recover4 = RecoverBlock(width // 2, c2, width // 4)
        self.head_initial = MaskHead(c8, self.changes)
        self.head8, self.head4 = MaskHead(width, self.changes), MaskHead(width // 2, self.changes)
        self.head2 = MaskHead(width // 4, self.changes)
        self.perceptron = PointPerceptron(c2, self.changes)
        if self.residual:
            last = [head[-1] for head in (self.head_initial, self.head8, self.head4, self.head2)]
            start_at_zero([*last, self.perceptron.layers[-1]])

    def forward(self, image: Tensor, coarse: Tensor | None = None, reach: Tensor | None = None) -> dict[str, Tensor]:
        x, start = self.inputs(image, coarse, reach)
        e2, e4, e8 = self.encoder(x)
        d8 = self.pooling(e8)

        def layer(head: nn.Module, features: Tensor, previous: Tensor | None = None) -> Tensor:
            return self._hier_pr(head, features, e2, start, previous)

        def full(change: Tensor) -> Tensor:
            return changed_logit(start, resize(change, *image.shape[-2:]))

        initial = layer(self.head_initial, e8)
        first = layer(self.head8, d8)
        s8_0, s8_1 = full(initial), full(first)

        features = self._encode_masks(d8, s8_0, s8_1)
        second8 = layer(self.head8, features)
        second4 = layer(self.head4, self.recover8(features, e4), second8)
        s8_2, s4_2 = full(second8), full(second4)

        features = self._encode_masks(d8, s8_0, (s8_2 + s4_2) / 2)
        third8 = layer(self.head8, features)
        at4 = self.recover8(features, e4)
        third4 = layer(self.head4, at4, third8)
        third2 = layer(self.head2, self.recover4(at4, e2), third4)
        final = full(third2)
        if not self.training:
            return {"final": final}
        return {
            "s8_0": s8_0, "s8_1": s8_1, "s8_2": s8_2, "s4_2": s4_2,
            "s8_3": full(third8), "s4_3": full(third4), "final": final,
        }  # fmt: skip

    def _hier_pr(self, head: nn.Module, features: Tensor, e2: Tensor, start: Tensor, previous: Tensor | None) -> Tensor:
        """A mask head and the point perceptron on a grid twice as fine as `features`; gives a logit, or its change.

        `previous` is the coarser layer's result: averaged with (direct) or added to (residual).
        """
        height, width = 2 * features.shape[-2], 2 * features.shape[-1]
        value: Tensor = resize(head(features).float(), height, width)
        if previous is not None:
            previous = resize(previous, height, width)
            value = value + previous if self.residual else (value + previous) / 2
        logit = changed_logit(resize(start, height, width), value)
        points: Tensor = self.perceptron(resize(e2, height, width), logit).float()
        change = points if self.residual else points - value
        if self.config.points == "soft":
            return value + soft_point_weight(logit) * change
        return value + chosen_points(logit, training=self.training) * change

    def _encode_masks(self, d8: Tensor, first: Tensor, second: Tensor) -> Tensor:
        masks = torch.sigmoid(torch.cat([first, second], dim=1))  # (B, 2, H, W)
        features: Tensor = self.mask_encoding(torch.cat([d8, resize(masks, *d8.shape[-2:]).to(d8)], dim=1))
        return features


def chosen_points(logit: Tensor, *, training: bool) -> Tensor:
    """1 at the tenth of the pixels that is least certain, in training also at a random fortieth; else 0."""
    doubt = uncertainty(logit).flatten(1)  # (B, H * W)
    count = max(1, int(POINT_SHARE * doubt.shape[1]))
    chosen = torch.zeros_like(doubt)
    chosen.scatter_(1, doubt.topk(count, dim=1).indices, 1.0)
    if training:
        chosen.scatter_(1, torch.randint(doubt.shape[1], (doubt.shape[0], count // 4), device=doubt.device), 1.0)
    return chosen.view_as(logit)

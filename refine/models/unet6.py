"""A U-Net that sees a composite and its empty background, and gives the mask and relative depth of what was put there.

The network of a public solution of the EVA4 course, session 15 (EVAConsolidated): six channels in, at 192 x 192. As
published its 3 x 3 convolutions below the encoder have no padding, so an image of side S gives a mask of the middle, of
side S - 126; and it ends in BatchNorm and ReLU, whose logits cannot say "background": sigmoid of zero is one half. The
repaired form, the default, pads and ends in a convolution.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from refine.models.preprocessing import Preprocessing

# Mean and deviation of 400 000 composites, from the published statistics; the background is scaled alike.
PREPROCESSING = Preprocessing(
    height=192, width=192, mean=(0.582124, 0.579472, 0.567419), std=(0.22423423, 0.23696194, 0.24423425)
)


class UNet6Config(BaseModel):
    """The published layers or the repaired ones, with or without the second output."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    layers: Literal["repaired", "published"] = "repaired"
    depth: bool = Field(default=True, description="a second output: relative depth")


class UNet6(nn.Module):
    """Four blocks down, three up, one decoder for both outputs.

    `forward` takes composite and background, both normalised, as (B, 6, H, W) and gives {"final": logit of the mask,
    "depth": logit of relative depth}, each (B, 1, H, W); sigmoid brings both to 0..1. With published layers the
    outputs are (B, 1, H - 126, W - 126), for sides that are multiples of 16 from 144 on. `coarse` and `reach` are
    accepted for the common signature of networks and not used.
    """

    stride = 16
    takes_mask = False
    sees = "composite"

    def __init__(self, config: UNet6Config | None = None) -> None:
        super().__init__()
        self.config = config or UNet6Config()
        self.is_published = self.config.layers == "published"
        padding = 0 if self.is_published else 1
        self.block1 = _two_convolutions(6, 64, 1)
        self.block2 = _two_convolutions(64, 128, 1)
        self.block3 = _two_convolutions(128, 256, 1)
        self.block4 = _two_convolutions(256, 512, 1)
        self.base = _then_doubled(_two_convolutions(512, 1024, padding), 1024, 512)
        self.block5 = _then_doubled(_two_convolutions(1024, 512, padding), 512, 256)
        self.block6 = _then_doubled(_two_convolutions(512, 256, padding), 256, 128)
        self.block7 = _then_doubled(_two_convolutions(256, 128, padding), 128, 64)
        self.final = _two_convolutions(128, 64, padding)
        self.mask = _head(padding, is_published=self.is_published)
        if self.config.depth:
            self.depth = _head(padding, is_published=self.is_published)

    def forward(self, image: Tensor, coarse: Tensor | None = None, reach: Tensor | None = None) -> dict[str, Tensor]:
        x1 = self.block1(image)  # (B, 64, H, W)
        x2 = self.block2(F.max_pool2d(x1, 2))  # (B, 128, H/2, W/2)
        x3 = self.block3(F.max_pool2d(x2, 2))  # (B, 256, H/4, W/4)
        x4 = self.block4(F.max_pool2d(x3, 2))  # (B, 512, H/8, W/8)
        y = self.base(F.max_pool2d(x4, 2))  # (B, 512, H/8, W/8), less what is not padded
        for block, skip in ((self.block5, x4), (self.block6, x3), (self.block7, x2), (self.final, x1)):
            y = block(torch.cat([y, _middle(skip, y)], dim=1))
        outputs = {"final": self.mask(y)}  # (B, 1, H, W)
        if self.config.depth:
            outputs["depth"] = self.depth(y)
        return outputs


def _two_convolutions(in_channels: int, out_channels: int, padding: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers.append(nn.Conv2d(channels, out_channels, 3, padding=padding, bias=False))
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _then_doubled(layers: nn.Sequential, in_channels: int, out_channels: int) -> nn.Sequential:
    up = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False)
    return nn.Sequential(*layers, up)


def _head(padding: int, *, is_published: bool) -> nn.Sequential:
    # Without the BatchNorm that follows in the published form its shift is the convolution's own.
    convolution = nn.Conv2d(64, 1, 3, padding=padding, bias=not is_published)
    return nn.Sequential(convolution, *([nn.BatchNorm2d(1), nn.ReLU()] if is_published else []))


def _middle(skip: Tensor, like: Tensor) -> Tensor:
    """The middle of `skip`, of the height and width of `like`."""
    height, width = like.shape[-2:]
    top, left = (skip.shape[-2] - height) // 2, (skip.shape[-1] - width) // 2
    return skip[..., top : top + height, left : left + width]

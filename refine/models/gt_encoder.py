"""IS-Net's truth encoder: learns to give back a mask it is shown, so that its features tell IS-Net what to look for.

Highly Accurate Dichotomous Image Segmentation, arXiv 2203.03041, section 4.2; module names are those of the public code
(xuebinqin/DIS, `ISNetGTEncoder`). Outputs are logits. The enlarged form is that of a public tuning project: coarse
stages are brought to the size of stage 2 by transposed convolutions before their side outputs, which become as sharp.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from refine.models.preprocessing import Preprocessing
from refine.models.rsu import DilatedU, NestedU, PooledU, enlarge, named_sides

# It sees a mask, 0..1 in one channel, which nothing normalises; only the size counts.
PREPROCESSING = Preprocessing(height=1024, width=1024, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

CHANNELS = (64, 64, 128, 256, 512, 512)
"""Of the six stages' features; IS-Net's decoder has the same at the same sizes."""


class GTEncoderConfig(BaseModel):
    """As published, or with enlarged side outputs."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    enlarged: bool = Field(default=False, description="stages 3 to 6 are brought to the size of stage 2")


class Stem(nn.Module):
    """conv3x3 with stride 2, BatchNorm, ReLU."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, out_channels, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Enlargement(nn.Module):
    """(B, C, h, w) to (B, 64, H/4, W/4): each of `doublings` transposed convolutions doubles it, then two convolutions
    look at it beside stage 2."""

    def __init__(self, in_channels: int, doublings: int) -> None:
        super().__init__()
        steps = (nn.ConvTranspose2d(64 if step else in_channels, 64, 2, stride=2) for step in range(doublings))
        self.up = nn.Sequential(*steps)
        self.merge = nn.Sequential(
            *(nn.Conv2d(128, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(inplace=True)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(inplace=True)),
        )

    def forward(self, x: Tensor, fine: Tensor) -> Tensor:
        merged: Tensor = self.merge(torch.cat([enlarge(self.up(x), fine), fine], dim=1))
        return merged


class GTEncoder(NestedU):
    """Six stages down, a side output on each; no way up.

    `forward` takes masks (B, 1, H, W) in 0..1 and gives logits (B, 1, H, W): "side6" ... "side1" and "final", which is
    side output 1, in training, "final" alone in eval mode. `coarse` and `reach` are not used.
    """

    stride = 64
    takes_mask = False
    sees = "truth"

    def __init__(self, config: GTEncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or GTEncoderConfig()
        self.conv_in = Stem(16)
        self.stage1 = PooledU(7, 16, 16, 64)
        self.stage2 = PooledU(6, 64, 16, 64)
        self.stage3 = PooledU(5, 64, 32, 128)
        self.stage4 = PooledU(4, 128, 32, 256)
        self.stage5 = DilatedU(256, 64, 512)
        self.stage6 = DilatedU(512, 64, 512)
        if self.config.enlarged:
            for doublings, level in enumerate(range(3, 7), start=1):
                self.add_module(f"enlarge{level}", Enlargement(CHANNELS[level - 1], doublings))
        for level, channels in enumerate(CHANNELS, start=1):
            seen = 64 if self.config.enlarged else channels
            self.add_module(f"side{level}", nn.Conv2d(seen, 1, 3, padding=1))

    def forward(self, truth: Tensor, coarse: Tensor | None = None, reach: Tensor | None = None) -> dict[str, Tensor]:
        sides = self.side_logits(self.features(truth), truth)
        if not self.training:
            return {"final": sides[0]}
        return {**named_sides(sides), "final": sides[0]}

    def features(self, truth: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the six stages, finest first: what IS-Net's features are to become.

        Channels 64, 64, 128, 256, 512, 512 at strides 2, 4, 8, 16, 32, 64, before any enlargement.
        """
        return self.down(self.conv_in(truth))

    def side_logits(self, features: tuple[Tensor, ...], image: Tensor) -> tuple[Tensor, ...]:
        if self.config.enlarged:
            fine = features[1]
            enlarged = (self.get_submodule(f"enlarge{level}")(features[level - 1], fine) for level in range(3, 7))
            features = (features[0], fine, *enlarged)
        return super().side_logits(features, image)

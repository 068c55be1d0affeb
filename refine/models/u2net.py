"""U2-Net and its small form U2-NetP, coarse networks at 320 x 320: a U-Net of small U-Nets, its six sides fused.

U2-Net: Going Deeper with Nested U-Structure, arXiv 2005.09007; module names are those of the public code
(xuebinqin/U-2-Net, `U2NET` and `U2NETP`), so that published weights load with `strict=True`. Two things differ: outputs
are logits, without the sigmoid, and nothing is stretched to 0..1 afterwards.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from refine.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from refine.models.rsu import DilatedU, NestedU, PooledU, named_sides

PREPROCESSING = Preprocessing(height=320, width=320, mean=IMAGENET_MEAN, std=IMAGENET_STD)

# The public code divides every image by its own maximum; what it trained wants to be shown images so.
PUBLISHED_PREPROCESSING = PREPROCESSING.model_copy(update={"white": "maximum"})


class U2NetConfig(BaseModel):
    """Which of the two published sizes."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    in_channels: int = Field(default=3, ge=1)
    small: bool = Field(default=False, description="U2-NetP: 16 channels within and 64 out of every stage")


class U2Net(NestedU):
    """Six stages down, five up, a side output on each of the six sizes, and a 1 x 1 convolution that fuses them.

    `forward` takes a normalised image (B, 3, H, W) and gives logits (B, 1, H, W): "side6" ... "side1" and "final" in
    training, "final" alone, the fusion, in eval mode. `coarse` and `reach` are accepted for the common signature of
    networks and not used. Any height and width of at least 1 work.
    """

    stride = 32  # the deepest stage; sizes that are multiples of it pool without rounding
    takes_mask = False

    def __init__(self, config: U2NetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or U2NetConfig()
        # Channels out of the six stages, and within them on the way down; the way up halves the finest two.
        out = (64,) * 6 if config.small else (64, 128, 256, 512, 512, 512)
        mid = (16,) * 6 if config.small else (32, 32, 64, 128, 256, 256)
        up_out = (64,) * 5 if config.small else (64, 64, 128, 256, 512)
        up_mid = (16,) * 5 if config.small else (16, 32, 64, 128, 256)
        self.stage1 = PooledU(7, config.in_channels, mid[0], out[0])
        self.stage2 = PooledU(6, out[0], mid[1], out[1])
        self.stage3 = PooledU(5, out[1], mid[2], out[2])
        self.stage4 = PooledU(4, out[2], mid[3], out[3])
        self.stage5 = DilatedU(out[3], mid[4], out[4])
        self.stage6 = DilatedU(out[4], mid[5], out[5])
        self.stage5d = DilatedU(out[5] + out[4], up_mid[4], up_out[4])
        self.stage4d = PooledU(4, up_out[4] + out[3], up_mid[3], up_out[3])
        self.stage3d = PooledU(5, up_out[3] + out[2], up_mid[2], up_out[2])
        self.stage2d = PooledU(6, up_out[2] + out[1], up_mid[1], up_out[1])
        self.stage1d = PooledU(7, up_out[1] + out[0], up_mid[0], up_out[0])
        for level, channels in enumerate((*up_out, out[5]), start=1):
            self.add_module(f"side{level}", nn.Conv2d(channels, 1, 3, padding=1))
        self.outconv = nn.Conv2d(6, 1, 1)

    def forward(self, image: Tensor, coarse: Tensor | None = None, reach: Tensor | None = None) -> dict[str, Tensor]:
        sides = self.side_logits(self.features(image), image)
        final: Tensor = self.outconv(torch.cat(sides, dim=1))
        if not self.training:
            return {"final": final}
        return {**named_sides(sides), "final": final}

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the six decoder stages, finest first, at strides 1, 2, 4, 8, 16, 32."""
        return self.up(self.down(image))

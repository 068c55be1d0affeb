"""IS-Net, a coarse network at 1024 x 1024: a U-Net whose every stage is itself a small U-Net.

Highly Accurate Dichotomous Image Segmentation, arXiv 2203.03041; module names are those of the public code
(xuebinqin/DIS, `ISNetDIS`), so that published weights load with `strict=True`. Two things differ: outputs are logits,
without the sigmoid, and nothing is stretched to 0..1 afterwards.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from refine.models.preprocessing import Preprocessing
from refine.models.rsu import DilatedU, NestedU, PooledU, enlarge, named_sides

# RGB / 255 - 0.5, the whole image brought to 1024 x 1024 without keeping its aspect (the public code's settings).
PREPROCESSING = Preprocessing(height=1024, width=1024, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))


class ISNetConfig(BaseModel):
    """IS-Net as published has nothing to choose but its input channels."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    in_channels: int = Field(default=3, ge=1)


class ISNet(NestedU):
    """The segmentation network: six stages down, five up, a side output on each of the six sizes.

    `forward` takes a normalised image (B, 3, H, W) and gives logits (B, 1, H, W): "side6" ... "side1" and "final"
    in training, "final" alone in eval mode. "final" is side output 1; there is no fusion of the sides. `coarse` and
    `reach` are accepted for the common signature of networks and not used. Any height and width of at least 1 work.
    """

    stride = 64  # the deepest stage; sizes that are multiples of it pool without rounding
    takes_mask = False

    def __init__(self, config: ISNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or ISNetConfig()
        self.gives_features = False  # in training: beside the logits, as "feature1" ... "feature6", finest first
        self.conv_in = nn.Conv2d(self.config.in_channels, 64, 3, stride=2, padding=1)
        self.stage1 = PooledU(7, 64, 32, 64)
        self.stage2 = PooledU(6, 64, 32, 128)
        self.stage3 = PooledU(5, 128, 64, 256)
        self.stage4 = PooledU(4, 256, 128, 512)
        self.stage5 = DilatedU(512, 256, 512)
        self.stage6 = DilatedU(512, 256, 512)
        self.stage5d = DilatedU(1024, 256, 512)
        self.stage4d = PooledU(4, 1024, 128, 256)
        self.stage3d = PooledU(5, 512, 64, 128)
        self.stage2d = PooledU(6, 256, 32, 64)
        self.stage1d = PooledU(7, 128, 16, 64)
        self.side1 = nn.Conv2d(64, 1, 3, padding=1)
        self.side2 = nn.Conv2d(64, 1, 3, padding=1)
        self.side3 = nn.Conv2d(128, 1, 3, padding=1)
        self.side4 = nn.Conv2d(256, 1, 3, padding=1)
        self.side5 = nn.Conv2d(512, 1, 3, padding=1)
        self.side6 = nn.Conv2d(512, 1, 3, padding=1)

    def forward(self, image: Tensor, coarse: Tensor | None = None, reach: Tensor | None = None) -> dict[str, Tensor]:
        features = self.features(image)
        if not self.training:
            return {"final": enlarge(self.side1(features[0]), image)}
        logits = self.side_logits(features, image)
        named = {f"feature{i}": feature for i, feature in enumerate(features, start=1)} if self.gives_features else {}
        return {**named_sides(logits), "final": logits[0], **named}

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the six decoder stages, finest first: what a truth encoder's features are compared with.

        Channels 64, 64, 128, 256, 512, 512 at strides 2, 4, 8, 16, 32, 64.
        """
        return self.up(self.down(self.conv_in(image)))

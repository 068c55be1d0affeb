"""BASNet, a coarse network at 256 x 256: a deep U-Net on ResNet-34's layers, then a small one that refines its mask.

BASNet: Boundary-Aware Salient Object Detection, CVPR 2019; module names are those of the public code
(xuebinqin/BASNet), so that published weights load with `strict=True`. Two things differ: outputs are logits, without
the sigmoid, and parts are enlarged to the size of what they meet instead of by two, so that any image size works.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from refine.installation import import_torchvision
from refine.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from refine.models.rsu import enlarge, halve, named_sides

PREPROCESSING = Preprocessing(height=256, width=256, mean=IMAGENET_MEAN, std=IMAGENET_STD)

# The public code divides every image by its own maximum; what it trained wants to be shown images so.
PUBLISHED_PREPROCESSING = PREPROCESSING.model_copy(update={"white": "maximum"})


class BASNetConfig(BaseModel):
    """BASNet as published has nothing to choose."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class FlatUNet(nn.Module):
    """Convolutions with BatchNorm and ReLU that lie in the network itself, as `conv<name>` and `bn<name>`."""

    def add(self, name: str, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        self.add_module(f"conv{name}", nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation))
        self.add_module(f"bn{name}", nn.BatchNorm2d(out_channels))

    def run(self, name: str, x: Tensor) -> Tensor:
        return torch.relu(self.get_submodule(f"bn{name}")(self.get_submodule(f"conv{name}")(x)))

    def add_three(self, name: str, channels: tuple[int, int, int, int], dilations: tuple[int, int, int]) -> None:
        for part, first, second, dilation in zip("1m2", channels, channels[1:], dilations, strict=False):
            self.add(f"{name}_{part}", first, second, dilation)

    def run_three(self, name: str, x: Tensor) -> Tensor:
        for part in "1m2":
            x = self.run(f"{name}_{part}", x)
        return x


class RefineUNet(FlatUNet):
    """The residual refiner: (B, 1, H, W) coarse logit in, the same plus a change out; four sizes down, four up."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(1, 64, 3, padding=1)
        for level in range(1, 6):
            self.add(str(level), 64, 64)
        for level in range(4, 0, -1):
            self.add(f"_d{level}", 128, 64)
        self.conv_d0 = nn.Conv2d(64, 1, 3, padding=1)

    def forward(self, logit: Tensor) -> Tensor:
        skips = [self.run("1", self.conv0(logit))]
        for level in range(2, 5):
            skips.append(self.run(str(level), halve(skips[-1])))
        y = self.run("5", halve(skips[-1]))
        for level in range(4, 0, -1):
            skip = skips[level - 1]
            y = self.run(f"_d{level}", torch.cat([enlarge(y, skip), skip], dim=1))
        change: Tensor = self.conv_d0(y)
        return logit + change


class BASNet(FlatUNet):
    """Predicts at seven sizes, then refines the finest.

    `forward` takes a normalised image (B, 3, H, W) and gives logits (B, 1, H, W): "side7" (the bridge's) ... "side1"
    and "final", the refined side 1, in training, "final" alone in eval mode. `coarse` and `reach` are accepted for the
    common signature of networks and not used.
    """

    stride = 32  # the bridge; sizes that are multiples of it pool without rounding
    takes_mask = False

    def __init__(self, config: BASNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or BASNetConfig()
        resnet = import_torchvision().models.resnet34(weights=None)
        block = type(resnet.layer1[0])
        self.inconv = nn.Conv2d(3, 64, 3, padding=1)
        self.inbn = nn.BatchNorm2d(64)
        self.encoder1, self.encoder2 = resnet.layer1, resnet.layer2
        self.encoder3, self.encoder4 = resnet.layer3, resnet.layer4
        for level in (5, 6):
            for part in (1, 2, 3):
                self.add_module(f"resb{level}_{part}", block(512, 512))
        self.add_three("bg", (512, 512, 512, 512), (2, 2, 2))
        self.add_three("6d", (1024, 512, 512, 512), (1, 2, 2))
        self.add_three("5d", (1024, 512, 512, 512), (1, 1, 1))
        self.add_three("4d", (1024, 512, 512, 256), (1, 1, 1))
        self.add_three("3d", (512, 256, 256, 128), (1, 1, 1))
        self.add_three("2d", (256, 128, 128, 64), (1, 1, 1))
        self.add_three("1d", (128, 64, 64, 64), (1, 1, 1))
        for side, channels in (("b", 512), ("6", 512), ("5", 512), ("4", 256), ("3", 128), ("2", 64), ("1", 64)):
            self.add_module(f"outconv{side}", nn.Conv2d(channels, 1, 3, padding=1))
        self.refunet = RefineUNet()

    def forward(self, image: Tensor, coarse: Tensor | None = None, reach: Tensor | None = None) -> dict[str, Tensor]:
        features = self.features(image)
        if not self.training:
            return {"final": self.refunet(enlarge(self.get_submodule("outconv1")(features[0]), image))}
        sides = self.side_logits(features, image)
        return {**named_sides(sides), "final": self.refunet(sides[0])}

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """Outputs of decoder stages 1 to 6 and of the bridge, at strides 1, 2, 4, 8, 16, 32, 32."""
        x1 = self.encoder1(torch.relu(self.inbn(self.inconv(image))))  # (B, 64, H, W)
        x2 = self.encoder2(x1)  # (B, 128, H/2, W/2)
        x3 = self.encoder3(x2)  # (B, 256, H/4, W/4)
        x4 = self.encoder4(x3)  # (B, 512, H/8, W/8)
        x5 = self._three_blocks(5, halve(x4))  # (B, 512, H/16, W/16)
        x6 = self._three_blocks(6, halve(x5))  # (B, 512, H/32, W/32)
        bridge = self.run_three("bg", x6)
        decoded = [bridge, self.run_three("6d", torch.cat([bridge, x6], dim=1))]
        for level, skip in zip(range(5, 0, -1), (x5, x4, x3, x2, x1), strict=True):
            decoded.append(self.run_three(f"{level}d", torch.cat([enlarge(decoded[-1], skip), skip], dim=1)))
        return tuple(reversed(decoded))

    def side_logits(self, features: tuple[Tensor, ...], image: Tensor) -> tuple[Tensor, ...]:
        """The seven side outputs at the image's size, finest first, the bridge's last, each (B, 1, H, W)."""
        heads = (self.get_submodule(f"outconv{side}") for side in "123456b")
        return tuple(enlarge(head(feature), image) for head, feature in zip(heads, features, strict=True))

    def _three_blocks(self, level: int, x: Tensor) -> Tensor:
        for part in (1, 2, 3):
            x = self.get_submodule(f"resb{level}_{part}")(x)
        return x

"""What a network expects of the pixels it is given; it travels in the checkpoint, so the two cannot be mismatched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


class Preprocessing(BaseModel):
    """Size and scaling of a network's input: `(value / white - mean) / std`, channels in RGB order.

    `white` is 255, or the image's own largest value, as some published networks were trained.

    `height` and `width` are the size the whole image is brought to (area-averaged, aspect not kept), or None
    for a network that sees windows of the image as they are.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    height: int | None = Field(None, ge=1)
    width: int | None = Field(None, ge=1)
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)
    channel_order: Literal["rgb"] = "rgb"
    white: Literal["255", "maximum"] = "255"

    def normalise(self, image: Tensor) -> Tensor:
        """`image` (B, H, W, 3) uint8 as (B, 3, H, W) float32 in the network's own scale, channels last in memory."""
        values = image.permute(0, 3, 1, 2).float()  # (B, 3, H, W)
        white = 255 if self.white == "255" else values.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)
        unit = values / white
        if len({*self.mean}) == len({*self.std}) == 1:  # a tenth of the time of three numbers each, and equal values
            return (unit - self.mean[0]) / self.std[0]
        mean = unit.new_tensor(self.mean).view(1, 3, 1, 1)
        std = unit.new_tensor(self.std).view(1, 3, 1, 1)
        return (unit - mean) / std

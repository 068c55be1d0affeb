"""What the networks of MOS_L and MOS_H share, of either size: the planes they see, and the correction they give."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from refine.models.blocks import coarse_logit, correction_of, mask_planes


class MaskNetworkConfig(BaseModel):
    """What fixes the input and the output of such a network."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    takes_mask: bool = True
    reach_input: bool = True
    output: Literal["direct", "residual"] = "residual"
    gain: bool = Field(True, description="residual only: the coarse logit is also scaled, so a ramp sharpens in place")


class MaskNetwork(nn.Module):
    """A network that makes a mask (`takes_mask` False) or refines one.

    `forward(image (B, 3, H, W) normalised, coarse (B, 1, H, W) in 0..1, reach (B,) in pixels)` of a subclass gives
    logits (B, 1, H, W) by name, "final" among them.
    """

    def __init__(self, config: MaskNetworkConfig) -> None:
        super().__init__()
        self.takes_mask = config.takes_mask
        self.residual = config.takes_mask and config.output == "residual"
        self._sees_reach = config.takes_mask and config.reach_input
        self.planes = 3 + self.takes_mask + self._sees_reach
        # A change of the logit, and with a gain the logarithm of the factor on the coarse logit.
        self.changes = 1 + (self.residual and config.gain)

    def correction(self, image: Tensor, coarse: Tensor, reach: Tensor | None = None) -> Tensor:
        """Refined minus coarse mask (B, 1, H, W) float32: what the engine blends."""
        return correction_of(self(image, coarse, reach)["final"], coarse, residual=self.residual)

    def inputs(self, image: Tensor, coarse: Tensor | None, reach: Tensor | None) -> tuple[Tensor, Tensor]:
        """The planes (B, 3 to 5, H, W) that the encoder sees, and the logit (B, 1, H, W) float32 that is changed."""
        zero = image.new_zeros(image.shape[0], 1, *image.shape[-2:], dtype=torch.float32)
        if not self.takes_mask:
            return image, zero
        assert coarse is not None
        planes = mask_planes(image, coarse, reach if self._sees_reach else None)
        return planes, coarse_logit(coarse) if self.residual else zero


def start_at_zero(modules: list[nn.Module]) -> None:
    """Make last layers give 0, so that an untrained residual network hands back the mask it was given."""
    for module in modules:
        assert isinstance(module, nn.Conv2d)
        nn.init.zeros_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

"""What a network is shown of a sample: the image, the true mask, or a composite beside its background."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refine.models.preprocessing import Preprocessing
from refine.training.samples import Sample


def network_input(model: nn.Module, part: Sample, preprocessing: Preprocessing) -> Tensor:
    """(B, C, H, W) float32: 3 channels of the image, 1 of the truth for a network that `sees` the truth, or 6 of
    composite and background."""
    sees = getattr(model, "sees", "image")
    if sees == "truth":
        return part["truth"][:, None]
    image = preprocessing.normalise(part["image"])
    if sees == "composite":
        return torch.cat([image, preprocessing.normalise(part["background"])], dim=1)
    return image

"""Edges of the truth, and losses on them: a network is to tell foreground from background that looks like it.

Of the tuning project of IS-Net (a second loss, against an edge map), whose public code makes the map and has no loss.
Edges are found at the size of the loss, after all that moves the truth.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

EdgeMap = Literal["contour", "gradient", "canny"]
EdgeLoss = Literal["of_gradient", "band"]

MOST_WEIGHT = 20.0
"""Edge pixels are few; each weighs as much as the others together, but at most this."""

BAND_WEIGHT = 4.0
CANNY = (100, 200)
"""Thresholds of Canny's hysteresis on the mask in 8 bits."""


def edge_map(truth: Tensor, method: EdgeMap) -> Tensor:
    """(B, 1, H, W) 0 or 1: the edges of `truth`, (B, 1, H, W) in 0..1.

    contour: foreground pixels with a neighbour of four in the background, or beyond the border, as OpenCV draws all
    contours one pixel thick; gradient: pixels with foreground and background among their nine; canny: OpenCV's Canny.
    """
    hard = (truth > 0.5).float()
    if method == "canny":
        planes = (255 * truth[:, 0]).round().to(torch.uint8).cpu().numpy()
        found = np.stack([cv2.Canny(plane, *CANNY) for plane in planes]) > 0
        return torch.from_numpy(found)[:, None].to(truth)
    if method == "gradient":
        return _highest(hard) - _lowest(hard)
    framed = F.pad(hard, (1, 1, 1, 1))
    beside = [framed[..., 1:-1, :-2], framed[..., 1:-1, 2:], framed[..., :-2, 1:-1], framed[..., 2:, 1:-1]]
    return hard * (1 - torch.stack(beside).amin(dim=0))


def edge_loss(logit: Tensor, truth: Tensor, method: EdgeMap, kind: EdgeLoss) -> Tensor:
    """(B, 1, H, W) loss of each pixel.

    of_gradient: cross entropy between the edges of the truth and those of the result, its highest less its lowest of
    nine; band: cross entropy with the truth, near its edges five times as much.
    """
    edges = edge_map(truth, method)
    if kind == "band":
        entropy = F.binary_cross_entropy_with_logits(logit, truth, reduction="none")
        return entropy * (1 + BAND_WEIGHT * _highest(edges))
    probability = torch.sigmoid(logit)
    steepness = (_highest(probability) - _lowest(probability)).clamp(1e-6, 1 - 1e-6)
    number = edges.sum(dim=(1, 2, 3), keepdim=True)
    weight = ((edges[0].numel() - number) / number.clamp(min=1)).clamp(max=MOST_WEIGHT)
    return -(weight * edges * steepness.log() + (1 - edges) * (1 - steepness).log())


def _highest(plane: Tensor) -> Tensor:
    return F.max_pool2d(plane, 3, stride=1, padding=1)


def _lowest(plane: Tensor) -> Tensor:
    return -_highest(-plane)

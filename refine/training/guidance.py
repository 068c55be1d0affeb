"""Feature synchronisation: a frozen truth encoder's features of the mask are what the network's own are to become.

Highly Accurate Dichotomous Image Segmentation, arXiv 2203.03041, section 4.2; all six terms weigh the same, as in the
public code. The encoder stays in eval mode: its BatchNorm neither uses nor keeps statistics of the batch, as it does in
the public code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refine.errors import CheckpointError, ConfigError
from refine.models.checkpoint import load_model
from refine.models.metadata import sha256
from refine.models.registry import NETWORKS
from refine.training.config import TrainingConfig
from refine.training.loss_config import FeatureSync

FEATURE = "feature"
"""Outputs of this name are features (B, C, h, w), not logits."""


class Guide:
    """The frozen encoder, and the distance of features from its; `sha256` of the file that it came from."""

    def __init__(self, encoder: nn.Module, config: FeatureSync, sha256: str = "") -> None:
        self.config, self.sha256 = config, sha256
        self.encoder = encoder.eval().requires_grad_(False)
        self._features = cast(Callable[[Tensor], Sequence[Tensor]], encoder.features)

    @torch.no_grad()
    def features(self, truth: Tensor) -> Sequence[Tensor]:
        """The encoder's features of masks (B, 1, H, W) in 0..1, finest first, always in float32."""
        with torch.autocast(truth.device.type, enabled=False):
            return self._features(truth.float())

    def loss(self, features: Sequence[Tensor], truth: Tensor) -> Tensor:
        """The weighted sum over stages of the distance from the features of `truth`."""
        total = truth.new_zeros(())
        for own, goal in zip(features, self.features(truth), strict=True):
            total = total + distance(own.float(), goal, self.config.kind)
        return self.config.weight * total


def distance(own: Tensor, goal: Tensor, kind: str) -> Tensor:
    """The mean over all elements of features (B, C, h, w); "kl" compares them as distributions over channels."""
    if kind == "kl":
        # Not by F.kl_div, whose mean will become another one.
        return (goal.softmax(dim=1) * (goal.log_softmax(dim=1) - own.log_softmax(dim=1))).mean()
    return {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[kind](own, goal)


def load_guide(config: TrainingConfig, device: torch.device) -> Guide | None:
    """The encoder that `loss.features` names, on the device; None where the config has none.

    Raises ConfigError if the file is missing or holds something else than a truth encoder.
    """
    sync = config.loss.features
    if sync is None:
        return None
    try:
        encoder, metadata = load_model(Path(sync.encoder))
    except CheckpointError as error:
        raise ConfigError(f"loss.features.encoder: {error}; train it first, see configs/gt_encoder.json") from error
    if NETWORKS[metadata.architecture].role != "truth":
        raise ConfigError(f"loss.features.encoder: {sync.encoder} holds {metadata.architecture}, no truth encoder")
    return Guide(encoder.to(device), sync, sha256(sync.encoder))


def split_features(outputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Logits by name, and the features, finest first."""
    logits = {name: output for name, output in outputs.items() if not name.startswith(FEATURE)}
    return logits, [output for name, output in outputs.items() if name.startswith(FEATURE)]

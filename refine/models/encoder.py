"""The encoder: any timm `features_only` network, cut after its last tap, with a stem for extra input planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from refine.errors import ConfigError
from refine.installation import import_timm
from refine.models import efficientnet_lite


class Encoder(nn.Module):
    """Features of a timm network at chosen strides.

    `forward` takes (B, in_channels, H, W) and gives one (B, C_i, H / s_i, W / s_i) per tap, finest first;
    `channels` and `strides` say C_i and s_i. Planes beyond RGB start with zero weights: the widened network first
    computes exactly what the RGB network computes. Weights start at random; `load_rgb_weights` brings ImageNet's.
    With `is_loaded` all weights are about to be loaded, and timm is imported only for what refine cannot build itself.

    Raises ConfigError if timm has no such network, or if it has no feature map at a wanted stride.
    """

    def __init__(
        self, name: str, *, in_channels: int, output_stride: int, taps: Sequence[int], is_loaded: bool = False
    ) -> None:
        super().__init__()
        self.net: Any  # timm is untyped
        self.channels: list[int]
        self.strides: list[int]
        if is_loaded and name == efficientnet_lite.NAME and output_stride == 32:
            lite = efficientnet_lite.EfficientNetLite(in_channels, taps)
            self.net, self.channels, self.strides = lite, lite.channels, lite.strides
            self.mean: tuple[float, ...] = efficientnet_lite.MEAN
            self.std: tuple[float, ...] = efficientnet_lite.STD
            return
        timm = import_timm()
        if name not in timm.list_models(name):
            raise ConfigError(f"model.encoder: timm has no network {name!r}; see timm.list_models()")
        options = {} if output_stride == 32 else {"output_stride": output_stride}
        try:
            probe = timm.create_model(name, features_only=True, pretrained=False, **options)
        except (RuntimeError, NotImplementedError, TypeError, AssertionError) as error:
            raise ConfigError(f"model.encoder: {name!r} at stride {output_stride}: {error}") from error
        reductions = probe.feature_info.reduction()
        missing = [tap for tap in taps if tap not in reductions]
        if missing:
            raise ConfigError(f"model.encoder: {name!r} has no features at stride {missing}; it has {reductions}")
        # Where several stages share a stride (dilated networks) the last one is meant.
        indices = tuple(max(i for i, stride in enumerate(reductions) if stride == tap) for tap in taps)
        net = timm.create_model(name, features_only=True, pretrained=False, out_indices=indices, **options)
        self.channels = net.feature_info.channels()
        self.strides = net.feature_info.reduction()
        self.mean = tuple(net.default_cfg["mean"])
        self.std = tuple(net.default_cfg["std"])
        _drop_unused_stages(net)
        _widen_stem(net, in_channels)
        self.net = net

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.net(x)
        return features

    def load_rgb_weights(self, state: dict[str, Tensor]) -> None:
        """Take weights of the three-channel network, in timm's names; further input planes keep zero weights.

        Raises ConfigError if a tensor is missing or has another shape.
        """
        own = self.net.state_dict()
        stem = _stem_name(self.net)
        for key, tensor in own.items():
            if key not in state:
                raise ConfigError(f"encoder weights: {key} is missing; the file belongs to another network")
            given = state[key].to(tensor.dtype)
            if key == f"{stem}.weight":
                widened = torch.zeros_like(tensor)
                widened[:, : given.shape[1]] = given
                given = widened
            if given.shape != tensor.shape:
                raise ConfigError(f"encoder weights: {key} is {tuple(given.shape)}, expected {tuple(tensor.shape)}")
            own[key] = given
        self.net.load_state_dict(own)


def _drop_unused_stages(net: nn.Module) -> None:
    """timm's EfficientNet family runs its blocks to the end, also beyond the last tap: cut them off."""
    blocks = getattr(net, "blocks", None)
    used = getattr(net, "_stage_out_idx", None)
    if isinstance(blocks, nn.Sequential) and used:
        del blocks[max(used) :]


def _stem_name(net: nn.Module) -> str:
    first: str = next(name for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    return first


def _widen_stem(net: nn.Module, in_channels: int) -> None:
    conv = net.get_submodule(_stem_name(net))
    assert isinstance(conv, nn.Conv2d)
    extra = in_channels - conv.in_channels
    if extra:
        zeros = conv.weight.new_zeros(conv.out_channels, extra, *conv.kernel_size)
        conv.weight = nn.Parameter(torch.cat([conv.weight.detach(), zeros], dim=1))
        conv.in_channels = in_channels

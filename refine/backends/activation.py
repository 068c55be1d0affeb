"""Convolutions that apply the activation after them before they write, on a CPU: one pass over memory less for each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from refine.backends.padding import EvenSame


def join_activations(model: nn.Module, pairs: Iterable[tuple[str, str]], dtype: torch.dtype) -> int:
    """Let convolutions do the activation that follows them, in place; gives how many do.

    `pairs` names convolutions and what became of the BatchNorms that were folded into them; `dtype` is what they
    compute in, under autocast or not. Nothing is joined where torch was built without oneDNN.
    """
    if _operator() is None:
        return 0
    count = 0
    for convolution_name, rest_name in pairs:
        convolution, rest = model.get_submodule(convolution_name), model.get_submodule(rest_name)
        limits = _limits(rest)
        if limits is None or not isinstance(convolution, (nn.Conv2d, EvenSame)):
            continue
        model.set_submodule(convolution_name, ActivatedConv(convolution, rest, limits, dtype))
        model.set_submodule(rest_name, nn.Identity())
        count += 1
    return count


class ActivatedConv(nn.Module):
    """A convolution and its activation: the values of the two one after the other, to the bit."""

    def __init__(
        self, convolution: nn.Conv2d | EvenSame, activation: nn.Module, limits: tuple[float, ...], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.convolution, self.activation = convolution, activation
        self._kind, self._limits = ("hardtanh", list(limits)) if limits else ("relu", [])
        self._dtype = dtype
        joined = convolution.even if isinstance(convolution, EvenSame) else convolution
        self.weight = nn.Parameter(joined.weight.detach().to(dtype), requires_grad=False)
        self.bias = None
        if joined.bias is not None:
            self.bias = nn.Parameter(joined.bias.detach().to(dtype), requires_grad=False)
        self._geometry = joined.padding, joined.stride, joined.dilation, joined.groups

    def forward(self, x: Tensor) -> Tensor:
        if not self._is_joined(x):
            apart: Tensor = self.activation(self.convolution(x))
            return apart
        joined: Tensor = _operator()(
            x.to(self._dtype), self.weight, self.bias, *self._geometry, self._kind, self._limits, ""
        )
        return joined

    def _is_joined(self, x: Tensor) -> bool:
        fits = not isinstance(self.convolution, EvenSame) or self.convolution.takes(x)
        return fits and x.device.type == "cpu"


def _operator() -> Any:
    """oneDNN's convolution with an operation after it, which torch's own compiler calls; None where it is not there."""
    return getattr(torch.ops.mkldnn, "_convolution_pointwise", None)


def _limits(rest: nn.Module) -> tuple[float, ...] | None:
    """Between which a sole activation keeps values: (0, 6) for ReLU6, () for ReLU; None if it is none of the two."""
    if not isinstance(rest, nn.Sequential) or len(rest) != 1:
        return None
    if isinstance(rest[0], nn.ReLU6):
        return (0.0, 6.0)
    return () if isinstance(rest[0], nn.ReLU) else None

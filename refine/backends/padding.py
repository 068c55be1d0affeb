"""Convolutions that pad as TensorFlow does, without the copy of their input that this costs in torch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def pad_evenly(model: nn.Module) -> int:
    """Replace, in place, timm's `Conv2dSame` of stride 2 by `EvenSame`; gives how many."""
    found = [(name, module) for name, module in model.named_modules() if _can_be_replaced(module)]
    for name, module in found:
        parent, _, child = name.rpartition(".")
        assert isinstance(module, nn.Conv2d)
        setattr(model.get_submodule(parent), child, EvenSame(module))
    return len(found)


class EvenSame(nn.Module):
    """TensorFlow's "SAME" of stride 2, which pads one pixel more on the right and below, for sides that are even.

    A kernel with a row and a column of zeros before its own sees one pixel more on the left and above, and then the
    padding is the same on all sides, which every convolution does by itself. Odd sides take the old way. Single pixels
    are never padded, and have no place here.
    """

    def __init__(self, same: nn.Conv2d) -> None:
        super().__init__()
        self.same = same
        side = same.kernel_size[0]
        self.even = nn.Conv2d(
            same.in_channels, same.out_channels, side + 1, stride=2, padding=side // 2, groups=same.groups, bias=False
        )
        self.even.weight = nn.Parameter(F.pad(same.weight.detach(), (1, 0, 1, 0)), requires_grad=False)
        self.even.bias = same.bias

    def forward(self, x: Tensor) -> Tensor:
        padded: Tensor = self.even(x) if self.takes(x) else self.same(x)
        return padded

    def takes(self, x: Tensor) -> bool:
        """Whether `even` is the convolution for it."""
        return x.shape[-2] % 2 == 0 and x.shape[-1] % 2 == 0


def _can_be_replaced(module: nn.Module) -> bool:
    # timm is not imported to look at a network that may have nothing of it.
    if type(module).__name__ != "Conv2dSame" or not isinstance(module, nn.Conv2d):
        return False
    side = module.kernel_size[0]
    is_plain = module.stride == (2, 2) and module.dilation == (1, 1) and module.padding_mode == "zeros"
    return is_plain and module.kernel_size == (side, side) and side % 2 == 1 and side > 1

"""A convolution that applies its activation gives the values of the two, one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from refine.backends.activation import ActivatedConv, join_activations
from refine.backends.padding import pad_evenly
from refine.models.efficientnet_lite import Conv2dSame

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6()])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 1, 16), (5, 2, 16), (3, 2, 1)])
@pytest.mark.parametrize("sides", [(16, 24), (15, 8)])
def test_joining_changes_nothing(
    dtype: torch.dtype, activation: nn.Module, kernel: int, stride: int, groups: int, sides: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    kind, padding = (Conv2dSame, 0) if stride == 2 else (nn.Conv2d, kernel // 2)
    model = nn.Sequential(
        kind(16, 16, kernel, stride=stride, padding=padding, groups=groups), nn.Sequential(activation)
    )
    nn.init.normal_(model[0].bias, 0, 3)  # type: ignore[arg-type]
    pad_evenly(model)
    x = torch.randn(2, 16, *sides).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        expected = model(x)
        assert join_activations(model, [("0", "1")], dtype) == 1
        assert isinstance(model[0], ActivatedConv)
        given = model(x)
    assert given.dtype == expected.dtype == dtype
    assert torch.equal(given, expected)


def test_only_what_rectifies_is_joined() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.SiLU()), nn.Conv2d(3, 3, 1), nn.Identity())
    assert join_activations(model, [("0", "1"), ("2", "3")], torch.float32) == 0
    assert isinstance(model[1], nn.Sequential)

"""A convolution that pads evenly is the one that padded as TensorFlow does."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from refine.backends.padding import EvenSame, pad_evenly


@settings(max_examples=30, deadline=None)
@given(
    side=st.sampled_from([3, 5, 7]),
    height=st.integers(7, 24),
    width=st.integers(7, 24),
    depthwise=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_padding_evenly_changes_nothing(
    side: int, height: int, width: int, depthwise: bool, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    same = Conv2dSame(4, 4, side, stride=2, groups=4 if depthwise else 1, bias=bias)
    x = torch.randn(2, 4, height, width)
    with torch.no_grad():
        torch.testing.assert_close(EvenSame(same)(x), same(x))


def test_only_strided_convolutions_of_timm_are_replaced() -> None:
    same, plain = Conv2dSame(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3, stride=2, padding=1)
    kept, single = Conv2dSame(4, 4, 3, stride=1), Conv2dSame(4, 4, 1, stride=2)
    model = nn.Sequential(same, plain, kept, single)

    assert pad_evenly(model) == 1
    assert isinstance(model[0], EvenSame)
    assert model[1] is plain
    assert model[3] is single
    assert model[2] is kept

"""Slow depthwise convolutions leave autocast; the network computes what it did, and is the same network."""

from __future__ import annotations

import copy

import torch
from torch import nn

from refine.models.lite import LiteNet
from refine.training.depthwise import is_slow, keep_in_float32


def test_strided_and_large_depthwise_convolutions_are_found() -> None:
    assert is_slow(nn.Conv2d(8, 8, 3, stride=2, groups=8))
    assert is_slow(nn.Conv2d(8, 8, 5, groups=8))
    assert not is_slow(nn.Conv2d(8, 8, 3, groups=8))
    assert not is_slow(nn.Conv2d(8, 8, 5, stride=2))
    assert not is_slow(nn.Conv2d(1, 8, 5, stride=2))


def test_the_network_stays_the_same_but_for_rounding() -> None:
    torch.manual_seed(0)
    model = LiteNet().train()
    for parameter in model.points[-1].parameters():
        nn.init.normal_(parameter, std=0.1)
    aside = copy.deepcopy(model)
    names = keep_in_float32(aside)
    assert len(names) > 4
    assert list(aside.state_dict()) == list(model.state_dict())
    dtypes = []
    aside.get_submodule(names[0]).register_forward_hook(lambda _m, _i, output: dtypes.append(output.dtype))
    image, coarse, reach = torch.randn(2, 3, 64, 64), torch.rand(2, 1, 64, 64), torch.full((2,), 4.0)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = (network(image, coarse, reach)["final"] for network in (model, aside))
        assert torch.is_autocast_enabled("cpu")
    assert dtypes == [torch.bfloat16]
    exact = copy.deepcopy(model)(image, coarse, reach)["final"]
    assert (b - exact).abs().mean() <= 1.5 * (a - exact).abs().mean()

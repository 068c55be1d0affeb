"""The point head by blocks is the point head of the whole window."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from refine.models import points
from refine.models.blocks import resize, soft_point_weight
from refine.models.lite import LiteConfig, LiteNet


def whole(net: LiteNet, half: Tensor, planes: Tensor, logit: Tensor) -> Tensor:
    features = torch.cat([resize(half, *logit.shape[-2:]), planes, logit / 4], dim=1)
    change: Tensor = net.points(features)
    return soft_point_weight(logit) * change


@pytest.mark.parametrize("sides", [(64, 96), (48, 80), (16, 16)])
@pytest.mark.parametrize("place", ["middle", "corners", "everywhere", "nowhere"])
def test_blocks_make_the_window(sides: tuple[int, int], place: str) -> None:
    torch.manual_seed(1)
    net = LiteNet(LiteConfig(), is_loaded=True).eval()
    torch.nn.init.normal_(net.points[-1].weight)  # type: ignore[arg-type]
    logit = torch.full((2, 1, *sides), -4.5)
    if place == "middle":
        logit[0, 0, sides[0] // 2, 5:9] = 4.5
    elif place == "corners":
        logit[1, 0, 0, 0] = logit[0, 0, -1, -1] = logit[0, 0, 0, -1] = 4.5
    elif place == "everywhere":
        logit = torch.randn(2, 1, *sides)
    half, planes = torch.randn(2, 16, sides[0] // 2, sides[1] // 2), torch.randn(2, 5, *sides)
    half = half.contiguous(memory_format=torch.channels_last)
    weight = soft_point_weight(logit)
    with torch.no_grad():
        given, expected = points.change_where(net.points, half, planes, logit, weight), whole(net, half, planes, logit)
    assert (expected.abs().amax() > 0.1) == (place != "nowhere")
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)


def test_the_network_takes_blocks_only_to_run_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    given = points.change_where

    def change_where(*values: Any) -> Tensor:
        called.append(1)
        return given(*values)

    monkeypatch.setattr("refine.models.lite.change_where", change_where)
    net = LiteNet(LiteConfig(), is_loaded=True)
    inputs = torch.zeros(2, 3, 32, 32), torch.rand(2, 1, 32, 32), torch.ones(2)
    net.train()(*inputs)
    assert called == []
    net.eval()(*inputs)
    assert called == [1]

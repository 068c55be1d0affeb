"""The lite network: its budget, its residual start, and that batches do not change it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from widen import widen

from refine.errors import ConfigError
from refine.models.blocks import COARSE_LIMIT, ReachGate, changed_logit
from refine.models.lite import LiteConfig, LiteNet

WIDER = LiteConfig(widths=(128, 96, 48, 32), point_width=32, deep=True)


@pytest.fixture(scope="module", params=[LiteConfig(), WIDER], ids=["default", "deep"])
def net(request: pytest.FixtureRequest) -> LiteNet:
    torch.manual_seed(0)
    return LiteNet(request.param).eval()


def test_window_costs_below_two_giga_multiply_adds_and_four_million_parameters(net: LiteNet) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 224, 224), torch.zeros(1, 1, 224, 224), torch.ones(1))
    assert counter.get_total_flops() / 2 <= 2e9
    assert sum(p.numel() for p in net.parameters()) <= 4_000_000


def test_untrained_network_hands_back_the_mask_to_the_bit(net: LiteNet) -> None:
    coarse = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(net.correction(image, coarse, torch.tensor([1.0, 8.0])), torch.zeros_like(coarse))


def test_supervised_outputs_have_the_size_of_the_image(net: LiteNet) -> None:
    outputs = net.train()(torch.zeros(2, 3, 96, 96), torch.zeros(2, 1, 96, 96), torch.ones(2))
    net.eval()
    assert list(outputs) == ["s16", "s8", "s4", "final"]
    assert {tuple(v.shape) for v in outputs.values()} == {(2, 1, 96, 96)}


@pytest.mark.parametrize("config", [LiteConfig(), WIDER], ids=["default", "deep"])
def test_windows_do_not_depend_on_their_batch(config: LiteConfig) -> None:
    net = trained_looking(config)
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(8, 3, 64, 64, generator=generator)
    coarse = torch.rand(8, 1, 64, 64, generator=generator).round()
    reach = torch.full((8,), 2.0)
    with torch.inference_mode():
        together = net.correction(image, coarse, reach)
        alone = torch.cat([net.correction(image[i : i + 1], coarse[i : i + 1], reach[:1]) for i in range(8)])
    assert together.abs().max() > 0.01
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_the_reach_is_seen() -> None:
    net = trained_looking()
    with torch.no_grad():
        net.encoder.net.conv_stem.weight[:, 3:] = 0.1
    image = torch.zeros(1, 3, 64, 64)
    coarse = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1)).round()
    near, far = (net.correction(image, coarse, torch.tensor([reach])) for reach in (1.0, 16.0))
    assert (near - far).abs().max() > 1e-4


def test_coarse_network_takes_no_mask() -> None:
    net = LiteNet(LiteConfig(takes_mask=False, reach_input=False, output="direct")).eval()
    assert not net.takes_mask
    assert net(torch.zeros(1, 3, 96, 96))["final"].shape == (1, 1, 96, 96)


def test_the_deepest_features_count_once_trained_and_any_window_that_the_stride_divides_will_do() -> None:
    net = trained_looking(WIDER)
    generator = torch.Generator().manual_seed(3)
    image, coarse = torch.randn(1, 3, 80, 112, generator=generator), torch.rand(1, 1, 80, 112, generator=generator)
    before = net.correction(image, coarse, torch.tensor([2.0]))
    assert net.deepest is not None
    with torch.no_grad():
        nn.init.normal_(net.deepest.added.weight)
    after = net.correction(image, coarse, torch.tensor([2.0]))
    assert before.shape == after.shape == (1, 1, 80, 112)
    assert (before - after).abs().max() > 1e-3


def test_a_widened_network_computes_what_the_smaller_one_does() -> None:
    small = trained_looking(LiteConfig(reach_gate=True))
    torch.manual_seed(6)
    large = LiteNet(LiteConfig(**{**WIDER.model_dump(), "reach_gate": True})).eval()
    widen(small, large)
    generator = torch.Generator().manual_seed(3)
    image, coarse = torch.randn(2, 3, 64, 64, generator=generator), torch.rand(2, 1, 64, 64, generator=generator)
    reach = torch.tensor([1.5, 8.0])
    with torch.no_grad():
        given, grown = (net.correction(image, coarse, reach) for net in (small, large))
    assert given.abs().max() > 0.01
    torch.testing.assert_close(grown, given, rtol=0, atol=1e-5)


def test_what_cannot_hold_the_smaller_network_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"widths \(96, 64, 32, 8\) are narrower than \(96, 64, 32, 16\)"):
        widen(LiteNet(), LiteNet(LiteConfig(widths=(96, 64, 32, 8))))
    with pytest.raises(ConfigError, match="goes on to stride 32"):
        widen(LiteNet(WIDER), LiteNet(WIDER.model_copy(update={"deep": False})))


def trained_looking(config: LiteConfig | None = None) -> LiteNet:
    """A network whose last layers are not zero."""
    torch.manual_seed(4)
    net = LiteNet(config).eval()
    for layer in [*net.heads.values(), net.points[-1]]:
        assert isinstance(layer, torch.nn.Conv2d)
        torch.nn.init.normal_(layer.weight, std=0.3)
    return net


def test_the_gate_scales_changes_by_reach_alone_and_starts_open() -> None:
    gate = ReachGate(2)
    reach = torch.tensor([1.0, 2.0**0.25, 2.0, 64.0, 200.0])
    assert torch.equal(gate(reach), torch.ones(5, 2, 1, 1))
    with torch.no_grad():
        gate.weight[0] = -1 / gate.rate  # closed at one pixel
    factors = gate(reach)[:, 0, 0, 0]
    torch.testing.assert_close(factors, torch.tensor([0.0, 0.5, 1.0, 1.0, 1.0]))


def test_a_closed_gate_leaves_a_mask_as_it_is() -> None:
    torch.manual_seed(0)
    net = LiteNet(LiteConfig(reach_gate=True)).eval()
    assert net.gate is not None
    with torch.no_grad():
        for parameter in net.points[-1].parameters():
            nn.init.normal_(parameter)
        net.gate.weight[0] = -1 / net.gate.rate
        image, coarse = torch.randn(2, 3, 64, 64), torch.rand(2, 1, 64, 64)
        assert net.correction(image, coarse, torch.ones(2)).abs().max() == 0
        assert net.correction(image, coarse, torch.full((2,), 4.0)).abs().max() > 0


@given(log_gain=st.floats(-3, 3), start=st.floats(-COARSE_LIMIT, COARSE_LIMIT))
def test_a_bounded_gain_sharpens_in_place(log_gain: float, start: float) -> None:
    """The outline stays where it is, the decided stay decided, and nothing leaves the coarse logit's range."""
    logit = torch.tensor(start, dtype=torch.float64).view(1, 1, 1, 1)
    change = torch.tensor([0.0, log_gain], dtype=torch.float64).view(1, 2, 1, 1)
    changed = float(changed_logit(logit, change, bounded=True))
    assert changed * start >= 0
    assert abs(changed) <= COARSE_LIMIT * (1 + 1e-9)
    assert (abs(changed) >= abs(start) * (1 - 1e-9)) if log_gain >= 0 else (abs(changed) <= abs(start) * (1 + 1e-9))


def test_a_bounded_gain_leaves_decided_pixels_and_unchanged_ones_alone() -> None:
    start = torch.tensor([-COARSE_LIMIT, -1.0, 0.0, 2.0, COARSE_LIMIT]).view(1, 1, 1, 5)
    assert torch.equal(changed_logit(start, torch.zeros(1, 2, 1, 5), bounded=True), start)
    sharp = changed_logit(start, torch.cat([torch.zeros(1, 1, 1, 5), torch.full((1, 1, 1, 5), 2.0)], 1), bounded=True)
    torch.testing.assert_close(sharp[..., [0, 4]], start[..., [0, 4]])
    assert float(sharp[0, 0, 0, 1]) < -2.5

"""MeticulousNet: published sizes, the residual start, and what its blocks promise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from refine.errors import ConfigError
from refine.models.blocks import (
    PyramidPooling,
    coarse_logit,
    correction_of,
    enlarging_matrix,
    pooling_matrix,
    resize,
    soft_point_weight,
    uncertainty,
)
from refine.models.encoder import Encoder
from refine.models.meticulousnet import MeticulousConfig, MeticulousNet, chosen_points

PERCEPTRON_NORM = 1024
"""Parameters of the two BatchNorm1d that the reproduction has in its point perceptron and this network has not."""

PUBLISHED_PARTS = {
    "encoder": 23_511_168, "pooling": 19_399_424, "mask_encoding": 1_194_536, "recover8": 1_066_880,
    "recover4": 230_336, "perceptron": 83_969 - PERCEPTRON_NORM, "head8": 8_289, "head4": 4_193, "head2": 2_145,
    "head_initial": 65_633,
}  # fmt: skip


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_paper_variant_has_the_reproductions_parameters() -> None:
    with torch.device("meta"):
        mos_h = MeticulousNet(MeticulousConfig(pooling="full", reach_input=False, output="direct", points="topk"))
        mos_l = MeticulousNet(MeticulousConfig(pooling="full", takes_mask=False, points="topk"))
    assert {name: parameters(mos_h.get_submodule(name)) for name in PUBLISHED_PARTS} == PUBLISHED_PARTS
    assert parameters(mos_l) == 45_563_437 - PERCEPTRON_NORM


@pytest.fixture(scope="module")
def small() -> MeticulousNet:
    torch.manual_seed(0)
    return MeticulousNet(MeticulousConfig(encoder="resnet18", width=32)).eval()


def inputs(side: int = 64, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(batch, 1, side, side, generator=generator).round()
    return torch.randn(batch, 3, side, side, generator=generator), coarse, torch.tensor([2.0] * batch)


def test_untrained_residual_network_hands_back_the_mask_to_the_bit(small: MeticulousNet) -> None:
    image, coarse, reach = inputs()
    assert torch.equal(small.correction(image, coarse, reach), torch.zeros_like(coarse))


def test_training_gives_seven_outputs_and_inference_the_last_alone(small: MeticulousNet) -> None:
    image, coarse, reach = inputs()
    outputs = small.train()(image, coarse, reach)
    assert list(outputs) == ["s8_0", "s8_1", "s8_2", "s4_2", "s8_3", "s4_3", "final"]
    assert {tuple(v.shape) for v in outputs.values()} == {(2, 1, 64, 64)}
    assert list(small.eval()(image, coarse, reach)) == ["final"]


def test_direct_network_corrects_towards_its_own_mask() -> None:
    torch.manual_seed(1)
    net = MeticulousNet(MeticulousConfig(encoder="resnet18", width=32, output="direct", points="topk")).eval()
    image, coarse, reach = inputs()
    own = torch.sigmoid(net(image, coarse, reach)["final"])
    torch.testing.assert_close(coarse + net.correction(image, coarse, reach), own)


def test_one_hard_window_with_a_wrong_mask_is_learnt() -> None:
    """Confident errors have a gradient: BCE acts on the logit (spec of losses, 2.8)."""
    torch.manual_seed(2)
    net = MeticulousNet(MeticulousConfig(encoder="mobilenetv3_small_050", width=16)).train()
    image, coarse, reach = inputs(side=32, batch=2)
    truth = 1 - coarse
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(30):
        loss = F.binary_cross_entropy_with_logits(net(image, coarse, reach)["final"], truth)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    refined = coarse + correction_of(net(image, coarse, reach)["final"].detach(), coarse, residual=True)
    assert ((refined > 0.5) == (truth > 0.5)).float().mean() > 0.8


@pytest.mark.parametrize("length", [14, 21, 28, 42])
@pytest.mark.parametrize("bins", PyramidPooling.bins)
def test_matrices_pool_and_enlarge_as_torch_does(length: int, bins: int) -> None:
    x = torch.randn(1, 3, length, length, generator=torch.Generator().manual_seed(0))
    pool = pooling_matrix(length, bins)
    torch.testing.assert_close(pool @ x @ pool.T, F.adaptive_avg_pool2d(x, bins), rtol=0, atol=1e-6)
    small = x[..., :bins, :bins]
    enlarge = enlarging_matrix(bins, length)
    torch.testing.assert_close(enlarge @ small @ enlarge.T, resize(small, length, length), rtol=0, atol=1e-6)


def test_extra_input_planes_change_nothing_at_first() -> None:
    torch.manual_seed(3)
    rgb = Encoder("resnet18", in_channels=3, output_stride=8, taps=(2, 4, 8)).eval()
    wide = Encoder("resnet18", in_channels=5, output_stride=8, taps=(2, 4, 8)).eval()
    wide.load_rgb_weights(rgb.net.state_dict())
    x = torch.randn(1, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    for a, b in zip(rgb(x[:, :3]), wide(x), strict=True):
        torch.testing.assert_close(a, b)


def test_unknown_encoder_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="resnet5"):
        Encoder("resnet5", in_channels=3, output_stride=8, taps=(2, 4, 8))


def test_points_lie_on_the_outline_of_a_hard_mask() -> None:
    coarse = torch.zeros(1, 1, 40, 40)
    coarse[..., :, 20:] = 1
    doubt = uncertainty(coarse_logit(coarse))
    chosen = chosen_points(coarse_logit(coarse), training=False)
    assert doubt[..., 18:22].min() > doubt[..., :16].max()
    assert chosen.sum() == 160
    assert chosen[..., 18:22].sum() == 160
    weight = soft_point_weight(coarse_logit(coarse))
    assert weight[..., 18:22].min() == 1
    assert weight[..., :17].max() == 0


def test_final_output_costs_what_the_specification_measured() -> None:
    """33.7 G multiply-adds of convolutions at 224, the perceptron counted at a tenth of the points as published."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        net = MeticulousNet(MeticulousConfig(pooling="full", reach_input=False)).eval()
        net.register_module("perceptron", _NoPoints())
        net(torch.empty(1, 3, 224, 224), torch.empty(1, 1, 224, 224), None)
    convolutions = sum(v for k, v in counter.get_flop_counts()["Global"].items() if "convolution" in str(k))
    points = 4 * 313 + 2 * 1254 + 5017  # seven layers on grids of 56, 112 and 224
    perceptron = points * (65 * 256 + 256 * 256 + 256)
    assert (convolutions / 2 + perceptron) / 1e9 == pytest.approx(33.7, abs=0.05)


class _NoPoints(torch.nn.Module):
    def forward(self, features: torch.Tensor, logit: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(logit)

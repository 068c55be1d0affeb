"""IS-Net against numbers of the public implementation, frozen in tests/data."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from refine.models import build_model
from refine.models.isnet import PREPROCESSING, ISNet

DATA = Path(__file__).parent / "data"


def weights_by_rule(model: nn.Module) -> dict[str, Tensor]:
    """The rule the golden numbers were made by: every tensor from its own key and shape."""
    state = {}
    for key, tensor in model.state_dict().items():
        if tensor.ndim == 4:
            generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
            fan_in = tensor[0].numel()
            state[key] = torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5
        elif key.endswith(("weight", "running_var")):
            state[key] = torch.ones_like(tensor)
        else:
            state[key] = torch.zeros_like(tensor)
    return state


@pytest.fixture(scope="module")
def isnet() -> ISNet:
    model = ISNet()
    model.load_state_dict(weights_by_rule(model))
    return model.eval()


def test_keys_and_shapes_are_the_published_ones_in_order() -> None:
    lines = [f"{key} {'x'.join(map(str, tensor.shape)) or 'scalar'}" for key, tensor in ISNet().state_dict().items()]
    assert lines == (DATA / "isnet_keys.txt").read_text().splitlines()


def test_parameter_count_is_the_published_one(isnet: ISNet) -> None:
    golden = json.loads((DATA / "isnet_golden.json").read_text())
    assert sum(parameter.numel() for parameter in isnet.parameters()) == golden["parameters"] == 44_046_790


def test_outputs_are_those_of_the_public_network(isnet: ISNet) -> None:
    golden = json.loads((DATA / "isnet_golden.json").read_text())["outputs"]
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1234))
    with torch.inference_mode():
        features = isnet.features(image)
        masks = [torch.sigmoid(logit) for logit in isnet.side_logits(features, image)]
        final = torch.sigmoid(isnet(image)["final"])
    assert len(golden) == 12
    for output, expected in zip([*masks, *features], golden, strict=True):
        assert list(output.shape) == expected["shape"]
        deviation = output.std().item() if output.numel() > 1 else 0.0
        # A relative part as well: the features' means lie near 10, where float32 sums differ in the sixth digit.
        assert output.mean().item() == pytest.approx(expected["mean"], rel=1e-5, abs=1e-4)
        assert deviation == pytest.approx(expected["std"], rel=1e-5, abs=1e-4)
        assert output.flatten()[0].item() == pytest.approx(expected["first"], rel=1e-3, abs=1e-3)
    assert torch.equal(final, masks[0])


def test_training_gives_all_six_sides_and_eval_only_the_result(isnet: ISNet) -> None:
    image = torch.zeros(2, 3, 32, 33)
    with torch.no_grad():
        assert set(isnet(image)) == {"final"}
        in_training = build_model("isnet")(image)
    assert list(in_training) == ["side6", "side5", "side4", "side3", "side2", "side1", "final"]
    assert {tuple(logit.shape) for logit in in_training.values()} == {(2, 1, 32, 33)}
    assert in_training["final"] is in_training["side1"]


def test_preprocessing_is_plus_minus_one_half_at_1024() -> None:
    values = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1).expand(1, 1, 2, 3)
    assert PREPROCESSING.normalise(values)[0, :, 0].tolist() == [[-0.5, 0.5]] * 3
    assert (PREPROCESSING.height, PREPROCESSING.width) == (1024, 1024)

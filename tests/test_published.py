"""Networks that others published, against numbers of the public implementations, frozen in tests/data."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from refine.models import build_model
from refine.models.registry import default_preprocessing, network_names, published_preprocessing

DATA = Path(__file__).parent / "data"

PARAMETERS = {
    "isnet": 44_046_790,
    "gt_encoder": 6_877_734,
    "u2net": 44_009_869,
    "u2netp": 1_131_181,
    "basnet": 87_060_360,
}
WITH_FEATURES = ("isnet", "gt_encoder")  # the public code returns features too
RESULT_IS_APART = ("u2net", "u2netp", "basnet")  # the result is fused or refined, no side output


def weights_by_rule(model: nn.Module) -> dict[str, Tensor]:
    """The rule the golden numbers were made by: every tensor from its own key and shape."""
    state = {}
    for key, tensor in model.state_dict().items():
        if tensor.ndim == 4:
            generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
            fan_in = tensor[0].numel()
            state[key] = torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5
        elif key.endswith(("weight", "running_var")):
            state[key] = torch.ones(tensor.shape)
        else:
            state[key] = torch.zeros(tensor.shape, dtype=tensor.dtype)
    return state


@pytest.fixture(scope="module", params=PARAMETERS)
def network(request: pytest.FixtureRequest) -> tuple[str, Any]:
    with torch.device("meta"):  # no time is spent on random weights that are replaced at once
        model = build_model(request.param)
    model.load_state_dict(weights_by_rule(model), assign=True)
    return request.param, model.eval()


def test_keys_and_shapes_are_the_published_ones_in_order(network: tuple[str, Any]) -> None:
    name, model = network
    lines = [f"{key} {'x'.join(map(str, tensor.shape)) or 'scalar'}" for key, tensor in model.state_dict().items()]
    assert lines == (DATA / f"{name}_keys.txt").read_text().splitlines()


def test_parameter_count_is_the_published_one(network: tuple[str, Any]) -> None:
    name, model = network
    golden = json.loads((DATA / f"{name}_golden.json").read_text())
    assert sum(parameter.numel() for parameter in model.parameters()) == golden["parameters"] == PARAMETERS[name]


def test_outputs_are_those_of_the_public_network(network: tuple[str, Any]) -> None:
    name, model = network
    golden = json.loads((DATA / f"{name}_golden.json").read_text())["outputs"]
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1234))
    image = image[:, :1] if name == "gt_encoder" else image
    with torch.inference_mode():
        features = model.features(image)
        final = torch.sigmoid(model(image)["final"])
        sides = [torch.sigmoid(logit) for logit in model.side_logits(features, image)]
    outputs = [*([final] if name in RESULT_IS_APART else []), *sides, *(features if name in WITH_FEATURES else [])]
    assert torch.equal(final, outputs[0])
    for output, expected in zip(outputs, golden, strict=True):
        assert list(output.shape) == expected["shape"]
        deviation = output.std().item() if output.numel() > 1 else 0.0
        # A relative part as well: the features' means lie near 10, where float32 sums differ in the sixth digit.
        assert output.mean().item() == pytest.approx(expected["mean"], rel=1e-5, abs=1e-4)
        assert deviation == pytest.approx(expected["std"], rel=1e-5, abs=1e-4)
        assert output.flatten()[0].item() == pytest.approx(expected["first"], rel=1e-3, abs=1e-3)


def test_training_gives_all_outputs_and_eval_only_the_result(network: tuple[str, Any]) -> None:
    name, model = network
    image = torch.rand(2, 1 if name == "gt_encoder" else 3, 65, 70, generator=torch.Generator().manual_seed(0))
    sides = [f"side{level}" for level in range(7 if name == "basnet" else 6, 0, -1)]
    try:
        with torch.no_grad():
            assert set(model(image)) == {"final"}
            in_training = model.train()(image)
    finally:
        model.eval()
    assert list(in_training) == [*sides, "final"]
    assert {tuple(logit.shape) for logit in in_training.values()} == {(2, 1, 65, 70)}
    assert (in_training["final"] is in_training["side1"]) == (name not in RESULT_IS_APART)


def test_the_enlarged_truth_encoder_keeps_its_features_and_has_the_known_size() -> None:
    with torch.device("meta"):
        plain, enlarged = (build_model(name) for name in ("gt_encoder", "gt_encoder_enlarged"))
    assert sum(parameter.numel() for parameter in enlarged.parameters()) == 7_770_662
    for model in (plain, enlarged):
        model.load_state_dict(weights_by_rule(model), assign=True)
    truth = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    features, sides = [], []
    with torch.no_grad():
        for model in (plain.eval(), enlarged.eval()):
            features.append(model.features(truth))  # type: ignore[operator]  # torch types methods as modules
            sides.append(model.side_logits(features[-1], truth))  # type: ignore[operator]  # the same
    assert all(torch.equal(first, second) for first, second in zip(*features, strict=True))
    # Stage 6 knows 64 x 64 pixels by one feature; enlarged, its side output follows stage 2 within such a block.
    rough, sharp = (float(side[5].std() / side[5].abs().mean()) for side in sides)
    assert rough < 1e-6 < 1e-2 < sharp


def test_the_published_layers_of_unet6_lose_126_pixels_and_the_repaired_ones_none() -> None:
    with torch.device("meta"):  # shapes alone
        published, repaired = build_model("unet6", {"layers": "published", "depth": False}), build_model("unet6")
        image = torch.empty(1, 6, 192, 224)
        assert {name: logit.shape for name, logit in published(image).items()} == {"final": (1, 1, 66, 98)}
        whole = (1, 1, 192, 224)
        assert {name: logit.shape for name, logit in repaired(image).items()} == {"final": whole, "depth": whole}
    assert sum(parameter.numel() for parameter in published.parameters()) == 34_520_514
    # Logits that a ReLU ends are at least 0, a probability of one half: what the repaired form is for.
    assert isinstance(list(published.get_submodule("mask").children())[-1], nn.ReLU)
    assert isinstance(list(repaired.get_submodule("mask").children())[-1], nn.Conv2d)


@pytest.mark.parametrize(("name", "side"), [("isnet", 1024), ("u2netp", 320), ("u2net", 320), ("basnet", 256)])
def test_preprocessing_is_as_published(name: str, side: int) -> None:
    values = torch.tensor([0, 200], dtype=torch.uint8).view(1, 1, 2, 1).expand(1, 1, 2, 3)
    published = published_preprocessing(name)
    assert (published.height, published.width) == (side, side)
    darkest, brightest = published.normalise(values)[0, :, 0].T
    if name == "isnet":
        torch.testing.assert_close(brightest, torch.full((3,), 200 / 255 - 0.5))
        torch.testing.assert_close(darkest, torch.full((3,), -0.5))
        return
    # Of the image's own maximum, whatever it is; what refine trains anew divides by 255.
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(brightest, (1 - mean) / deviation)
    torch.testing.assert_close(darkest, -mean / deviation)
    with torch.device("meta"):
        anew = default_preprocessing(name, build_model(name))
    torch.testing.assert_close(anew.normalise(values)[0, :, 0, 1], (200 / 255 - mean) / deviation)


def test_a_black_image_is_not_divided_by_its_maximum_of_zero() -> None:
    black = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    assert torch.isfinite(published_preprocessing("u2netp").normalise(black)).all()


def test_every_name_of_a_coarse_network_that_others_published_says_where() -> None:
    from refine.models.registry import NETWORKS

    published = {name for name in network_names("coarse") if NETWORKS[name].published}
    assert published == {"isnet", "u2net", "u2netp", "basnet"}

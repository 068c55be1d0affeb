"""Training of networks that others published: their losses, and the truth encoder that guides IS-Net."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from training_data import CONFIGS, network_config, placed_config, small_config, tiny_network, write_pairs

from refine.errors import ConfigError
from refine.models import build_model
from refine.models.checkpoint import load_model
from refine.models.gt_encoder import GTEncoder
from refine.models.isnet import ISNet
from refine.training import loop
from refine.training.config import Schedule, load_config, parse_config
from refine.training.guidance import Guide, distance, load_guide
from refine.training.loop import Machine, batches, new_run, training_step
from refine.training.loss_config import FeatureSync, Loss
from refine.training.losses import total_loss
from refine.training.run import NEWEST, build_network, make_samples, release, run_training
from refine.training.schedules import Gains
from refine.training.similarity import depth_loss, dice_loss, structural_similarity
from refine.training.state import states
from refine.validation import f_curve, make_validator

CPU = Machine(torch.device("cpu"), None, 0)


def planes(count: int, seed: int, side: int = 24) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


def test_a_picture_is_like_itself_and_flat_ones_by_their_brightness_alone() -> None:
    a, b = planes(2, 0), planes(2, 1)
    torch.testing.assert_close(structural_similarity(a, a), torch.ones_like(a))
    torch.testing.assert_close(structural_similarity(a, b), structural_similarity(b, a))
    flat = structural_similarity(torch.full((1, 1, 24, 24), 0.2), torch.full((1, 1, 24, 24), 0.6))
    # Away from the border, where zeros count: (2 ab + C1) / (a^2 + b^2 + C1).
    assert float(flat[0, 0, 12, 12]) == pytest.approx((0.24 + 1e-4) / (0.4 + 1e-4), abs=3e-4)


def test_dice_is_nothing_for_the_truth_and_whole_images_count_alone() -> None:
    truth = torch.zeros(3, 1, 4, 4)
    truth[0, :, :2], truth[1] = 1, 1
    everywhere = torch.ones_like(truth)
    torch.testing.assert_close(dice_loss(truth, truth, everywhere), torch.zeros(3))
    found = dice_loss(1 - truth, truth, everywhere)
    torch.testing.assert_close(found, 1 - torch.tensor([1 / 17, 1 / 17, 1 / 17]))


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_depth_counts_up_to_scale_and_shift(seed: int, scale: float, shift: float) -> None:
    goal = planes(2, seed)
    assert float(depth_loss(scale * goal + shift, goal, gradients=0.5)) < 1e-2
    assert float(depth_loss(-goal, goal, gradients=0.0)) == pytest.approx(1.0, abs=1e-3)  # upside down is wrong
    other = float(depth_loss(planes(2, seed + 1), goal, gradients=0.0))
    assert 0.5 < other < 1.001
    assert float(depth_loss(goal, torch.full_like(goal, 0.3), gradients=0.5)) == 0  # a goal without depth


@pytest.mark.parametrize("kind", ["mse", "kl", "l1", "smooth_l1"])
def test_features_are_apart_by_nothing_only_from_themselves(kind: str) -> None:
    own, goal = (torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert float(distance(goal, goal, kind)) == pytest.approx(0.0, abs=1e-7)
    assert float(distance(own, goal, kind)) > 1e-3
    if kind == "kl":  # the mean over all elements, as in the public code
        p, q = goal.softmax(1), own.softmax(1)
        assert float(distance(own, goal, kind)) == pytest.approx(float((p * (p / q).log()).mean()), rel=1e-4)


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_the_f_curve_is_the_f_measure_at_every_threshold(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    seen, truth = rng.random((9, 11), np.float32), rng.random((9, 11)) < share
    curve = f_curve(seen, truth)
    assert curve.shape == (255,)
    for step in (0, 100, 254):
        found = seen > step / 255
        precision, recall = (found & truth).sum() / max(1, found.sum()), (found & truth).sum() / max(1, truth.sum())
        below = 0.3 * precision + recall
        wanted = 1.3 * precision * recall / below if below else float(not (found.any() or truth.any()))
        assert curve[step] == pytest.approx(wanted, abs=1e-6)


def test_a_schedule_ends_where_its_score_is_reached() -> None:
    schedule = Schedule(steps=10, batch=1, stop_at=99.0)
    gains = Gains().after(98.9, schedule)
    assert not gains.ends(schedule)
    assert gains.after(99.0, schedule).after(90.0, schedule).ends(schedule)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_every_config_is_whole_and_supervises_outputs_that_its_network_has(path: Path) -> None:
    config = load_config(path)
    if path.stem.startswith("MOS"):  # their own tests hold them
        return
    with torch.device("meta"):
        model = build_model(config.model.architecture, config.model.options)
    channels = {"truth": 1, "composite": 6}.get(str(getattr(model, "sees", "image")), 3)
    with torch.device("meta"):
        outputs = model(torch.empty(2, channels, 64, 64))
    for name in config.loss.outputs:
        assert any(output.startswith(name) for output in outputs), name
    assert not config.perturb.late_kinds
    assert config.command == f"python train.py --config configs/{path.name}"
    assert config.about
    assert config.expected


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            {"architecture": "unet6", "size": 144, "options": {"layers": "published", "depth": False}},
            r"model\.options: unet6 with these gives final of 18 x 18 px where the truth has 144 x 144; it cannot",
        ),
        (
            {"architecture": "unet6", "size": 96, "options": {"layers": "published", "depth": False}},
            r"model: unet6 with these options cannot be trained at 96 px: .*; change model\.options, model\.size or",
        ),
        ({"architecture": "u2netp", "size": 64, "options": {"in_channels": 4}}, "u2netp with these options cannot be"),
        (
            {**tiny_network("mos_h_lite", 64), "options": {"encoder": "test_efficientnet", "widths": [8, 8, 8, -1]}},
            r"model\.options: there is no mos_h_lite with these: ",
        ),
    ],
)
def test_options_that_cannot_be_trained_are_refused_before_data_is_read(
    tmp_path: Path, model: dict[str, object], said: str
) -> None:
    raw = small_config(tmp_path / "nowhere", model=model, loss={"outputs": {"final": {"bce": 1.0}}})
    with pytest.raises(ConfigError, match=said) as refused:
        run_training(parse_config(raw, "test"), tmp_path / "run", device="cpu", workers=0)
    assert "\n" not in str(refused.value)


def test_u2netp_trains_from_the_command_s_config_to_a_checkpoint_that_runs(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data")
    small = {"architecture": "u2netp", "size": 32}
    config = network_config(data, "u2netp", model=small)
    assert run_training(config, tmp_path / "run", device="cpu", precision="fp32", workers=0)
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert not [entry for entry in entries if not np.isfinite(entry.get("loss", 0.0))]
    network, metadata = load_model(tmp_path / "run" / "last.safetensors", expect="coarse")
    assert metadata.architecture == "u2netp"
    assert (metadata.preprocessing.height, metadata.preprocessing.white) == (32, "255")
    assert network(torch.zeros(1, 3, 32, 32))["final"].shape == (1, 1, 32, 32)


def test_the_hybrid_loss_sums_three_terms_of_eight_outputs() -> None:
    loss = load_config(CONFIGS / "basnet.json").loss
    truth = (planes(1, 0) > 0.5).float()
    everywhere = torch.ones_like(truth, dtype=torch.bool)
    names = [*(f"side{level}" for level in range(7, 0, -1)), "final"]
    perfect = (2 * truth - 1) * 30
    total, parts = total_loss(dict.fromkeys(names, perfect), truth, everywhere, loss)
    assert list(parts) == names
    assert float(total) < 1e-3
    wrong, _ = total_loss(dict.fromkeys(names, -perfect), truth, everywhere, loss)
    # Cross-entropy 30; intersection nothing; similarity of opposites is negative, or nothing where they are flat.
    assert 8 * (30 + 1 + 1) <= float(wrong) <= 8 * (30 + 1 + 2)


def test_isnet_and_its_truth_encoders_have_features_of_the_same_shapes() -> None:
    with torch.device("meta"):
        model = build_model("isnet")
        assert isinstance(model, ISNet)
        model.gives_features = True
        outputs = model(torch.empty(2, 3, 128, 64))
        own = [outputs[f"feature{level}"].shape for level in range(1, 7)]
        for name in ("gt_encoder", "gt_encoder_enlarged"):
            encoder = build_model(name)
            assert isinstance(encoder, GTEncoder)
            assert [feature.shape for feature in encoder.features(torch.empty(2, 1, 128, 64))] == own
        assert list(model.eval()(torch.empty(2, 3, 128, 64))) == ["final"]


def test_features_learn_from_a_truth_encoder_that_stays_as_it_is(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data")
    phase_one = network_config(data, "gt_encoder")
    encoder, preprocessing = build_network(phase_one)
    path = tmp_path / "encoder.safetensors"
    release(encoder, phase_one, preprocessing, path, step=0, metrics={})
    own = json.loads((CONFIGS / "isnet.json").read_text())["loss"]
    own["features"]["encoder"] = str(path)
    guide = load_guide(network_config(data, "isnet", loss=own), torch.device("cpu"))
    assert guide is not None
    assert not guide.encoder.training
    assert guide.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    before = {key: tensor.clone() for key, tensor in guide.encoder.state_dict().items()}
    truth = (planes(2, 0, side=32) > 0.5).float()
    wanted = guide.features(truth)
    features = [torch.zeros_like(feature, requires_grad=True) for feature in wanted]
    loss = guide.loss(features, truth)
    assert float(loss.detach()) == pytest.approx(sum(float(feature.square().mean()) for feature in wanted), rel=1e-4)
    torch.autograd.backward(loss)
    assert all(feature.grad is not None and bool(feature.grad.any()) for feature in features)
    assert all(torch.equal(tensor, before[key]) for key, tensor in guide.encoder.state_dict().items())
    assert not [parameter for parameter in guide.encoder.parameters() if parameter.grad is not None]
    assert float(guide.loss(guide.features(truth), truth)) == 0


class Unit(nn.Module):
    """An encoder whose one feature is 1 everywhere."""

    def features(self, truth: Tensor) -> tuple[Tensor, ...]:
        return (torch.ones_like(truth),)


class WithFeature(nn.Module):
    """A network of one weight, whose feature is that weight everywhere; it begins with 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor, coarse: None, reach: None) -> dict[str, Tensor]:
        plane = image[:, :1] * self.weight
        return {"final": plane, "side1": plane, "feature1": torch.ones_like(plane) * self.weight}


def test_a_step_of_the_second_phase_adds_the_features_to_the_loss(tmp_path: Path) -> None:
    config = network_config(write_pairs(tmp_path / "data"), "u2netp")
    _, preprocessing = build_network(config)
    run = new_run(WithFeature(), config, CPU)
    batch = next(batches(make_samples(config), config.schedule, CPU, first_step=0))
    plain = training_step(run, batch, config, preprocessing, CPU)
    with torch.no_grad():
        run.model.get_parameter("weight").zero_()
    run.guide = Guide(Unit(), FeatureSync(encoder="", weight=3.0))
    guided = training_step(run, batch, config, preprocessing, CPU)
    assert plain["side1"] == guided["side1"] == pytest.approx(np.log(2), abs=1e-5)
    assert guided["features"] == pytest.approx(3.0)
    assert guided["loss"] == pytest.approx(plain["loss"] + 3.0)


def test_features_alone_are_something_to_learn_from(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data")
    features = {"encoder": "encoder.safetensors", "kind": "l1"}
    loss = network_config(data, "isnet", loss={"features": features}).loss
    assert loss.features is not None
    config = network_config(data, "u2netp", optim={"rate": 0.1, "weight_decay": 0.0})
    _, preprocessing = build_network(config)
    run = new_run(WithFeature(), config, CPU)
    run.guide = Guide(Unit(), loss.features)
    batch = next(batches(make_samples(config), config.schedule, CPU, first_step=0))
    losses = training_step(run, batch, config.model_copy(update={"loss": loss}), preprocessing, CPU)
    assert losses["loss"] == losses["features"] == pytest.approx(1.0)
    assert losses["final"] == losses["side1"] == 0
    assert float(run.model.get_parameter("weight").detach()) == pytest.approx(0.1)  # Adam's first step


def test_depth_may_be_compared_with_its_map_itself(tmp_path: Path) -> None:
    """`loss.outputs.depth` is of the depth maps, not of the masks; terms of masks have no place there."""
    data = write_pairs(tmp_path / "data")

    def loss_of(terms: dict[str, float], **others: object) -> Loss:
        loss = {"outputs": {"final": {"bce": 1.0}, "depth": terms}, **others}
        return network_config(data, "unet6", loss=loss, composites={"depths": "depths"}).loss

    mask, goal = torch.zeros(2, 1, 24, 24), planes(2, 1).clamp(0.05, 0.95)
    everywhere = torch.ones_like(mask, dtype=torch.bool)

    def depth_of(loss: Loss, depth: Tensor) -> float:
        return total_loss({"final": mask, "depth": depth.logit()}, mask, everywhere, loss, None, goal)[1]["depth"]

    alone = loss_of({"rms": 1.0, "ssim": 0.5})
    assert depth_of(alone, goal) == pytest.approx(0, abs=2e-4)
    darker = 0.5 * goal
    assert depth_of(alone, darker) > 0.2
    assert depth_of(loss_of({"l1": 2.0}), darker) == pytest.approx(float(goal.mean()), rel=1e-5)
    up_to_scale = {"weight": 1.0, "gradients": 0.0}
    assert depth_of(loss_of({}, depth=up_to_scale), darker) < 1e-2
    both = depth_of(loss_of({"l1": 2.0}, depth=up_to_scale), darker)
    assert both == pytest.approx(float(goal.mean()) + depth_of(loss_of({}, depth=up_to_scale), darker), rel=1e-5)

    with pytest.raises(ConfigError, match=r"loss\.outputs: dice, iou compare masks; give depth terms of its own"):
        loss_of({"dice": 1.0, "iou": 1.0, "bce": 1.0})
    with pytest.raises(ConfigError, match=r"loss\.depth: goes, as loss\.outputs\.depth does, with the depth output"):
        loss_of({})
    with pytest.raises(ConfigError, match=r"loss\.identity: unet6 takes no coarse mask to compare with"):
        loss_of({"l1": 1.0}, identity=0.1)


def test_wrong_guides_are_named(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data")
    own = json.loads((CONFIGS / "isnet.json").read_text())["loss"]
    missing = network_config(data, "isnet", loss=own | {"features": {"encoder": str(tmp_path / "none.safetensors")}})
    with pytest.raises(ConfigError, match=r"loss.features.encoder: .*none.safetensors.*configs/gt_encoder.json"):
        load_guide(missing, torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"loss.features: u2netp has no features"):
        network_config(data, "u2netp", loss=own)
    with pytest.raises(ConfigError, match=r"loss.depth: goes, .* with the depth output of unet6"):
        network_config(data, "unet6")


def test_a_resumed_run_whose_truth_encoder_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second phase in small: the encoder has no features, so that any network follows it."""

    class Blank(nn.Module):
        def features(self, truth: Tensor) -> tuple[Tensor, ...]:
            return ()

    data, run = write_pairs(tmp_path / "data"), tmp_path / "run"
    config = network_config(data, "u2netp", model=tiny_network("mos_l_lite", 32), loss={"outputs": {"s": {"bce": 1.0}}})
    sync = FeatureSync(encoder="encoder.safetensors")

    def train_here(digest: str, *, resume: Path | None = None, stop: bool = True) -> bool:
        monkeypatch.setattr(loop, "load_guide", lambda _config, _device: Guide(Blank(), sync, digest))
        return run_training(config, run, device="cpu", workers=0, resume=resume, should_stop=lambda: stop)

    assert not train_here("a" * 64)
    (state,) = states(run)
    before = state.read_bytes()
    with pytest.raises(ConfigError) as refused:
        train_here("b" * 64, resume=NEWEST)
    assert str(refused.value) == (
        f"loss.features.encoder: encoder.safetensors has changed since {state} was made with it (sha256 aaaaaaaaaaaa,"
        " now bbbbbbbbbbbb); put the former file back, or start a new --run"
    )
    assert (states(run), state.read_bytes()) == ([state], before)
    assert train_here("a" * 64, resume=NEWEST, stop=False)


def test_a_truth_encoder_is_scored_by_the_masks_that_it_gives_back(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data")
    (tmp_path / "held.csv").write_text("set,id\nshapes,00\nshapes,01\n")
    validation = {"held_out": str(tmp_path / "held.csv"), "every": 1}
    config = network_config(data, "gt_encoder", validation=validation)
    model, preprocessing = build_network(config)
    path = tmp_path / "encoder.safetensors"
    release(model, config, preprocessing, path, step=0, metrics={})
    scores = make_validator(config)(path)
    assert 0 < scores["score"] <= 100
    assert scores["score"] == scores["max_f"]
    with pytest.raises(ConfigError, match="there is no score of unet6"):
        make_validator(placed_config(data, validation=validation))

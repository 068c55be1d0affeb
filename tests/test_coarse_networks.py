"""Networks of `--coarse`: what comes with refine, what the plan says of them, and published weights where they are.

Set REFINE_WEIGHTS to a folder that holds `u2netp.onnx` and `isnet.onnx` to compare with onnxruntime;
checkpoints/README.md says which files these are.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from refine import __version__, shipped
from refine.api import plan_raster, refine_array, refine_raster
from refine.backends import coarse_footprint, load_coarse
from refine.cli import infer
from refine.coarse import SUREST, Ensemble, make_coarse
from refine.command import run
from refine.errors import CheckpointError, InputError, MemoryBudgetError
from refine.first_mask import notes_of
from refine.geometry import RGB, Mask
from refine.memory import BASELINE_BYTES, COARSE_COSTS, MIB
from refine.models import build_model, network_names, unet6
from refine.models.checkpoint import save_checkpoint
from refine.models.metadata import Metadata, read_metadata
from refine.models.registry import NETWORKS, published_preprocessing
from refine.networks import choose_networks
from refine.networks import load_coarse as load_together
from refine.plan_table import plan_table
from refine.planning import OVERLAP, OWN_OVERLAP
from refine.settings import CoarseKind, Settings
from refine.shipped import default_checkpoint
from refine.sources import ArrayImage, ArrayMask
from refine.training.config import TrainingConfig

ROOT = Path(__file__).parent.parent
ASTRONAUT = ROOT / "examples" / "astronaut.jpg"
FREE_SETS = {"synth", "stamps", "composites"}


def test_every_coarse_network_can_be_chosen_and_has_a_cost() -> None:
    names = network_names("coarse")
    assert set(get_args(CoarseKind)) == {"ensemble"} | {name.removesuffix("_lite") for name in names}
    assert set(COARSE_COSTS) == set(names)


def test_u2netp_comes_with_its_terms_and_its_own_scaling() -> None:
    metadata = read_metadata(default_checkpoint("u2netp"))
    assert metadata.architecture == "u2netp"
    assert metadata.licence.startswith("Apache-2.0")
    assert metadata.preprocessing == published_preprocessing("u2netp")
    assert metadata.preprocessing.white == "maximum"


# By onnxruntime 1.31.1 from the public u2netp.onnx, of the picture below: every 40th pixel of every 40th row.
GOLDEN = [
    [0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
    [0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
    [0.0000, 0.0000, 0.0000, 1.0000, 1.0000, 1.0000, 0.0000, 0.0000],
    [0.0000, 0.0000, 0.2543, 1.0000, 1.0000, 1.0000, 0.2326, 0.0000],
    [0.0000, 0.0000, 0.0002, 1.0000, 1.0000, 1.0000, 0.0001, 0.0000],
    [0.0000, 0.0000, 0.0000, 0.1605, 0.9999, 0.1937, 0.0000, 0.0000],
    [0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
    [0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
]


def picture() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A dark disc before a bright slope, 320 x 320."""
    rows, cols = np.mgrid[:320, :320]
    slope = 140 + rows // 8 + cols // 5
    disc = (rows - 150) ** 2 + (cols - 180) ** 2 < 80**2
    return np.stack([np.where(disc, 60, slope), np.where(disc, 30, slope), np.where(disc, 90, slope)], -1).astype(
        np.uint8
    )


def test_the_shipped_u2netp_gives_the_mask_of_the_public_file() -> None:
    mask = load_coarse(default_checkpoint("u2netp"), kind="u2netp", device="cpu")(picture())
    np.testing.assert_allclose(mask[20::40, 20::40], GOLDEN, rtol=0, atol=2e-3)


def test_a_mask_by_u2netp_is_refined() -> None:
    refined = refine_array(picture(), settings=Settings(coarse="u2netp", device="cpu"))
    rows, cols = np.mgrid[:320, :320]
    distance = np.hypot(rows - 150, cols - 180)
    assert refined[distance < 70].min() > 0.5 > refined[distance > 90].max()


def test_the_plan_counts_the_coarse_network_and_names_the_smallest_budget() -> None:
    settings = Settings(coarse="u2netp", device="cpu")
    plan = plan_raster(ASTRONAUT, settings=settings)
    assert plan.first_mask["coarse network"] == COARSE_COSTS["u2netp"].peak_bytes(320)
    assert plan.planned_peak == max(sum(plan.first_mask.values()), sum(plan.memory.values()))
    assert "coarse network" in plan_table(plan)
    with pytest.raises(MemoryBudgetError, match=r"--coarse u2netp, .*--max-memory (\d+)MiB$") as caught:
        plan_raster(ASTRONAUT, settings=settings.model_copy(update={"max_memory": 500 * MIB}))
    smallest = int(str(caught.value).rsplit(" ", 1)[1].removesuffix("MiB")) * MIB
    assert (
        plan_raster(ASTRONAUT, settings=settings.model_copy(update={"max_memory": smallest})).planned_peak <= smallest
    )
    with pytest.raises(MemoryBudgetError, match="--max-memory"):
        plan_raster(ASTRONAUT, settings=settings.model_copy(update={"max_memory": smallest - MIB}))
    for kind in ("u2netp", "mos_l"):  # of which the network, and the sweep, needs more
        with pytest.raises(MemoryBudgetError, match=r"^--max-memory 300MiB is too small"):
            plan_raster(ASTRONAUT, settings=Settings(coarse=kind, device="cpu", max_memory=300 * MIB))
    few = settings.model_copy(update={"max_memory": BASELINE_BYTES["cpu"] + 325 * MIB})
    with pytest.raises(MemoryBudgetError, match="--coarse u2netp"):  # an array's plan does not count the network
        refine_array(picture(), settings=few)


def test_windows_share_less_where_the_run_makes_the_first_mask(tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    cv2.imwrite(str(mask), np.zeros((64, 64), np.uint8))
    cpu = Settings(device="cpu")
    assert plan_raster(ASTRONAUT, settings=cpu).overlap == OWN_OVERLAP < OVERLAP
    reach = cpu.model_copy(update={"reach": 8.0})
    assert plan_raster(ASTRONAUT, settings=reach).overlap == OVERLAP  # within which that reach is kept to
    assert plan_raster(ASTRONAUT, mask, settings=cpu).overlap == OVERLAP
    for first in (None, mask):
        assert plan_raster(ASTRONAUT, first, settings=Settings(device="cpu", overlap=48)).overlap == 48


class Says:
    """A coarse network that says the same of every pixel, and remembers the sizes that it was shown."""

    def __init__(self, probability: float, side: int = 4) -> None:
        self.probability, self.input_height, self.input_width = probability, side, side
        self.shown: list[tuple[int, ...]] = []

    def __call__(self, rgb: RGB) -> Mask:
        self.shown.append(rgb.shape)
        return np.full(rgb.shape[:2], self.probability, np.float32)


class Shows(Says):
    """A coarse network that shows the same mask whatever the image."""

    def __init__(self, mask: Mask) -> None:
        super().__init__(0.0, len(mask))
        self.mask = mask

    def __call__(self, rgb: RGB) -> Mask:
        return self.mask


def log_odds(probability: Mask) -> Mask:
    least = 1 / (1 + np.exp(SUREST))
    inside = np.clip(probability, least, 1 - least)
    odds: Mask = np.log(inside / (1 - inside))
    return odds


masks = arrays(np.float32, (4, 4), elements=st.floats(0, 1, width=32))


@given(st.lists(masks, min_size=1, max_size=4))
def test_an_ensemble_counts_each_member_by_the_square_of_its_surest_foreground(said: list[Mask]) -> None:
    made = Ensemble([Shows(mask) for mask in said])(np.zeros((4, 4, 3), np.uint8))
    odds = np.stack([log_odds(mask) for mask in said])
    counts = odds.max(axis=(1, 2)).clip(1) ** 2
    mean = (counts[:, None, None] * odds).sum(axis=0) / counts.sum()
    np.testing.assert_allclose(made, 1 / (1 + np.exp(-mean)), rtol=2e-3, atol=1e-6)


@given(masks, st.floats(0, 0.5))
def test_a_member_that_finds_nothing_hardly_moves_what_another_is_sure_of(found: Mask, nothing: float) -> None:
    found[0, 0] = 1
    both = Ensemble([Shows(found), Says(nothing)])(np.zeros((4, 4, 3), np.uint8))
    clear = np.abs(found - 0.5) > 0.04
    np.testing.assert_array_equal((both > 0.5)[clear], (found > 0.5)[clear])


@given(masks, masks)
def test_two_that_are_as_sure_have_the_mean_of_their_log_odds(first: Mask, second: Mask) -> None:
    first[0, 0] = second[0, 0] = 1
    made = Ensemble([Shows(first), Shows(second)])(np.zeros((4, 4, 3), np.uint8))
    np.testing.assert_allclose(made, 1 / (1 + np.exp(-(log_odds(first) + log_odds(second)) / 2)), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (20, 200)])
def test_all_of_an_ensemble_are_shown_the_largest_size(height: int, width: int) -> None:
    small, large = Says(0.9, 8), Says(0.9, 16)
    mask = make_coarse(ArrayImage(np.zeros((height, width, 3), np.uint8)), Ensemble([small, large]))
    assert small.shown == large.shown
    assert set(small.shown) == {(16, 16, 3)}
    np.testing.assert_allclose(mask, np.full(mask.shape, 0.9), atol=1e-3)


def test_the_usual_ensemble_is_of_the_shipped_networks() -> None:
    networks = choose_networks(Settings(device="cpu"), "cpu", needs_coarse=True)
    ensemble = load_together(networks)
    assert isinstance(ensemble, Ensemble)
    assert [member.input_height for member in ensemble.members] == [320, 336]
    assert (networks.coarse_side, ensemble.input_height, ensemble.input_width) == (336, 336, 336)
    shown = np.pad(picture(), ((8, 8), (8, 8), (0, 0)), mode="edge")
    odds = [np.log(p / (1 - p)) for p in (np.clip(member(shown), 1e-3, 1 - 1e-3) for member in ensemble.members)]
    np.testing.assert_allclose(ensemble(shown), 1 / (1 + np.exp(-np.mean(odds, axis=0))), atol=2e-3)


def test_the_plan_counts_all_networks_of_an_ensemble_and_says_what_takes_less() -> None:
    plan = plan_raster(ASTRONAUT, settings=Settings(device="cpu"))
    larger, smaller = COARSE_COSTS["u2netp"], COARSE_COSTS["mos_l_lite"]
    assert plan.first_mask["coarse network"] == larger.peak_bytes(336) + smaller.kept_bytes
    kept = plan_raster(ASTRONAUT, settings=Settings(device="cpu"), of_several=True)
    assert kept.memory["coarse network, kept"] == larger.kept_bytes + smaller.kept_bytes
    with pytest.raises(
        MemoryBudgetError, match="--coarse ensemble, which takes more than --mask or --coarse mos_l; the smallest"
    ):
        plan_raster(ASTRONAUT, settings=Settings(device="cpu", max_memory=900 * MIB))


def test_a_run_names_all_networks_of_its_ensemble_and_depends_on_each(tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    cv2.imwrite(str(small), picture()[:240, :, ::-1])
    report = refine_raster(small, tmp_path / "out.png", settings=Settings(device="cpu"))
    assert [network.architecture for network in report.coarse] == ["u2netp", "mos_l_lite"]
    assert [Path(network.checkpoint) for network in report.coarse] == [
        default_checkpoint(name) for name in ("u2netp", "mos_l_lite")
    ]


def test_free_weights_saw_free_data_alone() -> None:
    networks = choose_networks(Settings(weights="free"), "cpu", needs_coarse=True)
    trained = TrainingConfig.model_validate_json(json.dumps(networks.metadata.training["config"]))
    assert {name for data in trained.data for name in data.sets or [data.name]} <= FREE_SETS
    assert networks.metadata.licence.startswith("free data alone")
    assert [member.checkpoint for member in networks.coarse_members] == [default_checkpoint("u2netp")]


def test_free_weights_refuse_a_network_that_has_none(checkpoints: Path) -> None:
    for coarse in ("mos_l", "ensemble"):
        with pytest.raises(InputError, match=f"--weights free: the weights of --coarse {coarse} are for research only"):
            Settings(weights="free", coarse=coarse)
    with pytest.raises(InputError, match="--weights free and --checkpoint both say what refines"):
        Settings(weights="free", checkpoint=checkpoints / "mos_h_lite.safetensors")
    own = checkpoints / "mos_l_lite.safetensors"
    networks = choose_networks(Settings(weights="free", coarse_checkpoint=own), "cpu", needs_coarse=True)
    assert [member.checkpoint for member in networks.coarse_members] == [own]


def test_a_member_that_is_not_there_is_named_with_a_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("mos_h_lite", "mos_l_lite"):
        (tmp_path / f"{name}.safetensors").write_bytes(default_checkpoint(name).read_bytes())
    monkeypatch.setattr(shipped, "_FOLDERS", (tmp_path,))
    with pytest.raises(CheckpointError, match=r"u2netp: .*; or give --coarse with the name of one network"):
        choose_networks(Settings(), "cpu", needs_coarse=True)
    assert choose_networks(Settings(coarse="mos_l"), "cpu", needs_coarse=True).coarse_side == 336


def test_an_ensemble_takes_no_file(checkpoints: Path) -> None:
    with pytest.raises(InputError, match=r"--coarse ensemble is of networks that come with refine; .* network's name"):
        Settings(coarse="ensemble", coarse_checkpoint=checkpoints / "mos_l_lite.safetensors")


def test_the_known_cost_covers_what_a_call_counts() -> None:
    for name in ("u2netp", "mos_l_lite"):
        weights, activations = coarse_footprint(default_checkpoint(name))
        assert weights + activations / 1.25 < COARSE_COSTS[name].peak_bytes(NETWORKS[name].side)


def test_published_files_load_with_their_own_scaling(tmp_path: Path) -> None:
    """A file without metadata is taken for what --coarse says it is."""
    torch.manual_seed(0)
    model = build_model("u2netp").eval()
    path = tmp_path / "u2netp.pth"
    torch.save({f"module.{key}": tensor for key, tensor in model.state_dict().items()}, path)
    networks = choose_networks(Settings(coarse="u2netp", coarse_checkpoint=path), "cpu", needs_coarse=True)
    assert (networks.coarse_members[0].architecture, networks.coarse_side) == ("u2netp", 320)
    half = picture() // 2  # scaled by its own maximum: half as bright is the same, but for rounding
    network = load_coarse(path, kind="u2netp", device="cpu")
    np.testing.assert_allclose(network(half), network(half * 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["u2netp", "isnet"])
def test_published_weights_give_the_mask_of_onnxruntime(name: str) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    folder = os.environ.get("REFINE_WEIGHTS")
    path = Path(folder or "", f"{name}.onnx")
    if folder is None or not path.is_file():
        pytest.skip(f"the published {name}.onnx is not here: set REFINE_WEIGHTS to its folder")
    from published import Comparison, images_of, weights_from_onnx

    model: nn.Module = build_model(name)
    weights_from_onnx(path, model)
    comparison = Comparison(name, model, path)
    for _, image in images_of(ASTRONAUT):
        assert comparison.difference(image)["largest"] < 2e-3


def test_a_given_file_of_our_own_needs_no_name(checkpoints: Path) -> None:
    given = checkpoints / "mos_l_lite.safetensors"
    usual = choose_networks(Settings(), "cpu", needs_coarse=True)
    named = choose_networks(Settings(coarse="mos_l"), "cpu", needs_coarse=True)
    ours = choose_networks(Settings(coarse_checkpoint=given), "cpu", needs_coarse=True)
    assert (usual.coarse, named.coarse, ours.coarse) == ("ensemble", "mos_l", "mos_l")
    shipped = [default_checkpoint(name) for name in ("u2netp", "mos_l_lite")]
    assert [member.checkpoint for member in usual.coarse_members] == shipped


def test_a_network_that_needs_the_background_too_is_no_coarse_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "unet6.safetensors"
    metadata = Metadata(
        refine_version=__version__,
        architecture="unet6",
        config={},
        preprocessing=unet6.PREPROCESSING,
        licence="none",
    )
    save_checkpoint(path, {"mask.weight": torch.zeros(1)}, metadata)
    options_by_message = {
        "'unet6' is not one of 'ensemble', 'mos_l', 'u2netp', 'u2net', 'basnet', 'isnet'": ["--coarse", "unet6"],
        "an image alone has none, so --coarse-checkpoint cannot take it": ["--coarse-checkpoint", str(path)],
    }
    for said, options_given in options_by_message.items():
        with pytest.raises(SystemExit) as ended:
            run(
                infer,
                name="infer.py",
                arguments=["--image", str(ASTRONAUT), "--out", str(tmp_path / "o.png"), *options_given],
            )
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    assert [found.name for found in tmp_path.iterdir()] == ["unet6.safetensors"]


def test_a_first_mask_that_shows_nothing_is_told() -> None:
    faint = np.full((20, 30), 0.25, np.float32)
    assert notes_of(ArrayMask(faint), "u2netp") == (
        "--coarse u2netp found no object: its mask is nowhere above 0.25; give --mask, or another --coarse",
    )
    faint[3, 4] = 0.75
    assert notes_of(ArrayMask(faint), "u2netp") == ()

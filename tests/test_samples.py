"""Training samples: a function of (seed, index) alone, aligned, and the pairs they are drawn from."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from training_data import small_config, write_pairs

from refine.geometry import mirror
from refine.models.preprocessing import Preprocessing
from refine.training.augment import flip_and_turn, jitter, turn
from refine.training.config import Augment, parse_config
from refine.training.crops import mirrored
from refine.training.data import load_pairs, outline_points
from refine.training.loop import Machine, coarse_input
from refine.training.samples import WholeImageSamples, WindowSamples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def windows(folder: Path, first_late: int = 10**9, **changes: object) -> WindowSamples:
    config = parse_config(small_config(folder, **changes), "test")
    return WindowSamples(load_pairs(config.data, frozenset()), config, first_late=first_late)


def test_sample_depends_on_seed_and_index_alone(folder: Path) -> None:
    first, second = windows(folder), windows(folder)
    second[7]
    a, b, other = first[3], second[3], first[4]
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["image"], other["image"])


def test_image_and_truth_stay_aligned_through_crops_and_flips(folder: Path) -> None:
    """The discs are bright, so brightness tells truth, wherever the window lies."""
    samples = windows(folder, augment={"jitter": [0.0, 0.0, 0.0, 0.0], "grey": 0.0, "jpeg": 0.0})
    agreement = []
    for i in range(24):
        item = samples[i]
        bright = item["image"].float().mean(dim=-1) > 115
        agreement.append(float((bright == (item["truth"] > 0.5)).float().mean()))
    assert np.mean(agreement) > 0.97


def test_exact_masks_alone_are_told_as_right_to_a_pixel(folder: Path) -> None:
    exact = windows(folder, perturb={"kinds": {"exact": 1.0}})[0]
    assert torch.equal(exact["coarse"], exact["truth"])
    assert exact["reach"] == 1
    damaged = windows(folder, perturb={"kinds": {"morph": 0.5, "reduce": 0.5}})
    assert min(float(damaged[i]["reach"]) for i in range(16)) > 1.1


def test_a_reduced_truth_in_place_of_a_networks_mask_is_told_as_one(folder: Path) -> None:
    reduced, model = (windows(folder, perturb={"kinds": {kind: 1.0}, "hard": 0.0}) for kind in ("reduce", "model"))
    for i in range(12):
        assert torch.equal(reduced[i]["coarse"], model[i]["coarse"])
        assert reduced[i]["reach"] == model[i]["reach"]


def test_composites_are_exact_where_the_picture_changes(folder: Path) -> None:
    """Truth is the share of the cut-out in each pixel, so no pixel is left out of the loss, whatever the scale."""
    plain = {"jitter": [0.0] * 4, "grey": 0.0, "jpeg": 0.0, "whole": 0.0, "scale": [2.0, 3.0]}
    samples = windows(folder, augment={**plain, "composite": 1.0}, perturb={"kinds": {"reduce": 1.0}})
    items = [samples[i] for i in range(12)]
    made = [item for item in items if bool(item["trusted"].all())]
    assert len(made) >= 9
    assert all(float(item["truth"].min()) >= 0 and float(item["truth"].max()) <= 1 for item in made)
    assert any(0.02 < float(((item["truth"] > 0.1) & (item["truth"] < 0.9)).float().mean()) < 0.5 for item in made)


def test_fur_is_drawn_on_cut_outs(folder: Path) -> None:
    exact = {"kinds": {"exact": 1.0}}
    smooth = windows(folder, perturb=exact, augment={"composite": 1.0})
    furry = windows(folder, perturb=exact, augment={"composite": 1.0, "fringe": 1.0})

    def length_of_outline(samples: WindowSamples) -> float:
        return sum(float(np.abs(np.diff(samples[i]["truth"].numpy(), axis=0)).sum()) for i in range(8))

    assert length_of_outline(furry) > 1.3 * length_of_outline(smooth)
    assert all(bool(furry[i]["trusted"].all()) for i in range(8))
    assert torch.equal(furry[3]["image"], furry[3]["image"])


@pytest.mark.parametrize("kind", ["lines", "roofs"])
def test_drawn_windows_come_with_their_share(folder: Path, kind: str) -> None:
    """They are no window of a pair: a coarse mask that is exact is drawn for them as for any other."""
    plain = windows(folder, perturb={"kinds": {"exact": 1.0}})
    drawn = windows(folder, perturb={"kinds": {"exact": 1.0}}, augment={kind: 1.0})
    for i in range(4):
        item, again = drawn[i], drawn[i]
        assert item.keys() == plain[i].keys()
        assert torch.equal(item["image"], again["image"])
        assert bool(item["trusted"].all())
        assert torch.equal(item["coarse"], item["truth"])
        assert not torch.equal(item["truth"], plain[i]["truth"])


def test_a_networks_mask_is_told_a_larger_reach_than_a_reduced_truth(folder: Path, tmp_path: Path) -> None:
    reaches = []
    for name, sigma in (("reduced", 0.0), ("soft", 0.8)):
        stored = tmp_path / name / "shapes"
        stored.mkdir(parents=True)
        for mask in sorted((folder / "shapes").glob("*.png")):
            plane = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
            assert plane is not None
            small = cv2.resize(plane, (48, 48), interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(stored / mask.name), cv2.GaussianBlur(small, (0, 0), sigma) if sigma else small)
        config = small_config(folder, perturb={"kinds": {"model": 1.0}, "hard": 0.0}, augment={"whole": 0.0})
        config["data"] = [{"name": "shapes", "path": str(folder), "predictions": [str(stored.parent)]}]
        parsed = parse_config(config, "test")
        samples = WindowSamples(load_pairs(parsed.data, frozenset()), parsed, first_late=10**9)
        reaches.append(np.array([float(samples[i]["reach"]) for i in range(12)]))
    assert np.median(reaches[1] / reaches[0]) > 1.5


def test_predictions_of_other_networks_serve_as_coarse_masks(folder: Path, tmp_path: Path) -> None:
    """Stored small; in the window they lie where the truth lies, and the reach told is one to two of their pixels."""
    stored = tmp_path / "predictions" / "shapes"
    stored.mkdir(parents=True)
    for mask in sorted((folder / "shapes").glob("*.png")):
        plane = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
        assert plane is not None
        small = cv2.resize(plane, (32, 32), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(stored / mask.name), small)
    config = small_config(folder, perturb={"kinds": {"model": 1.0}, "hard": 0.0}, augment={"whole": 0.0})
    config["data"] = [{"name": "shapes", "path": str(folder), "predictions": [str(stored.parent)]}]
    parsed = parse_config(config, "test")
    samples = WindowSamples(load_pairs(parsed.data, frozenset()), parsed, first_late=10**9)
    for i in range(12):
        item = samples[i]
        assert float(((item["coarse"] > 0.5) == (item["truth"] > 0.5)).float().mean()) > 0.9
        assert 1.1 < float(item["reach"]) < 8  # three pixels of the image a pixel, enlarged at most threefold


def test_a_level_before_begins_with_a_prediction_as_often_as_with_a_reduced_truth(folder: Path, tmp_path: Path) -> None:
    """The prediction is the truth in three greys, which tell it from a reduced truth, and lies where the truth lies."""
    stored = tmp_path / "shapes"
    stored.mkdir()
    for mask in sorted((folder / "shapes").glob("*.png")):
        plane = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
        assert plane is not None
        cv2.imwrite(str(stored / mask.name), np.where(plane > 127, 205, 50).astype(np.uint8))
    config = small_config(folder, perturb={"kinds": {"cascade": 1.0}, "hard": 0.0}, augment={"whole": 0.0})
    config["data"] = [{"name": "shapes", "path": str(folder), "predictions": [str(tmp_path)]}]
    parsed = parse_config(config, "test")
    samples = WindowSamples(load_pairs(parsed.data, frozenset()), parsed, first_late=10**9)
    predicted = []
    for i in range(40):
        item = samples[i]
        outer = item["outer_coarse"].numpy()
        predicted.append(bool(outer.min() > 0.15 and outer.max() < 0.85))
        if not predicted[-1]:
            continue
        factor = int(item["factor"])
        inside = cv2.resize(outer, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
        edge = (len(inside) - item["truth"].shape[0]) // 2
        inside = inside[edge : edge + item["truth"].shape[0], edge : edge + item["truth"].shape[1]]
        assert np.mean((inside > 0.5) == (item["truth"].numpy() > 0.5)) > 0.9
    assert 10 <= sum(predicted) <= 30


def test_cascade_sample_brings_the_window_around_it(folder: Path) -> None:
    samples = windows(folder, first_late=0, augment={"jitter": [0.0] * 4, "grey": 0.0, "jpeg": 0.0, "whole": 0.0})
    item = samples[1]
    factor = int(item["factor"])
    assert factor in (2, 3, 4)
    side = item["image"].shape[0]
    outer = cv2.resize(item["outer_image"].numpy(), None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    edge = (outer.shape[0] - side) // 2
    middle = outer[edge : edge + side, edge : edge + side].astype(float).mean(axis=2)
    inner = cv2.GaussianBlur(item["image"].numpy(), (0, 0), factor).astype(float).mean(axis=2)
    assert np.corrcoef(cv2.GaussianBlur(middle, (0, 0), factor).ravel(), inner.ravel())[0, 1] > 0.8


def test_a_share_of_the_masks_is_to_be_refined_again_and_nothing_else_changes(folder: Path) -> None:
    kinds = {"kinds": {"reduce": 0.5, "contour": 0.5}}
    once, again = windows(folder, perturb=kinds), windows(folder, perturb={**kinds, "again": 0.5})
    marked = []
    for i in range(40):
        before, item = once[i], again[i]
        assert not before.pop("again")
        marked.append(bool(item.pop("again")))
        assert all(torch.equal(item[name], plane) for name, plane in before.items())
    assert 10 <= sum(marked) <= 30


def test_what_is_to_be_refined_again_starts_from_the_networks_own_result() -> None:
    class Adding(torch.nn.Module):
        def correction(self, image: torch.Tensor, coarse: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
            return reach.reshape(-1, 1, 1, 1) * coarse

    again = torch.tensor([True, False, True])
    part = {
        "image": torch.zeros(3, 8, 8, 3, dtype=torch.uint8),
        "coarse": torch.full((3, 8, 8), 0.25),
        "reach": torch.tensor([1.0, 1.0, 9.0]),
        "factor": torch.zeros(3, dtype=torch.int64),
        "again": again,
    }
    machine = Machine(torch.device("cpu"), None, 0)
    before = {name: tensor.clone() for name, tensor in part.items()}
    coarse, reach = coarse_input(Adding(), part, Preprocessing(), machine)
    assert all(torch.equal(part[name], before[name]) for name in part)
    assert [float(plane.mean()) for plane in coarse] == [0.5, 0.25, 1.0]  # no further than a mask goes
    assert torch.equal(reach, part["reach"])


def test_whole_image_sample_has_the_networks_size(folder: Path) -> None:
    config = parse_config(small_config(folder, model={"architecture": "mos_l_lite", "size": 64}), "test")
    item = WholeImageSamples(load_pairs(config.data, frozenset()), config)[0]
    assert item["image"].shape == (64, 64, 3)
    assert item["truth"].shape == (64, 64)
    assert set(item) == {"image", "truth", "trusted"}


def test_the_eight_symmetries_are_eight() -> None:
    plane = np.arange(12).reshape(3, 4)
    assert len({flip_and_turn(plane, i).tobytes() + bytes(flip_and_turn(plane, i).shape) for i in range(8)}) == 8


@pytest.mark.parametrize("place", [(-3, -2, 9), (2, 3, 4), (-20, 1, 40), (4, 6, 30)])
def test_training_continues_an_image_as_the_engine_does(place: tuple[int, int, int]) -> None:
    top, left, side = place
    plane = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
    # The engine's continuation goes on with a period of twice the side, so above and left it is shifted by periods.
    row, col = top % 12, left % 16
    expected = mirror(plane, max(6, row + side), max(8, col + side))[row : row + side, col : col + side]
    np.testing.assert_array_equal(mirrored(plane, top, left, side), expected)


def test_jitter_of_nothing_changes_nothing_and_grey_stays_grey() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(jitter(image, (0.0, 0.0, 0.0, 0.0), np.random.default_rng(1)), image)
    grey = np.repeat(image[:, :, :1], 3, axis=2)
    jittered = jitter(grey, Augment().jitter, np.random.default_rng(1)).astype(int)
    assert np.ptp(jittered, axis=2).max() <= 1


def test_turning_moves_image_and_truth_alike() -> None:
    truth = np.zeros((64, 64), np.float32)
    truth[20:30, 30:50] = 1
    image = np.repeat((truth * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    turned, moved = turn(image, truth, 30.0, np.random.default_rng(2))
    assert np.abs(turned[:, :, 0] / 255 - moved).max() < 0.02
    assert np.abs(moved - truth).max() > 0.5


def test_outline_points_lie_on_the_outline() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 5:35] = 255
    points = outline_points(mask)
    assert len(points) == 2 * (20 + 30) - 4
    assert mask[points[:, 0], points[:, 1]].min() == 255
    assert outline_points(np.zeros((4, 4), np.uint8)).shape == (0, 2)


def test_hand_traced_outlines_are_not_enlarged_beyond_their_truth(folder: Path) -> None:
    """Close views of them come as composites; without composites the view is kept farther away."""
    close = {"scale": [3.0, 4.0], "whole": 0.0, "near_contour": 1.0, "inexact_scale": 1.0}
    for changes in ({"composite": 0.1}, {}):
        samples = windows(folder, augment={**close, **changes}, perturb={"kinds": {"reduce": 1.0}})
        assert all(bool(samples[i]["trusted"].all()) for i in range(8))
    enlarged = windows(folder, augment={**close, "inexact_scale": 4.0}, perturb={"kinds": {"reduce": 1.0}})
    assert not all(bool(enlarged[i]["trusted"].all()) for i in range(8))

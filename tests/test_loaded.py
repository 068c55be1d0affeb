"""Networks that stay loaded over several images: the same masks, and memory that the plan has counted."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rasters import write_picture

from refine import Settings, refine_raster
from refine.api import plan_raster
from refine.coarse import CoarseNetwork
from refine.infer import Request, print_plans, refine_images
from refine.loaded import LoadedNetworks
from refine.memory import MIB
from refine.networks import Networks, choose_networks
from refine.sources import Refiner

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture
def folder(tmp_path: Path, photograph: Pair) -> Path:
    """Three photographs of different sizes."""
    images = tmp_path / "images"
    images.mkdir()
    for index, (height, width) in enumerate([(300, 400), (240, 250), (150, 380)]):
        resized = cv2.resize(photograph[0], (width, height), interpolation=cv2.INTER_AREA)
        write_picture(images / f"{index}.png", np.asarray(resized, np.uint8))
    return images


def settings_of(checkpoints: Path, **changed: object) -> Settings:
    return Settings(
        device="cpu",
        checkpoint=checkpoints / "mos_h_lite.safetensors",
        coarse_checkpoint=checkpoints / "mos_l_lite.safetensors",
    ).model_copy(update=changed)


def request(folder: Path, out: Path, settings: Settings) -> Request:
    return Request((str(folder),), None, f"{out}/", None, None, settings)


class Told(LoadedNetworks):
    """Says what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def refiner(self, networks: Networks) -> Refiner:
        self.asked.append("refiner")
        return super().refiner(networks)

    def coarse(self, networks: Networks) -> CoarseNetwork:
        self.asked.append("coarse")
        return super().coarse(networks)

    def drop_refiner(self) -> None:
        self.asked.append("no refiner")
        super().drop_refiner()

    def drop_coarse(self) -> None:
        self.asked.append("no coarse")
        super().drop_coarse()


@pytest.mark.parametrize("stays", [True, False])
def test_what_the_plan_says_of_loaded_networks_is_done(
    tmp_path: Path, folder: Path, checkpoints: Path, changing: Path, stays: bool
) -> None:
    settings = settings_of(checkpoints, checkpoint=changing, batch=1)
    images = sorted(folder.iterdir())[1:]
    peaks = [plan_raster(image, settings=settings, of_several=True).planned_peak for image in images]
    few = settings if stays else settings.model_copy(update={"max_memory": min(peaks) - 1})
    loaded = Told()
    for image in images:
        assert plan_raster(image, settings=few, of_several=True).networks_stay == stays
        refine_raster(image, tmp_path / f"several{image.name}", settings=few, loaded=loaded)
        refine_raster(image, tmp_path / image.name, settings=settings)
        assert (tmp_path / f"several{image.name}").read_bytes() == (tmp_path / image.name).read_bytes()
    once = ["coarse", "refiner"] if stays else ["no refiner", "coarse", "no coarse", "refiner"]
    assert loaded.asked == 2 * once


def test_a_folder_gives_the_masks_of_its_images_one_by_one(
    tmp_path: Path, folder: Path, checkpoints: Path, changing: Path
) -> None:
    settings = settings_of(checkpoints, checkpoint=changing)
    assert refine_images(request(folder, tmp_path / "together", settings), name="refine") == 0
    for image in sorted(folder.iterdir()):
        refine_raster(image, tmp_path / image.name, settings=settings)
        assert (tmp_path / "together" / image.name).read_bytes() == (tmp_path / image.name).read_bytes()


def test_both_networks_stay_where_the_budget_has_room_for_both(folder: Path, checkpoints: Path) -> None:
    image, settings = folder / "0.png", settings_of(checkpoints)
    alone, one_of_several = (plan_raster(image, settings=settings, of_several=several) for several in (False, True))
    assert not alone.networks_stay
    assert one_of_several.networks_stay
    assert sum(one_of_several.memory.values()) > sum(alone.memory.values())
    assert sum(one_of_several.first_mask.values()) > sum(alone.first_mask.values())
    enough = -(-one_of_several.planned_peak // MIB)
    for budget, stays in ((enough, True), (enough - 1, False)):
        few = settings.model_copy(update={"max_memory": budget * MIB})
        plan = plan_raster(image, settings=few, of_several=True)
        assert plan.networks_stay == stays
        assert plan.planned_peak <= budget * MIB


def test_the_plan_of_a_folder_says_that_networks_stay(
    tmp_path: Path, folder: Path, checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_plans(request(folder, tmp_path / "out", settings_of(checkpoints)), name="infer.py") == 0
    said = capsys.readouterr().out
    assert said.count("coarse network, kept") == said.count("refining network, kept") == 3


def test_a_network_is_loaded_again_when_it_was_dropped_or_its_file_changed(tmp_path: Path, checkpoints: Path) -> None:
    path = tmp_path / "mos_h_lite.safetensors"
    path.write_bytes((checkpoints / path.name).read_bytes())
    networks = choose_networks(Settings(device="cpu", checkpoint=path), "cpu", needs_coarse=False)
    loaded = LoadedNetworks()
    first = loaded.refiner(networks)
    assert loaded.refiner(networks) is first
    os.utime(path, ns=(0, 0))
    second = loaded.refiner(networks)
    assert second is not first
    loaded.drop_refiner()
    assert loaded.refiner(networks) is not second

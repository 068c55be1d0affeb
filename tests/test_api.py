"""`refine_array` and `refine_raster`: same bytes, untouched inputs, and what a run says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasters import write_tif

from refine import Report, Settings, refine_array, refine_raster
from refine.api import plan_raster, refine_with
from refine.arrays import array_image
from refine.backends import load_refiner
from refine.errors import CheckpointError, InputError, MemoryBudgetError
from refine.geometry import Window
from refine.networks import STRIDES
from refine.raster import open_image
from refine.resample import mask_taps, resample

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture
def settings(checkpoints: Path) -> Settings:
    return Settings(
        checkpoint=checkpoints / "mos_h_lite.safetensors",
        coarse_checkpoint=checkpoints / "mos_l_lite.safetensors",
        device="cpu",
    )


@pytest.fixture
def files(tmp_path: Path, photograph: Pair) -> tuple[Path, Path]:
    """The photograph as a GeoTIFF, and a mask of a quarter of its size."""
    image, mask = photograph
    path, mask_path = tmp_path / "image.tif", tmp_path / "rough.png"
    write_tif(path, image, crs="EPSG:32633", transform=Affine(2, 0, 500000, 0, -2, 5000000))
    cv2.imwrite(str(mask_path), cv2.resize(mask, (100, 75), interpolation=cv2.INTER_AREA))
    return path, mask_path


def read(path: Path) -> NDArray[np.uint8]:
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert values is not None
    return np.asarray(values, np.uint8)


def test_array_files_of_one_channel_are_masks_and_archives_are_refused(
    tmp_path: Path, files: tuple[Path, Path], settings: Settings
) -> None:
    image, mask = files
    refine_raster(image, tmp_path / "expected.png", mask, settings=settings)
    for name, array in {"first": read(mask)[None], "last": read(mask)[:, :, None]}.items():
        np.save(tmp_path / f"{name}.npy", array)
        refine_raster(image, tmp_path / f"{name}.png", tmp_path / f"{name}.npy", settings=settings)
        assert np.array_equal(read(tmp_path / f"{name}.png"), read(tmp_path / "expected.png"))
    with (tmp_path / "archive.npy").open("wb") as archive:
        np.savez(archive, mask=read(mask))
    with pytest.raises(InputError, match="archive of several"):
        plan_raster(image, tmp_path / "archive.npy", settings=settings)


def test_a_network_that_gives_no_numbers_is_told_of(
    tmp_path: Path, files: tuple[Path, Path], settings: Settings
) -> None:
    assert settings.checkpoint is not None
    content = settings.checkpoint.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    damaged = tmp_path / "nan.safetensors"
    damaged.write_bytes(content[:header] + b"\xff" * (len(content) - header))
    broken = settings.model_copy(update={"checkpoint": damaged})
    report = refine_raster(files[0], tmp_path / "out.tif", files[1], settings=broken)
    assert any("the network gave NaN" in note for note in report.notes)


def test_an_image_with_overviews_is_read_from_them(tmp_path: Path, photograph: Pair, settings: Settings) -> None:
    image, mask = photograph
    path = write_tif(tmp_path / "image.tif", image, tiled=True, overviews=(2, 4, 8))
    cv2.imwrite(str(tmp_path / "rough.png"), cv2.resize(mask, (20, 15), interpolation=cv2.INTER_AREA))
    settings = settings.model_copy(update={"reach": 24.0})  # levels of 1/4 and 1/1
    assert any(step.overview for step in plan_raster(path, tmp_path / "rough.png", settings=settings).levels)
    refine_raster(path, tmp_path / "out.tif", tmp_path / "rough.png", settings=settings)
    assert read(tmp_path / "out.tif").shape == (300, 400)


def test_an_untrained_network_gives_back_the_mask_resampled(photograph: Pair, settings: Settings) -> None:
    image, mask = photograph
    coarse = cv2.resize(mask, (100, 75), interpolation=cv2.INTER_AREA)
    refined = refine_array(image, coarse, settings=settings)
    rows, cols = mask_taps(0, 300, 1, 300, 75), mask_taps(0, 400, 1, 400, 100)
    expected = resample(coarse.astype(np.float32) / np.float32(255), rows, cols)
    assert refined.dtype == np.float32
    np.testing.assert_array_equal(refined, expected)


def test_arrays_and_rasters_give_the_same_bytes(
    photograph: Pair, files: tuple[Path, Path], settings: Settings, tmp_path: Path
) -> None:
    image, _ = photograph
    path, mask_path = files
    coarse = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE)
    assert coarse is not None
    for chosen in (
        settings,
        settings.model_copy(update={"binary": True, "roi": (100, 50, 120, 200), "threshold": 0.3}),
    ):
        out = tmp_path / f"{chosen.binary}.tif"
        refine_raster(path, out, mask_path, settings=chosen)
        array = refine_array(image, coarse, settings=chosen)
        np.testing.assert_array_equal(read(out), np.floor(array * np.float32(255) + np.float32(0.5)).astype(np.uint8))


def test_inputs_are_left_as_they_are(photograph: Pair, settings: Settings) -> None:
    image, mask = (array.copy() for array in photograph)
    image.setflags(write=False)
    mask.setflags(write=False)
    refine_array(image, mask, settings=settings)
    np.testing.assert_array_equal(mask, photograph[1])


def test_a_loaded_network_gives_what_a_checkpoint_gives(photograph: Pair, settings: Settings) -> None:
    image, mask = photograph
    assert settings.checkpoint is not None
    refiner = load_refiner(settings.checkpoint, device="cpu")
    np.testing.assert_array_equal(
        refine_with(refiner, image, mask[::4, ::4], settings=settings),
        refine_array(image, mask[::4, ::4], checkpoint=settings.checkpoint, settings=Settings(device="cpu")),
    )


def test_strides_known_without_torch_are_the_networks_own(checkpoints: Path) -> None:
    from refine.models import build_model
    from refine.models.registry import network_names

    assert set(STRIDES) == set(network_names("refiner"))
    for name, stride in STRIDES.items():
        assert build_model(name).stride == stride


def test_without_a_mask_the_coarse_network_makes_one(
    files: tuple[Path, Path], settings: Settings, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    report = refine_raster(files[0], out, settings=settings)
    assert [network.architecture for network in report.coarse] == ["mos_l_lite"]
    assert (report.mask_height, report.mask_width) == (336, 336)
    assert read(out).shape == (300, 400)


def test_the_report_counts_windows_and_names_the_checkpoint(
    files: tuple[Path, Path], settings: Settings, tmp_path: Path
) -> None:
    path, mask_path = files
    report = refine_raster(path, tmp_path / "out.tif", mask_path, settings=settings)
    plan = plan_raster(path, mask_path, settings=settings)
    assert [level.decimation for level in report.levels] == [step.level.decimation for step in plan.levels]
    assert report.windows_run + report.windows_skipped == sum(step.windows for step in plan.levels)
    assert report.reach == pytest.approx(2, rel=0.2)  # half of its pixels of four, since it was averaged
    assert len(report.network.sha256) == 64
    assert report.peak_memory_bytes > 50 << 20
    assert report.seconds["total"] >= report.seconds["refine"] > 0
    report.write(tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text()
    assert Report.model_validate_json(text) == report
    assert json.loads(text)["versions"]["torch"]


@pytest.mark.parametrize(
    ("preview", "overwrite", "message"),
    [
        ("image.tif", True, r"end it in \.png"),
        ("rough.png", True, "is an image, mask, result or preview of this run"),
        ("out.png", True, "is an image, mask, result or preview of this run"),
        ("mine.png", False, "exists already; give --overwrite"),
        ("nowhere/preview.png", True, "the folder .*nowhere does not exist"),
        ("preview.gif", True, r"end it in \.png"),
    ],
)
def test_a_preview_replaces_nothing_and_is_refused_before_any_work(
    files: tuple[Path, Path], settings: Settings, preview: str, overwrite: bool, message: str
) -> None:
    folder = files[0].parent
    (folder / "mine.png").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    replacing = settings.model_copy(update={"overwrite": overwrite})
    with pytest.raises(InputError, match=f"--preview .*{message}"):
        refine_raster(files[0], folder / "out.png", files[1], settings=replacing, preview=folder / preview)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_preview_is_replaced_if_that_is_asked_for(files: tuple[Path, Path], settings: Settings) -> None:
    preview = files[0].parent / "mine.png"
    preview.write_bytes(b"mine")
    replacing = settings.model_copy(update={"overwrite": True})
    refine_raster(files[0], preview.with_name("out.png"), files[1], settings=replacing, preview=preview)
    assert read(preview).ndim == 3


def test_the_georeference_goes_into_the_mask(files: tuple[Path, Path], settings: Settings, tmp_path: Path) -> None:
    path, mask_path = files
    out = tmp_path / "out.tif"
    refine_raster(path, out, mask_path, settings=settings.model_copy(update={"roi": (10, 20, 100, 150)}))
    with rasterio.open(path) as image, rasterio.open(out) as mask:
        assert mask.crs == image.crs
        assert (mask.transform @ (0, 0)) == (image.transform @ (20, 10))
        assert (mask.height, mask.width, mask.dtypes) == (100, 150, ("uint8",))


def test_a_plan_reads_no_pixel(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "cut.tif"
    rng = np.random.default_rng(0)
    write_tif(path, rng.integers(0, 256, (400, 400, 3), dtype=np.uint8), compress="deflate")
    with path.open("r+b") as file:
        file.seek(100_000)
        file.write(bytes(50_000))
    assert plan_raster(path, settings=settings).levels[-1].level.height == 400
    with pytest.raises(OSError, match=r"cut\.tif"):
        refine_raster(path, tmp_path / "out.tif", settings=settings)
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_arrays_of_other_types_are_shown_as_rasters_are(tmp_path: Path, photograph: Pair, dtype: str) -> None:
    rng = np.random.default_rng(3)
    values = np.asarray(photograph[0][:, :, 0] * 57.3 + rng.normal(0, 30, (300, 400)) + 500, dtype)
    path = tmp_path / "image.tif"
    write_tif(path, values)
    whole = Window(0, 0, 300, 400)
    with open_image(path) as raster:
        np.testing.assert_array_equal(array_image(values).read(whole)[0], raster.read(whole)[0])


def test_pixels_that_are_not_numbers_are_zero_in_the_result(photograph: Pair, settings: Settings) -> None:
    image = photograph[0].astype(np.float32)
    image[100:120, 150:170, 1] = np.nan
    refined = refine_array(image, np.ones((300, 400), np.bool_), settings=settings)
    assert not refined[100:120, 150:170].any()
    assert refined[90, 90] == 1


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (np.zeros((8, 8, 2), np.uint8), None, "1 or 3 bands, got 2"),
        (np.zeros((8, 8), np.int32), None, "uint8, uint16 or float, got int32"),
        (np.zeros((0, 8), np.uint8), None, "with pixels"),
        (np.full((8, 8), np.nan), None, "no valid pixel"),
        (np.zeros((80, 80), np.uint8), np.zeros((80, 40), np.uint8), "40 x 80 .* but the image is 80 x 80"),
        (np.zeros((80, 80), np.uint8), np.full((80, 80), 2.0), "outside 0..1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    image: NDArray[np.generic], mask: NDArray[np.generic] | None, message: str, settings: Settings
) -> None:
    with pytest.raises(InputError, match=message):
        refine_array(image, mask, settings=settings)


def test_a_coarse_network_is_no_refining_one(photograph: Pair, settings: Settings) -> None:
    with pytest.raises(CheckpointError, match="holds mos_l_lite, but --checkpoint needs"):
        refine_array(*photograph, checkpoint=settings.coarse_checkpoint)


def test_a_budget_that_is_too_small_is_refused_with_the_figure(photograph: Pair, settings: Settings) -> None:
    with pytest.raises(MemoryBudgetError, match="the smallest that works is --max-memory"):
        refine_array(*photograph, settings=settings.model_copy(update={"max_memory": 64 << 20}))

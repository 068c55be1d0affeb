"""Rasters through `refine_raster`: how the result is written, and what is said where only a part of it fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasters import NORTH_UP, read_mask, write_picture, write_tif

from refine import Settings, planning, refine_raster
from refine.api import plan_raster
from refine.errors import InputError, RasterError
from refine.masks import RasterMask, open_mask
from refine.models.metadata import sha256
from refine.plan_table import plan_table
from refine.run_folder import can_resume

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture
def options(checkpoints: Path) -> Settings:
    return Settings(device="cpu", checkpoint=checkpoints / "mos_h_lite.safetensors")


@pytest.fixture
def pair(tmp_path: Path, photograph: Pair) -> tuple[Path, Path]:
    """A georeferenced image of 900 x 1200, and its mask at a quarter of that."""
    image, mask = photograph
    source = write_tif(tmp_path / "image.tif", np.kron(image, np.ones((3, 3, 1), np.uint8)), transform=NORTH_UP)
    return source, write_picture(tmp_path / "rough.png", np.ascontiguousarray(mask[::4, ::4]))


def test_a_cog_holds_the_mask_of_the_plain_file(tmp_path: Path, pair: tuple[Path, Path], options: Settings) -> None:
    refine_raster(pair[0], tmp_path / "plain.tif", pair[1], settings=options)
    refine_raster(pair[0], tmp_path / "cog.tif", pair[1], settings=options.model_copy(update={"cog": True}))
    np.testing.assert_array_equal(read_mask(tmp_path / "cog.tif"), read_mask(tmp_path / "plain.tif"))
    with rasterio.open(tmp_path / "cog.tif") as dataset:
        assert (dataset.overviews(1), dataset.transform) == ([2, 4], NORTH_UP)
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cog.tif", "image.tif", "plain.tif", "rough.png"]


def test_a_png_of_a_georeferenced_image_is_said_to_lose_its_place(
    tmp_path: Path, pair: tuple[Path, Path], options: Settings
) -> None:
    notes = {
        suffix: refine_raster(pair[0], tmp_path / f"out{suffix}", pair[1], settings=options).notes
        for suffix in (".png", ".tif")
    }
    lost = [suffix for suffix, said in notes.items() if any("does not hold where the image lies" in n for n in said)]
    assert lost == [".png"]


def test_a_cog_that_failed_is_made_from_the_finished_parts(
    tmp_path: Path, pair: tuple[Path, Path], options: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "JOURNALLED_PIXELS", 0)
    cog = options.model_copy(update={"cog": True})
    refine_raster(pair[0], tmp_path / "undisturbed.tif", pair[1], settings=cog)
    out = tmp_path / "mask.tif"

    def failing(path: Path, *_arguments: object, **_options: object) -> Path:
        path.with_suffix(".cog.tif").write_bytes(b"half of it")
        raise RasterError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("refine.raster.writer.copy_as_cog", failing)
        with pytest.raises(RasterError, match="the disk is full"):
            refine_raster(pair[0], out, pair[1], settings=cog)
    assert not out.exists()
    assert can_resume(out)
    report = refine_raster(pair[0], out, pair[1], settings=cog.model_copy(update={"resume": True}))
    assert any("parts had been finished before" in note for note in report.notes)
    assert out.read_bytes() == (tmp_path / "undisturbed.tif").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_the_plan_counts_the_file_that_a_cog_is_copied_from(pair: tuple[Path, Path], options: Settings) -> None:
    plain = plan_raster(*pair, settings=options)
    cog = plan_raster(*pair, settings=options.model_copy(update={"cog": True}))
    assert cog.temporary_bytes - plain.temporary_bytes == 900 * 1200 * 4 // 3
    assert "mask before its copy" in plan_table(cog)


def test_a_preview_that_fails_leaves_the_mask_and_says_so(
    tmp_path: Path, pair: tuple[Path, Path], options: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("refine.outputs.preview.write_whole", full)
    out, preview = tmp_path / "mask.tif", tmp_path / "preview.png"
    with pytest.raises(RasterError, match=r"mask\.tif is whole, but its preview failed: .*No space left") as raised:
        refine_raster(pair[0], out, pair[1], settings=options, preview=preview)
    assert raised.value.exit_code == 2
    assert read_mask(out).shape == (900, 1200)


def test_the_report_says_which_values_were_black_and_white(
    tmp_path: Path, pair: tuple[Path, Path], options: Settings
) -> None:
    with rasterio.open(pair[0]) as dataset:
        stored = dataset.read().astype(np.uint16) * 40
    deep = write_tif(tmp_path / "deep.tif", stored.transpose(1, 2, 0), transform=NORTH_UP)
    settings = options.model_copy(update={"percentiles": (1.0, 90.0)})
    report = refine_raster(deep, tmp_path / "deep_mask.tif", pair[1], settings=settings)
    for (low, high), band in zip(report.shown_values or (), stored, strict=True):
        np.testing.assert_allclose((low, high), np.percentile(band, [1, 90]), rtol=0.05)
    assert refine_raster(pair[0], tmp_path / "mask.tif", pair[1], settings=options).shown_values is None


def test_the_limit_of_pixels_can_be_raised_and_lowered(
    tmp_path: Path, pair: tuple[Path, Path], options: Settings
) -> None:
    few = options.model_copy(update={"max_pixels": 7_000})
    large = write_picture(tmp_path / "large.png", np.zeros((90, 120), np.uint8))
    small = write_tif(tmp_path / "small.tif", np.zeros((75, 80), np.uint8), transform=NORTH_UP)
    with pytest.raises(InputError, match=r"1200 x 900 .* above --max-pixels 7000; is it damaged"):
        plan_raster(*pair, settings=few)
    with pytest.raises(InputError, match=r"large\.png: declares 120 x 90 .* above --max-pixels 7000"):
        refine_raster(small, tmp_path / "mask.tif", large, settings=few.model_copy(update={"align": "stretch"}))
    assert plan_raster(small, settings=few.model_copy(update={"max_pixels": 6_000})).height == 75


MOSAIC = """<VRTDataset rasterXSize="1200" rasterYSize="900"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename relativeToVRT="1">{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>
</VRTDataset>"""


@pytest.mark.parametrize("read_from", ["the image's mosaic", "the mask"])
def test_what_is_read_is_not_replaced(
    tmp_path: Path, pair: tuple[Path, Path], options: Settings, read_from: str
) -> None:
    image, mask = pair
    if read_from == "the mask":
        out = mask
    else:
        out, image = image, tmp_path / "mosaic.vrt"
        image.write_text(MOSAIC.format(source=out.name))
    before = out.read_bytes()
    with pytest.raises(InputError, match="is read from it"):
        refine_raster(image, out, mask, settings=options.model_copy(update={"overwrite": True}))
    assert out.read_bytes() == before


class Meddling:
    """A Progress that does something to a file as soon as the first level has begun."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        self._meddle: Callable[[], object] | None = meddle

    def prepare(self, what: str, share: float) -> None:
        pass

    def begin(self, level: int, levels: int, window_rows: int, windows: int) -> None:
        if self._meddle is not None:
            self._meddle()
        self._meddle = None

    def advance(self, window_rows: int, run: int, skipped: int) -> None:
        pass


@pytest.mark.parametrize("how", ["grows", "is written to", "is replaced", "is gone"])
def test_an_image_that_changes_while_it_is_read_gives_no_mask(
    tmp_path: Path, pair: tuple[Path, Path], options: Settings, how: str
) -> None:
    image, mask = pair
    other = tmp_path / "other.tif"
    other.write_bytes(image.read_bytes())
    meddle: dict[str, Callable[[], object]] = {
        "grows": lambda: image.write_bytes(other.read_bytes() + b"more"),
        "is written to": lambda: os.utime(image),
        "is replaced": lambda: other.replace(image),
        "is gone": image.unlink,  # but open, and so whole
    }
    run = partial(refine_raster, image, tmp_path / "out.tif", mask, settings=options, progress=Meddling(meddle[how]))
    if how == "is gone":
        run()
        return
    with pytest.raises(RasterError, match=r"image\.tif: changed while it was read; refine again when it is whole"):
        run()
    assert not (tmp_path / "out.tif").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_mask_that_changes_while_it_is_read_gives_no_mask(
    tmp_path: Path, pair: tuple[Path, Path], options: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = pair

    def open_and_touch(*args: Any, **kwargs: Any) -> RasterMask:
        opened = open_mask(*args, **kwargs)
        os.utime(mask)
        return opened

    monkeypatch.setattr("refine.api.open_mask", open_and_touch)
    with pytest.raises(RasterError, match=f"{mask.name}: changed while it was read; refine again when it is whole"):
        refine_raster(image, tmp_path / "out.tif", mask, settings=options)
    assert not (tmp_path / "out.tif").exists()


def test_what_changes_after_it_was_read_or_is_not_read_ends_no_run(
    tmp_path: Path, pair: tuple[Path, Path], options: Settings
) -> None:
    image, mask = pair
    statistics = image.with_name(image.name + ".aux.xml")
    statistics.write_text("<PAMDataset></PAMDataset>")

    def meddle() -> None:
        os.utime(mask)
        os.utime(statistics)

    refine_raster(image, tmp_path / "out.tif", mask, settings=options, progress=Meddling(meddle))
    assert (tmp_path / "out.tif").exists()


@pytest.mark.usefixtures("small_parts")
def test_an_image_that_changed_leaves_no_parts_to_go_on_with(
    tmp_path: Path, pair: tuple[Path, Path], options: Settings
) -> None:
    image, mask = pair
    with pytest.raises(RasterError, match="changed while it was read"):
        refine_raster(image, tmp_path / "out.tif", mask, settings=options, progress=Meddling(lambda: os.utime(image)))
    assert not list(tmp_path.glob(".*"))
    refine_raster(image, tmp_path / "out.tif", mask, settings=options)


@pytest.mark.parametrize("how", ["is replaced", "is gone"])
def test_a_report_names_the_checkpoint_that_was_used_whatever_becomes_of_its_file(
    tmp_path: Path, pair: tuple[Path, Path], options: Settings, how: str
) -> None:
    assert options.checkpoint is not None
    path = tmp_path / "network.safetensors"
    path.write_bytes(options.checkpoint.read_bytes())
    meddle: dict[str, Callable[[], object]] = {
        "is replaced": lambda: path.write_bytes(b"another"),
        "is gone": path.unlink,
    }
    settings = options.model_copy(update={"checkpoint": path})
    report = refine_raster(pair[0], tmp_path / "out.tif", pair[1], settings=settings, progress=Meddling(meddle[how]))
    assert report.network.sha256 == sha256(options.checkpoint)


def test_a_plan_refuses_the_bands_that_a_run_refuses(tmp_path: Path, options: Settings) -> None:
    path = write_tif(tmp_path / "inks.tif", np.zeros((40, 50, 4), np.uint16), photometric="cmyk")
    for run in (plan_raster, partial(refine_raster, out=tmp_path / "out.tif")):
        with pytest.raises(InputError, match="is CMYK of uint16"):
            run(path, settings=options)

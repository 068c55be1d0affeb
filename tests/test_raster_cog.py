"""Overviews and cloud-optimised GeoTIFFs: what readers of them expect, and that the mask in them is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasters import NORTH_UP, blobs, picture, read_mask, write_mask, write_picture, write_tif

from refine.errors import InputError, RasterError
from refine.raster import create_mask, is_whole_mask, read_header
from refine.raster.finish import copy_as_cog, overview_factors

SIZE = (1100, 1300)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    valid = np.ones(SIZE, np.bool_)
    valid[:300] = False
    pixels = picture(*SIZE)
    return write_tif(tmp_path / "image.tif", pixels, mask_band=valid, transform=NORTH_UP, crs="EPSG:25833")


def read(path: Path, **options: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with rasterio.open(path, **options) as dataset:
        return dataset.read(1), dataset.dataset_mask() != 0


def write_with_holes(out: Path, image: Path, **options: Any) -> Path:
    valid = np.ones(SIZE, np.bool_)
    valid[:300] = False
    with create_mask(out, read_header(image), **options) as file:
        file.write(0, blobs(*SIZE), valid)
    return out


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzw", "none"])
def test_a_cog_is_one_in_the_eyes_of_its_validator(tmp_path: Path, image: Path, compress: str) -> None:
    rio_cogeo = pytest.importorskip("rio_cogeo", reason="rio-cogeo is not installed")
    out = write_with_holes(tmp_path / "mask.tif", image, cog=True, compress=compress)
    assert rio_cogeo.cog_validate(str(out), strict=True) == (True, [], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.tif", "mask.tif"]


@pytest.mark.parametrize("kind", [{"cog": True}, {"overviews": True}])
def test_pixels_place_and_holes_are_those_of_the_plain_file(tmp_path: Path, image: Path, kind: dict[str, bool]) -> None:
    plain = write_with_holes(tmp_path / "plain.tif", image)
    out = write_with_holes(tmp_path / "mask.tif", image, **kind)
    for expected, found in zip(read(plain), read(out), strict=True):
        np.testing.assert_array_equal(found, expected)
    with rasterio.open(plain) as like, rasterio.open(out) as dataset:
        assert (dataset.crs, dataset.transform) == (like.crs, like.transform)
        assert dataset.overviews(1) == [2, 4]
        assert dataset.block_shapes == [(512, 512)]
        assert dataset.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == ("COG" if "cog" in kind else None)


def test_overviews_average_a_soft_mask_over_its_valid_pixels(tmp_path: Path, image: Path) -> None:
    small, valid = read(write_with_holes(tmp_path / "mask.tif", image, cog=True), overview_level=0)
    means = blobs(*SIZE).reshape(550, 2, 650, 2).mean(axis=(1, 3))
    assert not valid[:150].any()
    assert valid[150:].all()
    assert np.abs(small[150:].astype(float) - means[150:]).max() <= 0.5


def test_overviews_of_a_binary_mask_are_binary(tmp_path: Path, image: Path) -> None:
    small, _ = read(write_with_holes(tmp_path / "mask.tif", image, overviews=True, binary=True), overview_level=0)
    assert set(np.unique(small)) == {0, 255}


@pytest.mark.parametrize(
    ("size", "factors"), [((512, 512), []), ((513, 1), [2]), ((9_000, 30_000), [2, 4, 8, 16, 32, 64])]
)
def test_overviews_go_down_to_one_block(size: tuple[int, int], factors: list[int]) -> None:
    assert overview_factors(*size) == factors


def test_a_small_cog_needs_no_overviews(tmp_path: Path) -> None:
    photograph = write_picture(tmp_path / "photo.png", picture(90, 70))
    out = write_mask(tmp_path / "mask.tif", photograph, blobs(90, 70), cog=True)
    assert is_whole_mask(out, 90, 70, cog=True)
    np.testing.assert_array_equal(read_mask(out), blobs(90, 70))


def test_a_finished_mask_counts_as_a_cog_only_if_it_is_one(tmp_path: Path, image: Path) -> None:
    plain, cog = (write_with_holes(tmp_path / f"{kind}.tif", image, cog=kind == "cog") for kind in ("plain", "cog"))
    assert is_whole_mask(plain, *SIZE)
    assert not is_whole_mask(plain, *SIZE, overviews=True)
    assert not is_whole_mask(plain, *SIZE, cog=True)
    assert is_whole_mask(cog, *SIZE, overviews=True, cog=True)


def test_a_png_cannot_be_a_cog(tmp_path: Path, image: Path) -> None:
    with pytest.raises(InputError, match=r"mask\.png: --cog makes a GeoTIFF; end --out in \.tif"):
        create_mask(tmp_path / "mask.png", read_header(image), cog=True)


def test_a_copy_that_does_not_read_back_is_not_published(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(path: Path, *arguments: Any, **options: Any) -> Path:
        copy = copy_as_cog(path, *arguments, **options)
        content = bytearray(copy.read_bytes())
        content[-6000:] = bytes(6000)
        copy.write_bytes(content)
        return copy

    monkeypatch.setattr("refine.raster.writer.copy_as_cog", damaged)
    with pytest.raises(RasterError, match=r"mask\.tif: (what was written does not|cannot be) read back"):
        write_with_holes(tmp_path / "mask.tif", image, cog=True)
    assert list(tmp_path.iterdir()) == [image]


@pytest.mark.parametrize("kind", ["Area", "Point"])
@pytest.mark.parametrize("cog", [False, True])
def test_gcps_lie_where_they_lay_whatever_a_pixel_is(tmp_path: Path, kind: str, cog: bool) -> None:
    points = [GroundControlPoint(row=r, col=c, x=c / 7, y=50 - r / 9) for r, c in ((0, 0.25), (3, 590), (650.5, 8))]
    pixels = picture(700, 600)
    source = write_tif(tmp_path / "image.tif", pixels, gcps=points, crs="EPSG:4326", tags={"AREA_OR_POINT": kind})
    out = write_mask(tmp_path / "mask.tif", source, blobs(700, 600), cog=cog)
    with rasterio.open(source) as like, rasterio.open(out) as mask:
        assert mask.tags()["AREA_OR_POINT"] == kind
        assert len(mask.gcps[0]) == 3
        for found, expected in zip(mask.gcps[0], like.gcps[0], strict=True):
            assert (found.row, found.col) == pytest.approx((expected.row, expected.col), abs=0.001)
            assert (found.x, found.y) == pytest.approx((expected.x, expected.y))

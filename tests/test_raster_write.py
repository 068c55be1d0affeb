"""Masks to disk: what is kept of the image, and that no file stands under the output's name that is not whole."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasters import NORTH_UP, blobs, picture, read_mask, write_mask, write_picture, write_tif, write_turned_jpeg

from refine.errors import RasterError
from refine.geometry import Window
from refine.raster import create_mask, default_output, foreground_from, read_header


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_tif(tmp_path / "image.tif", picture(700, 600), transform=NORTH_UP, crs="EPSG:25833")


@pytest.mark.parametrize("name", ["mask.tif", "mask.tiff", "mask.png", "MASK.PNG"])
@pytest.mark.parametrize("size", [(1, 1), (1, 1300), (1300, 1), (512, 512), (700, 1100)])
def test_a_mask_reads_back_as_written(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    photograph = write_picture(tmp_path / "photo.png", picture(*size))
    mask = blobs(*size)
    out = write_mask(tmp_path / name, photograph, mask)
    np.testing.assert_array_equal(read_mask(out), mask)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "photo.png"])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 1199), max_size=6), as_float=st.booleans())
def test_how_rows_arrive_does_not_matter(tmp_path: Path, cuts: list[int], as_float: bool) -> None:
    photograph = tmp_path / "photo.png"
    if not photograph.exists():
        write_picture(photograph, picture(1200, 40))
    mask = blobs(1200, 40)
    edges = [0, *sorted(set(cuts)), 1200]
    out = tmp_path / "mask.tif"
    with create_mask(out, read_header(photograph), overwrite=True) as file:
        for start, stop in pairwise(edges):
            rows = mask[start:stop]
            file.write(start, rows.astype(np.float32) / np.float32(255) if as_float else rows)
    np.testing.assert_array_equal(read_mask(out), mask)


def test_every_8_bit_value_survives_as_a_float(tmp_path: Path) -> None:
    photograph = write_picture(tmp_path / "photo.png", picture(1, 256))
    values = np.arange(256, dtype=np.uint8)[None]
    with create_mask(tmp_path / "mask.png", read_header(photograph)) as file:
        file.write(0, values.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), values)


def test_rows_may_be_reused_after_the_call(tmp_path: Path, image: Path) -> None:
    row = np.zeros((1, 600), np.uint8)
    with create_mask(tmp_path / "mask.tif", read_header(image)) as file:
        for number in range(700):
            row[:] = number % 251
            file.write(number, row)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif")[:, 0], np.arange(700) % 251)


@pytest.mark.parametrize(("threshold", "lowest"), [(0.5, 128), (0.25, 64), (0.999, 255), (0.001, 1)])
def test_a_binary_mask_is_255_above_the_threshold(tmp_path: Path, threshold: float, lowest: int) -> None:
    photograph = write_picture(tmp_path / "photo.png", picture(1, 256))
    values = np.arange(256, dtype=np.uint8)[None]
    out = write_mask(tmp_path / "mask.png", photograph, values, binary=True, threshold=threshold)
    np.testing.assert_array_equal(read_mask(out), np.where(values >= lowest, 255, 0))
    assert foreground_from(threshold) == lowest


# What is kept of the image


def test_crs_transform_and_pixel_kind_are_kept(tmp_path: Path) -> None:
    pixels = picture(70, 60)
    source = write_tif(
        tmp_path / "image.tif", pixels, transform=NORTH_UP, crs="EPSG:25833", compress="jpeg", photometric="ycbcr",
        tags={"AREA_OR_POINT": "Point"},
    )  # fmt: skip
    with rasterio.open(write_mask(tmp_path / "mask.tif", source, blobs(70, 60))) as mask, rasterio.open(source) as like:
        assert mask.crs == like.crs == CRS.from_epsg(25833)
        assert mask.transform == like.transform == NORTH_UP
        assert mask.tags()["AREA_OR_POINT"] == "Point"
        assert mask.dtypes == ("uint8",)
        assert (mask.compression.value, mask.block_shapes) == ("DEFLATE", [(512, 512)])


def points(rows: float = 0, cols: float = 0) -> list[GroundControlPoint]:
    return [
        GroundControlPoint(row=r - rows, col=c - cols, x=13 + c / 1e4, y=52 - r / 1e4, z=7.0, id=str(n), info="")
        for n, (r, c) in enumerate([(0.5, 0.5), (0.5, 599.5), (699.5, 0.5), (699.5, 599.5)])
    ]


def rpcs(row: float = 0, col: float = 0) -> RPC:
    # Numbers of no more digits than the text tag of a GeoTIFF holds.
    return RPC(
        height_off=30, height_scale=500, lat_off=52.5, lat_scale=0.125, line_off=350 - row, line_scale=350,
        long_off=13.4, long_scale=0.25, samp_off=300 - col, samp_scale=300, line_num_coeff=[0.25] * 20,
        line_den_coeff=[1.0] + [0.5] * 19, samp_num_coeff=[0.125] * 20, samp_den_coeff=[1.0] + [0.75] * 19,
        err_bias=1.5, err_rand=0.5,
    )  # fmt: skip


def place(point: GroundControlPoint) -> tuple[float, ...]:
    return (point.row, point.col, point.x, point.y, point.z)


@pytest.mark.parametrize("roi", [None, Window(100, 50, 300, 200)])
def test_gcps_and_rpcs_are_kept_and_move_with_a_part(tmp_path: Path, roi: Window | None) -> None:
    source = write_tif(tmp_path / "image.tif", picture(700, 600), gcps=points(), crs="EPSG:4326", rpcs=rpcs())
    with rasterio.open(source) as like:
        assert like.crs is None  # a file with GCPs keeps their CRS with them
        assert len(like.gcps[0]) == 4
        assert like.rpcs is not None
    part = roi or Window(0, 0, 700, 600)
    out = write_mask(tmp_path / "mask.tif", source, blobs(part.height, part.width), roi=roi)
    with rasterio.open(out) as mask:
        gcps, crs = mask.gcps
        assert crs == CRS.from_epsg(4326)
        np.testing.assert_allclose([place(p) for p in gcps], [place(p) for p in points(part.row, part.col)])
        assert mask.rpcs.to_dict() == rpcs(part.row, part.col).to_dict()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.tif", "mask.tif"]


def test_a_crs_that_a_geotiff_cannot_hold_is_kept_beside_it(tmp_path: Path) -> None:
    rotated = CRS.from_string(
        "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +to_meter=0.01745329252"
    )
    source = write_tif(tmp_path / "image.tif", picture(70, 60), transform=NORTH_UP, crs=rotated)
    out = write_mask(tmp_path / "mask.tif", source, blobs(70, 60))
    with rasterio.open(out) as mask, rasterio.open(source) as like:
        assert mask.crs == like.crs
        assert like.crs is not None
    assert sorted(path.name for path in tmp_path.glob("mask*")) == ["mask.tif", "mask.tif.aux.xml"]
    plain = write_tif(tmp_path / "plain.tif", picture(70, 60), transform=NORTH_UP, crs="EPSG:25833")
    with rasterio.open(write_mask(out, plain, blobs(70, 60), overwrite=True)) as mask:
        assert mask.crs == CRS.from_epsg(25833)
    assert sorted(path.name for path in tmp_path.glob("*mask*")) == ["mask.tif"]


def test_a_part_lies_where_it_lies_in_the_image(tmp_path: Path, image: Path) -> None:
    roi = Window(row=40, col=20, height=90, width=80)
    with rasterio.open(write_mask(tmp_path / "mask.tif", image, blobs(90, 80), roi=roi)) as mask:
        assert mask.shape == (90, 80)
        assert mask.xy(0, 0, offset="ul") == (NORTH_UP.c + 20 * 0.5, NORTH_UP.f - 40 * 0.5)
        assert mask.crs == CRS.from_epsg(25833)


def test_invalid_pixels_are_0_and_masked_all_other_values_are_mask_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(600, 520)).astype(np.float32)
    valid = np.random.default_rng(1).random((600, 520)) > 0.2
    source = write_tif(tmp_path / "image.tif", np.where(valid, values, np.nan), transform=NORTH_UP)
    mask = blobs(600, 520)
    with create_mask(tmp_path / "mask.tif", read_header(source)) as file:
        file.write(0, mask[:333], valid[:333])
        file.write(333, mask[333:], valid[333:])
    with rasterio.open(tmp_path / "mask.tif") as written:
        np.testing.assert_array_equal(written.read(1), np.where(valid, mask, 0))
        np.testing.assert_array_equal(written.read_masks(1) != 0, valid)
        assert written.nodata is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.tif", "mask.tif"]


def test_nodata_of_the_image_is_not_that_of_the_mask(tmp_path: Path) -> None:
    grey = picture(40, 40)[:, :, 0]
    source = write_tif(tmp_path / "image.tif", grey, transform=NORTH_UP, tags={"NODATA_VALUES": "0"})
    with rasterio.open(write_mask(tmp_path / "mask.tif", source, np.zeros((40, 40), np.uint8))) as mask:
        assert mask.read_masks(1).all()


def test_without_an_invalid_pixel_there_is_no_mask_band_and_a_late_one_leaves_the_rows_above_valid(
    tmp_path: Path,
) -> None:
    source = write_tif(tmp_path / "image.tif", np.zeros((1500, 520), np.float32), transform=NORTH_UP)
    with rasterio.open(write_mask(tmp_path / "valid.tif", source, blobs(1500, 520))) as written:
        assert [flag.name for flag in written.mask_flag_enums[0]] == ["all_valid"]
    valid = np.ones((1500, 520), np.bool_)
    valid[1300, 400] = False
    with create_mask(tmp_path / "late.tif", read_header(source)) as file:
        file.write(0, blobs(1500, 520), valid)
    with rasterio.open(tmp_path / "late.tif") as written:
        np.testing.assert_array_equal(written.read_masks(1) != 0, valid)


def test_a_file_that_a_full_disk_left_empty_is_an_error(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = create_mask(tmp_path / "mask.tif", read_header(image))
    file.write(0, np.full((file.height, file.width), 7, np.uint8))
    close = file._close

    def close_empty() -> None:
        close()
        os.truncate(file._hidden, 0)

    monkeypatch.setattr(file, "_close", close_empty)
    with pytest.raises(RasterError, match=r"/mask.tif: nothing could be written; is the disk full\?"):
        file.commit()
    assert sorted(tmp_path.glob("*mask*")) == []


def test_a_png_has_no_mask_band_and_no_side_file(tmp_path: Path) -> None:
    valid = np.arange(600)[:, None].repeat(520, 1) > 99
    source = write_tif(tmp_path / "image.tif", np.where(valid, 1, np.nan).astype(np.float32), transform=NORTH_UP)
    with create_mask(tmp_path / "mask.png", read_header(source)) as file:
        file.write(0, np.full((600, 520), 200, np.uint8), valid)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), np.where(valid, 200, 0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.tif", "mask.png"]


@pytest.mark.parametrize(
    ("options", "holes", "lost"),
    [
        ({"transform": NORTH_UP}, 0, "where the image lies"),
        ({"transform": NORTH_UP}, 1, "where the image lies and which pixels are no image (they are 0)"),
        ({}, 1, "which pixels are no image (they are 0)"),
        ({}, 0, None),
    ],
)
def test_what_a_png_loses_of_the_image_is_noted(
    tmp_path: Path, options: dict[str, object], holes: int, lost: str | None
) -> None:
    stored = np.ones((40, 40), np.float32)
    stored[:holes] = np.nan
    header = read_header(write_tif(tmp_path / "a.tif", stored, **options))
    for name, expected in (("mask.png", lost), ("mask.tif", None)):
        with create_mask(tmp_path / name, header) as file:
            file.write(0, np.full((40, 40), 200, np.uint8), np.isfinite(stored))
        note = f"a PNG does not hold {expected}; end --out in .tif to keep that"
        assert file.notes == (() if expected is None else (note,))


@pytest.mark.parametrize(
    ("name", "georeferenced", "expected"),
    [("a.jpg", False, "a_mask.png"), ("a.b.png", False, "a.b_mask.png"), ("a.tif", False, "a_mask.tif"),
     ("a.tif", True, "a_mask.tif"), ("a.webp", False, "a_mask.png"), ("a.bmp", False, "a_mask.png")],
)  # fmt: skip
def test_the_default_output(tmp_path: Path, name: str, georeferenced: bool, expected: str) -> None:
    if name.endswith("tif"):
        options = {"transform": NORTH_UP} if georeferenced else {}
        path = write_tif(tmp_path / name, picture(20, 30), **options)
    else:
        path = write_picture(tmp_path / name, picture(20, 30))
    assert default_output(read_header(path)) == tmp_path / expected


def test_a_georeferenced_png_and_a_very_wide_one_become_tiffs(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", picture(20, 30))
    (tmp_path / "a.pgw").write_text("0.5\n0\n0\n-0.5\n399000\n5820000\n")
    assert default_output(read_header(path)).name == "a_mask.tif"
    wide = write_picture(tmp_path / "wide.png", np.zeros((1, 65_501), np.uint8))
    assert default_output(read_header(wide)).name == "wide_mask.tif"


def test_the_mask_of_a_turned_photograph_has_the_size_that_is_seen(tmp_path: Path) -> None:
    photograph = write_turned_jpeg(tmp_path / "a.jpg", picture(20, 30), 6)
    assert read_mask(write_mask(tmp_path / "m.png", photograph, blobs(30, 20))).shape == (30, 20)


def test_a_name_of_many_bytes_is_written(tmp_path: Path) -> None:
    photograph = write_picture(tmp_path / "a.png", picture(30, 20))
    out = write_mask(tmp_path / ("\u7532" * 80 + ".png"), photograph, blobs(30, 20))
    assert out.stat().st_size


# Size on disk


def test_background_takes_no_space(tmp_path: Path) -> None:
    source = tmp_path / "image.tif"
    with rasterio.open(
        source, "w", driver="GTiff", height=20_000, width=20_000, count=1, dtype="uint8", sparse_ok=True, tiled=True,
        transform=NORTH_UP,
    ):  # fmt: skip
        pass
    rows = np.zeros((1000, 20_000), np.uint8)
    with create_mask(tmp_path / "mask.tif", read_header(source)) as file:
        for row in range(0, 20_000, 1000):
            rows[:] = 0
            if row == 7000:
                rows[:300, 9000:9300] = picture(300, 300)[:, :, 0]
            file.write(row, rows)
    assert (tmp_path / "mask.tif").stat().st_size < 150_000  # of 400 MB
    with rasterio.open(tmp_path / "mask.tif") as mask:
        part = mask.read(1, window=rasterio.windows.Window(9000, 7000, 300, 300))
    np.testing.assert_array_equal(part, picture(300, 300)[:, :, 0])


def test_rows_in_small_pieces_give_the_same_file_as_all_at_once(tmp_path: Path, image: Path) -> None:
    mask = picture(700, 600)[:, :, 0]
    write_mask(tmp_path / "whole.tif", image, mask)
    with create_mask(tmp_path / "pieces.tif", read_header(image)) as file:
        for row in range(0, 700, 7):
            file.write(row, mask[row : row + 7])
    assert (tmp_path / "pieces.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_the_file_may_pass_4_gib(tmp_path: Path) -> None:
    # 70 000 x 70 000 could, if it does not compress: IF_SAFER makes it a BigTIFF, whose magic number is 43.
    source = tmp_path / "image.tif"
    with rasterio.open(
        source, "w", driver="GTiff", height=70_000, width=70_000, count=1, dtype="uint8", sparse_ok=True, tiled=True,
        transform=NORTH_UP,
    ):  # fmt: skip
        pass
    file = create_mask(tmp_path / "mask.tif", read_header(source))
    file.write(0, np.ones((512, 70_000), np.uint8))
    (hidden,) = tmp_path.glob(".mask.tif.*")
    assert hidden.read_bytes()[:4] == b"II+\0"
    file.abort()
    assert list(tmp_path.iterdir()) == [source]

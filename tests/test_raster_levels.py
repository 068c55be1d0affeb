"""Levels of an image on disk: the same pixels as in memory, from one sweep, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.env import get_gdal_config
from rasters import picture, shown, whole, write_picture, write_tif

from refine.errors import RasterError
from refine.geometry import Window
from refine.raster import gdal_environment, open_image, read_header
from refine.sources import ArrayImage


def test_the_cache_is_set_in_bytes_and_given_back() -> None:
    before = get_gdal_config("GDAL_CACHEMAX")
    with gdal_environment(256 << 20):
        assert get_gdal_config("GDAL_CACHEMAX") == 256 << 20
        with gdal_environment(5 << 30), rasterio.Env(GDAL_PAM_ENABLED="NO"):
            assert get_gdal_config("GDAL_CACHEMAX") == 5 << 30
        assert get_gdal_config("GDAL_CACHEMAX") == 256 << 20
    assert get_gdal_config("GDAL_CACHEMAX") == before


def test_an_open_image_holds_its_cache_until_it_is_closed(tmp_path: Path) -> None:
    before = get_gdal_config("GDAL_CACHEMAX")
    with open_image(write_tif(tmp_path / "a.tif", picture(9, 9)), cache_bytes=48 << 20):
        assert get_gdal_config("GDAL_CACHEMAX") == 48 << 20
    assert get_gdal_config("GDAL_CACHEMAX") == before


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(1, 700), st.integers(1, 90)),
    decimations=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    holes=st.booleans(),
    block=st.sampled_from([None, 16, 64]),
    level_bytes=st.sampled_from([0, 1 << 30]),
    seed=st.integers(0, 99),
)
def test_levels_equal_those_of_the_image_in_memory(
    tmp_path: Path, size: tuple[int, int], decimations: list[int], holes: bool, block: int | None, level_bytes: int,
    seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    valid = np.kron(rng.random((size[0] // 8 + 1, size[1] // 8 + 1)) > 0.5, np.ones((8, 8), bool))[: size[0], : size[1]]
    valid[0, 0] = True
    tiling = {} if block is None else {"tiled": True, "blockxsize": block, "blockysize": block}
    path = write_tif(tmp_path / "a.tif", pixels, mask_band=valid if holes else None, **tiling)
    memory = ArrayImage(pixels, valid if holes else None)
    with open_image(path, level_bytes=level_bytes, directory=tmp_path) as image:
        image.prepare(decimations)
        for decimation in decimations:
            window = Window(0, 0, -(-size[0] // decimation), -(-size[1] // decimation))
            level, level_valid = image.read(window, decimation)
            expected, expected_valid = memory.read(window, decimation)
            np.testing.assert_array_equal(level, expected)
            np.testing.assert_array_equal(
                np.ones(level.shape[:2], bool) if level_valid is None else level_valid,
                np.ones(level.shape[:2], bool) if expected_valid is None else expected_valid,
            )


def test_any_window_of_a_level_is_the_crop_of_the_level(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", picture(300, 200))
    with open_image(path, level_bytes=0, directory=tmp_path) as image:
        image.prepare([3, 12])
        np.testing.assert_array_equal(image.read(Window(31, 17, 9, 11), 3)[0], whole(image, 3)[31:40, 17:28])


def test_all_levels_come_from_one_sweep_that_tells_its_progress(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", picture(1100, 40))
    told: list[float] = []
    with open_image(path) as image:
        image.prepare([2, 4, 5], told.append)
        assert len(told) == 5  # strips of 256 rows
        assert told == sorted(told)
        assert told[-1] == 1
        image.prepare([4, 2], told.append)
        assert len(told) == 6


def test_an_overview_serves_the_levels_that_its_factor_divides(tmp_path: Path) -> None:
    pixels = picture(1024, 768)
    north_up = rasterio.Affine(2, 0, 10, 0, -2, 20)
    path = write_tif(tmp_path / "a.tif", pixels, tiled=True, overviews=(2, 4, 8), transform=north_up)
    header = read_header(path)
    assert header.overviews == (2, 4, 8)
    with open_image(path) as image, rasterio.open(path, overview_level=1) as overview:
        by_four = overview.read().transpose(1, 2, 0)
        np.testing.assert_array_equal(whole(image, 8), whole(ArrayImage(np.ascontiguousarray(by_four)), 2))
        np.testing.assert_array_equal(image.read(Window(5, 6, 7, 8), 8)[0], whole(image, 8)[5:12, 6:14])
        assert np.abs(whole(image, 16).astype(int) - whole(ArrayImage(pixels), 16)).max() <= 2


def test_levels_on_disk_leave_nothing_behind(tmp_path: Path) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    path = write_tif(tmp_path / "a.tif", picture(300, 200))
    with open_image(path, level_bytes=0, directory=place) as image:
        image.prepare([2, 3])
        assert list(place.iterdir()) == []  # nameless, so that even a killed process leaves none


def test_a_temporary_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", picture(100, 70))
    with (
        open_image(path, level_bytes=0, directory=tmp_path / "none") as image,
        pytest.raises(RasterError, match="none"),
    ):
        image.prepare([2])


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (223, 225)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = picture(*size)
    np.testing.assert_array_equal(shown(write_tif(tmp_path / "a.tif", pixels)), pixels)
    np.testing.assert_array_equal(shown(write_picture(tmp_path / "a.png", pixels)), pixels)

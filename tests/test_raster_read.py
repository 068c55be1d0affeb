"""Images from disk: what every kind of file becomes, at every level, and how damage is told."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.env import get_gdal_config
from rasters import chunk, cut, exif, picture, write_picture, write_png, write_tif, write_turned_jpeg

from refine.errors import InputError, RasterError
from refine.geometry import Window
from refine.raster import (
    RasterImage,
    gdal_environment,
    open_image,
    read_header,
    temporary_level_bytes,
)
from refine.raster.orientation import upright, upright_window
from refine.sources import ArrayImage


def whole(image: RasterImage, decimation: int = 1) -> NDArray[np.uint8]:
    return image.read(Window(0, 0, -(-image.height // decimation), -(-image.width // decimation)), decimation)[0]


def shown(path: Path, **options: object) -> NDArray[np.uint8]:
    with open_image(path, **options) as image:  # type: ignore[arg-type]
        return whole(image)


def notes(path: Path) -> str:
    with open_image(path) as image:
        return "; ".join(image.notes)


# GDAL's cache


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


# Kinds of files


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
def test_photographs_are_read_as_they_are(tmp_path: Path, suffix: str) -> None:
    pixels = picture(50, 70)
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == "webp" else []
    path = write_picture(tmp_path / f"a.{suffix}", pixels, *lossless)
    np.testing.assert_array_equal(shown(path), pixels)
    assert not read_header(path).is_georeferenced


def test_jpeg_is_read_as_opencv_reads_it(tmp_path: Path) -> None:
    full_colour = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    path = write_picture(tmp_path / "a.jpg", picture(64, 80), *full_colour)
    expected = cv2.imread(str(path))
    assert expected is not None
    assert np.abs(shown(path).astype(int) - expected[:, :, ::-1]).max() <= 3  # their decoders round apart


def test_jpeg_2000_is_read(tmp_path: Path) -> None:
    pixels = picture(60, 40)
    with rasterio.open(
        tmp_path / "a.jp2", "w", driver="JP2OpenJPEG", height=60, width=40, count=3, dtype="uint8",
        quality=100, reversible="YES", transform=rasterio.Affine(2, 0, 10, 0, -2, 20),
    ) as dataset:  # fmt: skip
        dataset.write(pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(shown(tmp_path / "a.jp2"), pixels)


def test_grey_is_repeated_to_rgb(tmp_path: Path) -> None:
    grey = picture(20, 30, channels=1)
    np.testing.assert_array_equal(shown(write_picture(tmp_path / "a.png", grey[:, :, 0])), np.repeat(grey, 3, axis=2))


def test_alpha_is_ignored_with_a_note(tmp_path: Path) -> None:
    pixels = picture(20, 30, channels=4)
    path = write_picture(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(shown(path), pixels[:, :, :3])
    assert notes(path) == "alpha is ignored"
    grey_alpha = write_png(tmp_path / "la.png", pixels[:, :, :2], kind=4)
    np.testing.assert_array_equal(shown(grey_alpha), np.repeat(pixels[:, :, :1], 3, axis=2))
    assert notes(grey_alpha) == "alpha is ignored"


@pytest.mark.parametrize(("count", "used"), [(2, (0, 0, 0)), (4, (0, 1, 2)), (5, (0, 1, 2))])
def test_of_other_band_counts_the_first_are_used_with_a_note(tmp_path: Path, count: int, used: tuple[int, ...]) -> None:
    pixels = picture(20, 30, channels=count)
    path = write_tif(tmp_path / "a.tif", pixels, photometric="minisblack", alpha="no")
    np.testing.assert_array_equal(shown(path), pixels[:, :, used])
    assert f"has {count} bands" in notes(path)


def test_chosen_bands_are_shown_in_their_order(tmp_path: Path) -> None:
    pixels = picture(20, 30, channels=5)
    path = write_tif(tmp_path / "a.tif", pixels, photometric="minisblack")
    np.testing.assert_array_equal(shown(path, bands=(5, 1, 3)), pixels[:, :, [4, 0, 2]])
    np.testing.assert_array_equal(shown(path, bands=(4,)), pixels[:, :, [3, 3, 3]])
    with pytest.raises(InputError, match="bands 1 to 5"):
        open_image(path, bands=(6,))
    with pytest.raises(InputError, match="one band or three"):
        open_image(path, bands=(1, 2))


def test_a_palette_is_expanded(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 256, (16, 3), dtype=np.uint8)
    indices = rng.integers(0, 16, (20, 30), dtype=np.uint8)
    path = write_png(tmp_path / "a.png", indices, kind=3, bits=4, chunks=(chunk(b"PLTE", colours.tobytes()),))
    np.testing.assert_array_equal(shown(path), colours[indices])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_use_the_whole_range(tmp_path: Path, bits: int) -> None:
    top = (1 << bits) - 1
    stored = np.random.default_rng(2).integers(0, top + 1, (20, 30), dtype=np.uint8)
    expected = np.floor(stored * (255 / top) + 0.5)
    np.testing.assert_array_equal(shown(write_png(tmp_path / "a.png", stored, 0, bits))[:, :, 1], expected)
    np.testing.assert_array_equal(shown(write_tif(tmp_path / "a.tif", stored, nbits=bits))[:, :, 1], expected)


def test_cmyk_is_shown_as_rgb(tmp_path: Path) -> None:
    inks = np.zeros((20, 30, 4), np.uint8)
    inks[:, 10:20, 0] = 255  # cyan
    inks[:, 20:, 3] = 255  # black
    colours = shown(write_tif(tmp_path / "a.tif", inks, photometric="CMYK"))
    assert colours[5, 5].tolist() == [255, 255, 255]
    assert colours[5, 15].tolist() == [0, 255, 255]
    assert colours[5, 25].tolist() == [0, 0, 0]


def test_16_bit_is_shown_between_its_percentiles_the_same_in_every_window(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    stored = rng.integers(300, 9000, (400, 300, 3)).astype(np.uint16)
    stored[0, 0] = 65535  # an outlier does not darken the rest
    path = write_tif(tmp_path / "a.tif", stored)
    with open_image(path) as image:
        everything = whole(image)
        part, _ = image.read(Window(50, 60, 33, 44))
        np.testing.assert_array_equal(part, everything[50:83, 60:104])
        for band, (low, high) in enumerate(image.value_limits or ()):
            assert (low, high) == tuple(np.percentile(stored[:, :, band], [0.5, 99.5]))
            share = np.clip((stored[:, :, band] - low) / (high - low), 0, 1)
            np.testing.assert_array_equal(everything[:, :, band], np.floor(share * 255 + 0.5))


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_a_given_range_overrides_in_every_type(tmp_path: Path, dtype: str) -> None:
    stored = np.arange(100).reshape(10, 10).astype(dtype)
    colours = shown(write_tif(tmp_path / "a.tif", stored), value_range=(20, 71))
    expected = np.floor(np.clip((np.arange(100) - 20) / 51, 0, 1) * 255 + 0.5).reshape(10, 10)
    np.testing.assert_array_equal(colours[:, :, 0], expected)


def test_a_range_upside_down_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="below the second"):
        open_image(write_tif(tmp_path / "a.tif", picture(9, 9)), value_range=(5, 5))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_constant_band_becomes_mid_grey(tmp_path: Path, dtype: str) -> None:
    assert np.all(shown(write_tif(tmp_path / "a.tif", np.full((9, 9), 700, dtype))) == 128)


def test_numbers_without_a_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="complex"):
        read_header(write_tif(tmp_path / "a.tif", np.ones((9, 9), np.complex64)))


# Invalid pixels


def test_nan_and_infinity_are_invalid(tmp_path: Path) -> None:
    stored = np.random.default_rng(4).normal(size=(30, 40, 3)).astype(np.float32)
    stored[3, 4, 0], stored[5, 6, 1], stored[7, 8, 2] = np.nan, np.inf, -np.inf
    with open_image(write_tif(tmp_path / "a.tif", stored)) as image:
        _, valid = image.read(Window(0, 0, 30, 40))
        assert image.has_invalid
        assert valid is not None
        assert sorted(zip(*np.nonzero(~valid), strict=True)) == [(3, 4), (5, 6), (7, 8)]
        assert image.read(Window(10, 0, 5, 5))[1] is None


def test_nodata_counts_where_all_bands_hold_it_and_not_in_percentiles(tmp_path: Path) -> None:
    stored = np.random.default_rng(5).integers(100, 200, (30, 40, 3)).astype(np.int16)
    stored[:10] = -9999
    stored[20, 20, 0] = -9999
    with open_image(write_tif(tmp_path / "a.tif", stored, nodata=-9999)) as image:
        _, valid = image.read(Window(0, 0, 30, 40))
        np.testing.assert_array_equal(valid, np.arange(30)[:, None].repeat(40, 1) >= 10)
        assert all(low >= 100 for low, _ in image.value_limits or ())


def test_a_mask_band_tells_valid_pixels(tmp_path: Path) -> None:
    valid = np.random.default_rng(6).random((30, 40)) > 0.3
    with open_image(write_tif(tmp_path / "a.tif", picture(30, 40), mask_band=valid)) as image:
        np.testing.assert_array_equal(image.read(Window(0, 0, 30, 40))[1], valid)


def test_an_image_without_a_valid_pixel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pixel is valid"):
        open_image(write_tif(tmp_path / "a.tif", np.full((9, 9), np.nan, np.float32)))
    with pytest.raises(InputError, match="no pixel is valid"):
        open_image(write_tif(tmp_path / "b.tif", np.zeros((9, 9, 3), np.uint8), nodata=0))


def test_one_valid_pixel_in_a_large_image_is_enough(tmp_path: Path) -> None:
    stored = np.full((1500, 1300), np.nan, np.float32)
    stored[1201, 701] = 5
    with open_image(write_tif(tmp_path / "a.tif", stored)) as image:
        assert image.value_limits == ((5, 5),)


# Orientation

# Where the corners of a 2 x 3 picture a b c / d e f are seen, by orientation (EXIF 2.32, tag 274).
SEEN = {
    1: ["abc", "def"],
    2: ["cba", "fed"],
    3: ["fed", "cba"],
    4: ["def", "abc"],
    5: ["ad", "be", "cf"],
    6: ["da", "eb", "fc"],
    7: ["fc", "eb", "da"],
    8: ["cf", "be", "ad"],
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_show_what_the_standard_says(orientation: int) -> None:
    stored = np.array([list("abc"), list("def")])
    assert ["".join(row) for row in upright(stored, orientation)] == SEEN[orientation]


@given(
    orientation=st.integers(1, 8),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    corners=st.tuples(*[st.integers(0, 8)] * 4),
)
def test_a_window_lies_upright_where_its_pixels_are(
    orientation: int, size: tuple[int, int], corners: tuple[int, int, int, int]
) -> None:
    (height, width), (a, b, c, d) = size, corners
    stored = np.arange(height * width).reshape(size)
    row, col = min(a, height - 1), min(b, width - 1)
    window = Window(row, col, min(c + 1, height - row), min(d + 1, width - col))
    place = upright_window(window, height, width, orientation)
    np.testing.assert_array_equal(
        upright(stored, orientation)[place.slices], upright(stored[window.slices], orientation)
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("level_bytes", [0, 1 << 20])
def test_a_turned_photograph_is_upright_at_every_level(tmp_path: Path, orientation: int, level_bytes: int) -> None:
    stored = picture(300, 520)
    turned = write_turned_jpeg(tmp_path / "a.jpg", stored, orientation)
    expected = np.ascontiguousarray(upright(shown(write_turned_jpeg(tmp_path / "b.jpg", stored, 1)), orientation))
    with open_image(turned, level_bytes=level_bytes, directory=tmp_path) as image:
        assert (image.height, image.width) == expected.shape[:2]
        image.prepare([8])
        np.testing.assert_array_equal(whole(image), expected)
        np.testing.assert_array_equal(whole(image, 8), whole_array(expected, 8))
    header = read_header(turned)
    assert (header.height, header.width, header.orientation) == (*expected.shape[:2], orientation)
    assert any("EXIF orientation" in note for note in header.notes) == (orientation != 1)


def whole_array(pixels: NDArray[np.uint8], decimation: int) -> NDArray[np.uint8]:
    source = ArrayImage(pixels)
    return source.read(Window(0, 0, -(-pixels.shape[0] // decimation), -(-pixels.shape[1] // decimation)), decimation)[
        0
    ]


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_found_in_png_webp_and_tiff(tmp_path: Path, order: str) -> None:
    stored = picture(20, 30)
    data = exif(6, order)
    png = write_png(tmp_path / "a.png", stored, 2, chunks=(chunk(b"eXIf", data),))
    webp = write_picture(tmp_path / "a.webp", stored, cv2.IMWRITE_WEBP_QUALITY, 101)
    body = webp.read_bytes()[12:]
    canvas = struct.pack("<I", 30 - 1)[:3] + struct.pack("<I", 20 - 1)[:3]
    body = b"VP8X" + struct.pack("<IB3x", 10, 8) + canvas + body + b"EXIF" + struct.pack("<I", len(data)) + data
    webp.write_bytes(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body)
    tif = write_tif(tmp_path / "a.tif", stored, endianness="LITTLE" if order == "<" else "BIG")
    add_orientation_tag(tif, order)
    for path in (png, webp, tif):
        np.testing.assert_array_equal(shown(path), upright(stored, 6), err_msg=path.name)


def add_orientation_tag(path: Path, order: str) -> None:
    """Write the first directory of a TIFF anew at its end, with an orientation."""
    data = path.read_bytes()
    (place,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[place : place + 2])
    entries = [data[place + 2 + 12 * i : place + 14 + 12 * i] for i in range(count)]
    entries.append(struct.pack(order + "HHIHH", 274, 3, 1, 6, 0))
    entries.sort(key=lambda entry: int(struct.unpack(order + "H", entry[:2])[0]))
    directory = struct.pack(order + "H", count + 1) + b"".join(entries) + bytes(4)
    path.write_bytes(data[:4] + struct.pack(order + "I", len(data)) + data[8:] + directory)


def test_orientation_of_a_georeferenced_image_is_not_applied(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", picture(20, 30), transform=rasterio.Affine(2, 0, 10, 0, -2, 20))
    add_orientation_tag(path, "<")
    header = read_header(path)
    assert (header.height, header.width, header.orientation) == (20, 30, 1)
    assert "not applied" in header.notes[0]


# Levels


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
    assert temporary_level_bytes(header, [3, 8, 16]) == -(-1024 // 3) * 256 * 3
    with open_image(path) as image, rasterio.open(path, overview_level=1) as overview:
        by_four = overview.read().transpose(1, 2, 0)
        np.testing.assert_array_equal(whole(image, 8), whole_array(np.ascontiguousarray(by_four), 2))
        np.testing.assert_array_equal(image.read(Window(5, 6, 7, 8), 8)[0], whole(image, 8)[5:12, 6:14])
        assert np.abs(whole(image, 16).astype(int) - whole_array(pixels, 16)).max() <= 2


def test_levels_on_disk_leave_nothing_behind(tmp_path: Path) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    path = write_tif(tmp_path / "a.tif", picture(300, 200))
    with open_image(path, level_bytes=0, directory=place) as image:
        image.prepare([2, 3])
        assert list(place.iterdir()) == []  # nameless, so that even a killed process leaves none


def test_temporary_bytes_follow_from_sizes(tmp_path: Path) -> None:
    header = read_header(write_tif(tmp_path / "a.tif", picture(100, 70)))
    assert temporary_level_bytes(header, [1, 2, 8, 2]) == (50 * 35 + 13 * 9) * 3


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


# What is refused, and damage


def refused(path: Path) -> str:
    """The one line that is said of a file."""
    with pytest.raises((InputError, RasterError)) as caught, open_image(path) as image:
        whole(image)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_what_is_no_image_is_said_in_one_line(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.tif")
    assert "folder" in refused(tmp_path)
    (tmp_path / "a.tif").write_text("hello, this is a text")
    assert "not an image" in refused(tmp_path / "a.tif")
    (tmp_path / "b.png").touch()
    assert "empty" in refused(tmp_path / "b.png")
    (tmp_path / "c.tif").write_bytes(b"II*\0" + b"\xff" * 100)
    assert "cannot be opened" in refused(tmp_path / "c.tif")


@pytest.mark.parametrize("name", ["a.png", "a16.png", "a.jpg", "a.webp", "a.bmp", "a.tif", "tiled.tif"])
def test_a_truncated_file_is_an_error_whatever_its_kind(tmp_path: Path, name: str) -> None:
    pixels = picture(300, 200)
    path = tmp_path / name
    if name.endswith("tif"):
        write_tif(path, pixels, compress="deflate", tiled=name.startswith("tiled"))
    else:
        write_picture(path, pixels if name != "a16.png" else pixels.astype(np.uint16) * 257)
    refused(cut(path))


def test_damage_inside_is_told_with_its_place(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", picture(300, 200), compress="deflate")
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 28, 7):
        data[place] ^= 0x5A
    path.write_bytes(data)
    assert "cannot be read at row" in refused(path)


def test_a_bomb_is_refused_by_its_declared_size(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=200_000, width=300_000, count=1, dtype="uint8", tiled=True, blockxsize=4096,
        blockysize=4096, sparse_ok=True, compress="deflate", transform=rasterio.Affine(2, 0, 10, 0, -2, 20),
    ):  # fmt: skip
        pass
    assert read_header(path).width == 300_000
    with pytest.raises(InputError, match="300000 x 200000"):
        read_header(path, max_pixels=10**9)


VRT = """<VRTDataset rasterXSize="30" rasterYSize="20"><VRTRasterBand dataType="Byte" band="1"{band}>
<SimpleSource><SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""


def test_a_vrt_in_disguise_is_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "secret.png", picture(20, 30))
    disguised = tmp_path / "photo.png"
    disguised.write_text(VRT.format(band="", relative=1, source="secret.png"))
    assert "not an image" in refused(disguised)


def test_a_vrt_of_local_files_is_read(tmp_path: Path) -> None:
    pixels = picture(20, 30)
    write_picture(tmp_path / "part.png", pixels)
    vrt = tmp_path / "mosaic.vrt"
    vrt.write_text(VRT.format(band="", relative=1, source="part.png"))
    np.testing.assert_array_equal(shown(vrt), pixels[:, :, [0, 0, 0]])


@pytest.mark.parametrize(
    ("band", "relative", "source"),
    [
        ("", 0, "/vsicurl/http://localhost/a.tif"),
        ("", 0, "http://localhost/a.tif"),
        ("", 1, "missing.tif"),
        ("", 1, "inner.vrt"),
        (' subClass="VRTRawRasterBand"', 1, "part.png"),
        (' subClass="VRTDerivedRasterBand"', 1, "part.png"),
    ],
)
def test_a_vrt_that_reaches_further_is_refused(tmp_path: Path, band: str, relative: int, source: str) -> None:
    write_picture(tmp_path / "part.png", picture(20, 30))
    (tmp_path / "inner.vrt").write_text(VRT.format(band="", relative=1, source="part.png"))
    vrt = tmp_path / "mosaic.vrt"
    vrt.write_text(VRT.format(band=band, relative=relative, source=source))
    refused(vrt)


def test_warnings_of_a_reading_thread_do_not_reach_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_picture(tmp_path / "a.jpg", picture(300, 200))
    data = path.read_bytes()
    path.write_bytes(data[:-2] + b"xyz" + data[-2:])  # "extraneous bytes before marker", says libjpeg
    with open_image(path) as image, ThreadPoolExecutor(1) as pool:
        pool.submit(image.read, Window(0, 0, 300, 200)).result()
    assert capfd.readouterr() == ("", "")


def test_a_progressive_jpeg_is_counted_with_its_coefficients(tmp_path: Path) -> None:
    plain = write_picture(tmp_path / "a.jpg", picture(300, 200))
    progressive = write_picture(tmp_path / "b.jpg", picture(300, 200), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert read_header(plain).decoder_bytes == 0
    assert read_header(progressive).decoder_bytes == 300 * 200 * 7


def test_nothing_of_gdal_reaches_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused(cut(write_tif(tmp_path / "a.tif", picture(300, 200), compress="deflate")))
    refused(cut(write_picture(tmp_path / "a.jpg", picture(300, 200))))
    assert capfd.readouterr() == ("", "")

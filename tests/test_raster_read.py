"""Images from disk: what every kind of file becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from rasters import NORTH_UP, chunk, picture, shown, whole, write_picture, write_png, write_tif

from refine.errors import InputError
from refine.geometry import Window
from refine.raster import open_image, open_stored, read_header


def notes(path: Path) -> str:
    with open_image(path) as image:
        return "; ".join(image.notes)


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


def test_bands_of_several_types_are_refused_unless_those_of_one_are_chosen(tmp_path: Path) -> None:
    pixels = picture(20, 30)
    write_tif(tmp_path / "a.tif", pixels[:, :, 0])
    write_tif(tmp_path / "b.tif", pixels[:, :, 0].astype(np.uint16))
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{band}"><SimpleSource><SourceFilename relativeToVRT="1">{name}'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for band, (kind, name) in enumerate([("Byte", "a.tif"), ("UInt16", "b.tif"), ("Byte", "a.tif")], 1)
    )
    path = tmp_path / "stack.vrt"
    path.write_text(f'<VRTDataset rasterXSize="30" rasterYSize="20">{bands}</VRTDataset>')
    with pytest.raises(InputError, match=r"\(band 1 uint8, band 2 uint16, band 3 uint8\); choose .* --bands"):
        open_image(path)
    with pytest.raises(InputError, match="of several types"), open_stored(path):
        pass
    np.testing.assert_array_equal(shown(path, bands=(3, 1, 3)), pixels[:, :, [0, 0, 0]])


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


@pytest.mark.parametrize("options", [{}, {"nbits": 1}, {"nbits": 4}, {"dtype": "uint16"}])
def test_where_a_tiff_says_that_0_is_white_it_is(tmp_path: Path, options: dict[str, Any]) -> None:
    top = (1 << options.get("nbits", 8)) - 1
    stored = np.random.default_rng(2).integers(0, top + 1, (20, 30)).astype(options.pop("dtype", "uint8"))
    plain = shown(write_tif(tmp_path / "a.tif", stored, **options))
    path = write_tif(tmp_path / "b.tif", stored, photometric="miniswhite", **options)
    np.testing.assert_array_equal(shown(path), 255 - plain)
    assert ("0 is white" in notes(path)) == (options.get("nbits") != 1)  # GDAL makes a palette of one bit


def test_cmyk_is_shown_as_rgb(tmp_path: Path) -> None:
    inks = np.zeros((20, 30, 4), np.uint8)
    inks[:, 10:20, 0] = 255  # cyan
    inks[:, 20:, 3] = 255  # black
    colours = shown(write_tif(tmp_path / "a.tif", inks, photometric="CMYK"))
    assert colours[5, 5].tolist() == [255, 255, 255]
    assert colours[5, 15].tolist() == [0, 255, 255]
    assert colours[5, 25].tolist() == [0, 0, 0]


def test_inks_of_more_than_8_bit_are_refused_unless_they_are_chosen(tmp_path: Path) -> None:
    inks = picture(20, 30, channels=4).astype(np.uint16)
    path = write_tif(tmp_path / "a.tif", inks, photometric="CMYK")
    with pytest.raises(InputError, match="CMYK of uint16; convert it to RGB"):
        open_image(path)
    with open_image(path, bands=(4,)) as image:
        assert image.has_invalid is False


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


@pytest.mark.parametrize("overviews", [(), (2,)])
def test_a_colour_that_is_nodata_is_invalid(tmp_path: Path, overviews: tuple[int, ...]) -> None:
    pixels = np.maximum(picture(60, 80), 9)
    pixels[:31] = (1, 2, 3)
    pixels[40, 40, 0] = 1
    tags = {"NODATA_VALUES": "1 2 3"}
    with open_image(write_tif(tmp_path / "a.tif", pixels, tags=tags, overviews=overviews)) as image:
        expected = np.arange(60)[:, None].repeat(80, 1) >= 31
        np.testing.assert_array_equal(image.read(Window(0, 0, 60, 80))[1], expected)
        np.testing.assert_array_equal(image.read_valid(Window(0, 0, 60, 80)), expected)
        half = image.read(Window(0, 0, 30, 40), 2)[1]
        np.testing.assert_array_equal(half, np.arange(30)[:, None].repeat(40, 1) >= 15)


def test_a_fourth_band_that_is_tagged_as_alpha_hides_nothing(tmp_path: Path) -> None:
    pixels = picture(60, 80, channels=4)
    pixels[:31, :, 3] = 0  # infrared over water, which writers tag as alpha unless told otherwise
    path = write_tif(tmp_path / "a.tif", pixels, transform=NORTH_UP, crs="EPSG:25833", photometric="rgb", alpha="yes")
    assert not read_header(path).has_invalid
    with open_image(path) as image:
        assert image.read(Window(0, 0, 60, 80))[1] is None


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

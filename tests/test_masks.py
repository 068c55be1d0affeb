"""First masks from files: what their numbers mean, and which are refused."""

from __future__ import annotations

from math import ceil, floor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasters import NORTH_UP, chunk, cut, picture, write_picture, write_png, write_tif, write_turned_jpeg

from refine.errors import InputError, RasterError
from refine.geometry import Window
from refine.masks import check_place, fits, open_mask
from refine.raster import Georeference, Header
from refine.raster.orientation import upright
from refine.sources import ArrayMask

SIZE = (40, 60)


def soft(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    """0 and 255 with everything between."""
    ramp = np.linspace(-80, 335, height * width).reshape(height, width)
    return np.clip(ramp, 0, 255).astype(np.uint8)


def hard() -> NDArray[np.bool_]:
    return soft() > 100


def read(path: Path, **options: Any) -> tuple[NDArray[np.float32], bool, str]:
    """All of the mask, whether it is hard, and the notes."""
    with open_mask(path, options.pop("size", SIZE), **options) as mask:
        return mask.read(Window(0, 0, mask.height, mask.width)), mask.is_hard, "; ".join(mask.notes)


def npy(path: Path, array: NDArray[Any]) -> Path:
    np.save(path, array)
    return path


def assert_mask(path: Path, expected: NDArray[Any], is_hard: bool, **options: Any) -> None:
    values, told_hard, _ = read(path, **options)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected.astype(np.float32))
    assert told_hard == is_hard


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_8_bit_counts_from_0_to_255_in_memory_and_on_disk(tmp_path: Path, memory_bytes: int) -> None:
    path = write_picture(tmp_path / "m.png", soft())
    options: dict[str, Any] = {"memory_bytes": memory_bytes, "directory": tmp_path}
    assert_mask(path, soft().astype(np.float32) / np.float32(255), False, **options)
    with open_mask(path, SIZE, **options) as mask:
        window = Window(row=7, col=9, height=11, width=13)
        np.testing.assert_array_equal(mask.read(window), read(path)[0][window.slices])
    assert list(tmp_path.iterdir()) == [path]


def test_16_bit_counts_from_0_to_65535(tmp_path: Path) -> None:
    wide = soft().astype(np.uint16) * 257
    wide[3, 3] = 40_000
    assert_mask(write_picture(tmp_path / "m.png", wide), wide.astype(np.float32) / np.float32(65535), False)
    assert_mask(write_tif(tmp_path / "m.tif", wide), wide.astype(np.float32) / np.float32(65535), False)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_zeros_and_ones_are_binary_in_every_type(tmp_path: Path, dtype: str) -> None:
    assert_mask(write_tif(tmp_path / "m.tif", hard().astype(dtype)), hard(), True)
    assert_mask(npy(tmp_path / "m.npy", hard().astype(dtype)), hard(), True)


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535), ("int16", 32767)])
def test_zeros_and_the_largest_number_are_binary_as_well(tmp_path: Path, dtype: str, top: int) -> None:
    assert_mask(write_tif(tmp_path / "m.tif", hard().astype(dtype) * top), hard(), True)


def test_zeros_and_another_number_are_not_hard(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "m.tif", hard().astype(np.uint8) * 200)
    assert_mask(path, hard() * np.float32(200) / np.float32(255), False)


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_of_one_value_is_hard(tmp_path: Path, value: int) -> None:
    path = write_picture(tmp_path / "m.png", np.full(SIZE, value, np.uint8))
    assert_mask(path, np.full(SIZE, value / 255), True)


def test_one_bit_is_binary(tmp_path: Path) -> None:
    assert_mask(write_png(tmp_path / "m.png", hard().astype(np.uint8), kind=0, bits=1), hard(), True)
    assert_mask(write_tif(tmp_path / "m.tif", hard().astype(np.uint8), nbits=1), hard(), True)


def test_four_bits_use_their_range(tmp_path: Path) -> None:
    path = write_png(tmp_path / "m.png", soft() // 16, kind=0, bits=4)
    assert_mask(path, (soft() // 16).astype(np.float32) / np.float32(15), False)


def test_floats_are_taken_as_they_are(tmp_path: Path) -> None:
    values = (soft() / 255).astype(np.float32)
    assert_mask(write_tif(tmp_path / "m.tif", values), values, False)
    assert_mask(npy(tmp_path / "m.npy", values.astype(np.float16)), values.astype(np.float16), False)
    assert_mask(npy(tmp_path / "b.npy", hard()), hard(), True)
    assert_mask(npy(tmp_path / "three.npy", values[None]), values, False)
    assert_mask(npy(tmp_path / "last.npy", values[:, :, None]), values, False)


def test_what_a_resize_rounds_beyond_0_to_1_is_cut_off_as_in_an_array(tmp_path: Path) -> None:
    values = np.where(hard(), np.float32(1 + 2e-6), np.float32(-2e-6))
    for path in (write_tif(tmp_path / "m.tif", values), npy(tmp_path / "m.npy", values)):
        assert_mask(path, hard(), True)
    array = ArrayMask(values)
    assert array.is_hard
    np.testing.assert_array_equal(array.read(Window(0, 0, *SIZE)), hard())


@pytest.mark.parametrize("bad", [1.5, -0.25, np.nan, np.inf])
def test_floats_outside_0_to_1_are_refused(tmp_path: Path, bad: float) -> None:
    values = np.full(SIZE, 0.5, np.float32)
    values[20, 30] = bad
    for path in (write_tif(tmp_path / "m.tif", values), npy(tmp_path / "m.npy", values)):
        with pytest.raises(InputError, match="NaN" if np.isnan(bad) else r"outside 0\.\.1"):
            open_mask(path, SIZE)


def test_negative_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="-7 to 0"):
        open_mask(write_tif(tmp_path / "m.tif", np.where(hard(), -7, 0).astype(np.int16)), SIZE)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_8_bit_numbers_in_a_wider_type_are_refused(tmp_path: Path, dtype: type[np.generic]) -> None:
    """They would be background all over."""
    values = soft().astype(dtype)
    np.save(tmp_path / "m.npy", values)
    with pytest.raises(InputError, match=r"end at 255 of \d+, .*; give 8 bit"):
        open_mask(tmp_path / "m.npy", SIZE)
    with pytest.raises(InputError, match=r"give (8 bit|uint8)"):
        ArrayMask(values)
    path = write_tif(tmp_path / "m.tif", np.where(soft() > 0, 256, 0).astype(np.uint16))
    assert open_mask(path, SIZE).height == SIZE[0]


def test_nodata_is_background(tmp_path: Path) -> None:
    labels = hard().astype(np.uint8)
    labels[:5] = 255
    path = write_tif(tmp_path / "m.tif", labels, nodata=255)
    assert_mask(path, np.where(labels == 255, 0, labels), True)
    assert "nodata value 255 counts as background" in read(path)[2]
    holes = np.where(hard(), 0.75, np.nan).astype(np.float32)
    assert_mask(write_tif(tmp_path / "f.tif", holes, nodata=np.nan), np.where(hard(), 0.75, 0), False)


# Colours and alpha


def test_grey_colours_are_their_value(tmp_path: Path) -> None:
    grey = np.repeat(soft()[:, :, None], 3, axis=2)
    assert_mask(write_picture(tmp_path / "m.png", grey), soft().astype(np.float32) / np.float32(255), False)


def test_grey_jpeg_in_colours_is_grey(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "m.jpg", np.repeat(soft()[:, :, None], 3, axis=2), cv2.IMWRITE_JPEG_QUALITY, 95)
    assert np.abs(read(path)[0] * 255 - soft()).max() < 12


def test_a_picture_is_no_mask(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="picture in colours"):
        open_mask(write_picture(tmp_path / "m.png", picture(*SIZE)), SIZE)


def with_alpha(colours: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([colours, alpha[:, :, None]], axis=2)


@pytest.mark.parametrize(
    ("colours", "alpha", "expected"),
    [
        ("uniform", "soft", "alpha"),  # a stencil
        ("picture", "soft", "alpha"),  # a cut-out
        ("grey", "opaque", "grey"),
        ("grey", "soft", "grey"),
        ("uniform", "opaque", "grey"),
    ],
)
def test_alpha_is_the_mask_where_colours_cannot_be(tmp_path: Path, colours: str, alpha: str, expected: str) -> None:
    grey = soft()[::-1]
    made = {
        "uniform": np.full((*SIZE, 3), 255, np.uint8),
        "picture": picture(*SIZE),
        "grey": np.repeat(grey[:, :, None], 3, axis=2),
    }[colours]
    opacity = soft() if alpha == "soft" else np.full(SIZE, 255, np.uint8)
    path = write_picture(tmp_path / "m.png", with_alpha(made, opacity))
    values, _, notes = read(path)
    np.testing.assert_array_equal(np.round(values * 255), opacity if expected == "alpha" else made[:, :, 1])
    assert ("alpha is taken" in notes) == (expected == "alpha")
    assert ("alpha is ignored" in notes) == (expected != "alpha" and alpha == "soft")


def test_grey_with_alpha(tmp_path: Path) -> None:
    grey = np.zeros(SIZE, np.uint8)
    path = write_png(tmp_path / "m.png", np.stack([grey, soft()], axis=2), kind=4)
    assert_mask(path, soft().astype(np.float32) / np.float32(255), False)
    opaque = write_png(tmp_path / "o.png", np.stack([soft(), np.full(SIZE, 255, np.uint8)], axis=2), kind=4)
    assert_mask(opaque, soft().astype(np.float32) / np.float32(255), False)


def test_values_count_as_stored_where_a_tiff_shows_0_as_white(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "m.tif", soft(), photometric="miniswhite")
    assert_mask(path, soft().astype(np.float32) / np.float32(255), False)
    assert "shows 0 as white" in read(path)[2]
    assert "white" not in read(write_tif(tmp_path / "n.tif", soft()))[2]


def test_bands_without_a_meaning_are_refused(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "m.tif", picture(*SIZE, channels=5), photometric="minisblack")
    with pytest.raises(InputError, match="has 5 bands"):
        open_mask(path, SIZE)


# Palettes


def paletted(path: Path, indices: NDArray[Any], colours: list[tuple[int, int, int]]) -> Path:
    return write_png(path, indices.astype(np.uint8), 3, chunks=(chunk(b"PLTE", np.array(colours, np.uint8).tobytes()),))


def test_a_grey_palette_gives_its_greys(tmp_path: Path) -> None:
    greys = [(v, v, v) for v in (255, 0, 51)]
    indices = soft() // 100
    expected = np.array([255, 0, 51], np.float32)[indices] / np.float32(255)
    assert_mask(paletted(tmp_path / "m.png", indices, greys), expected, False)


def test_black_and_white_in_a_palette_are_hard_whatever_their_order(tmp_path: Path) -> None:
    path = paletted(tmp_path / "m.png", hard(), [(255, 255, 255), (0, 0, 0), (9, 200, 3)])
    assert_mask(path, ~hard(), True)


def test_one_coloured_label_over_index_0_is_foreground(tmp_path: Path) -> None:
    path = paletted(tmp_path / "m.png", hard() * 2, [(0, 0, 0), (128, 0, 0), (0, 128, 0)])
    assert_mask(path, hard(), True)


def test_nodata_of_a_palette_is_background_and_no_alpha(tmp_path: Path) -> None:
    labels = hard().astype(np.uint8)
    labels[:5] = 255
    path = tmp_path / "m.tif"
    kind = {"driver": "GTiff", "dtype": "uint8", "nodata": 255, "transform": NORTH_UP}
    with rasterio.open(path, "w", height=40, width=60, count=1, **kind) as file:
        file.write(labels, 1)
        file.write_colormap(1, {0: (0, 0, 0, 255), 1: (200, 0, 0, 255)})
    assert_mask(path, labels == 1, True)
    with rasterio.open(path, "r+") as file:
        file.write(np.full_like(labels, 255), 1)
    assert_mask(path, np.zeros((40, 60), np.bool_), True)


def test_nodata_of_grey_colours_is_background(tmp_path: Path) -> None:
    grey = np.where(hard(), np.uint8(200), np.uint8(9))
    path = write_tif(tmp_path / "m.tif", np.dstack([grey] * 3), nodata=9)
    assert_mask(path, np.where(hard(), np.float32(200 / 255), 0), False)


@pytest.mark.parametrize(("top", "noted"), [(2, True), (100, True), (127, True), (128, False)])
def test_numbers_too_small_to_be_foreground_are_noted(tmp_path: Path, top: int, noted: bool) -> None:
    labels = np.minimum(np.arange(2400).reshape(40, 60) % 130, top).astype(np.uint8)
    with open_mask(npy(tmp_path / "m.npy", labels), (40, 60)) as mask:
        said = f"the mask's values end at {top} of 255, so nothing is surely foreground; give one label, or percent, as"
        assert [note.startswith(said) for note in mask.notes] == [True] * noted


def test_more_numbers_than_allowed_are_refused_as_more_pixels_are(tmp_path: Path) -> None:
    path = npy(tmp_path / "m.npy", soft())
    with pytest.raises(InputError, match="holds 2400 pixels, which is above --max-pixels 2399"):
        open_mask(path, SIZE, max_pixels=2399)


def test_a_label_map_is_refused(tmp_path: Path) -> None:
    path = paletted(tmp_path / "m.png", soft() // 100, [(0, 0, 0), (128, 0, 0), (0, 128, 0)])
    with pytest.raises(InputError, match="label map of 3 colours"):
        open_mask(path, SIZE)


# Does it fit


UTM, DEGREES = CRS.from_epsg(32633), CRS.from_epsg(4326)


def placed(height: int, width: int, *, left: float = 0, pixel: float = 2, crs: CRS | None = UTM) -> Header:
    georeference = Georeference(crs, rasterio.Affine(pixel, 0, left, 0, -pixel, 9000))
    return Header(
        Path("m.tif"), height, width, 1, "uint8", 16, 16, (), "GTiff", is_georeferenced=True, georeference=georeference
    )


@given(factor=st.floats(1, 20), rounds_up=st.booleans())
def test_a_reduced_mask_lies_where_its_image_does(factor: float, rounds_up: bool) -> None:
    rounded = ceil if rounds_up else floor
    mask = placed(max(1, rounded(800 / factor)), max(1, rounded(1000 / factor)), pixel=2 * factor)
    check_place(mask, placed(800, 1000))
    check_place(placed(800, 1000), mask)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (placed(800, 1000, left=5), r"at 5, 9000 to 2005, 7400 of EPSG:32633, the image at 0, 9000 to 2000, 7400 of"),
        (placed(400, 500), "lies elsewhere than the image"),
        (placed(800, 1000, left=15, pixel=1e-5, crs=DEGREES), r"of EPSG:4326, the image at .* of EPSG:32633"),
    ],
)
def test_a_mask_of_another_place_is_refused(mask: Header, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_place(mask, placed(800, 1000))


def test_a_mask_without_a_place_is_the_images(tmp_path: Path) -> None:
    check_place(placed(400, 500, left=99, crs=None), placed(800, 1000))
    check_place(placed(400, 500, left=99), placed(800, 1000, crs=None))


@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    scale=st.floats(1, 80),
    up=st.booleans(),
)
def test_what_one_scale_made_fits(size: tuple[int, int], scale: float, up: bool) -> None:
    factor = scale if up else 1 / scale
    mask = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    assert fits(mask, size)


@given(size=st.tuples(st.integers(200, 3000), st.integers(200, 3000)), mask=st.integers(64, 400))
def test_a_square_of_a_picture_that_is_none_does_not_fit(size: tuple[int, int], mask: int) -> None:
    assume(max(size) > 1.1 * min(size))
    assert not fits((mask, mask), size)


def test_a_mask_of_another_image_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "m.png", soft())
    with pytest.raises(InputError) as caught:
        open_mask(path, (400, 700))
    message = str(caught.value)
    assert "60 x 40" in message
    assert "700 x 400" in message
    assert "--align stretch" in message
    assert "EXIF" not in message
    assert "\n" not in message
    assert read(path, size=(400, 700), align="stretch")[0].shape == SIZE


def test_a_mask_of_the_unturned_image_is_told_of_exif(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="EXIF"):
        open_mask(write_picture(tmp_path / "m.png", soft()), (600, 400))


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_mask_is_read_upright(tmp_path: Path, orientation: int) -> None:
    path = write_turned_jpeg(tmp_path / "m.jpg", soft(), orientation)
    size = (60, 40) if orientation > 4 else SIZE
    values = read(path, size=size)[0]
    plain = read(write_turned_jpeg(tmp_path / "p.jpg", soft(), 1))[0]
    np.testing.assert_array_equal(values, upright(plain, orientation))


# Damage


def test_damage_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    cases = {
        cut(write_tif(tmp_path / "cut.tif", picture(*SIZE)[:, :, 0])): RasterError,
        cut(write_picture(tmp_path / "cut.png", soft())): RasterError,
        cut(npy(tmp_path / "cut.npy", soft())): InputError,
        tmp_path / "none.png": InputError,
        tmp_path / "none.npy": InputError,
    }
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}, None], dtype=object), allow_pickle=True)
    cases[objects] = InputError
    words = tmp_path / "words.npy"
    words.write_text("no array")
    cases[words] = InputError
    cases[npy(tmp_path / "deep.npy", np.zeros((2, 40, 60)))] = InputError
    for path, error in cases.items():
        with pytest.raises(error) as caught:
            open_mask(path, SIZE)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "pickle" not in str(caught.value)  # numpy's advice, to trust the file, is none


def test_a_temporary_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "m.png", soft())
    with pytest.raises(RasterError, match="nowhere"):
        open_mask(path, SIZE, memory_bytes=0, directory=tmp_path / "nowhere")

"""EXIF orientation: pictures are upright, wherever the tag stands, at every level."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasters import chunk, exif, picture, shown, whole, write_picture, write_png, write_tif, write_turned_jpeg

from refine.geometry import Window
from refine.raster import open_image, read_header
from refine.raster.orientation import upright, upright_window
from refine.sources import ArrayImage

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
        np.testing.assert_array_equal(whole(image, 8), whole(ArrayImage(expected), 8))
    header = read_header(turned)
    assert (header.height, header.width, header.orientation) == (*expected.shape[:2], orientation)
    assert any("EXIF orientation" in note for note in header.notes) == (orientation != 1)


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

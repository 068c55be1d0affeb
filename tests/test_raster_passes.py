"""How often a file is read: what decodes from the top only goes there once for all levels, and once for windows."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from rasters import picture, write_picture, write_tif

from refine.geometry import Window
from refine.raster import open_image, read_header

COUNTS = Path("/proc/self/io")
SIZE = (2000, 1500)

pytestmark = pytest.mark.skipif(not COUNTS.exists(), reason="the system does not count what a process reads")


def bytes_read() -> int:
    """By this process so far, from files as well as from the system's cache of them."""
    return int(COUNTS.read_text().split()[1])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_one_pass_makes_the_levels_and_one_gives_the_windows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pixels = picture(*SIZE)
    if name == "a.tif":
        write_tif(path, pixels, compress="lzw", blockysize=16)  # deflate is looked at once more, for its sums
    else:
        write_picture(path, pixels)
    size = path.stat().st_size
    cache = 2 * (224 + 16) * SIZE[1] * 3  # of 9 MB
    with open_image(path, cache_bytes=cache) as image:
        opened = bytes_read()
        image.prepare([3, 7, 21])
        swept = bytes_read()
        for row in range(0, SIZE[0], 160):
            for col in range(0, SIZE[1], 160):
                image.read(Window(row, col, 224, 224).clip(*SIZE))
        done = bytes_read()
    assert swept - opened < 1.05 * size + 20_000
    assert done - swept < 1.05 * size + 20_000


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_a_header_is_read_without_the_pixels(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pixels = picture(*SIZE)
    if name == "a.tif":
        write_tif(path, pixels, compress="deflate", tiled=True)
    else:
        write_picture(path, pixels)
    read_header(path)
    before = bytes_read()
    read_header(path)
    assert bytes_read() - before < 60_000 + 0.01 * path.stat().st_size


def test_16_bit_png_takes_one_pass_more_for_its_percentiles_and_none_with_a_range(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), picture(*SIZE).astype(np.uint16) * 200)
    size = path.stat().st_size
    before = bytes_read()
    with open_image(path, cache_bytes=4 << 20):
        opened = bytes_read()
    with open_image(path, cache_bytes=4 << 20, value_range=(0, 51_000)):
        ranged = bytes_read()
    assert 0.9 * size < opened - before < 1.1 * size
    assert ranged - opened < 0.05 * size

"""What is not read: places without a valid pixel, and at full size whatever the outline does not touch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasters import NORTH_UP, picture, write_mask, write_picture, write_tif

from refine import Settings, refine_raster
from refine.geometry import BoolArray, Window
from refine.raster import open_image
from refine.raster.pixels import PixelReader
from refine.raster.validity import CELL, ValidCells

SIZE = (1500, 1800)


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    seed=st.integers(0, 99),
    strip=st.integers(1, 200),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_cells_give_the_valid_pixels_of_any_window(
    height: int, width: int, seed: int, strip: int, corners: tuple[float, ...]
) -> None:
    valid = np.ones((height, width), np.bool_)
    rng = np.random.default_rng(seed)
    for _ in range(4):
        top, left = rng.integers(0, height), rng.integers(0, width)
        valid[top : top + rng.integers(1, 200), left : left + rng.integers(1, 200)] = rng.random() < 0.2
    cells = ValidCells(height, width)
    for row in range(0, height, strip):
        part = valid[row : row + strip]
        assert not cells.is_known
        cells.feed(None if part.all() else part, len(part))
    first, last = sorted(round(share * height) for share in corners[:2])
    start, stop = sorted(round(share * width) for share in corners[2:])
    window = Window(first, start, max(1, last - first), max(1, stop - start)).clip(height, width)
    if not (window.height and window.width):
        return
    asked: list[Window] = []

    def read(place: Window) -> BoolArray:
        asked.append(place)
        return valid[place.slices]

    found = cells.valid(window, read)
    np.testing.assert_array_equal(np.ones_like(valid)[window.slices] if found is None else found, valid[window.slices])
    assert not (cells.none_valid(window) and valid[window.slices].any())
    for place in asked:  # both kinds, as far as cells tell
        around = valid[place.row // CELL * CELL :][:CELL, place.col // CELL * CELL :][:, :CELL]
        assert around.any()
        assert not around.all()


class Reads:
    """Windows at full size that were read as pictures, and only for what is valid."""

    def __init__(self) -> None:
        self.pictures: list[Window] = []
        self.masks: list[Window] = []

    def pixels(self) -> int:
        return sum(window.height * window.width for window in self.pictures)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    found = Reads()
    read, read_valid = PixelReader.read, PixelReader.read_valid

    def reading(self: PixelReader, window: Window) -> tuple[NDArray[np.uint8], BoolArray | None]:
        if (self.dataset.height, self.dataset.width) == SIZE:
            found.pictures.append(window)
        return read(self, window)

    def reading_valid(self: PixelReader, window: Window) -> BoolArray | None:
        if (self.dataset.height, self.dataset.width) == SIZE:
            found.masks.append(window)
        return read_valid(self, window)

    monkeypatch.setattr(PixelReader, "read", reading)
    monkeypatch.setattr(PixelReader, "read_valid", reading_valid)
    return found


def half_valid() -> BoolArray:
    valid = np.zeros(SIZE, np.bool_)
    valid[:, 800:] = True
    return valid


def test_after_the_sweep_holes_are_not_read_again(tmp_path: Path, reads: Reads) -> None:
    path = write_tif(tmp_path / "a.tif", picture(*SIZE) | 1, mask_band=half_valid(), tiled=True)
    with open_image(path) as image:
        image.prepare([4])
        swept = reads.pixels()
        assert swept == SIZE[0] * SIZE[1]
        colours, valid = image.read(Window(100, 200, 224, 224))
        assert valid is not None
        assert not valid.any()
        assert not colours.any()
        np.testing.assert_array_equal(image.read_valid(Window(0, 0, *SIZE)), half_valid())
        assert reads.pixels() == swept
        assert {(window.col, window.width) for window in reads.masks} == {(768, 64)}


@pytest.mark.parametrize("overviews", [(), (2, 4, 8)])
@pytest.mark.parametrize("kind", ["plain", "nodata", "float"])
def test_at_full_size_only_windows_at_the_outline_are_read(
    tmp_path: Path, checkpoints: Path, reads: Reads, kind: str, overviews: tuple[int, ...]
) -> None:
    pixels: NDArray[np.generic] = picture(*SIZE, channels=1) | 1
    options = {"nodata": 0} if kind == "nodata" else {}
    pixels = pixels.astype(np.float32) if kind == "float" else pixels
    image = write_tif(tmp_path / "a.tif", pixels, tiled=True, overviews=overviews, **options)
    mask = np.zeros((150, 180), np.uint8)
    mask[60:70, 80:90] = 255
    rough = write_picture(tmp_path / "rough.png", mask)
    report = refine_raster(
        image, tmp_path / "mask.tif", rough,
        settings=Settings(device="cpu", checkpoint=checkpoints / "mos_h_lite.safetensors", reach=24),
    )  # fmt: skip
    run = sum(level.run for level in report.levels if level.decimation == 1)
    sweep = 0 if overviews else SIZE[0] * SIZE[1]
    assert 0 < run < 20
    assert sweep < reads.pixels() <= sweep + run * 224 * 224  # neighbours are read at once, what they share once
    # Where no sweep has seen the pixels, they must be looked at once to know which of them are valid.
    must_look = kind != "plain" and bool(overviews)
    assert sum(window.height * window.width for window in reads.masks) == (SIZE[0] * SIZE[1] if must_look else 0)


def test_a_mask_band_is_read_without_its_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tif(tmp_path / "a.tif", picture(*SIZE), mask_band=half_valid(), tiled=True)
    with open_image(path) as image:
        monkeypatch.setattr(PixelReader, "read_values", None)
        np.testing.assert_array_equal(image.read_valid(Window(0, 0, *SIZE)), half_valid())


def test_empty_blocks_of_a_large_mask_are_left_out(tmp_path: Path) -> None:
    image = tmp_path / "image.tif"
    with rasterio.open(
        image, "w", driver="GTiff", height=20_000, width=14_000, count=1, dtype="uint8", sparse_ok=True, tiled=True,
        transform=NORTH_UP,
    ):  # fmt: skip
        pass
    mask = np.zeros((20_000, 14_000), np.uint8)
    mask[7000:7100, 9000:9100] = 200
    for out in (
        write_mask(tmp_path / "plain.tif", image, mask),
        write_mask(tmp_path / "cog.tif", image, mask, cog=True),
    ):
        with rasterio.open(out) as dataset:
            places = {
                (row, col): dataset.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=1)
                for row in range(40)
                for col in range(28)
            }
        assert [place for place, offset in places.items() if offset is not None] == [(13, 17)]

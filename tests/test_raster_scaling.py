"""Black and white of 16-bit and float images: what is looked at to choose them, and what the user may say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rasters import chunk, picture, shown, whole, write_png, write_tif

from refine.errors import InputError
from refine.geometry import Window
from refine.raster import open_image
from refine.raster.pixels import PixelReader
from refine.settings import Settings


def tiled(path: Path, pixels: NDArray[np.generic], **options: object) -> Path:
    return write_tif(path, pixels, tiled=True, blockxsize=64, blockysize=64, **options)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pixels of the windows that are asked for from now on."""
    pixels: list[int] = []
    read = PixelReader.read_values

    def counting(
        self: PixelReader, window: Window, shape: tuple[int, int] | None = None
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_] | None]:
        pixels.append(window.height * window.width)
        return read(self, window, shape)

    monkeypatch.setattr(PixelReader, "read_values", counting)
    return pixels


def scene(height: int, width: int) -> NDArray[np.uint16]:
    """12-bit values with a gradient from corner to corner, so that each place counts."""
    rows, cols = np.mgrid[:height, :width]
    noise = np.random.default_rng(2).integers(0, 200, (height, width))
    values: NDArray[np.uint16] = (300 + 3000 * rows / height + 500 * cols / width + noise).astype(np.uint16)
    return values


def test_a_large_image_is_sampled_by_some_of_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = scene(2600, 2700)
    pixels = counted(monkeypatch)
    with open_image(tiled(tmp_path / "a.tif", stored)) as image:
        ((low, high),) = image.value_limits or ()
    assert sum(pixels) < 0.08 * stored.size
    assert (low, high) == pytest.approx(tuple(np.percentile(stored, [0.5, 99.5])), rel=0.05)


def test_where_few_blocks_are_valid_the_whole_image_is_looked_at(tmp_path: Path) -> None:
    stored = np.full((2600, 2700), np.nan, np.float32)
    stored[1300:1400, 1300:1400] = scene(100, 100)
    with open_image(tiled(tmp_path / "a.tif", stored)) as image:
        ((low, high),) = image.value_limits or ()
    assert (low, high) == pytest.approx(tuple(np.percentile(scene(100, 100), [0.5, 99.5])), abs=0.02 * 3700)


def test_one_block_tells_that_an_8_bit_image_has_valid_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiled(tmp_path / "a.tif", picture(2600, 2700, channels=1), nodata=0)
    pixels = counted(monkeypatch)
    with open_image(path) as image:
        assert image.value_limits is None
    assert sum(pixels) < 0.08 * 2600 * 2700


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_percentiles_of_the_user_hold_for_every_type_and_level(tmp_path: Path, dtype: str) -> None:
    stored = picture(120, 90, channels=1)[:, :, 0].astype(dtype)
    with open_image(write_tif(tmp_path / "a.tif", stored), percentiles=(10, 80)) as image:
        low, high = np.percentile(stored, [10, 80])
        assert image.value_limits == ((low, high),)
        share = np.clip((stored.astype(float) - low) / (high - low), 0, 1)
        np.testing.assert_array_equal(whole(image)[:, :, 0], np.floor(share * 255 + 0.5))


def test_a_palette_has_colours_whatever_percentiles_are_asked_for(tmp_path: Path) -> None:
    palette = np.random.default_rng(3).integers(0, 256, (256, 3), dtype=np.uint8)
    indices = picture(30, 40, channels=1)[:, :, 0]
    path = write_png(tmp_path / "a.png", indices, kind=3, chunks=(chunk(b"PLTE", palette.tobytes()),))
    np.testing.assert_array_equal(shown(path, percentiles=(20, 60)), palette[indices])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"percentiles": (5, 5)}, "--percentiles 5,5: give two from 0 to 100, the lower first"),
        ({"percentiles": (-1, 50)}, "--percentiles -1,50: give two"),
        ({"percentiles": (1, 101)}, "--percentiles 1,101: give two"),
        ({"percentiles": (1, 99), "range": (0, 1)}, "--percentiles and --range both say"),
    ],
)
def test_percentiles_that_make_no_sense_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Settings(**values)


def test_a_nan_that_signals_is_a_nan(tmp_path: Path) -> None:
    """Converting it to more bits is an invalid operation to the processor, of which numpy would warn the user."""
    values = np.linspace(0, 1, 60 * 50, dtype=np.float32).reshape(60, 50)
    with_nan = values.copy()
    with_nan.view(np.uint32)[30, 20] = 0x7FA00000
    found = shown(write_tif(tmp_path / "a.tif", with_nan), value_range=(0, 1))
    expected = shown(write_tif(tmp_path / "b.tif", values), value_range=(0, 1))
    expected[30, 20] = 0
    np.testing.assert_array_equal(found, expected)

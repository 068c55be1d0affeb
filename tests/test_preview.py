"""The preview: five labelled panels of any image, and what they show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasters import picture, write_picture, write_tif

from refine.errors import InputError, RasterError
from refine.geometry import Grid, Window
from refine.outputs import draw_preview
from refine.outputs.layout import CANVAS_HEIGHT, CANVAS_WIDTH, Layout, choose_layout
from refine.outputs.preview import draw_windows
from refine.outputs.reduce import reduce_part
from refine.raster import RasterImage, create_mask, open_image, read_header
from refine.sources import ArrayImage, ArrayMask


@dataclass
class Swept:
    decimation: int
    height: int
    width: int
    tile: int
    overlap: int
    ran: NDArray[np.bool_]


@dataclass
class Run:
    levels: tuple[Swept, ...]


class Watched:
    """An ImageSource that notes how many pixels it is asked for at once, and at which decimation."""

    def __init__(self, image: RasterImage) -> None:
        self.height, self.width, self.has_invalid = image.height, image.width, image.has_invalid
        self.prepare, self.read_valid, self.close = image.prepare, image.read_valid, image.close
        self.reads: list[tuple[int, int]] = []
        self._read = image.read

    def read(self, window: Window, decimation: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        self.reads.append((window.height * window.width, decimation))
        return self._read(window, decimation)


def swept(height: int, width: int, decimation: int = 1, share: float = 0.5) -> Swept:
    """A level of an image of that size, of which a seeded share of the windows ran."""
    size = (-(-height // decimation), -(-width // decimation))
    grid = Grid(*size, 224, 64)
    ran = np.random.default_rng(0).random((len(grid.rows.origins), len(grid.cols.origins))) < share
    return Swept(decimation, *size, 224, 64, ran)


def disc(height: int, width: int) -> NDArray[np.uint8]:
    rows, cols = np.mgrid[:height, :width]
    inside = ((rows - height / 2) / (height / 3)) ** 2 + ((cols - width / 2) / (width / 3)) ** 2 < 1
    return np.asarray(inside * 255, np.uint8)


def refined_file(tmp_path: Path, pixels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Path:
    image = write_picture(tmp_path / "image.png", pixels)
    with create_mask(tmp_path / "mask.png", read_header(image)) as file:
        file.write(0, mask)
    return tmp_path / "mask.png"


def read_preview(path: Path) -> NDArray[np.uint8]:
    canvas = cv2.imread(str(path))
    assert canvas is not None
    return np.asarray(canvas[:, :, ::-1], np.uint8)


def panel(canvas: NDArray[np.uint8], layout: Layout, index: int) -> NDArray[np.uint8]:
    row, col = layout.corner(index)
    return canvas[row : row + layout.panel_height, col : col + layout.panel_width]


@given(height=st.integers(1, 400_000), width=st.integers(1, 400_000))
def test_panels_lie_apart_on_a_canvas_of_bounded_size(height: int, width: int) -> None:
    layout = choose_layout(height, width, 5)
    assert layout.width <= CANVAS_WIDTH
    assert layout.height <= CANVAS_HEIGHT
    corners = [layout.corner(index) for index in range(5)]
    assert all(row + layout.panel_height <= layout.height for row, _ in corners)
    assert all(col + layout.panel_width <= CANVAS_WIDTH for _, col in corners)
    for row, col in corners:
        others = [corner for corner in corners if corner != (row, col)]
        assert all(abs(row - r) >= layout.panel_height + 28 or abs(col - c) >= layout.panel_width for r, c in others)


@given(height=st.integers(200, 400_000), ratio=st.floats(0.3, 3))
def test_panels_keep_the_image_s_proportions_and_fill_the_canvas(height: int, ratio: float) -> None:
    width = round(height * ratio)
    layout = choose_layout(height, width, 5)
    assert layout.panel_width / layout.panel_height == pytest.approx(ratio, rel=0.02)
    assert 5 * layout.panel_height * layout.panel_width > 0.25 * CANVAS_WIDTH * CANVAS_HEIGHT


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (223, 225), (700, 500)])
def test_the_panels_show_image_and_masks(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels, mask = picture(*size), disc(*size)
    out = refined_file(tmp_path, pixels, mask)
    coarse = ArrayMask(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4))
    draw_preview(tmp_path / "preview.png", ArrayImage(pixels), coarse, out, Run((swept(*size),)))
    canvas = read_preview(tmp_path / "preview.png")
    layout = choose_layout(*size, 5)
    assert canvas.shape == (layout.height, layout.width, 3)
    assert panel(canvas, layout, 0).mean() == pytest.approx(pixels.mean(), abs=2)
    assert panel(canvas, layout, 1).mean() == pytest.approx(127.5, abs=8)
    assert panel(canvas, layout, 2).mean() == pytest.approx(mask.mean(), abs=4)
    for index in range(5):
        row, col = layout.corner(index)
        assert canvas[row - 28 : row, col : col + 40].max() > 150, "no label"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.png", "mask.png", "preview.png"]


def test_outlines_are_where_the_masks_end(tmp_path: Path) -> None:
    pixels = np.full((500, 500, 3), 128, np.uint8)
    out = refined_file(tmp_path, pixels, disc(500, 500))
    coarse = ArrayMask(np.zeros((5, 5), np.uint8))
    draw_preview(tmp_path / "preview.png", ArrayImage(pixels), coarse, out, Run((swept(500, 500),)))
    layout = choose_layout(500, 500, 5)
    shown = panel(read_preview(tmp_path / "preview.png"), layout, 3).astype(int)
    drawn = np.abs(shown - 128).max(axis=2) > 40
    rows, cols = (np.nonzero(drawn)[axis] + 0.5 for axis in (0, 1))
    scale = layout.panel_height / 500
    distances = np.hypot(rows / scale - 250, cols / scale - 250)
    assert len(distances) > 2 * np.pi * 166 * scale / 2
    np.testing.assert_allclose(distances, 500 / 3, atol=4 / scale)


def test_windows_that_ran_are_bright_the_rest_is_dark() -> None:
    level = Swept(1, 384, 864, 224, 64, np.array([[False, True, False, False, False], [False] * 5]))
    shown = draw_windows(np.full((384, 864, 3), 180, np.uint8), Run((level,)), Window(0, 0, 384, 864))
    inside = np.zeros((384, 864), bool)
    inside[:224, 160:384] = True
    frame = inside.copy()
    frame[1:223, 161:383] = False
    assert np.all(shown[inside & ~frame] == 180)
    assert np.all(shown[~inside] == 60)
    assert np.all(shown[frame] == (255, 208, 64))


def test_windows_of_coarser_levels_are_framed_in_their_place() -> None:
    fine = Swept(1, 900, 900, 224, 64, np.zeros((6, 6), bool))
    coarse = Swept(4, 225, 225, 224, 64, np.array([[True, False], [False, False]]))
    shown = draw_windows(np.full((300, 300, 3), 180, np.uint8), Run((coarse, fine)), Window(0, 0, 900, 900))
    framed = np.any(shown != 60, axis=2)
    assert framed[0, :299].all()
    assert framed[:299, 298].all()
    assert not framed[1:298, 1:298].any()


def test_a_part_is_shown_alone(tmp_path: Path) -> None:
    pixels = np.zeros((600, 800, 3), np.uint8)
    roi = Window(row=100, col=200, height=300, width=200)
    pixels[roi.slices] = (200, 100, 50)
    mask = np.full((300, 200), 77, np.uint8)
    image = write_tif(tmp_path / "image.tif", pixels)
    with create_mask(tmp_path / "mask.tif", read_header(image), roi=roi) as file:
        file.write(0, mask)
    coarse = np.zeros((6, 8), np.float32)
    coarse[1:4, 2:4] = 1
    with open_image(image) as source:
        draw_preview(
            tmp_path / "p.png", source, ArrayMask(coarse), tmp_path / "mask.tif", Run((swept(600, 800),)), roi=roi
        )
    layout = choose_layout(300, 200, 5)
    canvas = read_preview(tmp_path / "p.png")
    assert np.all(panel(canvas, layout, 0) == (200, 100, 50))
    assert np.all(panel(canvas, layout, 1) == 255)
    assert np.all(panel(canvas, layout, 2) == 77)


def test_a_large_image_is_read_from_the_level_that_lies_ready(tmp_path: Path) -> None:
    size = (4000, 6000)
    path = tmp_path / "image.tif"
    north_up = rasterio.Affine(2, 0, 10, 0, -2, 20)
    with rasterio.open(
        path, "w", driver="GTiff", height=4000, width=6000, count=3, dtype="uint8", tiled=True, sparse_ok=True,
        transform=north_up,
    ) as dataset:  # fmt: skip
        dataset.write(np.full((3, 1000, 6000), 200, np.uint8), window=rasterio.windows.Window(0, 3000, 6000, 1000))
    with create_mask(tmp_path / "mask.tif", read_header(path)) as file:
        for row in range(0, 4000, 500):
            file.write(row, np.full((500, 6000), 255 if row >= 2000 else 0, np.uint8))
    with open_image(path) as image:
        image.prepare([4])
        source = Watched(image)
        levels = (swept(*size, decimation=4), swept(*size))
        draw_preview(tmp_path / "p.jpg", source, ArrayMask(np.eye(2)), tmp_path / "mask.tif", Run(levels))
    assert {decimation for _, decimation in source.reads} == {4}
    assert max(pixels for pixels, _ in source.reads) < 1500 * 300
    canvas = read_preview(tmp_path / "p.jpg")
    layout = choose_layout(*size, 5)
    assert panel(canvas, layout, 0).mean() == pytest.approx(50, abs=2)
    assert panel(canvas, layout, 2).mean() == pytest.approx(127.5, abs=2)


@given(
    source=st.tuples(st.integers(1, 900), st.integers(1, 50)),
    target=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_reducing_keeps_the_mean_of_a_ramp(source: tuple[int, int], target: tuple[int, int]) -> None:
    ramp = np.linspace(0, 1, source[0], dtype=np.float32)[:, None].repeat(source[1], axis=1)
    small = reduce_part(lambda window: ramp[window.slices], (0, 0, *source), *target)
    assert small.shape == target
    assert np.all(np.diff(small[:, 0]) >= -1e-6)
    assert abs(float(small.mean()) - float(ramp.mean())) < 0.5 / min(source[0], target[0]) + 1e-6


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    pixels = picture(20, 30)
    out = refined_file(tmp_path, pixels, disc(20, 30))
    arguments = (ArrayImage(pixels), ArrayMask(disc(20, 30)), out, Run((swept(20, 30),)))
    with pytest.raises(InputError, match=r"p\.gif"):
        draw_preview(tmp_path / "p.gif", *arguments)
    with pytest.raises(RasterError, match="cannot be written"):
        draw_preview(tmp_path / "none" / "p.png", *arguments)

"""One picture of a run: image, coarse mask, refined mask, both outlines, and the windows that ran."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError, RasterError
from refine.geometry import RGB, BoolArray, Grid, Window
from refine.outputs.layout import LABEL_HEIGHT, Layout, choose_layout
from refine.outputs.reduce import reduce_part
from refine.raster import open_stored
from refine.sources import ImageSource, MaskSource
from refine.whole_file import write_whole

PREVIEW_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

_COARSE = (255, 64, 48)  # outlines: red before
_REFINED = (48, 224, 255)  # and blue after
_LEVEL_COLOURS = ((255, 208, 64), (255, 112, 208), (128, 160, 255), (160, 255, 128))  # of frames, finest level first
_PAPER, _INK = 24, 232
_LEAST_FRAME = 6  # windows below this side are shown by their brightness alone
_PANELS = 5


class LevelRun(Protocol):
    """What the preview needs to know of a level that was swept."""

    @property
    def decimation(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def tile(self) -> int: ...
    @property
    def overlap(self) -> int: ...
    @property
    def ran(self) -> BoolArray:
        """(window rows, window columns) of the level's grid."""
        ...


class Run(Protocol):
    """What the preview needs to know of a run."""

    @property
    def levels(self) -> Sequence[LevelRun]:
        """Coarsest first."""
        ...


def draw_preview(
    path: Path, image: ImageSource, coarse: MaskSource, refined: Path, run: Run, *, roi: Window | None = None
) -> None:
    """Write the preview of a finished run, at most 2400 pixels wide; `refined` is the mask file that it wrote.

    With `roi` only that part of the image is shown, which `refined` covers. Raises InputError for a name that does not
    end as a picture's, RasterError where something cannot be read or written.
    """
    part = roi or Window(0, 0, image.height, image.width)
    layout = choose_layout(part.height, part.width, _PANELS)
    picture = reduced_image(image, run, part, layout)
    before = reduced_mask(coarse, (image.height, image.width), part, layout)
    with open_stored(refined) as mask:
        after = reduce_part(lambda window: mask.read(window)[:, :, 0], (0, 0, part.height, part.width), *_size(layout))
    write_picture(path, compose(picture, before, after, run, part, layout))


def compose(
    picture: RGB, before: NDArray[np.uint8], after: NDArray[np.uint8], run: Run, part: Window, layout: Layout
) -> RGB:
    """The canvas with its five labelled panels; all pictures have the size of the layout's panels."""
    ran, all_windows = (sum(count) for count in zip(*(_counts(level) for level in run.levels), strict=True))
    panels = {
        "image": picture,
        "coarse mask": _grey(before),
        "refined mask": _grey(after),
        "outline: coarse red, refined cyan": draw_outlines(picture, before, after),
        f"windows: {ran} of {all_windows}": draw_windows(picture, run, part),
    }
    canvas = np.full((layout.height, layout.width, 3), _PAPER, np.uint8)
    for index, (label, panel) in enumerate(panels.items()):
        row, col = layout.corner(index)
        canvas[row : row + layout.panel_height, col : col + layout.panel_width] = panel
        place = (col, row - LABEL_HEIGHT // 3)
        cv2.putText(canvas, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (_INK,) * 3, 1, cv2.LINE_AA)
    return canvas


def draw_outlines(picture: RGB, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> RGB:
    """The picture with the outlines of two masks, cut at 128."""
    drawn: RGB = picture.copy()
    for mask, colour in ((before, _COARSE), (after, _REFINED)):
        foreground = np.asarray(mask >= 128, np.uint8)
        outlines, _ = cv2.findContours(foreground, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(drawn, outlines, -1, colour, 1, cv2.LINE_AA)
    return drawn


def draw_windows(picture: RGB, run: Run, part: Window) -> RGB:
    """The picture, dark where the finest level ran no window, with frames around the windows of all levels."""
    drawn = np.asarray(picture // 3, np.uint8)
    for number, level in reversed(list(enumerate(reversed(run.levels)))):
        corners = _corners(level, part, (picture.shape[0], picture.shape[1]))
        if number == 0:
            for top, left, bottom, right in corners:
                drawn[top:bottom, left:right] = picture[top:bottom, left:right]
        colour = _LEVEL_COLOURS[number % len(_LEVEL_COLOURS)]
        for top, left, bottom, right in corners:
            if min(bottom - top, right - left) >= _LEAST_FRAME:
                cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), colour, 1)
    return drawn


def reduced_image(image: ImageSource, run: Run, part: Window, layout: Layout) -> RGB:
    """The part at the panel's size, from the coarsest level of the run that is no coarser than that: it lies ready."""
    finest = min(part.height / layout.panel_height, part.width / layout.panel_width)
    decimation = max([level.decimation for level in run.levels if level.decimation <= finest], default=1)
    height, width = -(-image.height // decimation), -(-image.width // decimation)
    top, left = part.row // decimation, part.col // decimation
    bottom, right = min(-(-part.stop_row // decimation), height), min(-(-part.stop_col // decimation), width)
    place = (top, left, bottom - top, right - left)
    return reduce_part(lambda window: image.read(window, decimation)[0], place, *_size(layout))


def reduced_mask(mask: MaskSource, image_size: tuple[int, int], part: Window, layout: Layout) -> NDArray[np.uint8]:
    """The part of a mask that covers an image of that size, at the panel's size, 0..255."""
    down, across = mask.height / image_size[0], mask.width / image_size[1]
    place = (part.row * down, part.col * across, part.height * down, part.width * across)
    values = reduce_part(mask.read, place, *_size(layout))
    return np.asarray(np.floor(values * 255 + 0.5), np.uint8)


def write_picture(path: Path, picture: RGB) -> None:
    """Write an RGB picture by its suffix; it appears when it is whole. Raises InputError and RasterError."""
    if path.suffix.lower() not in PREVIEW_SUFFIXES:
        raise InputError(f"{path}: a preview ends in one of {', '.join(PREVIEW_SUFFIXES)}")
    _, encoded = cv2.imencode(path.suffix.lower(), np.ascontiguousarray(picture[:, :, ::-1]))
    try:
        write_whole(path, encoded.tobytes())
    except OSError as error:
        raise RasterError(f"{path}: cannot be written: {error.strerror or error}") from error


def _counts(level: LevelRun) -> tuple[int, int]:
    return int(np.count_nonzero(level.ran)), int(level.ran.size)


def _corners(level: LevelRun, part: Window, panel: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Top, left, bottom and right on the panel of each window of a level that ran and shows in the part."""
    grid = Grid(level.height, level.width, level.tile, level.overlap)
    down, across = panel[0] / part.height, panel[1] / part.width
    corners = []
    for row, col in zip(*np.nonzero(level.ran), strict=True):
        window = grid.window(int(row), int(col)).scale(level.decimation).intersect(part)
        if window.height and window.width:
            top, left = round((window.row - part.row) * down), round((window.col - part.col) * across)
            bottom = round((window.stop_row - part.row) * down)
            right = round((window.stop_col - part.col) * across)
            corners.append((top, left, bottom, right))
    return corners


def _size(layout: Layout) -> tuple[int, int]:
    return layout.panel_height, layout.panel_width


def _grey(values: NDArray[np.uint8]) -> RGB:
    return np.repeat(values[:, :, None], 3, axis=2)

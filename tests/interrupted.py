"""A run of the command's functions that is interrupted, over a small scene in small windows."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rasters import write_picture, write_tif

from refine.api import refine_raster
from refine.settings import Settings

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def write_scene(folder: Path, photograph: Pair) -> Path:
    """`scene.tif`, 480 x 360, and `rough.png`."""
    image, mask = (cv2.resize(array, (480, 360), interpolation=cv2.INTER_LINEAR) for array in photograph)
    write_tif(folder / "scene.tif", np.asarray(image, np.uint8))
    write_picture(folder / "rough.png", np.asarray(cv2.resize(mask, (60, 45), interpolation=cv2.INTER_AREA)))
    return folder


def small_windows(checkpoint: Path) -> Settings:
    return Settings(checkpoint=checkpoint, tile=96, overlap=32, batch=8, device="cpu", reach=48.0)


class Interrupting:
    """A Progress that stands for Ctrl-C at a call of its own."""

    def __init__(self, last: int) -> None:
        self._left = last

    def prepare(self, what: str, share: float) -> None:
        pass

    def begin(self, level: int, levels: int, window_rows: int, windows: int) -> None:
        pass

    def advance(self, window_rows: int, run: int, skipped: int) -> None:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt


def interrupt(folder: Path, options: Settings, calls: int = 4, out: str = "out.tif") -> None:
    with pytest.raises(KeyboardInterrupt):
        refine_raster(
            folder / "scene.tif", folder / out, folder / "rough.png", settings=options, progress=Interrupting(calls)
        )
    assert not (folder / out).exists()


def with_option(options: Settings, **changed: object) -> Settings:
    return options.model_copy(update=changed)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())

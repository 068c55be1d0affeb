"""EXIF orientation: the eight ways in which a picture is stored, and what brings it upright.

Orientations 2 to 4 mirror and turn by 180 degrees, 5 to 8 exchange rows and columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refine.geometry import Window


def is_swapped(orientation: int) -> bool:
    """Rows of the file are columns of the picture."""
    return orientation >= 5


def upright_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Height and width as shown, of a picture stored with that height and width."""
    return (width, height) if is_swapped(orientation) else (height, width)


def upright(stored: NDArray[np.generic], orientation: int) -> NDArray[np.generic]:
    """The picture as shown, of (H, W) or (H, W, C) stored pixels; a view (EXIF 2.32, tag 274)."""
    if is_swapped(orientation):
        stored = stored.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return stored


def upright_window(window: Window, height: int, width: int, orientation: int) -> Window:
    """Where a window of the stored picture, which is `height` x `width`, lies in the picture as shown."""
    row, col, rows, cols = window.row, window.col, window.height, window.width
    if is_swapped(orientation):
        row, col, rows, cols, height, width = col, row, cols, rows, width, height
    if orientation in (3, 4, 7, 8):
        row = height - row - rows
    if orientation in (2, 3, 6, 7):
        col = width - col - cols
    return Window(row, col, rows, cols)

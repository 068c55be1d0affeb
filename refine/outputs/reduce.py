"""Part of an image or mask as a small picture, read strip by strip, so that any size will do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from refine.geometry import Window

_STRIP_ROWS = 256  # read at once, at least


def reduce_part(
    read: Callable[[Window], NDArray[Any]], part: tuple[float, float, float, float], height: int, width: int
) -> NDArray[Any]:
    """`part` (row, col, height, width, in pixels of what `read` reads) as a picture of `height` x `width`.

    Means of what each pixel covers, to whole pixels; where the part has fewer pixels, they are repeated.
    """
    top, left, part_height, part_width = part
    first_col, stop_col = _span(left, part_width, 0, width, width)
    strips = []
    rows = max(1, round(_STRIP_ROWS * height / part_height))
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        first_row, stop_row = _span(top, part_height, start, stop, height)
        strip = read(Window(first_row, first_col, stop_row - first_row, stop_col - first_col))
        strips.append(_resized(strip, stop - start, width))
    return np.concatenate(strips)


def _span(begin: float, length: float, start: int, stop: int, count: int) -> tuple[int, int]:
    """Whole source pixels that pixels [start, stop) of `count` cover; at least one, inside the part."""
    first = int(begin + length * start / count)
    last = max(first + 1, round(begin + length * stop / count))
    return first, last


def _resized(strip: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Axis by axis: OpenCV takes means only where both axes shrink."""
    strip = np.ascontiguousarray(strip)
    for size in ((width, strip.shape[0]), (width, height)):
        is_smaller = size[0] <= strip.shape[1] and size[1] <= strip.shape[0]
        strip = cv2.resize(strip, size, interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_NEAREST)
    return strip

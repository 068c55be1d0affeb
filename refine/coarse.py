"""A first mask of an image, by a network that sees the whole of it at once.

The map that comes out is the network's probability on the network's own grid: nothing is enlarged or stretched here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Protocol

import numpy as np

from refine.fill import fill_invalid
from refine.geometry import RGB, Axis, Mask, Window
from refine.resample import mask_taps, resample
from refine.sources import ImageSource

MAX_ASPECT = 3.0
"""A longer image is not squeezed into one square: a network trained on photographs sees nothing it knows there."""

MAX_SQUARES_LENGTH = 16
"""The map of a long image is at most this many squares long; beyond, a square covers more than its own aspect."""

MAX_READ_PIXELS = 2**25
"""The decimated image held in memory: 100 MB. Strips of over 16 : 1 reach it, with IS-Net from 8 : 1 on, and are read
more coarsely then."""


class CoarseNetwork(Protocol):
    """A network that finds the foreground of a whole image."""

    @property
    def input_height(self) -> int: ...

    @property
    def input_width(self) -> int: ...

    def __call__(self, rgb: RGB) -> Mask:
        """Probability (input_height, input_width) of an image (input_height, input_width, 3) uint8.

        An `Ensemble` shows its members the size of the largest.
        """
        ...


SUREST = 7.0
"""A member's log odds end here, at probabilities of 0.001 and 0.999, so that none decides alone."""


LEAST_SURE = 1.0
"""A member counts as if its surest log odds were at least this, so that members that all find nothing have a mean."""


class Ensemble:
    """Several coarse networks as one: a mean of their log odds, so that who is sure outweighs who is not.

    Each counts by the square of its surest foreground: one that found nothing would otherwise deny, pixel by pixel and
    with certainty, what another found. Means of probabilities have the same outline, and are twice as often neither
    foreground nor background. All members are shown the image at the largest size that one of them was trained for.
    """

    def __init__(self, members: Sequence[CoarseNetwork]) -> None:
        self.members = tuple(members)
        self.input_height = max(member.input_height for member in members)
        self.input_width = max(member.input_width for member in members)

    def __call__(self, rgb: RGB) -> Mask:
        odds = [_log_odds(member(rgb)) for member in self.members]
        counts = np.square([np.maximum(each.max(), np.float32(LEAST_SURE)) for each in odds])
        mean = np.average(odds, axis=0, weights=counts).astype(np.float32)
        probability: Mask = np.float32(1) / (1 + np.exp(-mean))
        return probability


def _log_odds(probability: Mask) -> Mask:
    least = 1 / (1 + np.exp(np.float32(SUREST)))
    inside = probability.clip(least, 1 - least)
    odds: Mask = np.log(inside / (1 - inside))
    return odds


def coarse_decimation(height: int, width: int, input_height: int, input_width: int) -> int:
    """The decimation at which `make_coarse` reads an image; a function of the sizes alone.

    The coarsest that has as many pixels as the map on both axes (1 for a smaller image), and coarser only where
    a long image would have more than MAX_READ_PIXELS.
    """
    map_height, map_width = coarse_size(height, width, input_height, input_width)
    decimation = max(1, min(height // map_height, width // map_width))
    while ceil(height / decimation) * ceil(width / decimation) > MAX_READ_PIXELS:
        decimation += 1
    return decimation


def coarse_size(height: int, width: int, input_height: int, input_width: int) -> tuple[int, int]:
    """Height and width of the map: the network's input, lengthened for an image of more than 3 : 1."""
    aspect = width / height
    if aspect > MAX_ASPECT:
        return input_height, round(input_width * min(aspect, MAX_SQUARES_LENGTH))
    if 1 / aspect > MAX_ASPECT:
        return round(input_height * min(1 / aspect, MAX_SQUARES_LENGTH)), input_width
    return input_height, input_width


def make_coarse(image: ImageSource, network: CoarseNetwork, on_progress: Callable[[float], None] | None = None) -> Mask:
    """The network's probability of foreground, (h, w) of `coarse_size`, over the extent of the image.

    `image` must be prepared for `coarse_decimation(...)`. An image of at most 3 : 1 is brought to the network's size
    without keeping its aspect, averaged over areas; a longer one is run in squares that share half of themselves with
    the next, blended by cosine ramps. Invalid pixels are shown to the network as their nearest valid neighbour.
    `on_progress` gets the share of the squares that is done, 0..1.

    Raises InputError if no pixel is valid.
    """
    map_height, map_width = coarse_size(image.height, image.width, network.input_height, network.input_width)
    small = _read_small(image, network, map_height, map_width)
    rows = Axis(map_height, network.input_height, network.input_height // 2)
    cols = Axis(map_width, network.input_width, network.input_width // 2)
    blended = np.zeros((map_height, map_width), np.float32)
    squares = [
        (row, col, np.multiply.outer(row_ramp, col_ramp))
        for row, row_ramp in zip(rows.origins, rows.ramps, strict=True)
        for col, col_ramp in zip(cols.origins, cols.ramps, strict=True)
    ]
    for done, (row, col, weight) in enumerate(squares, start=1):
        part = np.s_[row : row + network.input_height, col : col + network.input_width]
        blended[part] += weight * network(np.ascontiguousarray(small[part]))
        if on_progress is not None:
            on_progress(done / len(squares))
    return blended.clip(0, 1)  # sums of ramps round to a hair above 1


def _read_small(image: ImageSource, network: CoarseNetwork, map_height: int, map_width: int) -> RGB:
    decimation = coarse_decimation(image.height, image.width, network.input_height, network.input_width)
    window = Window(0, 0, ceil(image.height / decimation), ceil(image.width / decimation))
    pixels, valid = image.read(window, decimation)
    if valid is not None:
        pixels = fill_invalid(pixels, valid)
    return bring_to_size(pixels, decimation, (image.height, image.width), map_height, map_width)


def bring_to_size(pixels: RGB, decimation: int, image_size: tuple[int, int], height: int, width: int) -> RGB:
    """A level's pixels brought to (height, width, 3) over the image's extent, rounded to 8 bit once.

    Averaged over areas along an axis that shrinks, bilinear where it grows. The last row and column of the level, which
    the image's border cuts, count as much as they hold.
    """
    # Counted in the level's pixels the image is image_size / decimation long, which need not be whole.
    rows, cols = (
        mask_taps(0, target, 1, target * decimation, length)
        for target, length in zip((height, width), image_size, strict=True)
    )
    planes = [resample(pixels[..., channel].astype(np.float32), rows, cols) for channel in range(3)]
    rounded: RGB = np.floor(np.stack(planes, axis=-1) + np.float32(0.5)).astype(np.uint8)
    return rounded

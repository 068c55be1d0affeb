"""What a sweep takes stays within the plan's figures for it, and follows the width."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from strategies import Sharpening, blobs

from refine.engine import refine_mask
from refine.geometry import RGB, BoolArray, Mask, Window
from refine.memory import MeasuredCost, raster_cache_bytes
from refine.plan import make_plan
from refine.sources import ArrayMask


class GreyImage:
    """An ImageSource of any size that holds nothing."""

    def __init__(self, height: int, width: int, *, has_invalid: bool) -> None:
        self.height, self.width, self.has_invalid = height, width, has_invalid

    def prepare(self, decimations: object, on_progress: object = None) -> None:
        pass

    def read(self, window: Window, decimation: int = 1) -> tuple[RGB, BoolArray | None]:
        shape = (window.height, window.width)
        return np.full((*shape, 3), 128, np.uint8), np.ones(shape, np.bool_) if self.has_invalid else None

    def close(self) -> None:
        pass


class Nowhere:
    """A MaskSink that keeps nothing."""

    def write(self, row: int, mask: NDArray[np.uint8] | Mask, valid: BoolArray | None) -> None:
        pass


OWN = ("interpreter and libraries", "network weights", "network activations", "raster cache")
"""Parts of the plan that are not the sweep's."""


@pytest.mark.parametrize(
    ("height", "width", "mask_side", "batch", "look_ahead", "has_invalid"),
    [
        (700, 3000, 64, 8, 2, False),
        (700, 3000, 64, 1, 0, True),
        (2500, 800, 64, 4, 1, False),
        (900, 900, 900, 8, 2, True),
        (400, 6000, 3000, 2, 2, False),
    ],
)
def test_the_measured_peak_is_within_the_plan(
    height: int, width: int, mask_side: int, batch: int, look_ahead: int, has_invalid: bool
) -> None:
    mask = ArrayMask(blobs(np.random.default_rng(0), mask_side, mask_side, soft=True))
    plan = make_plan(
        height,
        width,
        mask_height=mask_side,
        mask_width=mask_side,
        batch=batch,
        has_invalid=has_invalid,
        cost=MeasuredCost(0, 0.0),
        select="all",
    )
    planned = sum(size for name, size in plan.memory.items() if name not in OWN)
    image = GreyImage(height, width, has_invalid=has_invalid)
    # The test's network works in float32 all over; a real one's working memory is planned apart.
    working = 40 * batch * plan.tile**2
    gc.collect()
    tracemalloc.start()
    try:
        refine_mask(image, mask, Sharpening(), replace(plan, look_ahead=look_ahead), Nowhere())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= planned + working
    assert peak >= 0.1 * planned


def test_a_cache_holds_every_block_that_a_row_of_windows_touches() -> None:
    for block_height in (1, 16, 64, 256, 512):
        rows = raster_cache_bytes(40_000, 40_000, 224, block_height, 3) / (40_000 * 3)
        assert rows >= 224 + block_height
    assert raster_cache_bytes(8000, 8000, 224, 8000, 3) <= 2 * 8000 * 8000 * 3

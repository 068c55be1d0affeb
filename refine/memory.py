"""What the plan knows of memory without asking: figures measured by `benchmarks/memory.py`, with a margin.

All are bytes. A network's activations are taken as proportional to the number of pixels of a call, plus a fixed part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType
from typing import Protocol

from refine.cascade import LevelPlan

MIB = 1 << 20

MARGIN = 1.15
"""Measured figures are raised by this: allocators, library versions and machines differ."""


def size_text(size: int) -> str:
    """A size in bytes as `--max-memory` takes it: in MiB, or in bytes where those are no whole MiB."""
    return f"{size // MIB}MiB" if size % MIB == 0 else str(size)


class NetworkCost(Protocol):
    """What a network takes; every Refiner says this of itself."""

    @property
    def weight_bytes(self) -> int: ...

    def activation_bytes(self, batch: int, tile: int) -> int:
        """The most it needs beside its weights while it runs `batch` windows of `tile` x `tile`."""
        ...


@dataclass(frozen=True, slots=True)
class MeasuredCost:
    """A NetworkCost from measurements: `call_bytes` for any call, and `pixel_bytes` for each pixel of its windows."""

    weight_bytes: int
    pixel_bytes: float
    call_bytes: int = 0
    margin: float = MARGIN

    def activation_bytes(self, batch: int, tile: int) -> int:
        return int(self.margin * (self.call_bytes + self.pixel_bytes * batch * tile * tile))


BASELINE_BYTES: Mapping[str, int] = MappingProxyType({"cpu": int(MARGIN * 815 * MIB), "cuda": int(MARGIN * 1900 * MIB)})
"""The process with all libraries imported and a network loaded, without its weights; with CUDA its context as well.

The first is measured: 575 MiB with the libraries (torch 2.15, its default wheel with CUDA, whose libraries count) and
33 more when a network was loaded, where Linux maps 64 KiB of a library at an access; 795 and 67 where the disk is read
ahead by 8 MiB and it maps up to 1 MiB. The figure and its margin cover both. The second is an estimate.
"""

ONNX_BASELINE_BYTES = int(MARGIN * 105 * MIB)
"""The same with ONNX Runtime 1.31 in place of torch: 102 MiB were measured."""

LITE_COST = MeasuredCost(weight_bytes=19 * MIB, pixel_bytes=350.0, call_bytes=24 * MIB)
"""MOS_H_lite as shipped on a CPU in float32: 18 MiB of weights, and 28, 39, 63 and 141 MiB were measured for 1, 2, 4
and 8 windows of 224 px, uncertain everywhere; in bfloat16 15, and 22, 38, 60 and 127 MiB. What a first call keeps is
other code on other CPUs; the network says 43 MiB of itself for one window, kernels included.
"""

ONNX_LITE_COST = MeasuredCost(weight_bytes=72 * MIB, pixel_bytes=1150.0, call_bytes=3 * MIB)
"""MOS_H_lite as shipped by ONNX Runtime: 72 MiB once it was loaded, and 53, 108, 217 and 439 MiB were measured for 1,
2, 4 and 8 windows of 224 px."""


@dataclass(frozen=True, slots=True)
class CoarseCost:
    """What a coarse network takes: the most while it is loaded, what stays of that, and what a call adds."""

    loading_bytes: int
    held_bytes: int
    pixel_bytes: float
    call_bytes: int
    margin: float = MARGIN

    def peak_bytes(self, side: int) -> int:
        """The most main memory for a network that sees `side` x `side` pixels on a CPU."""
        running = self.held_bytes + self.call_bytes + self.pixel_bytes * side * side
        return int(self.margin * max(self.loading_bytes, running))

    @property
    def kept_bytes(self) -> int:
        """What it takes from one image to the next."""
        return int(self.margin * self.held_bytes)


COARSE_COSTS: Mapping[str, CoarseCost] = MappingProxyType(
    {
        "mos_l": CoarseCost(307 * MIB, 215 * MIB, 3424.0, 0),
        "mos_l_lite": CoarseCost(64 * MIB, 63 * MIB, 577.0, 8 * MIB),
        "isnet": CoarseCost(428 * MIB, 271 * MIB, 587.0, 21 * MIB),
        "u2netp": CoarseCost(42 * MIB, 41 * MIB, 2421.0, 11 * MIB),
        "u2net": CoarseCost(428 * MIB, 277 * MIB, 1614.0, 102 * MIB),
        "basnet": CoarseCost(882 * MIB, 562 * MIB, 3113.0, 125 * MIB),
    }
)
"""Measured by `benchmarks/coarse_cost.py` on one thread, float32; MOS_L with the encoders it has by default."""

COARSE_IMAGE_PIXEL_BYTES = 16
"""The decimated image that a coarse network is shown: its bytes, and one channel as it is resampled."""

OUTPUT_BLOCK = 512
"""Rows of a block of the output, which is written by whole blocks."""

SMALLEST_CACHE = 16 * MIB

BAND_PIXELS = 1 << 20
"""Coarse rows are made in bands of at most this many pixels, of the mask or of the level."""

AGREEMENT_PIXEL_BYTES = 150
"""Of agreement, for each pixel of a window: 171 were measured with masks of 1.5 px a pixel, of which the mask's own
pixels in 24 windows were 43."""

PASSED_PIXEL_BYTES = 3 + 3 * 4
"""Of several passes, for each pixel of a call: the turned image and mask, the refined mask and the one before it."""

RESAMPLED_PIXEL_BYTES = 32
"""A band in float32, and in float64 before and after the columns."""

CHUNK_BYTES_PER_COL = 64 * 16
"""Rows are finished 64 at a time: refined mask, its products and its bytes."""

CARRY_CHUNK_ROWS = 16
"""Sums that a part leaves to the next go to its file by so many rows."""

PART_FILE_BYTES_PER_COL = 2 * max(64 * 2, CARRY_CHUNK_ROWS * 4)
"""What is on its way to the file of a part: a chunk of rows, as it is and compressed."""


def raster_cache_bytes(height: int, width: int, tile: int, block_height: int | None, pixel_bytes: int) -> int:
    """A block cache that holds all blocks a row of windows touches, so that none is decoded twice.

    A cache below this costs up to 95 times the time (strips of 64 rows, a cache of 8 MiB). Unknown blocks count as rows
    of 512.
    """
    rows = min(OUTPUT_BLOCK if block_height is None else block_height, height)
    return max(SMALLEST_CACHE, (-(-tile // rows) + 1) * rows * width * pixel_bytes)


def sweep_memory(
    steps: Sequence[LevelPlan],
    mask_height: int,
    mask_width: int,
    height: int,
    batch: int,
    look_ahead: int,
    *,
    has_invalid: bool,
    passes: int,
    may_agree: bool,
    is_journalled: bool = False,
) -> dict[str, int]:
    """Bytes by use while the level that takes the most is swept, under the names that the plan shows."""
    candidates = []
    waiting = 0
    for index, step in enumerate(steps):
        kept = 0 if step.on_disk else step.store_bytes
        mask_row = max(1, ceil(step.level.decimation * mask_height / height)) * mask_width
        candidates.append(
            _level_memory(step, batch, look_ahead, has_first=0 < index < len(steps) - 1, has_invalid=has_invalid)
            | {
                "resampling": RESAMPLED_PIXEL_BYTES * max(BAND_PIXELS, mask_row, step.level.width),
                "corrections of levels": waiting + kept,
            }
            | ({"passes": PASSED_PIXEL_BYTES * batch * step.tile * step.tile} if passes > 1 else {})
            | ({"agreement with the mask": _agreement_bytes(step.tile, batch, look_ahead)} if may_agree else {})
            | ({"part's file": PART_FILE_BYTES_PER_COL * step.level.width} if is_journalled else {})
        )
        waiting = kept
    return max(candidates, key=lambda memory: sum(memory.values()))


def _agreement_bytes(tile: int, batch: int, look_ahead: int) -> int:
    window = tile * tile
    # Planes of one window and the weights of 16 columns; the mask's pixels of all windows in flight.
    return AGREEMENT_PIXEL_BYTES * window + 2 * window * batch * (look_ahead + 1)


def _level_memory(
    step: LevelPlan, batch: int, look_ahead: int, *, has_first: bool, has_invalid: bool
) -> dict[str, int]:
    width, tile = step.level.width, step.tile
    coarse_row = 4 * width * (2 if has_first else 1)
    band_row = coarse_row + (width if has_invalid and step.is_last else 0)
    strip_rows = min(step.level.height, tile + 2 * step.halo)
    item_rows = min(step.level.height, (step.part_rows - 1) * (tile - step.overlap) + tile)
    window = tile * tile
    return {
        # The old strip, the rows made for the new one, and the new one.
        "coarse strips": coarse_row * 3 * strip_rows,
        # A part may hold a single window, and its rows wait for it.
        "rows in flight": band_row * ((look_ahead + 1) * item_rows + min(tile, step.level.height)),
        "correction strip": 4 * width * (tile + step.overlap),
        # Bytes of image and coarse mask, once by themselves and once in the batch; corrections and their products.
        "windows in flight": window * batch * ((look_ahead + 1) * 2 * (3 + 4) + 4 * 4),
        "rows being written": width * (CHUNK_BYTES_PER_COL + (2 * OUTPUT_BLOCK if step.is_last else 0)),
    }

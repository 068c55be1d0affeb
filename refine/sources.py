"""What the engine reads from, runs and writes to, and the versions of these that live in memory.

The protocols are all that the engine knows of files and networks. A level's image pixel (r, c) is the mean of the image
block [r * d, r * d + d) x [c * d, c * d + d), cut at the border, over its valid pixels, rounded half up; it is valid if
any of them is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refine.block_means import block_mean
from refine.errors import InputError
from refine.geometry import RGB, BoolArray, Mask, Window
from refine.stream import PartEnd

KeepRows = Callable[[int, NDArray[Any], BoolArray | None], None]
"""Takes finished rows: the number of the first, (n, width) values, and which are valid (None: all)."""


class ImageSource(Protocol):
    """An image as 8-bit RGB at every level of the cascade. All calls come from one thread at a time."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def has_invalid(self) -> bool:
        """Whether some pixels may be invalid. If not, `read` gives None for them all."""
        ...

    def prepare(self, decimations: Sequence[int], on_progress: Callable[[float], None] | None = None) -> None:
        """Make the levels above 1 readable, in one sweep; `on_progress` gets the share done, 0..1."""
        ...

    def read(self, window: Window, decimation: int = 1) -> tuple[RGB, BoolArray | None]:
        """(h, w, 3) uint8 of a window inside the level's grid, and (h, w) valid pixels, None if all are."""
        ...

    def read_valid(self, window: Window) -> BoolArray | None:
        """(h, w) valid pixels of a window of the image itself, None if all are; for less than `read`, where it can."""
        ...

    def close(self) -> None: ...


class MaskSource(Protocol):
    """The first mask on its own grid, which covers the same extent as the image, whatever its size."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def is_hard(self) -> bool:
        """Only 0 and 1 occur."""
        ...

    def read(self, window: Window) -> Mask:
        """(h, w) float32 in 0..1 of a window inside the mask's own grid."""
        ...


class MaskSink(Protocol):
    """Where the refined mask goes: whole rows, top to bottom, each once."""

    def write(self, row: int, mask: NDArray[np.uint8] | Mask, valid: BoolArray | None) -> None:
        """Rows from `row` of the output (of the ROI, if there is one), (n, width): 0..255, or 0..1 in float32.

        `valid` is (n, width), or None where all pixels are valid. The arrays may be reused after the call.
        """
        ...


class Refiner(Protocol):
    """A network that proposes a better mask for windows of one size."""

    @property
    def stride(self) -> int:
        """A tile must be a multiple of it."""
        ...

    @property
    def weight_bytes(self) -> int: ...

    def activation_bytes(self, batch: int, tile: int) -> int:
        """The most it needs beside its weights while it runs `batch` windows of `tile` x `tile`."""
        ...

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        """The correction refined - coarse, (B, T, T) in -1..1, zero exactly where nothing is changed.

        `image` is (B, T, T, 3) uint8, `coarse` (B, T, T) in 0..1; `reach` says how far `coarse` may be wrong, in
        pixels. Raises DeviceMemoryError if there is no room for so many windows: then fewer are asked of it.
        """
        ...


class Progress(Protocol):
    """Told how far a run is. How many windows run is not known before the sweep has selected them."""

    def prepare(self, what: str, share: float) -> None:
        """Before the levels: that share, 0..1, of what they need is done, such as the sweep that makes them."""
        ...

    def begin(self, level: int, levels: int, window_rows: int, windows: int) -> None:
        """Level number `level` of `levels` begins: its window rows, and the windows that are at most run."""
        ...

    def advance(self, window_rows: int, run: int, skipped: int) -> None:
        """That many more window rows are finished, and windows run and skipped, since the last call."""
        ...


SWEEP = "sweep"
"""How `Progress.prepare` is told of the sweep that makes the levels."""


def tells(progress: Progress | None, what: str) -> Callable[[float], None] | None:
    """What tells `progress` of the shares of `what`."""
    return None if progress is None else partial(progress.prepare, what)


class PartFile(Protocol):
    """A part on its way to the journal; use it in a `with` block, which drops what is not finished."""

    def write(self, row: int, rows: NDArray[Any], valid: BoolArray | None) -> None:
        """The next finished rows, as they were given to the sink, or to the store of the level."""
        ...

    def finish(self, end: PartEnd) -> None:
        """All rows were written: from here on the part lasts, whatever becomes of the process."""
        ...

    def __enter__(self) -> PartFile: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Journal(Protocol):
    """The parts of a run that are finished, kept so that another process can go on. Levels and parts count from 0."""

    def finished(self, level: int) -> int:
        """How many parts of the level are finished and whole, counted from its first up to the first that is not."""
        ...

    def replay(self, level: int, part: int, keep: KeepRows) -> PartEnd:
        """Give the rows of such a part to `keep`, as they were written; gives what else is known of it."""
        ...

    def begin(self, level: int, part: int) -> PartFile:
        """Record a part that is about to be swept."""
        ...


class NoJournal:
    """A Journal that keeps nothing, and its PartFile."""

    def finished(self, level: int) -> int:
        return 0

    def replay(self, level: int, part: int, keep: KeepRows) -> PartEnd:
        raise LookupError(f"part {part} of level {level} was not kept")

    def begin(self, level: int, part: int) -> NoJournal:
        return self

    def write(self, row: int, rows: NDArray[Any], valid: BoolArray | None) -> None:
        pass

    def finish(self, end: PartEnd) -> None:
        pass

    def __enter__(self) -> NoJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class ArrayImage:
    """An ImageSource over an (H, W, 3) uint8 array; `valid` is (H, W), or None if all pixels are."""

    def __init__(self, image: RGB, valid: BoolArray | None = None) -> None:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(f"expected an (H, W, 3) uint8 image, got {image.dtype} {image.shape}")
        if 0 in image.shape:
            raise InputError(f"the image has no pixels: {image.shape}")
        if valid is not None and not valid.any():
            raise InputError("the image has no valid pixel")
        self._image = image
        self._valid = None if valid is None or valid.all() else valid
        self._levels: dict[int, tuple[RGB, BoolArray | None]] = {}

    @property
    def height(self) -> int:
        return int(self._image.shape[0])

    @property
    def width(self) -> int:
        return int(self._image.shape[1])

    @property
    def has_invalid(self) -> bool:
        return self._valid is not None

    def prepare(self, decimations: Sequence[int], on_progress: Callable[[float], None] | None = None) -> None:
        for done, decimation in enumerate(decimations, start=1):
            if decimation > 1 and decimation not in self._levels:
                self._levels[decimation] = block_mean(self._image, self._valid, decimation)
            if on_progress is not None:
                on_progress(done / len(decimations))

    def read(self, window: Window, decimation: int = 1) -> tuple[RGB, BoolArray | None]:
        if decimation == 1:
            image, valid = self._image, self._valid
        else:
            self.prepare([decimation])
            image, valid = self._levels[decimation]
        return image[window.slices], None if valid is None else valid[window.slices]

    def read_valid(self, window: Window) -> BoolArray | None:
        return None if self._valid is None else self._valid[window.slices]

    def close(self) -> None:
        self._levels.clear()


ROUNDING = 1e-5
"""Floats this far outside 0..1 are a resize's rounding, and are cut off."""


def is_dark(highest: float, top: int) -> bool:
    """Whether a mask of up to `highest` of `top` would be background all over: one of 8 bit in a wider type."""
    return 1 < highest <= 255 < top


def dark_text(highest: float, top: int) -> str:
    """What is said of such a mask."""
    return f"the mask's values end at {highest:g} of {top}, so nothing is foreground; give 8 bit, 0 to 255"


class ArrayMask:
    """A MaskSource over an (h, w) array: bool, uint8 0..255, uint16 0..65535, or float in 0..1.

    An integer array of nothing but 0 and 1 counts as binary. One of uint16 that ends at 255 is refused.
    """

    def __init__(self, mask: NDArray[np.generic]) -> None:
        if mask.ndim != 2 or 0 in mask.shape:
            raise InputError(f"expected an (h, w) mask with pixels, got shape {mask.shape}")
        if mask.dtype.kind not in "bfiu":
            raise InputError(f"expected a mask of bool, integers, or float in 0..1, got {mask.dtype}")
        low, high = mask.min(), mask.max()
        if mask.dtype.kind in "bf" or (low >= 0 and high <= 1):
            top = 1
        elif mask.dtype in (np.uint8, np.uint16):
            top = 255 if mask.dtype == np.uint8 else 65535
        else:
            raise InputError(f"a mask of {mask.dtype} may hold 0 and 1 only, got {low} to {high}; give uint8 or uint16")
        if mask.dtype.kind == "f" and low >= -ROUNDING and high <= 1 + ROUNDING and (low < 0 or high > 1):
            mask = np.clip(mask, 0, 1)
            low, high = mask.min(), mask.max()
        if not (low >= 0 and high <= top):  # NaN fails both
            raise InputError(f"mask values lie outside 0..1: {low} to {high}; give probabilities, not logits")
        if is_dark(float(high), top):
            raise InputError(dark_text(float(high), top))
        self._mask = mask
        self._scale = top
        self._is_hard = bool(np.all((mask == 0) | (mask == top)))

    @property
    def height(self) -> int:
        return int(self._mask.shape[0])

    @property
    def width(self) -> int:
        return int(self._mask.shape[1])

    @property
    def is_hard(self) -> bool:
        return self._is_hard

    def read(self, window: Window) -> Mask:
        crop: Mask = self._mask[window.slices].astype(np.float32)
        return crop if self._scale == 1 else crop / np.float32(self._scale)


class ArraySink:
    """A MaskSink into one (height, width) array, `rows`; 0 where nothing is written or a pixel is invalid."""

    def __init__(self, height: int, width: int, dtype: type[np.uint8] | type[np.float32] = np.uint8) -> None:
        self.rows = np.zeros((height, width), dtype)

    def write(self, row: int, mask: NDArray[np.uint8] | Mask, valid: BoolArray | None) -> None:
        self.rows[row : row + len(mask)] = mask if valid is None else np.where(valid, mask, 0)

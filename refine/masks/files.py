"""A first mask from a file, as the engine's MaskSource: any size, binary or soft, from any model or person.

The file is read once, from top to bottom: whether a mask is binary, or which of its channels is the mask, is told by
all of its pixels. What is read is kept, in memory while it is small, else in a nameless temporary file, so the engine
may ask for windows in any order whatever the format.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tokenize import TokenError
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError, RasterError
from refine.geometry import Mask, Window
from refine.masks.fit import Align, check_fit
from refine.masks.values import ChannelSurvey, Scale, ValueSurvey, palette_scale
from refine.raster import MAX_PIXELS, StoredRaster, open_stored, read_header, strip_rows
from refine.temporary import Store, make_store

MASK_BYTES = 64 << 20
"""A mask stays in memory while it takes no more than this."""

_STRIP_PIXELS = 1 << 22  # of a .npy file, read at once


def open_mask(
    path: Path,
    image_size: tuple[int, int],
    *,
    align: Align = "fit",
    max_pixels: int = MAX_PIXELS,
    memory_bytes: int = MASK_BYTES,
    directory: Path | None = None,
) -> RasterMask:
    """The mask at `path`, for an image of that height and width (as shown, after EXIF rotation).

    A raster or .npy; one band, grey, paletted, or with alpha, which counts if the colours are uniform or no greys.
    Whole numbers of only 0 and 1 are binary, others scale by their type's range; floats are 0..1; nodata is background.
    A mask above `memory_bytes` waits in a temporary file in `directory`.
    Raises InputError for what is no mask, or another image's; RasterError if it cannot be read.
    """
    with ExitStack() as on_error:

        def gathered(height: int, width: int, dtype: np.dtype[Any], channels: int) -> Store:
            check_fit(path, (height, width), image_size, align)
            store = make_store(height, width, dtype, directory, channels=channels, memory_bytes=memory_bytes)
            on_error.callback(store.close)
            return store

        if path.suffix.lower() == ".npy":
            array = _open_array(path, max_pixels)
            height, width = array.shape
            store = gathered(height, width, array.dtype, 1)
            del array  # its pages would count as memory of this process
            mask = RasterMask(height, width, store, _survey_array(path, store))
        else:
            with open_stored(path, max_pixels=max_pixels) as raster:
                _check_bands(raster)
                header = raster.header
                store = gathered(header.height, header.width, np.dtype(header.dtype), 1 + raster.has_alpha)
                survey = _survey_raster if raster.palette is None else _survey_palette
                channel, scale = survey(raster, store)
                mask = RasterMask(header.height, header.width, store, scale, channel, _notes(raster))
        on_error.pop_all()
        return mask


@dataclass(frozen=True, slots=True)
class MaskSize:
    """A mask's size, and what it takes."""

    height: int
    width: int
    kept_bytes: int  # once it is read: in memory up to MASK_BYTES, else on disk
    reading_bytes: int  # of memory at most while it is read, beside that and GDAL's cache


def mask_size(path: Path, *, max_pixels: int = MAX_PIXELS) -> MaskSize:
    """Of the mask at `path`, from its header alone; raises as `open_mask` does."""
    if path.suffix.lower() == ".npy":
        array = _open_array(path, max_pixels)
        height, width = array.shape
        item = array.dtype.itemsize
        # A strip as it lies in the file, its copy, that cut to 0..1, and what is 0 or 1 of it.
        strip = min(array.size, max(_STRIP_PIXELS, max(array.shape))) * (3 * item + 3)
        return MaskSize(height, width, array.size * item, strip)
    header = read_header(path, max_pixels=max_pixels)
    item, channels = np.dtype(header.dtype).itemsize, 2 if header.bands in (2, 4) else 1
    # All bands, once as read and once upright; what is kept of them, thrice; what is 0 or 1; how far colours lie apart.
    pixel = (2 * header.bands + 3 * channels) * item + 3 + (2 * item + 16 if header.bands > 2 else 0)
    strip = min(header.height, strip_rows(header.block_height)) * header.width * pixel
    return MaskSize(header.height, header.width, header.height * header.width * channels * item, strip)


class RasterMask:
    """A MaskSource that was read from a file; made by `open_mask`."""

    def __init__(
        self, height: int, width: int, store: Store, scale: Scale, channel: int = 0, notes: tuple[str, ...] = ()
    ) -> None:
        self._height, self._width = height, width
        self._store, self._scale, self._channel = store, scale, channel
        self.notes = (*notes, *([scale.note] if scale.note else []))

    @property
    def height(self) -> int:
        return self._height

    @property
    def width(self) -> int:
        return self._width

    @property
    def is_hard(self) -> bool:
        """Only 0 and 1 occur."""
        return self._scale.is_hard

    def read(self, window: Window) -> Mask:
        """(h, w) float32 in 0..1 of a window inside the mask's own grid."""
        return self._scale.apply(self._store.read(window)[:, :, self._channel])

    def close(self) -> None:
        """Drop what is temporary. May be called twice."""
        self._store.close()

    def __enter__(self) -> RasterMask:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_bands(raster: StoredRaster) -> None:
    bands = raster.header.bands
    if bands not in (1, 3) and not raster.has_alpha:
        raise InputError(f"{raster.header.path}: has {bands} bands; a mask has one, or grey colours, or alpha")


def _survey_raster(raster: StoredRaster, store: Store) -> tuple[int, Scale]:
    """Fill `store` with grey and, if there is one, alpha; which of the two is the mask, and its scale."""
    path, dtype = raster.header.path, np.dtype(raster.header.dtype)
    channels, grey, alpha = ChannelSurvey(), ValueSurvey(dtype, raster.largest), ValueSurvey(dtype)
    for place, values in raster.strips():
        colours = values[:, :, :-1] if raster.has_alpha else values
        kept = colours[:, :, colours.shape[2] // 2 :][:, :, :1]  # green: of greys the value itself
        if raster.nodata is not None and not raster.has_alpha:
            is_nodata = np.isnan(kept) if np.isnan(raster.nodata) else kept == raster.nodata
            kept = np.where(is_nodata, np.zeros((), dtype), kept)
        channels.look(colours)
        grey.look(kept)
        if raster.has_alpha:
            alpha.look(values[:, :, -1])
            kept = np.concatenate([kept, values[:, :, -1:]], axis=2)
        store.write_window(place, kept)
    if channels.alpha_is_mask(path, raster.has_alpha and alpha.varies):
        return 1, replace(alpha.decide(path), note="alpha is taken as the mask")
    scale = grey.decide(path)
    if raster.has_alpha and alpha.varies:
        ignored = "alpha is ignored, because the colours are greys that differ"
        scale = replace(scale, note=f"{scale.note}; {ignored}" if scale.note else ignored)
    return 0, scale


def _survey_palette(raster: StoredRaster, store: Store) -> tuple[int, Scale]:
    """Fill `store` with indices; what they stand for."""
    assert raster.palette is not None
    used = np.zeros(len(raster.palette), np.bool_)
    for place, values in raster.strips():
        used[values] = True
        store.write_window(place, values)
    nodata = None if raster.nodata is None else int(raster.nodata)
    return 0, palette_scale(raster.header.path, raster.palette, used, nodata)


def _notes(raster: StoredRaster) -> tuple[str, ...]:
    notes = list(raster.header.notes)
    if raster.lowest_is_white:  # ImageJ stores foreground as 255 also where it shows it in black
        notes.append("the mask's TIFF shows 0 as white; large values are foreground all the same, as they are stored")
    if raster.nodata is not None and raster.nodata != 0 and not raster.has_alpha:
        notes.append(f"the mask's nodata value {raster.nodata:g} counts as background")
    return tuple(notes)


def _open_array(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """The (h, w) array of a .npy file, on disk as yet. Raises InputError for what cannot be a mask."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    # numpy takes a header apart as Python source, and lets through what that raises.
    except (ValueError, EOFError, TokenError, RecursionError, OverflowError) as error:
        raise InputError(
            f"{path}: not a .npy array of numbers, or cut short; save the mask alone by numpy.save"
        ) from error
    except OSError as error:
        raise RasterError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: not a .npy array but an archive of several; save the mask alone")
    shape = array.shape
    if array.ndim == 3 and 1 in (shape[0], shape[2]):
        array = array[0] if shape[0] == 1 else array[:, :, 0]
    if array.ndim != 2 or 0 in shape or array.dtype.kind not in "biuf":
        raise InputError(f"{path}: expected an (h, w) array of numbers, got {array.dtype} {shape}")
    if array.size > max_pixels:
        raise InputError(f"{path}: holds {array.size} pixels, which is above --max-pixels {max_pixels}")
    return array


def _survey_array(path: Path, store: Store) -> Scale:
    survey = ValueSurvey(_open_array(path).dtype)
    for place, values in _array_strips(path):
        survey.look(values)
        store.write_window(place, values[:, :, None])
    return survey.decide(path)


def _array_strips(path: Path) -> Iterator[tuple[Window, NDArray[Any]]]:
    """All of an array, by strips of rows, or of columns where those lie together in the file.

    Each opens the file anew, because the pages of a mapped file count as memory of the process until it is closed.
    """
    first = _open_array(path)
    height, width = first.shape
    is_by_columns = first.strides[0] < first.strides[1]
    del first
    length, across = (width, height) if is_by_columns else (height, width)
    step = max(1, _STRIP_PIXELS // across)
    for start in range(0, length, step):
        count = min(step, length - start)
        place = Window(0, start, height, count) if is_by_columns else Window(start, 0, count, width)
        yield place, np.array(_open_array(path)[place.slices])

"""What the numbers of a mask file mean: which channel is the mask, and which of its values is full foreground.

Both are told by all pixels together, so a survey looks at the file strip by strip, and decides at its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.sources import ROUNDING, dark_text, is_dark

_GREY_TOLERANCE = 3 / 255  # what JPEG makes of a grey picture that was saved in colours


@dataclass(frozen=True, slots=True)
class Scale:
    """How stored values become 0..1."""

    one: int  # the stored value of full foreground; 1 for floats and for binary masks
    is_hard: bool  # only 0 and 1 come out
    note: str | None = None
    lookup: NDArray[np.uint8] | None = None  # what each stored index stands for, of a paletted mask
    is_rounded: bool = False  # floats lie outside 0..1 by a rounding, and are cut

    def apply(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Stored values as float32 in 0..1."""
        values: NDArray[np.float32] = (stored if self.lookup is None else self.lookup[stored]).astype(np.float32)
        if self.is_rounded:
            values = values.clip(0, 1)
        return values if self.one == 1 else values / np.float32(self.one)


class ValueSurvey:
    """Facts of all values of one channel. `top` is the largest that its type or its bits can hold."""

    def __init__(self, dtype: np.dtype[Any], top: int | None = None) -> None:
        self._is_float = dtype.kind == "f"
        self._top = 1 if dtype.kind in "bf" else top or int(np.iinfo(dtype).max)
        self._lowest, self._highest = np.inf, -np.inf
        self._has_nan = False
        self._only_ones = self._only_tops = True

    @property
    def varies(self) -> bool:
        """More than one value occurs."""
        return self._lowest != self._highest

    def look(self, values: NDArray[Any]) -> None:
        """Take a strip into account."""
        lowest, highest = float(values.min()), float(values.max())
        self._has_nan |= bool(np.isnan(lowest))
        self._lowest, self._highest = min(self._lowest, lowest), max(self._highest, highest)
        if self._is_float:
            values = values.clip(0, 1)
        is_zero = values == 0
        self._only_ones = self._only_ones and bool((is_zero | (values == 1)).all())
        self._only_tops = self._only_tops and bool((is_zero | (values == self._top)).all())

    def decide(self, path: Path) -> Scale:
        """The scale.

        Raises InputError for NaN, floats outside 0..1 by more than a rounding, negative numbers, and 8 bit in a wider
        type.
        """
        if self._has_nan:
            raise InputError(f"{path}: the mask holds NaN; give values in 0..1 everywhere")
        rounding = ROUNDING if self._is_float else 0
        if self._lowest < -rounding or (self._is_float and self._highest > 1 + rounding):
            held = f"{self._lowest:g} to {self._highest:g}"
            limits = "0..1; give probabilities, or whole numbers" if self._is_float else f"0..{self._top}"
            raise InputError(f"{path}: the mask holds values of {held}, outside {limits}")
        is_rounded = self._is_float and (self._lowest < 0 or self._highest > 1)
        if self._only_ones:
            return Scale(1, is_hard=True, is_rounded=is_rounded)
        if is_dark(self._highest, self._top):
            raise InputError(f"{path}: {dark_text(self._highest, self._top)}")
        note = None
        if 0 < self._highest <= self._top / 2:
            ends = f"the mask's values end at {self._highest:g} of {self._top}, so nothing is surely foreground"
            note = ends if self._is_float else f"{ends}; give one label, or percent, as 0 to {self._top}"
        return Scale(self._top, self._only_tops, note, is_rounded=is_rounded)


class ChannelSurvey:
    """Facts of all colours: are they greys, and is there one at all."""

    def __init__(self) -> None:
        self._spread = 0.0
        self._lowest: NDArray[Any] | None = None
        self._highest: NDArray[Any] | None = None

    def look(self, colours: NDArray[Any]) -> None:
        """Take a strip of (h, w, 1 or 3) into account."""
        low, high = colours.min(axis=(0, 1)), colours.max(axis=(0, 1))
        self._lowest = low if self._lowest is None else np.minimum(self._lowest, low)
        self._highest = high if self._highest is None else np.maximum(self._highest, high)
        if colours.shape[2] == 3:
            # Subtracted as floats: unsigned numbers have no room below zero, NaN none at all.
            apart = colours.max(axis=2).astype(np.float64) - colours.min(axis=2)
            top = np.iinfo(colours.dtype).max if colours.dtype.kind in "iu" else 1
            self._spread = max(self._spread, float(apart.max()) / top)

    def alpha_is_mask(self, path: Path, alpha_varies: bool) -> bool:
        """Whether alpha is the mask: it varies, and the colours do not, or are no greys (a cut-out).

        Raises InputError if neither alpha nor the colours are a mask.
        """
        is_grey = self._spread <= _GREY_TOLERANCE
        is_uniform = bool(np.all(self._lowest == self._highest))
        if alpha_varies and (is_uniform or not is_grey):
            return True
        if not is_grey:
            raise InputError(f"{path}: is a picture in colours, not a mask; give one band, grey, or alpha")
        return False


def palette_scale(path: Path, palette: NDArray[np.uint8], used: NDArray[np.bool_], nodata: int | None = None) -> Scale:
    """What the indices of a paletted mask stand for; `used` says which occur.

    That of `nodata` is background: GDAL shows it as transparent, which says nothing of alpha. Greys are taken as they
    are, alpha as in `ChannelSurvey`. Of two other colours index 0 is background, as in label palettes. Raises
    InputError for more colours: which label is foreground is not told.
    """
    if nodata is not None:
        used = used.copy()
        used[nodata] = False
    if not used.any():
        return Scale(1, is_hard=True, lookup=np.zeros(len(palette), np.uint8))
    colours = palette[None, used, :]
    channels, alpha = ChannelSurvey(), ValueSurvey(palette.dtype)
    channels.look(colours[:, :, :3])
    alpha.look(colours[:, :, 3])
    indices = np.flatnonzero(used)
    try:
        lookup = palette[:, 3 if channels.alpha_is_mask(path, alpha.varies) else 1]
    except InputError:
        if np.count_nonzero(indices) > 1:
            message = f"{path}: is a label map of {len(indices)} colours; give the mask of one label"
            raise InputError(message) from None
        lookup = np.where(np.arange(len(palette)) > 0, np.uint8(255), np.uint8(0))
    survey = ValueSurvey(lookup.dtype)
    survey.look(lookup[used])
    scale = survey.decide(path)
    lookup = np.array(lookup)
    if nodata is not None:
        lookup[nodata] = 0
    return Scale(scale.one, scale.is_hard, scale.note, lookup)

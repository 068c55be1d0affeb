"""How soft a coarse mask of a window is, from which a run takes its reach; but for textures, of which it shows few."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refine.softness import SHARPEST, measure_ramp
from refine.sources import ArrayMask


def ramp_of(mask: NDArray[np.float32], pixel: float) -> float | None:
    """Width of the sharpest ramps of a mask (H, W) that is shown with `pixel` pixels a pixel, in its own.

    None if it is hard.
    """
    is_hard = bool(((mask == 0) | (mask == 1)).all())
    measured = None if is_hard else measure_ramp(ArrayMask(mask), SHARPEST)
    return None if measured is None else measured / pixel

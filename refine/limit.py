"""Holds a refined mask to what is known of the first one.

Of what a coarse network of the run itself is certain is foreground, nothing is taken away far inside: `Inside`. What
the user said of a mask holds on both sides: with --reach N nothing changes beyond three times N, of reaches that one
level of the cascade holds, that is: below 9 px. Counted from where the mask is not certain: `Limit`.

A network sees a whole window, and now and then changes what lies deep inside it: a hole in a cup, a shadow. Where the
reach follows from the mask's size, that is often right, since such a mask may be worse than it looks. Where the user
gave it, it is mostly wrong. On 27 validation images with outlines replaced by polygons within 3, 4 and 6 px, refined
with a reach of 2, 4 and 6, pixels beyond three times the reach changed for the worse 2.1, 3.2 and 3.4 thousand times,
for the better 0.2, 0.4 and 0.7 thousand times; mBA is the same to 0.01 without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from refine.cascade import FREE, FURTHEST, INSIDE_FREE, INSIDE_FURTHEST
from refine.distance import ample_distance
from refine.geometry import Mask

Hold = Callable[[Mask, Mask], Mask]
"""A window's correction and its coarse mask, (T, T) both, to what may be applied of it."""


@dataclass(frozen=True)
class Limit:
    """Of one level: how far its mask may be wrong, in its pixels, and between what values it is not certain."""

    reach: float
    low: float
    high: float

    def __call__(self, correction: Mask, coarse: Mask) -> Mask:
        """The correction (T, T) of a window, less the further from the outline of `coarse` a pixel is.

        An outline beyond the window is not seen: what that window says there is lost, and `plan.HELD_BY_OVERLAP` sees
        to it that the blend would hardly have heard it.
        """
        above, below = coarse > self.high, coarse < self.low
        if above.all() or below.all():
            return np.zeros_like(correction)
        away = np.maximum(*(ample_distance(certain.view(np.uint8)) for certain in (above, below)))
        share = (np.float32(FURTHEST) - away / np.float32(self.reach)) / np.float32(FURTHEST - FREE)
        held: Mask = correction * np.clip(share, 0, 1)
        return held


@dataclass(frozen=True)
class Inside:
    """Of one level: how far its mask may be wrong, in its pixels, and above which value it is certain of foreground.

    A window holds part of a thing, and a texture that the network takes for many thin things (drawn fur, say) it takes
    apart. On 35 validation images the mean of two networks' masks refines to the same with this as without (75.77 mBA,
    87.43 IoU), where certainty from 0.9 or 0.8 on would cost 0.01 and 0.17 mBA. What is added to a mask, and so what
    lies outside, is free.
    """

    reach: float
    high: float

    def __call__(self, correction: Mask, coarse: Mask) -> Mask:
        """The correction (T, T) of a window, less the deeper inside certain foreground of `coarse` it takes away."""
        certain = coarse > self.high
        if certain.all():
            return np.maximum(correction, 0)
        if not certain.any():
            return correction
        away = ample_distance(certain.view(np.uint8)) / np.float32(self.reach)
        share = np.clip((np.float32(INSIDE_FURTHEST) - away) / np.float32(INSIDE_FURTHEST - INSIDE_FREE), 0, 1)
        kept: Mask = np.where(correction < 0, correction * share, correction)
        return kept

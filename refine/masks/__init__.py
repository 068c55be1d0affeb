"""First masks from elsewhere: files of any size, kind and origin."""

from refine.masks.files import MASK_BYTES, MaskSize, RasterMask, mask_size, open_mask
from refine.masks.fit import Align, check_fit, check_place, fits

__all__ = [
    "MASK_BYTES",
    "Align",
    "MaskSize",
    "RasterMask",
    "check_fit",
    "check_place",
    "fits",
    "mask_size",
    "open_mask",
]

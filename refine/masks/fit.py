"""Whether a mask covers an image: one scale must bring the one to the size of the other."""

from __future__ import annotations

from math import dist
from pathlib import Path
from typing import Literal

from refine.errors import InputError
from refine.raster import Header

Align = Literal["fit", "stretch"]


def check_fit(path: Path, mask_size: tuple[int, int], image_size: tuple[int, int], align: Align) -> None:
    """Raises InputError, naming both sizes, for a mask that is another image's; sizes are height, width.

    `align` "stretch" takes any size: the mask is stretched to the image.
    """
    if align == "stretch" or fits(mask_size, image_size):
        return
    (mask_height, mask_width), (height, width) = mask_size, image_size
    sizes = f"{mask_width} x {mask_height} (width x height) but the image is {width} x {height}"
    if fits((mask_width, mask_height), image_size):
        raise InputError(
            f"{path}: the mask is {sizes}; turned by 90 degrees it would fit: the image counts as viewers show it, with"
            " its EXIF rotation; give the mask of that, or --align stretch to stretch this one"
        )
    raise InputError(f"{path}: the mask is {sizes}; give a mask of the same extent, or --align stretch to stretch it")


def check_place(mask: Header, image: Header) -> None:
    """Raises InputError if both are georeferenced, and the mask's corners lie elsewhere than the image's.

    By more than a pixel of the coarser of the two: a mask that was reduced has rounded sides.
    """
    there, here = (header.georeference.corners(header.height, header.width) for header in (mask, image))
    if there is None or here is None:
        return
    pixel = max(
        max(dist(first, right) / header.width, dist(first, below) / header.height)
        for (first, right, below), header in ((there, mask), (here, image))
    )
    if all(dist(a, b) <= pixel for a, b in zip(there, here, strict=True)):
        return
    spans = [
        f"{x:.10g}, {y:.10g} to {right:.10g}, {below:.10g} of {header.georeference.crs}"
        for ((x, y), (right, _), (_, below)), header in ((there, mask), (here, image))
    ]
    raise InputError(
        f"{mask.path}: lies elsewhere than the image: at {spans[0]}, the image at {spans[1]}; warp it to the image's"
        " place (gdalwarp -t_srs -te), or give --align stretch to lay it over the image as it is"
    )


def fits(mask_size: tuple[int, int], image_size: tuple[int, int]) -> bool:
    """Whether one scale brings the finer of two grids to the other's height and width, to a pixel of the coarser.

    A mask that was made by reducing the image has rounded sides, so it may miss by a part of its own pixel.
    """
    coarse, fine = sorted((mask_size, image_size), key=lambda size: size[0] * size[1])
    # fine / scale lies within one of coarse, for both sides at once; cross-multiplied, so in whole numbers.
    least = [(side, most + 1) for side, most in zip(fine, coarse, strict=True)]
    most = [(side, size - 1) for side, size in zip(fine, coarse, strict=True) if size > 1]
    return all(low[0] * high[1] <= high[0] * low[1] for low in least for high in most)

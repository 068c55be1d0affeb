"""One mask an object, from the annotations of COCO and PASCAL VOC."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from refine.distance import exact_distance
from refine.errors import InputError, InstallationError
from refine.training.config import Data
from refine.training.decoded import read_picture

Mask = NDArray[np.uint8]
Make = Callable[[], Mask]
Instance = tuple[str, Path, Make]
"""Id, image file, and what makes the object's mask (H, W), 0 or 255."""

VOID = (192, 224, 224)
"""The colour, in OpenCV's order, of VOC's border of about 5 px, where no label is given."""


def coco_instances(root: Path, part: str, section: Data) -> Iterator[Instance]:
    """Objects of `annotations/instances_<part>.json` that fill at least `least_share` of `<part>/<image>`; no crowds.

    Raises InputError where the file is missing or none of COCO's, InstallationError without pycocotools.
    """
    try:
        from pycocotools.coco import COCO
    except ImportError:
        raise InstallationError('layout coco needs pycocotools: pip install "refine[coco]"') from None
    path = root / "annotations" / f"instances_{part}.json"
    if not path.is_file() or not (root / part).is_dir():
        raise InputError(f"data.{section.name}: layout coco needs {path} and the folder {root / part}")
    try:
        with redirect_stdout(io.StringIO()):  # it tells of its progress
            coco = COCO(str(path))
        for number in sorted(coco.getAnnIds(iscrowd=False)):
            found = coco.anns[number]
            image = coco.imgs[found["image_id"]]
            if found["area"] >= section.least_share * image["height"] * image["width"]:
                name = f"{Path(image['file_name']).stem}-{number}"
                yield name, root / part / image["file_name"], partial(_coco_mask, coco, number, name)
    except (ValueError, KeyError, AssertionError) as error:
        raise InputError(f"data.{section.name}: {path} is no annotation file of COCO: {error!r}") from None


def _coco_mask(coco: Any, number: int, name: str) -> Mask:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools 2.0 is older than NumPy 2's __array__
            plane = coco.annToMask(coco.anns[number])
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise InputError(f"{name}: its annotation makes no mask: {error}") from None
    return np.where(plane > 0, 255, 0).astype(np.uint8)


def voc_instances(root: Path, part: str, section: Data) -> Iterator[tuple[Instance, Make]]:
    """Objects of `SegmentationObject` that fill at least `least_share` of the image, of the part's list; and for each
    what makes the plane of pixels that have no label.

    Raises InputError where the folder is not laid out as VOC's, or an annotation does not decode.
    """
    listed = root / "ImageSets" / "Segmentation" / f"{part}.txt"
    if not listed.is_file():
        raise InputError(f"data.{section.name}: layout voc needs {listed}; it is not there")
    for name in listed.read_text(encoding="utf-8").split():
        labels = root / "SegmentationObject" / f"{name}.png"
        codes = _codes(labels)
        colours, counts = np.unique(codes, return_counts=True)
        for colour, count in zip(colours.tolist(), counts.tolist(), strict=True):
            if colour not in (0, _code(VOID)) and count >= section.least_share * codes.size:
                image = root / "JPEGImages" / f"{name}.jpg"
                yield (f"{name}-{colour:06x}", image, partial(_voc_mask, labels, colour)), partial(_voc_void, labels)


def _voc_mask(labels: Path, colour: int) -> Mask:
    """The object, and of the border around it what is nearer to it than to anything else: the likeliest truth of
    pixels that have none, for damage and for windows; the loss leaves them out."""
    codes = _codes(labels)
    inside, void = (codes == colour).astype(np.uint8), codes == _code(VOID)
    to_object = exact_distance(1 - inside)
    to_others = exact_distance(inside | void.astype(np.uint8))
    return np.where((inside > 0) | (void & (to_object < to_others)), 255, 0).astype(np.uint8)


def _voc_void(labels: Path) -> Mask:
    return np.where(_codes(labels) == _code(VOID), 255, 0).astype(np.uint8)


def _codes(labels: Path) -> NDArray[np.int32]:
    """(H, W) one number a colour: the palette's colours tell the objects apart."""
    picture = read_picture(labels, cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f"{labels}: an annotation of PASCAL VOC that is missing or does not decode")
    blue, green, red = (picture[:, :, i].astype(np.int32) for i in range(3))
    return (red << 16) | (green << 8) | blue


def _code(colour: tuple[int, int, int]) -> int:
    return (colour[2] << 16) | (colour[1] << 8) | colour[0]

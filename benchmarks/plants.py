"""Photographic cut-outs of trees, grasses and people in the Debian packages of free games, for `free_pairs.py`.

Leaves and twigs against anything, of which there is next to nothing in traced data. Terms: GPL-2+ (torcs-data,
flightgear-data-base, flightgear-data-models), GPL-2+ and CC BY (trigger-rally-data), CC BY-SA 3.0 (0ad-data).
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from stamps import SEEN, has_colours_of_a_photograph

PICTURES = (
    "textures/veg/*.png",
    *(f"tracks/dirt/dirt-2/tree{n}_n.png" for n in (10, 13, 15)),
    "tracks/dirt/dirt-3/tree_*_arbor_n.png",
    "tracks/road/brondehach/tree[12]_n.png",
    "tracks/road/e-track-2/tree*[179]_n.png",
    "tracks/road/e-track-2/tree_eva_n.png",
    "tracks/road/e-track-3/tree1*_n.png",
    "tracks/road/e-track-6/tree_maple_n.png",
    "tracks/road/ruudskogen/rk_tree_[23]_n.png",
    "tracks/road/wheel-1/tree[256]_n.png",
    "tracks/road/wheel-2/treeg11_n.png",
    "Scenery/Models/Trees/*.png",
    "Textures/Trees/*-alt.png",
    "Textures/Trees/*-trees.png",
    "Models/Geometry/Nimitz/crew_2.rgb",
    "Models/Geometry/Nimitz/rainbow_*.rgb",
    "art/textures/skins/gaia/*.dds",
)
"""Places of pictures with cut-outs, in whatever folder a package puts them; found by looking."""

NEAR = 9
"""Leaves this many pixels apart are one tree."""

LEFT_OUT = (
    "*_norm.*", "*decal*", "damage_*", "stone_*", "pine*.dds*", "tropic_cliff_*", "*trunk*", "*treeset*",
    "bamboo*.dds*", "banana.*", "palm_date_new_*", "prop_*", "herbs.*", "poplar_dead.*", "water_plants_*", "grass_*"
)  # fmt: skip
"""Drawings, ground, bark and maps of other kinds among them."""

LONGEST = 4
"""Times the shorter side; longer ones are several things one above the other."""

LEAST_SIDE = 150
"""Of a thing, its longer side in pixels; smaller ones are nothing but blur when they are enlarged."""

FULL = 0.8
"""A thing that fills more of its box is bark, a wall, or ground."""


def things(packages: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Name and picture (H, W, 4), BGR and alpha, of every thing that is a photograph, each once."""
    seen: set[int] = set()
    for path in sorted({path for pattern in PICTURES for path in packages.rglob(pattern)}):
        if any(fnmatch(path.name, pattern) for pattern in LEFT_OUT):
            continue
        with Image.open(path) as opened:
            if opened.mode not in ("RGBA", "LA", "P"):
                continue
            picture = np.asarray(opened.convert("RGBA"))[:, :, [2, 1, 0, 3]]
        for number, thing in enumerate(apart(picture)):
            looks = crc32(cv2.resize(thing, (16, 16), interpolation=cv2.INTER_AREA).tobytes())
            if looks not in seen:
                seen.add(looks)
                yield f"{path.parent.name}_{path.name.replace('.', '-')}_{number}", thing


def apart(picture: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """What stands by itself in a picture (H, W, 4), if it is a photograph, large enough, and has an outline."""
    near = cv2.dilate((picture[:, :, 3] > 25).astype(np.uint8), np.ones((NEAR, NEAR), np.uint8))
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(near)
    for label in range(1, count):
        left, top, width, height, _ = boxes[label]
        inside = np.s_[top : top + height, left : left + width]
        thing = picture[inside].copy()
        thing[labels[inside] != label] = 0
        share = float((thing[:, :, 3] > SEEN).mean())
        small, large = sorted((int(width), int(height)))
        if LEAST_SIDE <= large <= LONGEST * small and 0.02 < share < FULL and has_colours_of_a_photograph(thing):
            yield thing

"""Photographic cut-outs of the Debian package tuxpaint-stamps-default (GPL-2) as training pairs with exact masks.

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb unpacked
    python benchmarks/stamps.py --stamps unpacked/usr/share/tuxpaint/stamps --out data/stamps

Animals, fruit, tools, instruments and vehicles, cut out by hand, with an alpha channel. Each becomes `stamps/<id>.jpg`,
on a plain ground of some grey or pale colour like a catalogue's, and `stamps/<id>.png`, its alpha; the training config
lays them before photographs (`augment.composite`). Drawings are left out: those in folders of cartoons, those of few
colours, and DRAWN, found by looking.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
from numpy.typing import NDArray

FEWEST_COLOURS = 400
"""Of five bits a channel: photographs have more."""

MARGIN = (0.05, 0.35)
"""Ground on each side, as a share of the cut-out's side."""

SEEN = 200
"""Of 255: where a pixel's colour is the object's own."""

DRAWN = (
    "clothes/button", "clothes/hats/", "seasonal/christmas/Santa", "seasonal/easter/", "seasonal/halloween/jack"
)  # fmt: skip
"""How the names of drawings that have many colours begin."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=Path, required=True, help="the package's folder of stamps")
    parser.add_argument("--out", type=Path, required=True, help="folder of stamps/<id>.jpg and .png")
    options = parser.parse_args()
    stamps, folder = options.stamps, options.out / "stamps"
    kept = 0
    for name, picture in photographs(stamps):
        image, alpha = on_plain_ground(picture, np.random.default_rng(crc32(name.encode())))
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        cv2.imwrite(str(folder / f"{name}.png"), alpha)
        kept += 1
    if not kept:
        raise SystemExit(f"{stamps}: holds no photograph with an alpha channel; give the package's folder of stamps")
    print(f"{kept} pairs in {folder}")


def photographs(stamps: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Name and picture (H, W, 4) of every stamp that is a photograph with an alpha channel."""
    for path in sorted(stamps.rglob("*.png")):
        read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if read is None or read.ndim != 3 or read.shape[2] != 4 or read.dtype != np.uint8:
            continue
        picture = np.asarray(read, np.uint8)
        if is_photograph(path, stamps, picture):
            yield "_".join(path.relative_to(stamps).with_suffix("").parts), picture


def is_photograph(path: Path, stamps: Path, picture: NDArray[np.uint8]) -> bool:
    name = path.relative_to(stamps).as_posix()
    if "cartoon" in name or name.startswith(DRAWN):
        return False
    return has_colours_of_a_photograph(picture)


def has_colours_of_a_photograph(picture: NDArray[np.uint8]) -> bool:
    """Whether what is seen of a cut-out (H, W, 4) has more colours than drawings have."""
    colours = (picture[picture[:, :, 3] > SEEN][:, :3] // 8).astype(np.int32) @ np.array([1, 32, 1024], np.int32)
    return len(np.unique(colours)) >= FEWEST_COLOURS


def on_plain_ground(
    picture: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    height, width = picture.shape[:2]
    above, below, before, after = (round(side * rng.uniform(*MARGIN)) for side in (height, height, width, width))
    framed = np.pad(picture, ((above, below), (before, after), (0, 0)))
    grey = rng.uniform(60, 255)
    ground = np.clip(grey + rng.uniform(-25, 25, 3), 0, 255)
    slope = np.linspace(-1, 1, framed.shape[0])[:, None, None] * rng.uniform(0, 25)
    share = framed[:, :, 3:].astype(np.float64) / 255
    image = share * framed[:, :, :3] + (1 - share) * np.clip(ground + slope, 0, 255)
    return np.round(image).astype(np.uint8), np.ascontiguousarray(framed[:, :, 3])


if __name__ == "__main__":
    main()

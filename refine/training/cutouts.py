"""Cut-outs on backgrounds, made when asked for by their number: the same number is the same picture.

Two ways to place them. "grid": the recipe of EVA4's fifteenth session, every foreground, mirrored or not, on every
background at 20 places, half as large as the background. "random": size, place, edge and colours are drawn, as for deep
matting (Xu et al. 2017). The truth is the alpha itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from refine.errors import InputError
from refine.training.composites import lay_over
from refine.training.decoded import read_picture
from refine.training.on_demand import OnDemand

RGB = NDArray[np.uint8]
Alpha = NDArray[np.float32]
Positions = Literal["random", "grid"]

GRID = tuple((28 / 192 * down, 28 / 192 * across) for down in range(1, 5) for across in range(5))
"""The published places: top and left as shares of the background's side; those farthest out hang over its end."""

GRID_SHARE = 0.5
RANDOM_SHARE = (0.25, 0.9)
"""Longer side of a foreground, as a share of the background's shorter one."""

OVERHANG = 0.25
"""At a random place at most this share of a foreground's height and width lies outside."""

MOST_BLEND = 1.5
"""Largest sigma, in pixels, of the blur that lets a foreground's edge go over into its new background."""

TYPES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Composite:
    """`image` (H, W, 3) uint8 RGB, `alpha` (H, W) float32 in 0..1, and what it was made of."""

    image: RGB
    alpha: Alpha
    foreground: str
    background: str
    mirrored: bool
    top: int
    left: int


class CutOuts(OnDemand[Composite]):
    """All composites of two folders: foregrounds x 2 x backgrounds x 20.

    `foregrounds` holds pictures with an alpha channel, or `alphas` holds their masks, of the same stems. `side`: height
    and width of the backgrounds; 0 leaves them as they are.

    Raises InputError where a folder holds none, or an alpha is missing or there twice; on access, where a file does not
    decode.
    """

    def __init__(
        self,
        foregrounds: Path,
        backgrounds: Path,
        *,
        alphas: Path | None = None,
        positions: Positions = "random",
        side: int = 0,
        seed: int = 0,
    ) -> None:
        self.foregrounds, self.backgrounds = _pictures(foregrounds), _pictures(backgrounds)
        self.alphas: dict[str, Path] | None = None
        if alphas is not None:
            self.alphas = _by_stem(_pictures(alphas))
            _by_stem(self.foregrounds)
            missing = [path.name for path in self.foregrounds if path.stem not in self.alphas]
            if missing:
                raise InputError(f"{alphas}: {len(missing)} foregrounds have no alpha there, such as {missing[0]}")
        self.positions, self.side, self.seed = positions, side, seed

    def __len__(self) -> int:
        return len(self.foregrounds) * 2 * len(self.backgrounds) * len(GRID)

    def make(self, number: int) -> Composite:
        rest, place = divmod(number, len(GRID))
        rest, back = divmod(rest, len(self.backgrounds))
        front, mirrored = divmod(rest, 2)
        return self._made(self.foregrounds[front], self.backgrounds[back], bool(mirrored), place, number)

    def _made(self, front: Path, back: Path, mirrored: bool, place: int, index: int) -> Composite:
        rng = np.random.default_rng((self.seed, index))
        picture, alpha = _foreground(front, None if self.alphas is None else self.alphas[front.stem])
        background = _background(back, self.side)
        height, width = background.shape[:2]
        share = GRID_SHARE if self.positions == "grid" else float(rng.uniform(*RANDOM_SHARE))
        scale = share * min(height, width) / max(alpha.shape)
        size = max(1, round(alpha.shape[0] * scale)), max(1, round(alpha.shape[1] * scale))
        if self.positions == "grid":
            top, left = (round(shift * length) for shift, length in zip(GRID[place], (height, width), strict=True))
        else:
            top, left = somewhere(size, (height, width), rng)

        alpha, colours = np.clip(_resized(alpha, size), 0, 1), _resized(picture, size)  # means round beyond 1
        if mirrored:
            alpha, colours = alpha[:, ::-1], colours[:, ::-1]
        covered = _framed(alpha, top, left, (height, width))
        laid = np.round(_framed(colours, top, left, (height, width))).astype(np.uint8)
        if self.positions == "random":
            # Only ever less than the alpha: beyond it lie the colours of the old background.
            blurred = cv2.GaussianBlur(covered, (0, 0), float(rng.uniform(0.1, MOST_BLEND))).astype(np.float32)
            covered = np.minimum(covered, blurred)
            image = lay_over(laid, background, covered, rng)
        else:
            share_of = covered[:, :, None]
            mixed = share_of * laid.astype(np.float32) + (1 - share_of) * background.astype(np.float32)
            image = np.round(mixed).astype(np.uint8)
        return Composite(image, covered, front.name, back.name, mirrored, top, left)


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in TYPES)
    if not found:
        raise InputError(f"{folder}: holds no picture ({', '.join(TYPES)})")
    return found


def _by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    """Pictures by their stems, by which a foreground and its alpha find each other."""
    found: dict[str, Path] = {}
    for path in paths:
        if (other := found.setdefault(path.stem, path)) is not path:
            raise InputError(f"{path}: {other.name} has its stem, and alphas go by stems; leave one of them out")
    return found


@lru_cache(maxsize=64)
def _foreground(path: Path, alpha_path: Path | None) -> tuple[RGB, Alpha]:
    """The part of a foreground that its alpha shows."""
    picture = read_picture(path, cv2.IMREAD_UNCHANGED if alpha_path is None else cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f"{path}: does not decode, or is cut short")
    if alpha_path is None:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 4:
            raise InputError(f"{path}: has no alpha channel of 8 bits; give the folder of alphas")
        alpha = picture[:, :, 3]
    else:
        mask = read_picture(alpha_path, cv2.IMREAD_GRAYSCALE)
        if mask is None or mask.shape != picture.shape[:2]:
            raise InputError(f"{alpha_path}: does not decode, or is of another size than {path}")
        alpha = mask
    left, top, width, height = cv2.boundingRect((alpha > 0).astype(np.uint8))
    if not (alpha >= 128).any():
        raise InputError(f"{path}: its alpha shows nothing")
    box = np.s_[top : top + height, left : left + width]
    rgb = np.ascontiguousarray(picture[box][:, :, 2::-1], dtype=np.uint8)
    return rgb, alpha[box].astype(np.float32) / np.float32(255)


@lru_cache(maxsize=64)
def _background(path: Path, side: int) -> RGB:
    picture = read_picture(path, cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f"{path}: does not decode, or is cut short")
    rgb = np.ascontiguousarray(picture[:, :, ::-1], dtype=np.uint8)
    return cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8) if side else rgb


def somewhere(size: tuple[int, int], frame: tuple[int, int], rng: Generator) -> tuple[int, int]:
    """Top and left that leave at least three quarters of each side inside."""
    top, left = (
        rng.uniform(-OVERHANG * length, whole - (1 - OVERHANG) * length)
        for length, whole in zip(size, frame, strict=True)
    )
    return round(top), round(left)


def _resized(plane: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.float32]:
    way = cv2.INTER_AREA if size[0] < plane.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(plane.astype(np.float32), size[::-1], interpolation=way).astype(np.float32)


def _framed(plane: NDArray[np.float32], top: int, left: int, frame: tuple[int, int]) -> NDArray[np.float32]:
    """The plane at its place in a frame, cut at its ends, zero around it."""
    whole = np.zeros((*frame, *plane.shape[2:]), np.float32)
    shown = plane[max(0, -top) : frame[0] - top, max(0, -left) : frame[1] - left]
    row, col = max(0, top), max(0, left)
    whole[row : row + shown.shape[0], col : col + shown.shape[1]] = shown
    return whole

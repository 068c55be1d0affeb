"""Samples of a network that sees a composite beside its background: a foreground, made smaller, on another picture.

The recipe of a public solution of the EVA4 course, session 15: foregrounds of half the background's side, mirrored or
not, at 20 fixed places. Nothing is stored: sample number and seed make the picture.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch.utils.data import Dataset

from refine.errors import InputError
from refine.training.augment import photometric
from refine.training.config import TrainingConfig
from refine.training.cutouts import GRID, somewhere
from refine.training.data import Pair, Pairs
from refine.training.decoded import read_picture
from refine.training.samples import Sample
from refine.training.transplants import bounds

Plane = NDArray[np.float32]


class PlacedSamples(Dataset[Sample]):
    """Items hold image, background (S, S, 3) uint8, truth (S, S) float32 0..1, trusted (S, S) bool, and depth (S, S)
    where the config has depth maps: the foreground's own where it covers, else the background's.

    All pixels are trusted: the truth is what was laid there, also where a pair's own mask is a guess (`Pair.void`).
    """

    def __init__(self, pairs: Pairs, config: TrainingConfig) -> None:
        self.pairs, self.config = pairs, config
        self.depths = None if config.composites.depths is None else Path(config.composites.depths)
        if self.depths is not None:
            missing = [pair.key for pair in pairs.pairs if not self._depth_file(pair.key).is_file()]
            if missing:
                raise InputError(f"composites.depths: {self._depth_file(missing[0])} is missing ({len(missing)} are)")

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.config.seed, index))
        front, back = self.pairs.draw(rng), self.pairs.draw(rng)
        side = self.config.model.size
        rows, cols, height, width = _bounds(front)
        scale = side * rng.uniform(*self.config.composites.size) / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        box = np.s_[rows : rows + height, cols : cols + width]
        mirrored = bool(rng.integers(2))
        top, left = self._place(side, size, rng)
        seeds = rng.integers(2**63, size=1)

        def laid(picture: NDArray[np.generic]) -> Plane:
            """A plane of the foreground at its place in the frame, zero around it."""
            small = cv2.resize(picture[box].astype(np.float32), size, interpolation=cv2.INTER_AREA)
            small = small[:, ::-1] if mirrored else small
            frame = np.zeros((side, side, *small.shape[2:]), np.float32)
            first, begin = max(0, top), max(0, left)
            shown = small[first - top : side - top, begin - left : side - left]
            frame[first : first + shown.shape[0], begin : begin + shown.shape[1]] = shown
            return frame

        alpha = laid(front.mask) / np.float32(255)
        behind = cv2.resize(back.image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
        composite = alpha[..., None] * laid(front.image) + (1 - alpha[..., None]) * behind
        pictures = [
            photometric(np.round(p).astype(np.uint8), self.config.augment, np.random.default_rng(seeds))
            for p in (composite, behind)  # alike: one camera took both
        ]
        sample = {
            "image": torch.from_numpy(pictures[0]),
            "background": torch.from_numpy(pictures[1]),
            "truth": torch.from_numpy(alpha),
            "trusted": torch.ones(side, side, dtype=torch.bool),
        }
        if self.depths is not None:
            far = cv2.resize(self._depth(back), (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
            near = laid(self._depth(front))
            sample["depth"] = torch.from_numpy(np.where(alpha > 0.5, near, far))
        return sample

    def _place(self, side: int, size: tuple[int, int], rng: Generator) -> tuple[int, int]:
        """Top and left of a foreground of `size` (width, height)."""
        if self.config.composites.positions == "grid":
            down, across = GRID[int(rng.integers(len(GRID)))]
            return round(down * side), round(across * side)
        return somewhere(size[::-1], (side, side), rng)

    def _depth_file(self, key: tuple[str, str]) -> Path:
        assert self.depths is not None
        return self.depths / key[0] / f"{key[1]}.png"

    def _depth(self, pair: Pair) -> Plane:
        """The pair's depth map at the size of its image, 0..1. Raises InputError if it does not decode."""
        path = self._depth_file(pair.key)
        depth = read_picture(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
        if depth is None:
            raise InputError(f"{path}: does not decode")
        unit = depth.astype(np.float32) / np.float32(65535 if depth.dtype == np.uint16 else 255)
        height, width = pair.mask.shape
        resized: Plane = cv2.resize(unit, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
        return resized


def _bounds(pair: Pair) -> tuple[int, int, int, int]:
    """Top, left, height and width of the foreground; the whole picture where there is none."""
    return bounds(pair.mask, 128) or (0, 0, *pair.mask.shape)

"""One training sample from one number: which pair, which window, which damage, all drawn from (seed, index).

A sample depends on nothing else, so a resumed run sees the stream that an uninterrupted one would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from refine.training.augment import Number, flip_and_turn, photometric, soften_as_enlarged, turn
from refine.training.config import TrainingConfig
from refine.training.data import Pair, Pairs
from refine.training.perturb import draw_kind, perturb, reduced, stated_reach

MARGIN = 32
"""Damage is done on a window this much larger each side, so that window borders hold no artefact."""

NEAR = 64
"""A window "near an outline" is centred within this many of its pixels."""

CASCADE_FACTORS = (2, 3, 4)

Sample = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Crop:
    """`image` (S, S, 3) uint8, `truth` (S, S) float32 0..1, `trusted` (S, S): where the truth counts for the loss."""

    image: NDArray[np.uint8]
    truth: NDArray[np.float32]
    trusted: NDArray[np.bool_]
    prediction: NDArray[np.float32] | None


class WindowSamples(Dataset[Sample]):
    """MOS_H's samples: a window at some scale, its truth, a damaged truth and how far that may be wrong.

    An item holds image (S, S, 3) uint8, truth, coarse (S, S) float32, trusted (S, S) bool, reach (); and for the
    network's own cascade input the window one level coarser: outer_image, outer_coarse, outer_reach, factor
    (0 where the sample is not of that kind).
    """

    def __init__(self, pairs: Pairs, config: TrainingConfig, *, first_late: int) -> None:
        self.pairs, self.config = pairs, config
        self.size = config.model.size
        self.first_late = first_late

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.config.seed, index))
        perturb_config = self.config.perturb
        late = index >= self.first_late and bool(perturb_config.late_kinds)
        kind = draw_kind(perturb_config.late_kinds if late else perturb_config.kinds, rng)
        pair = self.pairs.draw(rng)
        factor = int(rng.choice(CASCADE_FACTORS)) if kind == "cascade" else 1
        inner, outer = self._crops(pair, factor, rng)
        target = inner if outer is None else outer
        coarse, reach = self._coarse(target, kind, rng)
        item = _as_tensors(_without_margin(inner))
        cropped = _centre(coarse, self.size)
        if outer is None:
            own_coarse, outer_item = cropped, _empty_outer(self.size)
        else:
            own_coarse = np.zeros_like(cropped)  # the loop puts the network's own output here
            outer_item = {
                "outer_image": torch.from_numpy(_centre(outer.image, self.size)),
                "outer_coarse": torch.from_numpy(cropped),
                "outer_reach": torch.tensor(stated_reach(reach, rng), dtype=torch.float32),
            }
            reach = 2.0 * factor
        return {
            **item,
            **outer_item,
            "coarse": torch.from_numpy(own_coarse),
            "reach": torch.tensor(stated_reach(reach, rng), dtype=torch.float32),
            "factor": torch.tensor(factor if outer is not None else 0),
        }

    def _coarse(self, crop: Crop, kind: str, rng: Generator) -> tuple[NDArray[np.float32], float]:
        options = self.config.perturb
        if kind == "model" and crop.prediction is not None:
            wrong = np.abs(crop.prediction - crop.truth).mean()
            return crop.prediction, float(np.clip(1 + 64 * wrong, 1, 16))
        if kind == "cascade":  # what a first level sees: a reduced mask, two of its pixels wrong
            coarse, reach = reduced(crop.truth, rng, 4.0)
            return coarse, reach
        return perturb(crop.truth, kind, rng, reduce_max=options.reduce_max, hard_share=options.hard)

    def _crops(self, pair: Pair, factor: int, rng: Generator) -> tuple[Crop, Crop | None]:
        """The window, and the one around it that is `factor` times coarser (None for factor 1)."""
        augment = self.config.augment
        height, width = pair.mask.shape
        if rng.random() < augment.whole:
            scale = self.size / max(height, width)
            row, col = height / 2, width / 2
        else:
            low, high = np.log(augment.scale)
            scale = float(np.exp(rng.uniform(low, high)))
            # Below this scale a window would mostly hold what lies beyond the image.
            scale = max(scale, min(1.0, 0.75 * self.size / max(height, width)))
            row, col = self._centre_of_window(pair, scale, rng)
        orientation = int(rng.integers(8))
        seeds = rng.integers(2**63, size=1)
        inner = self._crop(pair, scale, row, col, orientation, np.random.default_rng(seeds))
        if factor == 1:
            return inner, None
        return inner, self._crop(pair, scale / factor, row, col, orientation, np.random.default_rng(seeds))

    def _centre_of_window(self, pair: Pair, scale: float, rng: Generator) -> tuple[float, float]:
        height, width = pair.mask.shape
        if len(pair.outline) and rng.random() < self.config.augment.near_contour:
            row, col = pair.outline[int(rng.integers(len(pair.outline)))]
            away = rng.uniform(-NEAR, NEAR, 2) / scale
            return float(np.clip(row + away[0], 0, height)), float(np.clip(col + away[1], 0, width))
        return float(rng.uniform(0, height)), float(rng.uniform(0, width))

    def _crop(self, pair: Pair, scale: float, row: float, col: float, orientation: int, rng: Generator) -> Crop:
        """The square of `size` + margins at `scale` around (row, col); beyond the image it is mirrored."""
        side = self.size + 2 * MARGIN
        need = int(np.ceil(side / scale))
        top, left = round(row - need / 2), round(col - need / 2)
        image = _mirrored(pair.image, top, left, need)
        mask = _mirrored(pair.mask, top, left, need)
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, (side, side), interpolation=way).astype(np.uint8)
        truth = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        truth = truth.astype(np.float32) / np.float32(255)
        trusted = np.ones_like(truth, dtype=np.bool_)
        if scale > 1:
            if not pair.is_exact:
                trusted = ~_band(truth, int(np.ceil(scale)))
            image = soften_as_enlarged(image, scale, rng)
        prediction = None
        if pair.prediction is not None:
            height, width = pair.mask.shape
            whole = cv2.resize(pair.prediction, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
            resized = cv2.resize(_mirrored(whole, top, left, need), (side, side), interpolation=cv2.INTER_AREA)
            prediction = flip_and_turn(resized.astype(np.float32) / np.float32(255), orientation)
        image = photometric(flip_and_turn(image, orientation), self.config.augment, rng)
        return Crop(image, flip_and_turn(truth, orientation), flip_and_turn(trusted, orientation), prediction)


class WholeImageSamples(Dataset[Sample]):
    """MOS_L's samples: the whole image and its truth at the network's size, aspect not kept."""

    def __init__(self, pairs: Pairs, config: TrainingConfig) -> None:
        self.pairs, self.config = pairs, config

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.config.seed, index))
        pair = self.pairs.draw(rng)
        size = self.config.model.size
        image = cv2.resize(pair.image, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8)
        truth = cv2.resize(pair.mask, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
        image, truth = turn(image, truth, self.config.augment.rotate_degrees, rng)
        orientation = 4 * int(rng.integers(2))  # mirrored or not: upside-down people do not occur
        image = photometric(flip_and_turn(image, orientation), self.config.augment, rng)
        truth = flip_and_turn(truth, orientation)
        return _as_tensors(Crop(image, truth, np.ones_like(truth, dtype=np.bool_), None))


def _mirrored(plane: NDArray[np.uint8], top: int, left: int, side: int) -> NDArray[np.uint8]:
    """A square of `plane`, which it meets, mirrored beyond the border with the edge repeated, as often as needed."""
    height, width = plane.shape[:2]
    inside = plane[max(0, top) : top + side, max(0, left) : left + side]
    above, before = max(0, -top), max(0, -left)
    below, after = max(0, top + side - height), max(0, left + side - width)
    if not (above or below or before or after):
        return inside
    if max(above, below) <= inside.shape[0] and max(before, after) <= inside.shape[1]:
        return cv2.copyMakeBorder(inside, above, below, before, after, cv2.BORDER_REFLECT).astype(np.uint8)
    whole = cv2.copyMakeBorder(plane, above, below, before, after, cv2.BORDER_REFLECT).astype(np.uint8)
    row, col = top + above, left + before
    return whole[row : row + side, col : col + side]


def _band(truth: NDArray[np.float32], radius: int) -> NDArray[np.bool_]:
    """Pixels within `radius` of the outline."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    band: NDArray[np.bool_] = cv2.morphologyEx((truth > 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, kernel) > 0
    return band


def _centre(plane: NDArray[Number], size: int) -> NDArray[Number]:
    top, left = (plane.shape[0] - size) // 2, (plane.shape[1] - size) // 2
    return np.ascontiguousarray(plane[top : top + size, left : left + size])


def _without_margin(crop: Crop) -> Crop:
    size = crop.truth.shape[0] - 2 * MARGIN
    return Crop(_centre(crop.image, size), _centre(crop.truth, size), _centre(crop.trusted, size), None)


def _as_tensors(crop: Crop) -> Sample:
    return {
        "image": torch.from_numpy(np.ascontiguousarray(crop.image)),
        "truth": torch.from_numpy(np.ascontiguousarray(crop.truth)),
        "trusted": torch.from_numpy(np.ascontiguousarray(crop.trusted)),
    }


def _empty_outer(size: int) -> Sample:
    return {
        "outer_image": torch.zeros(size, size, 3, dtype=torch.uint8),
        "outer_coarse": torch.zeros(size, size),
        "outer_reach": torch.tensor(1.0),
    }

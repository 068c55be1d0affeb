"""One training sample from one number: which pair, which window, which damage, all drawn from (seed, index).

A sample depends on nothing else, so a resumed run sees the stream that an uninterrupted one would have seen.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from refine.cascade import AVERAGED_RAMP, LEFT_ERROR, reach_of_small
from refine.training.augment import flip_and_turn, photometric, turn
from refine.training.composites import cut_inside, is_visible, lay_over, same_shape
from refine.training.config import Augment, TrainingConfig
from refine.training.crops import Crop, Place, centre, seen, take
from refine.training.data import Pair, Pairs
from refine.training.deferred import left_to_the_device, nothing_left
from refine.training.distort import bend, blur_patches, random_part
from refine.training.drawn import roofs, thin_structures
from refine.training.fringe import with_fringe
from refine.training.perturb import KINDS, LEAST_STATED, draw_kind, perturb, reduced, stated_reach
from refine.training.ramps import ramp_of
from refine.training.transplants import transplanted

MARGIN = 32
"""Damage is done on a window this much larger each side, so that window borders hold no artefact."""

NEAR = 64
"""A window "near an outline" is centred within this many of its pixels."""

CASCADE_FACTORS = (2, 3, 4)

CLOSEST = 3.0
"""Window pixels that a pixel of a stored prediction covers at most."""

EXACT_COMPOSITE = 0.5
"""At least this share of the windows of exact pairs are laid on other photographs, if any are: such pairs are few."""

Sample = dict[str, Tensor]


class WindowSamples(Dataset[Sample]):
    """MOS_H's samples: a window at some scale, its truth, a damaged truth and how far that may be wrong.

    An item holds image (S, S, 3) uint8, truth, coarse (S, S) float32, trusted (S, S) bool, reach (); and for the
    network's own cascade input the window one level coarser: outer_image, outer_coarse, outer_reach, factor
    (0 where the sample is not of that kind); again () bool, whether the network is to refine its own result. Where the
    config leaves damage to the device, coarse and reach are to be filled in by `deferred.damaged`, from wide_truth,
    kind (-1: nothing to do) and damage_seed.
    """

    def __init__(self, pairs: Pairs, config: TrainingConfig, *, first_late: int) -> None:
        self.pairs, self.config = pairs, config
        self.size = config.model.size
        self.first_late = first_late

    def __getitem__(self, index: int) -> Sample:
        again = np.random.default_rng((self.config.seed, index, 1)).random() < self.config.perturb.again
        return {**self._damaged(index), "again": torch.tensor(again)}

    def _damaged(self, index: int) -> Sample:
        rng = np.random.default_rng((self.config.seed, index))
        kind = self._kind(index, rng)
        pair = self.pairs.draw(rng)
        prediction = self._prediction(pair, rng) if kind == "model" else None
        place = self._place(pair, rng, closest=None if prediction is None else CLOSEST / _pixel(pair, prediction))
        if kind == "cascade":
            return self._with_outer(pair, self._near_enough(pair, place), rng)
        if prediction is not None:
            place = self._near_enough(pair, place)
            crop = self._crop(pair, place, rng)
            coarse, reach = self._predicted(pair, prediction, place, rng)
        else:
            crop = self._drawn(rng) or self._composite_or_crop(pair, place, rng)
            options = self.config.perturb
            if options.where == "device":
                own = left_to_the_device(crop.truth, kind, rng, self.size)
                return {**_as_tensors(_without_margin(crop)), **_empty_outer(self.size), **own}
            coarse, reach = perturb(crop.truth, kind, rng, reduce_max=options.reduce_max, hard_share=options.hard)
            if kind == "reduce" or kind not in KINDS:  # then "model" is a reduced truth as well
                reach = reach_of_small(reach, ramp_of(coarse, reach))
        # Only a mask that is exact is ever called right to a pixel.
        stated = 1.0 if kind == "exact" else max(LEAST_STATED, stated_reach(reach, rng))
        return {
            **_as_tensors(_without_margin(crop)),
            **_empty_outer(self.size),
            "coarse": torch.from_numpy(centre(coarse, self.size)),
            "reach": torch.tensor(stated, dtype=torch.float32),
            "factor": torch.tensor(0),
            **nothing_left(self.size + 2 * MARGIN, self.config.perturb),
        }

    def _composite_or_crop(self, pair: Pair, place: Place, rng: Generator) -> Crop:
        augment = self.config.augment
        share = augment.composite
        if share and pair.is_exact:
            share = max(share, EXACT_COMPOSITE)
        elif share and place.scale > augment.inexact_scale:
            share = 1.0  # enlarged so far, its own outline would teach nothing
        made = self._composite(pair, place, rng) if rng.random() < share else None
        return made or self._crop(pair, self._near_enough(pair, place), rng)

    def _drawn(self, rng: Generator) -> Crop | None:
        """A window that is drawn, with the config's shares; None for the others."""
        augment, side = self.config.augment, self.size + 2 * MARGIN
        chance = rng.random()
        if chance < augment.roofs:
            image, alpha = roofs(side, self._anywhere(rng), rng)
        elif chance < augment.roofs + augment.lines:
            alpha = thin_structures(side, rng)
            image = lay_over(self._anywhere(rng), self._anywhere(rng), alpha, rng)
        else:
            return None
        return Crop(photometric(image, augment, rng), alpha, np.ones_like(alpha, dtype=np.bool_))

    def _near_enough(self, pair: Pair, place: Place) -> Place:
        """The place, no closer than the pair's truth allows."""
        return place if pair.is_exact else replace(place, scale=min(place.scale, self.config.augment.inexact_scale))

    def _kind(self, index: int, rng: Generator) -> str:
        options = self.config.perturb
        late = index >= self.first_late and bool(options.late_kinds)
        return draw_kind(options.late_kinds if late else options.kinds, rng)

    def _with_outer(self, pair: Pair, place: Place, rng: Generator) -> Sample:
        """A window whose coarse mask the loop makes: the network's own result one level coarser, `factor` times.

        That level began with a stored prediction as often as with a reduced truth, where the pair has any.
        """
        factor = int(rng.choice(CASCADE_FACTORS))
        seeds = rng.integers(2**63, size=1)
        prediction = self._prediction(pair, rng) if rng.random() < 0.5 else None
        if prediction is not None:  # no nearer than in windows that begin with one
            place = replace(place, scale=min(place.scale, factor * CLOSEST / _pixel(pair, prediction)))
        outside = replace(place, scale=place.scale / factor)
        inner, outer = (self._crop(pair, where, np.random.default_rng(seeds)) for where in (place, outside))
        if prediction is None:
            coarse, factor_before = reduced(outer.truth, rng, self.config.perturb.reduce_max)
            reach = reach_of_small(factor_before, AVERAGED_RAMP)
        else:
            coarse, reach = self._predicted(pair, prediction, outside, rng)
        return {
            **_as_tensors(_without_margin(inner)),
            "coarse": torch.zeros(self.size, self.size),
            "reach": torch.tensor(stated_reach(LEFT_ERROR * factor, rng), dtype=torch.float32),
            "outer_image": torch.from_numpy(centre(outer.image, self.size)),
            "outer_coarse": torch.from_numpy(centre(coarse, self.size)),
            "outer_reach": torch.tensor(stated_reach(reach, rng), dtype=torch.float32),
            "factor": torch.tensor(factor),
            **nothing_left(self.size + 2 * MARGIN, self.config.perturb),
        }

    def _prediction(self, pair: Pair, rng: Generator) -> NDArray[np.uint8] | None:
        """One of the stored predictions, sometimes cut at 0.5; None where the pair has none."""
        if not pair.predictions:
            return None
        prediction = pair.predictions[int(rng.integers(len(pair.predictions)))]
        if rng.random() < self.config.perturb.hard / 2:
            return np.where(prediction >= 128, 255, 0).astype(np.uint8)
        return prediction

    def _predicted(
        self, pair: Pair, prediction: NDArray[np.uint8], place: Place, rng: Generator
    ) -> tuple[NDArray[np.float32], float]:
        """The prediction in the window, and its reach, as the engine takes it."""
        height, width = pair.mask.shape
        whole = cv2.resize(prediction, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
        side = self.size + 2 * MARGIN
        way = cv2.INTER_AREA if place.scale < 1 else cv2.INTER_LINEAR
        resized = cv2.resize(seen(whole, place, side), (side, side), interpolation=way)
        coarse = flip_and_turn(resized.astype(np.float32) / np.float32(255), place.orientation)
        pixel = _pixel(pair, prediction) * place.scale
        return coarse, reach_of_small(pixel, ramp_of(prediction.astype(np.float32) / np.float32(255), 1.0))

    def _place(self, pair: Pair, rng: Generator, *, closest: float | None) -> Place:
        """Where to look, and how close: no more enlarged than by `closest`."""
        augment = self.config.augment
        height, width = pair.mask.shape
        if rng.random() < augment.whole:
            scale = self.size / max(height, width)
            row, col = height / 2, width / 2
        else:
            low, high = np.log(augment.scale)
            scale = float(np.exp(rng.uniform(low, high)))
            if closest is not None:
                scale = min(scale, closest)
            # Below this scale a window would mostly hold what lies beyond the image.
            scale = max(scale, min(1.0, 0.75 * self.size / max(height, width)))
            row, col = self._centre_of_window(pair, scale, rng)
        return Place(row, col, scale, int(rng.integers(8)))

    def _centre_of_window(self, pair: Pair, scale: float, rng: Generator) -> tuple[float, float]:
        height, width = pair.mask.shape
        if len(pair.outline) and rng.random() < self.config.augment.near_contour:
            row, col = pair.outline[int(rng.integers(len(pair.outline)))]
            away = rng.uniform(-NEAR, NEAR, 2) / scale
            return float(np.clip(row + away[0], 0, height)), float(np.clip(col + away[1], 0, width))
        return float(rng.uniform(0, height)), float(rng.uniform(0, width))

    def _composite(self, pair: Pair, place: Place, rng: Generator) -> Crop | None:
        """The pair's foreground, or its shape filled from another pair, on a third; None where nothing is left of it.

        An exact soft truth serves as it is, filled from another pair: inside a hair nothing is surely foreground.
        """
        crop = take(pair, place, self.size + 2 * MARGIN, rng)
        keeps_own = not pair.is_exact and rng.random() < 0.5
        keeps_truth = pair.is_exact and rng.random() < 0.75
        if keeps_truth:
            alpha = crop.truth
        else:
            alpha = (cut_inside if keeps_own else same_shape)(crop.truth, place.scale, rng)
        if not is_visible(alpha):
            return None
        foreground = crop.image if keeps_own else self._anywhere(rng)
        fringe = self.config.augment.fringe
        if fringe and not keeps_truth and rng.random() < fringe:
            foreground, alpha = with_fringe(foreground, alpha, rng)
        image = lay_over(foreground, self._anywhere(rng), alpha, rng)
        trusted = np.ones_like(alpha, dtype=np.bool_)
        return Crop(photometric(image, self.config.augment, rng), alpha, trusted)

    def _anywhere(self, rng: Generator) -> NDArray[np.uint8]:
        """Some window of some image: texture."""
        pair = self.pairs.draw(rng)
        height, width = pair.mask.shape
        scale = max(float(np.exp(rng.uniform(np.log(0.5), np.log(2)))), min(1.0, self.size / max(height, width)))
        place = Place(rng.uniform(0, height), rng.uniform(0, width), scale, int(rng.integers(8)))
        return take(pair, place, self.size + 2 * MARGIN, rng).image

    def _crop(self, pair: Pair, place: Place, rng: Generator) -> Crop:
        """The square of `size` + margins at a place, its colours changed; beyond the image it is mirrored."""
        crop = take(pair, place, self.size + 2 * MARGIN, rng)
        image = photometric(crop.image, self.config.augment, rng)
        return replace(crop, image=_with_patches(image, crop.truth, self.config.augment, rng))


class FirstSamples(Dataset[Sample]):
    """The first `count` samples of others, again and again: what a network that learns at all can learn by heart."""

    def __init__(self, samples: Dataset[Sample], count: int) -> None:
        self.samples, self.count = samples, count

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index % self.count]


class WholeImageSamples(Dataset[Sample]):
    """MOS_L's samples: the whole image and its truth at the network's size, aspect not kept."""

    def __init__(self, pairs: Pairs, config: TrainingConfig) -> None:
        self.pairs, self.config = pairs, config

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.config.seed, index))
        pair = self.pairs.draw(rng)
        size, augment = self.config.model.size, self.config.augment
        made = None
        if augment.composite and rng.random() < augment.composite:
            made = transplanted(pair, lambda: self.pairs.draw(rng), size, rng)
        if made is None:
            # What nobody knows the truth of goes the way of the colours.
            planes = pair.image if pair.void is None else np.dstack([pair.image, pair.void])
            made = random_part(planes, pair.mask, augment.crop, rng)
        image, mask = made
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8)
        truth = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
        image, truth = bend(*turn(image, truth, augment.rotate_degrees, rng), augment.elastic, rng)
        orientation = 4 * int(rng.integers(2))  # mirrored or not: upside-down people do not occur, unless asked for
        if augment.quarter_turns and rng.random() < augment.quarter_turns:
            orientation += int(rng.integers(1, 4))
        if augment.upside_down and rng.random() < augment.upside_down:
            orientation = (orientation + 2) % 4 + (4 if orientation < 4 else 0)
        truth = flip_and_turn(truth, orientation)
        image = flip_and_turn(image, orientation)
        trusted = np.ones_like(truth, dtype=np.bool_) if image.shape[2] == 3 else image[:, :, 3] == 0
        image = photometric(np.ascontiguousarray(image[:, :, :3]), augment, rng)
        image = _with_patches(image, truth, augment, rng)
        return _as_tensors(Crop(image, truth, trusted))


def _with_patches(
    image: NDArray[np.uint8], truth: NDArray[np.float32], augment: Augment, rng: Generator
) -> NDArray[np.uint8]:
    if not augment.patches or rng.random() >= augment.patch_share:
        return image
    return blur_patches(image, truth, augment.patches, augment.patch_size, rng)


def _pixel(pair: Pair, prediction: NDArray[np.uint8]) -> float:
    """Pixels of the pair along a pixel of its prediction."""
    height, width = pair.mask.shape
    return float(max(height / prediction.shape[0], width / prediction.shape[1]))


def _without_margin(crop: Crop) -> Crop:
    size = crop.truth.shape[0] - 2 * MARGIN
    return Crop(centre(crop.image, size), centre(crop.truth, size), centre(crop.trusted, size))


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

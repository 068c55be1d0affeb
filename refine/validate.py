"""Score a network in training on whole held-out images, by the way that `refine infer` goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import nn

from refine.backends.torch_backend import TorchCoarse, TorchRefiner
from refine.coarse import make_coarse
from refine.engine import refine_mask
from refine.geometry import Mask
from refine.metrics.summary import Scores, Truth, count_worse, score, summarise
from refine.models.preprocessing import Preprocessing
from refine.plan import make_plan
from refine.sources import ArrayImage, ArrayMask, ArraySink
from refine.training.config import TrainingConfig
from refine.training.data import Pair, load_pairs, read_held_out

COARSE_SIDE = 64
"""A refiner is given the truth reduced to this on the long side."""


def make_validator(
    config: TrainingConfig, *, device: str
) -> Callable[[Preprocessing], Callable[[nn.Module], dict[str, float]]]:
    """What the training loop asks for: given the preprocessing, a function from a network to its figures.

    "score" is what picks the best: for a refiner the mean boundary accuracy, less the share of images that it made
    worse; for a coarse network the mean IoU. Raises InputError if no held-out image is found.
    """
    held_out = read_held_out(Path(config.validation.held_out) if config.validation.held_out else None)
    pairs = _spread(load_pairs(config.data, held_out, hold_in=False).pairs, config.validation.images)
    truths = [Truth.of(pair.mask) for pair in pairs]

    def validator_for(preprocessing: Preprocessing) -> Callable[[nn.Module], dict[str, float]]:
        def validate(network: nn.Module) -> dict[str, float]:
            network = deepcopy(network)  # to run it fast, it is rebuilt
            if config.model.takes_mask:
                return _refiner_figures(TorchRefiner(network, preprocessing, device=device), pairs, truths)
            return _coarse_figures(TorchCoarse(network, preprocessing, device=device), pairs, truths)

        return validate

    return validator_for


def reduced_truth(mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The mask area-reduced to `side` px on the long side; smaller ones come back as they are."""
    factor = side / max(mask.shape)
    if factor >= 1:
        return mask
    size = max(1, round(mask.shape[1] * factor)), max(1, round(mask.shape[0] * factor))
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.uint8)


def enlarged(mask: NDArray[np.uint8] | Mask, height: int, width: int) -> Mask:
    """Plain bilinear enlarging, in 0..1: what refinement is compared with."""
    values = mask.astype(np.float32) / np.float32(255) if mask.dtype == np.uint8 else mask
    return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _refiner_figures(refiner: TorchRefiner, pairs: Sequence[Pair], truths: Sequence[Truth]) -> dict[str, float]:
    before: list[Scores] = []
    after: list[Scores] = []
    for pair, truth in zip(pairs, truths, strict=True):
        height, width = pair.mask.shape
        small = reduced_truth(pair.mask, COARSE_SIDE)
        plan = make_plan(height, width, mask_height=small.shape[0], mask_width=small.shape[1], stride=refiner.stride)
        sink = ArraySink(height, width, np.float32)
        refine_mask(ArrayImage(pair.image), ArrayMask(small), refiner, plan, sink, as_float=True)
        before.append(score(enlarged(small, height, width), truth))
        after.append(score(sink.rows.astype(np.float32, copy=False), truth))
    first, last = summarise(before), summarise(after)
    worse = count_worse(before, after) / len(pairs)
    gain = (last.mba or 0.0) - (first.mba or 0.0)
    return {
        "iou": last.iou_mean,
        "iou_gain": last.iou_mean - first.iou_mean,
        "mba": last.mba or 0.0,
        "mba_gain": gain,
        "worse": worse,
        "score": (last.mba or 0.0) - worse,
    }


def _coarse_figures(network: TorchCoarse, pairs: Sequence[Pair], truths: Sequence[Truth]) -> dict[str, float]:
    scores = [
        score(enlarged(make_coarse(ArrayImage(pair.image), network), *pair.mask.shape), truth)
        for pair, truth in zip(pairs, truths, strict=True)
    ]
    summary = summarise(scores)
    return {"iou": summary.iou_mean, "mba": summary.mba or 0.0, "mae": summary.mae, "score": summary.iou_mean}


def _spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """At most `count` of the pairs, evenly over their order, so that every set has its share."""
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int))
    return [pairs[index] for index in chosen]

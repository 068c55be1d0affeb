"""Scores of a network in training, on whole images that it never sees: through the engine, as a user would run it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from refine.api import refine_with
from refine.backends import load_coarse, load_refiner
from refine.coarse import make_coarse
from refine.errors import ConfigError, InputError
from refine.geometry import Mask
from refine.metrics import iou, mean_boundary_accuracy
from refine.models.registry import find_network
from refine.settings import Settings
from refine.sources import ArrayImage
from refine.training.config import TrainingConfig
from refine.training.data import Pair, load_held_out, read_held_out
from refine.training.layouts import Key

T = TypeVar("T")

LONG_SIDE = 64
"""The roughest input: the truth with this many pixels on its long side."""

SMALL_FACTOR = 4
"""The input that is nearly right: the truth reduced by this."""


def make_validator(
    config: TrainingConfig, before_each: Callable[[], None] = lambda: None, *, device: str = "auto"
) -> Callable[[Path], dict[str, float]]:
    """A function that scores a checkpoint file on the config's held-out images; "score" is what picks the best.

    It calls `before_each` before each image, which may raise to end it.
    A refiner: boundary accuracy after refining the truth reduced to 64 px and by 4, less what it harms IoU by.
    A coarse network: the mean IoU of its masks, enlarged to the images. A truth encoder: the best F-measure of the
    masks it gives back. Figures are points of 100.
    Raises InputError where there is nothing to score, ConfigError for a network that none of these fits.
    """
    role = find_network(config.model.architecture).role
    if role == "composite":
        raise ConfigError(f"validation.every: there is no score of {config.model.architecture}; set it to 0")
    if role == "truth":
        masks = [pair.mask for pair in _spread(config)]
        return lambda checkpoint: _score_truth_encoder(checkpoint, _taking(masks, before_each), device)
    if not config.model.takes_mask:
        pairs = _spread(config)
        return lambda checkpoint: _score_coarse(checkpoint, _taking(pairs, before_each), device)
    outlined = [pair for pair in _spread(config) if mean_boundary_accuracy(pair.mask, pair.mask) is not None]
    if not outlined:
        raise InputError("validation.held_out: none of these images has an outline to score")
    return lambda checkpoint: _score_refiner(checkpoint, _taking(outlined, before_each), device)


def _taking(images: Sequence[T], before_each: Callable[[], None]) -> Iterator[T]:
    for image in images:
        before_each()
        yield image


def _spread(config: TrainingConfig) -> list[Pair]:
    """At most `validation.images` of the held-out pairs, every set in its turn."""
    path = config.validation.held_out
    if path is None:
        raise InputError("validation.every: needs validation.held_out, the list of images that never train")
    queues: dict[str, list[Key]] = {}
    for key in sorted(read_held_out(Path(path))):
        queues.setdefault(key[0], []).append(key)
    chosen: list[Key] = []
    while len(chosen) < config.validation.images and any(queues.values()):
        chosen += [queue.pop(0) for queue in queues.values() if queue]
    return load_held_out(config.data, frozenset(chosen[: config.validation.images]))


def _score_refiner(checkpoint: Path, pairs: Iterable[Pair], device: str) -> dict[str, float]:
    refiner = load_refiner(checkpoint, device=device)
    settings = Settings(device=device)
    rows: dict[str, list[float]] = {}
    for pair in pairs:
        truth = pair.mask.astype(np.float32) / np.float32(255)
        for name, factor in (("64px", max(truth.shape) / LONG_SIDE), ("x4", float(SMALL_FACTOR))):
            coarse = reduce_mask(truth, factor)
            refined = refine_with(refiner, pair.image, coarse, settings=settings)
            plain = enlarge_mask(coarse, truth.shape)
            for measure, value in (("iou", iou), ("mba", mean_boundary_accuracy)):
                before, after = value(plain, truth), value(refined, truth)
                assert before is not None  # all of `pairs` have an outline
                assert after is not None
                rows.setdefault(f"{measure}_{name}", []).append(100 * after)
                rows.setdefault(f"{measure}_{name}_gain", []).append(100 * (after - before))
    scores = {name: float(np.mean(values)) for name, values in rows.items()}
    harm = sum(min(0.0, scores[f"iou_{name}_gain"]) for name in ("64px", "x4"))
    scores["score"] = (scores["mba_64px"] + scores["mba_x4"]) / 2 + harm
    return scores


def _score_coarse(checkpoint: Path, pairs: Iterable[Pair], device: str) -> dict[str, float]:
    network = load_coarse(checkpoint, device=device)
    values = []
    for pair in pairs:
        truth = pair.mask.astype(np.float32) / np.float32(255)
        source = ArrayImage(pair.image)
        values.append(iou(enlarge_mask(make_coarse(source, network), truth.shape), truth))
    return {"iou": 100 * float(np.mean(values)), "score": 100 * float(np.mean(values))}


def _score_truth_encoder(checkpoint: Path, masks: Iterable[NDArray[np.uint8]], device: str) -> dict[str, float]:
    """The mean over masks, at the network's size, of the F-measure (beta^2 = 0.3), at the best of 255 thresholds."""
    import torch

    from refine.models.checkpoint import load_model
    from refine.models.device import choose_device

    place = choose_device(device)
    network, metadata = load_model(checkpoint, expect="truth")
    network.to(place)
    side = metadata.preprocessing.height or 1024
    curves = []
    for mask in masks:
        truth = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
        with torch.no_grad():
            seen = torch.sigmoid(network(torch.from_numpy(truth)[None, None].to(place))["final"])[0, 0].cpu().numpy()
        curves.append(f_curve(seen, truth >= 0.5))
    best = 100 * float(np.mean(curves, axis=0).max())
    return {"max_f": best, "score": best}


def f_curve(prediction: Mask, truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """F-measure (beta^2 = 0.3) of a mask in 0..1 cut above 0/255, 1/255 ... 254/255; 1 where both are empty."""
    steps = np.ceil(prediction.astype(np.float64) * 255).astype(np.int64).clip(0, 255)
    # Pixels above threshold t are those of steps t + 1 and more.
    hits, found = (np.bincount(kind, minlength=256)[::-1].cumsum()[::-1][1:] for kind in (steps[truth], steps.ravel()))
    precision_and_recall = found + 0.3 * truth.sum()
    empty = precision_and_recall == 0
    return np.where(empty, 1.0, 1.3 * hits / np.where(empty, 1, precision_and_recall))


def reduce_mask(truth: Mask, factor: float) -> Mask:
    """Area means; both sides divided by `factor`, at least one pixel."""
    height, width = (max(1, round(side / factor)) for side in truth.shape)
    return np.asarray(cv2.resize(truth, (width, height), interpolation=cv2.INTER_AREA), np.float32)


def enlarge_mask(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Bilinear: what a user has without refining."""
    return np.asarray(cv2.resize(mask, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)

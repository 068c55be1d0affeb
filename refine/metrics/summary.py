"""The figures of one mask, of a set of them, and of a set before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refine.geometry import BoolArray
from refine.metrics.boundary import boundary_bands, boundary_iou, mean_boundary_accuracy
from refine.metrics.region import AnyMask, foreground, intersection_and_union, mean_absolute_error

WORSE_BY = 0.01
"""A mask got worse if its mean boundary accuracy fell by more than this: a point of a hundred."""


@dataclass(frozen=True, slots=True)
class Truth:
    """A true mask with its foreground and bands, made once for all predictions that are scored against it."""

    mask: AnyMask
    solid: BoolArray
    bands: tuple[BoolArray, ...]

    @classmethod
    def of(cls, mask: AnyMask) -> Truth:
        return cls(mask, foreground(mask), boundary_bands(mask))


@dataclass(frozen=True, slots=True)
class Scores:
    """One mask against its truth; fractions, and `mba` None where the truth has no outline."""

    intersection: int
    union: int
    mba: float | None
    boundary_iou: float
    mae: float

    @property
    def iou(self) -> float:
        return self.intersection / self.union if self.union else 1.0


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over the images of a set; `iou_overall` is the sum of intersections over the sum of unions.

    `mba` is the mean over images with an outline, None if there is none; `mba_undefined` counts the others.
    """

    images: int
    iou_mean: float
    iou_overall: float
    mba: float | None
    mba_undefined: int
    boundary_iou: float
    mae: float


def score(prediction: AnyMask, truth: Truth) -> Scores:
    """The figures of a prediction of the truth's size."""
    intersection, union = intersection_and_union(prediction, truth.solid)
    solid = foreground(prediction)
    return Scores(
        intersection=intersection,
        union=union,
        mba=mean_boundary_accuracy(solid, truth.solid, bands=truth.bands),
        boundary_iou=boundary_iou(solid, truth.solid),
        mae=mean_absolute_error(prediction, truth.mask),
    )


def summarise(scores: Sequence[Scores]) -> Summary:
    """Means over at least one image."""
    defined = [entry.mba for entry in scores if entry.mba is not None]
    union = sum(entry.union for entry in scores)
    return Summary(
        images=len(scores),
        iou_mean=float(np.mean([entry.iou for entry in scores])),
        iou_overall=sum(entry.intersection for entry in scores) / union if union else 1.0,
        mba=float(np.mean(defined)) if defined else None,
        mba_undefined=len(scores) - len(defined),
        boundary_iou=float(np.mean([entry.boundary_iou for entry in scores])),
        mae=float(np.mean([entry.mae for entry in scores])),
    )


def count_worse(before: Sequence[Scores], after: Sequence[Scores]) -> int:
    """Images whose mean boundary accuracy fell by more than a point."""
    return sum(
        1
        for first, second in zip(before, after, strict=True)
        if first.mba is not None and second.mba is not None and second.mba < first.mba - WORSE_BY
    )

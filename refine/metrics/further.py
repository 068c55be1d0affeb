"""Measures beside the usual ones, gathered over a set of masks and chosen by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import numpy as np

from refine.geometry import BoolArray, Mask
from refine.metrics.boundary import boundary_f
from refine.metrics.fixation import fixation_figures, require_libraries
from refine.metrics.salient import SalientScores

Further = Literal["contour", "salient", "fixation"]

TITLES: Mapping[Further, str] = {
    "contour": "contour pixels within 0.75 % of the diagonal",
    "salient": "salient objects, by pysodmetrics",
    "fixation": "fixations",
}


class Gathered(Protocol):
    """Figures of a set, from one mask after the other."""

    def feed(self, prediction: Mask, truth: BoolArray) -> None:
        """One mask: prediction (H, W) in 0..1, truth (H, W)."""
        ...

    def results(self) -> dict[str, float | None]:
        """By name the mean over the masks that have a value; None if none has."""
        ...

    def left_out(self) -> dict[str, int]:
        """By name how many masks had no value; those that all had are not named."""
        ...


class Means:
    """A Gathered of figures that each mask has by itself."""

    def __init__(self, figures: Callable[[Mask, BoolArray], Mapping[str, float | None]]) -> None:
        self._figures = figures
        self._values: dict[str, list[float | None]] = {}

    def feed(self, prediction: Mask, truth: BoolArray) -> None:
        for name, value in self._figures(prediction, truth).items():
            self._values.setdefault(name, []).append(value)

    def results(self) -> dict[str, float | None]:
        defined = {name: [value for value in values if value is not None] for name, values in self._values.items()}
        return {name: float(np.mean(values)) if values else None for name, values in defined.items()}

    def left_out(self) -> dict[str, int]:
        return {name: values.count(None) for name, values in self._values.items() if None in values}


def gather(kind: Further, *, stretch: bool = False) -> Gathered:
    """An empty Gathered; `stretch` is for salient objects.

    Raises InstallationError if the libraries of that kind are missing.
    """
    match kind:
        case "contour":
            return Means(lambda prediction, truth: boundary_f(prediction, truth)._asdict())
        case "salient":
            return SalientScores(stretch=stretch)
        case "fixation":
            require_libraries()
            return Means(fixation_figures)

"""Measures of salient object detection, by pysodmetrics (`pip install "refine[sod]"`), over a set of images.

Predictions are not stretched to 0..1 unless asked for; published tables of SOD and DIS are. Images with an empty truth
are left out of F and weighted F, which are 0 there whatever is predicted, and of E, which is the share of background
that is predicted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refine.errors import InstallationError
from refine.geometry import BoolArray, Mask

_NEED_TRUTH = ("f_adaptive", "f_max", "f_mean", "weighted_f", "e_adaptive", "e_max", "e_mean", "hce")


class SalientScores:
    """Collects images one by one; `results` gives the means."""

    def __init__(self, *, stretch: bool = False) -> None:
        """Raises InstallationError without pysodmetrics."""
        try:
            import py_sod_metrics as sod
        except ImportError as error:
            raise InstallationError(
                'salient object measures need pysodmetrics: pip install "refine[sod]" (it brings OpenCV 4)'
            ) from error
        self._stretch = stretch
        self._empty = 0
        handler = sod.FmeasureHandler(beta=0.3, with_adaptive=True, with_dynamic=True)  # its beta is the paper's β²
        self._always: dict[str, Any] = {"mae": sod.MAE(), "sm": sod.Smeasure(alpha=0.5)}
        self._with_truth: dict[str, Any] = {
            "fm": sod.FmeasureV2(metric_handlers={"fm": handler}),
            "wfm": sod.WeightedFmeasure(),
            "em": sod.Emeasure(),
            "hce": sod.HumanCorrectionEffortMeasure(relax=5, epsilon=2.0),
        }

    def feed(self, prediction: Mask, truth: BoolArray) -> None:
        """One image: prediction (H, W) in 0..1, truth (H, W)."""
        measures = dict(self._always)
        if truth.any():
            measures |= self._with_truth
        else:
            self._empty += 1
        pred, gt = prediction.astype(np.float64), truth
        if self._stretch:  # pysodmetrics stretches 8-bit predictions, and cuts an 8-bit truth at 128
            pred, gt = np.rint(pred * 255).astype(np.uint8), truth.astype(np.uint8) * np.uint8(255)
        for measure in measures.values():
            measure.step(pred=pred, gt=gt, normalize=self._stretch)

    def results(self) -> dict[str, float | None]:
        """Means over the images fed; None for what no image has."""
        figures: dict[str, float | None] = {
            name: float(measure.get_results()[name]) for name, measure in self._always.items()
        }
        if not self._with_truth["wfm"].weighted_fms:
            return figures | dict.fromkeys(_NEED_TRUTH)
        results = {name: measure.get_results()[name] for name, measure in self._with_truth.items()}
        f_curve, e_curve = np.asarray(results["fm"]["dynamic"]), np.asarray(results["em"]["curve"])
        values = (
            results["fm"]["adaptive"], f_curve.max(), f_curve.mean(), results["wfm"],
            results["em"]["adp"], e_curve.max(), e_curve.mean(), results["hce"],
        )  # fmt: skip
        return figures | {name: float(value) for name, value in zip(_NEED_TRUTH, values, strict=True)}

    def left_out(self) -> dict[str, int]:
        """Images whose truth is empty, by each measure that has no value there."""
        return dict.fromkeys(_NEED_TRUTH, self._empty) if self._empty else {}

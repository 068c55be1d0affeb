"""Measures of salient object detection, by pysodmetrics (`pip install "refine[sod]"`), over a set of images.

Predictions are not stretched to 0..1 unless asked for; published tables of SOD and DIS are. Images with an empty truth
are left out of F, weighted F and E, which are 0 there whatever is predicted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine.errors import InstallationError
from refine.metrics.region import BoolArray


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
        self._skipped = 0
        handler = sod.FmeasureHandler(beta=0.3, with_adaptive=True, with_dynamic=True)  # its beta is the paper's β²
        self._always: dict[str, Any] = {"mae": sod.MAE(), "sm": sod.Smeasure(alpha=0.5)}
        self._with_truth: dict[str, Any] = {
            "fm": sod.FmeasureV2(metric_handlers={"fm": handler}),
            "wfm": sod.WeightedFmeasure(),
            "em": sod.Emeasure(),
            "hce": sod.HumanCorrectionEffortMeasure(relax=5, epsilon=2.0),
        }

    def feed(self, prediction: NDArray[np.float32], truth: BoolArray) -> None:
        """One image: prediction (H, W) in 0..1, truth (H, W)."""
        measures = dict(self._always)
        if truth.any():
            measures |= self._with_truth
        else:
            self._skipped += 1
        pred, gt = prediction.astype(np.float64), truth
        if self._stretch:  # pysodmetrics stretches 8-bit predictions, and cuts an 8-bit truth at 128
            pred, gt = np.rint(pred * 255).astype(np.uint8), truth.astype(np.uint8) * np.uint8(255)
        for measure in measures.values():
            measure.step(pred=pred, gt=gt, normalize=self._stretch)

    def results(self) -> dict[str, float | bool]:
        """Means over the images fed; those without any defined value are left out."""
        figures: dict[str, float | bool] = {"stretched": self._stretch, "empty_truth": self._skipped}
        figures |= {name: float(measure.get_results()[name]) for name, measure in self._always.items()}
        if not self._with_truth["wfm"].weighted_fms:
            return figures
        results = {name: measure.get_results()[name] for name, measure in self._with_truth.items()}
        f_curve, e_curve = np.asarray(results["fm"]["dynamic"]), np.asarray(results["em"]["curve"])
        return figures | {
            "f_adaptive": float(results["fm"]["adaptive"]),
            "f_max": float(f_curve.max()),
            "f_mean": float(f_curve.mean()),
            "weighted_f": float(results["wfm"]),
            "e_adaptive": float(results["em"]["adp"]),
            "e_max": float(e_curve.max()),
            "e_mean": float(e_curve.mean()),
            "hce": float(results["hce"]),
        }

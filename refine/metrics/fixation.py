"""Measures of fixation-type saliency: a predicted map against a density of fixations and the fixated pixels.

Maps are (H, W) and not negative; for masks, density and fixations are both the truth. Undefined values are None.
AUC needs scikit-learn and EMD needs POT (`pip install "refine[metrics]"`).
"""

from __future__ import annotations

from importlib.util import find_spec

import cv2
import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError, InstallationError
from refine.geometry import BoolArray, Mask

Map = NDArray[np.float64]

_EPSILON = 2.22e-16
_EMD_SIDE = 32
"""EMD is a linear programme over pairs of pixels: maps are reduced to this many pixels a side at most."""


def require_libraries() -> None:
    """Raises InstallationError unless all of these measures can be computed."""
    missing = [package for package, module in (("scikit-learn", "sklearn"), ("POT", "ot")) if find_spec(module) is None]
    if missing:
        raise InstallationError(f'measures of fixations need {" and ".join(missing)}: pip install "refine[metrics]"')


def fixation_figures(prediction: Mask, truth: BoolArray) -> dict[str, float | None]:
    """All of these measures by name, of a mask (H, W) in 0..1 and the true one, which is density and fixations."""
    predicted, density = prediction.astype(np.float64), truth.astype(np.float64)
    return {
        "auc": auc(predicted, truth),
        "cc": cc(predicted, density),
        "nss": nss(predicted, truth),
        "sim": sim(predicted, density),
        "kld": kld(predicted, density),
        "emd": emd(predicted, density),
    }


def auc(predicted: Map, fixated: BoolArray) -> float | None:
    """Area under the ROC curve over all pixels and thresholds, 0..1; None where `fixated` has one class only."""
    if fixated.all() or not fixated.any():
        return None
    try:
        from sklearn.metrics import roc_auc_score
    except ImportError as error:
        raise InstallationError('AUC needs scikit-learn: pip install "refine[metrics]"') from error
    return float(roc_auc_score(fixated.ravel(), predicted.ravel()))


def cc(predicted: Map, density: Map) -> float | None:
    """Pearson's correlation, -1..1; None for a constant map."""
    if predicted.std() == 0 or density.std() == 0:
        return None
    return float(np.corrcoef(predicted.ravel(), density.ravel())[0, 1])


def nss(predicted: Map, fixated: BoolArray) -> float | None:
    """Mean standardised value at fixated pixels, higher is better; standard deviation over n, not n - 1."""
    if predicted.std() == 0 or not fixated.any():
        return None
    return float(np.mean((predicted[fixated] - predicted.mean()) / predicted.std()))


def sim(predicted: Map, density: Map) -> float | None:
    """Sum of the minimum of both as distributions, 0..1."""
    distributions = _distributions(predicted, density)
    return None if distributions is None else float(np.minimum(*distributions).sum())


def kld(predicted: Map, density: Map) -> float | None:
    """Kullback-Leibler divergence of the prediction from the density, in nats; lower is better."""
    distributions = _distributions(predicted, density)
    if distributions is None:
        return None
    p, q = distributions
    return float(np.sum(q * np.log(_EPSILON + q / (p + _EPSILON))))


def emd(predicted: Map, density: Map) -> float | None:
    """Earth mover's distance over the diagonal; maps are area-reduced to at most 32 px a side first."""
    small = _reduced(predicted), _reduced(density)
    distributions = _distributions(*small)
    if distributions is None:
        return None
    try:
        import ot
    except ImportError as error:
        raise InstallationError('EMD needs POT: pip install "refine[metrics]"') from error
    rows, cols = np.indices(small[0].shape)
    places = np.stack([rows.ravel(), cols.ravel()], axis=1).astype(np.float64)
    cost = ot.dist(places, places, metric="euclidean")
    moved = float(ot.emd2(distributions[0].ravel(), distributions[1].ravel(), cost))
    return moved / float(np.hypot(*small[0].shape))


def _distributions(predicted: Map, density: Map) -> tuple[Map, Map] | None:
    if predicted.min() < 0 or density.min() < 0:
        raise InputError("saliency maps must not be negative")
    if predicted.sum() == 0 or density.sum() == 0:
        return None
    return predicted / predicted.sum(), density / density.sum()


def _reduced(values: Map) -> Map:
    height, width = values.shape
    factor = max(height, width) / _EMD_SIDE
    if factor <= 1:
        return values
    size = max(1, round(width / factor)), max(1, round(height / factor))
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), dtype=np.float64)

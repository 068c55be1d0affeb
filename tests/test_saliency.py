"""Worked examples of the saliency measures: SciPy 1.17, scikit-learn 1.9, POT 0.9.7, pysodmetrics 1.6.2."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from refine.errors import InputError
from refine.metrics.fixation import auc, cc, emd, kld, nss, sim
from refine.metrics.salient import SalientScores

PREDICTED = np.array([[0.1, 0.2, 0.1, 0], [0.2, 0.8, 0.6, 0.1], [0.1, 0.6, 0.4, 0.1], [0, 0.1, 0.1, 0]])
FIXATED = np.zeros((4, 4), np.bool_)
FIXATED[[1, 1, 2], [1, 2, 1]] = True
DENSITY = FIXATED.astype(np.float64)
TOLERANCE = 1e-6


def test_fixation_measures_of_the_worked_example() -> None:
    assert cc(PREDICTED, DENSITY) == pytest.approx(0.9050485790, abs=TOLERANCE)
    assert nss(PREDICTED, FIXATED) == pytest.approx(1.8840088548, abs=TOLERANCE)
    assert sim(PREDICTED, DENSITY) == pytest.approx(4 / 7, abs=TOLERANCE)
    assert kld(PREDICTED, DENSITY) == pytest.approx(0.5690822794, abs=TOLERANCE)


def test_the_area_under_the_curve() -> None:
    pytest.importorskip("sklearn", reason="AUC is in the extra metrics")
    assert auc(PREDICTED, FIXATED) == 1
    assert auc(PREDICTED, np.ones((4, 4), np.bool_)) is None


def test_the_earth_movers_distance() -> None:
    pytest.importorskip("ot", reason="EMD is in the extra metrics")
    assert emd(PREDICTED, DENSITY) == pytest.approx(0.4798550125 / sqrt(32), abs=TOLERANCE)
    first, last = np.zeros((1, 5)), np.zeros((1, 5))
    first[0, 0] = last[0, 3] = 1
    assert emd(first, last) == pytest.approx(3 / sqrt(26), abs=TOLERANCE)


def test_constant_and_empty_maps_have_no_value_and_negative_ones_are_refused() -> None:
    constant, empty = np.full((4, 4), 0.5), np.zeros((4, 4))
    assert cc(constant, DENSITY) is None
    assert nss(constant, FIXATED) is None
    assert sim(empty, DENSITY) is None
    assert kld(PREDICTED, empty) is None
    with pytest.raises(InputError, match="must not be negative"):
        sim(-PREDICTED, DENSITY)


def salient(
    prediction: NDArray[np.float64], truth: NDArray[np.bool_], *, stretch: bool = False
) -> dict[str, float | None]:
    pytest.importorskip("py_sod_metrics", reason="salient object measures are in the extra sod, which needs OpenCV 4")
    scores = SalientScores(stretch=stretch)
    scores.feed(prediction.astype(np.float32), truth)
    return scores.results()


@pytest.mark.parametrize(
    ("name", "stretch", "expected"),
    [
        ("soft", False, (0.149418, 0.846608, 0.678766, 0.878906, 0.878906, 0.732264, 0.942105, 0.942105, 0.801534, 0)),
        ("soft", True, (0.060547, 0.859753, 0.890957, 0.878906, 0.878906, 0.876654, 0.942105, 0.942105, 0.939402, 0)),
        ("truth", False, (0, 1, 1, 1, 1, 0.997275, 1.000244, 1.000244, 0.997314, 0)),
        ("empty", False, (0.25, 0.375, 0, 0.302326, 0.302326, 0.001181, 0.250061, 0.250061, 0.250061, 9)),
    ],
)
def test_salient_object_measures_of_the_worked_example(name: str, stretch: bool, expected: tuple[float, ...]) -> None:
    truth = np.zeros((64, 64), np.bool_)
    truth[16:48, 16:48] = True
    soft = np.full((64, 64), 26 / 255)
    soft[18:50, 18:50] = 230 / 255
    prediction = {"soft": soft, "truth": truth.astype(np.float64), "empty": np.zeros((64, 64))}[name]
    results = salient(prediction, truth, stretch=stretch)
    names = ("mae", "sm", "weighted_f", "f_adaptive", "f_max", "f_mean", "e_adaptive", "e_max", "e_mean", "hce")
    assert [results[key] for key in names] == pytest.approx(expected, abs=TOLERANCE)


def test_salient_object_measures_of_a_few_pixels() -> None:
    truth = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], np.bool_)
    results = salient(np.array([[1.0, 0.8, 0.4, 0.0], [0.6, 0.2, 0.2, 0.0]]), truth)
    expected = {"f_adaptive": 0.8125, "f_max": 0.9285714, "mae": 0.25, "sm": 0.705685, "weighted_f": 0.892542}
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=TOLERANCE)


def test_images_with_an_empty_truth_count_for_the_absolute_error_only() -> None:
    pytest.importorskip("py_sod_metrics", reason="salient object measures are in the extra sod, which needs OpenCV 4")
    scores = SalientScores()
    scores.feed(np.zeros((8, 8), np.float32), np.zeros((8, 8), np.bool_))
    assert scores.results()["mae"] == 0
    assert scores.results()["weighted_f"] is None
    assert scores.left_out()["weighted_f"] == 1
    assert "mae" not in scores.left_out()

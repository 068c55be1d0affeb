"""Scores in training: whole held-out images, through the engine, wherever in the data they lie."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from training_data import small_config, write_pairs

from refine.errors import InputError
from refine.training.config import TrainingConfig, parse_config
from refine.validation import make_validator


def config_of(tmp_path: Path, held_out: str, **changes: object) -> TrainingConfig:
    """Two folders of pairs, `one` and `two`, and a list of what is held out."""
    data = []
    for name in ("one", "two"):
        folder = tmp_path / name
        if not folder.exists():
            write_pairs(folder / "pairs", count=2)
            (folder / "pairs" / "shapes").rename(folder / "pairs" / name)
        data.append({"name": name, "path": str(folder / "pairs")})
    (tmp_path / "held.csv").write_text("set,id\n" + held_out)
    validation = {"held_out": str(tmp_path / "held.csv"), "every": 1, "images": 4}
    return parse_config({**small_config(tmp_path, **{"validation": validation, **changes}), "data": data}, "test")


def test_a_network_that_changes_nothing_gains_nothing(tmp_path: Path, checkpoints: Path) -> None:
    # `two` holds none of the list: that is no mistake.
    validate = make_validator(config_of(tmp_path, "one,00\none,01\n"), device="cpu")
    scores = validate(checkpoints / "mos_h_lite.safetensors")
    gains = [value for name, value in scores.items() if name.endswith("_gain")]
    assert len(gains) == 4
    # The engine enlarges exactly, OpenCV by fixed-point weights: a pixel at 0.5 may differ.
    np.testing.assert_allclose(gains, 0, atol=0.5)
    assert scores["score"] == pytest.approx((scores["mba_64px"] + scores["mba_x4"]) / 2, abs=1)


def test_a_coarse_network_is_scored_by_iou(tmp_path: Path, checkpoints: Path) -> None:
    model = {"architecture": "mos_l_lite", "size": 64}
    scores = make_validator(config_of(tmp_path, "one,00\n", model=model), device="cpu")(
        checkpoints / "mos_l_lite.safetensors"
    )
    assert 0 <= scores["iou"] == scores["score"] <= 100


def test_what_cannot_be_scored_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds none of these images"):
        make_validator(config_of(tmp_path, "elsewhere,00\n"))
    with pytest.raises(InputError, match=r"needs validation\.held_out"):
        make_validator(config_of(tmp_path, "", validation={"every": 1}))
    cv2.imwrite(str(tmp_path / "one" / "pairs" / "one" / "00.png"), np.zeros((96, 96), np.uint8))
    with pytest.raises(InputError, match="has an outline"):
        make_validator(config_of(tmp_path, "one,00\n"))


@pytest.mark.parametrize("architecture", ["mos_h_lite", "mos_l_lite"])
def test_a_validation_asks_before_each_image_whether_it_is_to_end(
    tmp_path: Path, checkpoints: Path, architecture: str
) -> None:
    asked = []

    def ask() -> None:
        asked.append("again")
        if len(asked) == 2:
            raise InterruptedError

    model = {"architecture": architecture, "size": 64}
    validate = make_validator(config_of(tmp_path, "one,00\none,01\n", model=model), ask, device="cpu")
    with pytest.raises(InterruptedError):
        validate(checkpoints / f"{architecture}.safetensors")
    assert len(asked) == 2

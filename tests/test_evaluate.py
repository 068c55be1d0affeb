"""`refine evaluate`: masks matched by stem, a table, JSON; and the quality benchmark on a small folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rasters import write_picture

from refine.cli import refine
from refine.command import run
from refine.evaluate import masks_by_stem, table
from refine.metrics.summary import Scores, Truth, count_worse, score, summarise

ROOT = Path(__file__).parent.parent
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def square(start: int, stop: int, side: int = 100) -> NDArray[np.uint8]:
    mask = np.zeros((side, side), np.uint8)
    mask[start:stop, start:stop] = 255
    return mask


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Truth, prediction and the masks before: a square shifted by 2 px, and one that is right."""
    truth, prediction, before = (tmp_path / name for name in ("truth", "pred", "before"))
    for folder in (truth, prediction, before):
        folder.mkdir()
    for stem in ("a", "b"):
        write_picture(truth / f"{stem}.png", square(20, 80))
    shifted = np.roll(square(20, 80), 2, axis=1)
    write_picture(prediction / "a_mask.png", shifted)
    write_picture(prediction / "b.png", square(20, 80))
    write_picture(before / "a.png", square(20, 80))
    write_picture(before / "b.png", shifted)
    return truth, prediction, before


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run(refine, name="refine", arguments=["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_the_table_has_the_means_and_the_json_every_image(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, prediction, before = folders
    path = tmp_path / "scores.json"
    code, out, err = evaluate(capsys, "--pred", prediction, "--truth", truth, "--before", before, "--json", path)
    assert (code, err) == (0, "")
    assert "| mean boundary accuracy | 87.18 | 87.18 | +0.00 |" in out
    assert "1 of 2 images lost more than a point" in out
    figures = json.loads(path.read_text())
    assert figures["images"]["a"]["after"]["iou"] == pytest.approx(3480 / 3720, abs=1e-6)
    assert figures["images"]["a"]["before"]["mba"] == 1
    assert figures["after"]["iou_overall"] == pytest.approx((3480 + 3600) / (3720 + 3600), abs=1e-6)
    assert figures["worse"] == 1


def test_further_measures_are_asked_for_by_name(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, prediction, before = folders
    write_picture(truth / "c.png", np.zeros((100, 100), np.uint8))
    for folder in (prediction, before):
        write_picture(folder / "c.png", square(40, 60))
    path = tmp_path / "scores.json"
    arguments = ("--pred", prediction, "--truth", truth, "--before", before, "--json", path)
    code, out, err = evaluate(capsys, *arguments, "--also", "contour")
    assert (code, err) == (0, "")
    # A square of 60 moved by 2 px, with a tolerance of 1: off are two sides, but for the ends of one beside the others.
    beyond = (60 + 60 - 4) / (4 * 60 - 4)
    mean = (1 - beyond + 1 + 0) / 3
    assert f"| precision | {mean:.4f} | {mean:.4f} | +0.0000 |" in out
    figures = json.loads(path.read_text())
    assert figures["after"]["contour"]["f1"] == pytest.approx(mean, abs=1e-6)
    assert "contour" in figures["before"]


def test_fixation_measures_name_the_masks_that_have_none(
    folders: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="AUC is in the extra metrics")
    pytest.importorskip("ot", reason="EMD is in the extra metrics")
    truth, prediction, _ = folders
    write_picture(truth / "c.png", np.zeros((100, 100), np.uint8))
    write_picture(prediction / "c.png", square(40, 60))
    code, out, err = evaluate(capsys, "--pred", prediction, "--truth", truth, "--also", "fixation")
    assert (code, err) == (0, "")
    shared = 58 / 60  # of the moved square, and all of the other
    assert f"| sim | {(shared + 1) / 2:.4f} |" in out
    assert "after: 1 mask has no auc, cc, nss, sim, kld, emd" in out


def test_libraries_that_are_missing_are_said_before_a_mask_is_read(
    folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, prediction, _ = folders
    monkeypatch.setitem(sys.modules, "py_sod_metrics", None)  # as if it were not installed
    code, out, err = evaluate(capsys, "--pred", prediction, "--truth", truth, "--also", "salient")
    assert (code, out) == (2, "")
    assert err.startswith("refine evaluate: ")
    assert 'pip install "refine[sod]"' in err


def test_stretching_is_for_salient_objects(
    folders: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    truth, prediction, _ = folders
    code, _, err = evaluate(capsys, "--pred", prediction, "--truth", truth, "--stretch")
    assert (code, err.count("\n")) == (2, 1)
    assert "add --also salient" in err


def test_a_prediction_of_another_size_is_brought_to_the_truths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, mask in (("truth", square(20, 80)), ("pred", square(10, 40, 50))):
        (tmp_path / name).mkdir()
        write_picture(tmp_path / name / "a.png", mask)
    code, out, _ = evaluate(capsys, "--pred", tmp_path / "pred", "--truth", tmp_path / "truth")
    assert code == 0
    assert "| IoU, mean over images | 100.00 |" in out


def test_a_prediction_of_another_shape_is_stretched_only_if_asked(
    folders: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    truth, prediction, _ = folders
    write_picture(prediction / "b.png", np.ascontiguousarray(square(20, 80).repeat(2, axis=1)))
    code, out, err = evaluate(capsys, "--pred", prediction, "--truth", truth)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "b.png: the mask is 200 x 100" in err
    code, out, _ = evaluate(capsys, "--pred", prediction, "--truth", truth, "--align", "stretch")
    assert code == 0
    assert "| 2 images |" in out


def test_results_beside_their_photographs_are_what_is_scored(
    folders: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    truth, prediction, _ = folders
    _, alone, _ = evaluate(capsys, "--pred", prediction, "--truth", truth)
    write_picture(prediction / "a.jpg", np.full((100, 100), 90, np.uint8))
    code, beside, err = evaluate(capsys, "--pred", prediction, "--truth", truth)
    assert (code, err, beside) == (0, "", alone)


def test_a_stem_that_ends_like_a_result_has_its_own_prediction(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, prediction, _ = folders
    (truth / "b.png").rename(truth / "a_mask.png")  # which the prediction of that stem has nothing to do with
    write_picture(prediction / "a.png", square(20, 80))
    evaluate(capsys, "--pred", prediction, "--truth", truth, "--json", tmp_path / "scores.json")
    images = json.loads((tmp_path / "scores.json").read_text())["images"]
    assert [images[stem]["after"]["iou"] < 1 for stem in ("a", "a_mask")] == [False, True]


def test_a_missing_prediction_is_refused(folders: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    truth, prediction, _ = folders
    (prediction / "b.png").unlink()
    code, _, err = evaluate(capsys, "--pred", prediction, "--truth", truth)
    assert code == 2
    assert err == f"refine evaluate: {prediction}: no mask of the stem 'b', which the truth has\n"


def test_figures_without_a_place_are_refused_before_anything_is_scored(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, _, before = folders
    for place, problem in (
        (tmp_path / "none" / "scores.json", f"the folder {tmp_path}/none does not exist"),
        (tmp_path, "is a folder; give a file"),
    ):
        code, out, err = evaluate(capsys, "--pred", before, "--truth", truth, "--json", place)
        assert (code, out, err) == (2, "", f"refine evaluate: --json {place}: {problem}\n")


def test_figures_replace_nothing_unasked_and_never_a_mask(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, _, before = folders
    (tmp_path / "mine.json").write_text("mine")
    arguments = ("--pred", before, "--truth", truth, "--json")
    code, _, err = evaluate(capsys, *arguments, tmp_path / "mine.json")
    assert (code, (tmp_path / "mine.json").read_text()) == (2, "mine")
    assert "exists already; give --overwrite" in err
    assert evaluate(capsys, *arguments, tmp_path / "mine.json", "--overwrite")[0] == 0
    assert "images" in json.loads((tmp_path / "mine.json").read_text())
    for mask in (truth / "a.png", before / "b.png"):
        whole = mask.read_bytes()
        code, _, err = evaluate(capsys, *arguments, mask, "--overwrite")
        assert (code, mask.read_bytes()) == (2, whole)
        assert "is one of the masks" in err


def test_a_photograph_beside_its_truth_is_no_mask(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.tif"):
        (tmp_path / name).touch()
    assert masks_by_stem(tmp_path) == {"a": tmp_path / "a.png", "b": tmp_path / "b.tif"}


def test_an_empty_truth_has_no_boundary_accuracy_and_is_counted() -> None:
    empty = np.zeros((50, 50), np.uint8)
    scores = [score(empty, Truth.of(empty)), score(square(10, 30, 50), Truth.of(square(10, 30, 50)))]
    summary = summarise(scores)
    assert (summary.mba, summary.mba_undefined, summary.iou_mean) == (1, 1, 1)
    assert "1 images have no outline" in table(summary)


def test_worse_means_more_than_a_point_of_boundary_accuracy() -> None:
    def with_mba(mba: float | None) -> Scores:
        return Scores(intersection=1, union=1, mba=mba, boundary_iou=1, mae=0)

    before = [with_mba(value) for value in (0.9, 0.9, 0.9, None)]
    after = [with_mba(value) for value in (0.895, 0.885, 0.95, None)]
    assert count_worse(before, after) == 1


def test_the_quality_benchmark_prints_a_table_for_each_kind(
    tmp_path: Path, photograph: Pair, checkpoints: Path
) -> None:
    image, mask = photograph
    (tmp_path / "own").mkdir()
    write_picture(tmp_path / "own" / "one.jpg", image)
    write_picture(tmp_path / "own" / "one.png", mask)
    write_picture(tmp_path / "own" / "one.pred-other.png", np.asarray(cv2.blur(mask, (9, 9)), np.uint8))
    (tmp_path / "index.csv").write_text("split,set,id,accurate\ntest,own,one,1\ntrain,own,two,1\n")
    arguments = [sys.executable, ROOT / "benchmarks" / "quality.py", "--data", tmp_path, "--out", tmp_path / "q.json"]
    arguments += ["--kinds", "truth64,stored", "--checkpoint", checkpoints / "mos_h_lite.safetensors"]
    arguments += ["--rivals", "guided,grabcut"]
    done = subprocess.run([str(a) for a in arguments], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "### truth64" in done.stdout
    assert "### other" in done.stdout
    results = json.loads((tmp_path / "q.json").read_text())["results"]
    methods = ["refine", "guided", "grabcut"]
    assert [(r["kind"], r["method"]) for r in results] == [(k, m) for k in ("truth64", "other") for m in methods]
    for result in results[::3]:  # an untrained network changes nothing
        assert result["after"]["iou"] == pytest.approx(result["before"]["iou"], abs=2e-3)
    assert all(result["after"]["iou"] > 0.8 for result in results)


def environment() -> dict[str, str]:
    """With the repository on the path, installed or not."""
    return os.environ | {"PYTHONPATH": str(ROOT)}

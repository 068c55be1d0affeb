"""`--resume` over a folder: what is finished stays, what is not goes on or is made anew."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupted import Interrupting, Pair, interrupt, names, small_windows, with_option, write_scene
from rasters import write_tif

from refine.api import Report, refine_raster
from refine.cli import infer
from refine.command import run
from refine.raster import read_header
from refine.run_folder import can_resume, folder_of
from refine.settings import Settings


@pytest.fixture
def folder(tmp_path: Path, photograph: Pair) -> Path:
    return write_scene(tmp_path, photograph)


@pytest.fixture
def options(changing: Path) -> Settings:
    return small_windows(changing)


Call = Callable[..., "tuple[int, str, str]"]


@pytest.fixture
def command(changing: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `infer.py` over the folder `images` into `results`, in this process."""

    def call(folder: Path, *more: object) -> tuple[int, str, str]:
        given = ["--image", folder / "images", "--mask", folder / "masks", "--out", f"{folder}/results/"]
        given += ["--checkpoint", changing, "--tile", 96, "--overlap", 32, "--batch", 8, "--reach", 48]
        given += ["--device", "cpu", *more]
        with pytest.raises(SystemExit) as ended:
            run(infer, name="infer.py", arguments=list(map(str, given)))
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def many(folder: Path) -> Path:
    """`a`, `b` and `c` in `images`, with masks in `masks`."""
    for name in ("images", "masks", "results"):
        (folder / name).mkdir()
    for stem in "abc":
        (folder / "images" / f"{stem}.tif").write_bytes((folder / "scene.tif").read_bytes())
        (folder / "masks" / f"{stem}.png").write_bytes((folder / "rough.png").read_bytes())
    return folder


@pytest.mark.usefixtures("small_parts")
def test_a_folder_goes_on_where_it_was(command: Call, many: Path, options: Settings) -> None:
    results = many / "results"
    assert command(many)[0] == 0
    expected = {path.name: path.read_bytes() for path in results.iterdir()}
    assert sorted(expected) == ["a.tif", "b.tif", "c.tif"]
    for name in ("b.tif", "c.tif"):
        (results / name).unlink()
    interrupt(many, options, out="results/b.tif")  # of another image: that is noticed when its turn comes
    code, out, err = command(many, "--resume")
    assert code == 2
    assert "results/b.tif: cannot go on" in err
    assert f"{results}/a.tif: finished before, left as it is" in out
    folder_b = folder_of(results / "b.tif")
    for path in folder_b.iterdir():
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        refine_raster(
            many / "images" / "b.tif",
            results / "b.tif",
            many / "masks" / "b.png",
            settings=options,
            progress=Interrupting(4),
        )
    code, out, err = command(many, "--resume", "--report", many / "report.json")
    assert (code, err) == (0, "")
    assert "resumed" in out
    assert {path.name: path.read_bytes() for path in results.iterdir()} == expected
    assert [record.get("finished") for record in json.loads((many / "report.json").read_text())] == [
        "before",
        None,
        "before",
    ]


@pytest.mark.usefixtures("small_parts")
def test_the_report_of_a_resumed_run_replaces_its_own(command: Call, many: Path) -> None:
    broken = many / "images" / "b.tif"
    content = broken.read_bytes()
    broken.write_bytes(b"no image")
    assert command(many, "--report", many / "report.json")[0] == 2
    broken.write_bytes(content)
    code, _, err = command(many, "--report", many / "report.json", "--resume")
    assert (code, err) == (0, "")
    assert [record.get("error") for record in json.loads((many / "report.json").read_text())] == [None] * 3


def test_a_resumed_run_keeps_what_the_report_said_of_finished_images(command: Call, many: Path) -> None:
    report = many / "report.json"
    broken = many / "images" / "b.tif"
    content = broken.read_bytes()
    broken.write_bytes(b"no image")
    assert command(many, "--report", report)[0] == 2
    first, _, last = json.loads(report.read_text())
    broken.write_bytes(content)
    for _ in range(2):
        assert command(many, "--report", report, "--resume")[0] == 0
        records = json.loads(report.read_text())
        assert [records[0], records[2]] == [{**record, "finished": "before"} for record in (first, last)]
        assert records[1]["windows_run"] > 0


@pytest.mark.parametrize("content", ["no JSON", "3", '[{"out": 5}, 7]'])
def test_what_is_no_report_says_nothing_of_finished_images(command: Call, many: Path, content: str) -> None:
    assert command(many)[0] == 0
    (many / "report.json").write_text(content)
    assert command(many, "--report", many / "report.json", "--resume")[0] == 0
    records = json.loads((many / "report.json").read_text())
    assert records[0] == {
        "image": f"{many}/images/a.tif", "out": f"{many}/results/a.tif", "finished": "before",
    }  # fmt: skip


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("stem", "more", "said"),
    [
        ("a", [], "; the same command with --resume goes on from here"),
        ("b", [], "; the same command with --resume goes on from here"),
        ("a", ["--overwrite"], "; the same command with --resume goes on from here"),
        ("b", ["--overwrite"], "; --resume goes on with {}/images/b.tif, but makes those before it anew"),
    ],
)
def test_what_an_interrupted_folder_says_of_going_on_is_true(
    command: Call, many: Path, monkeypatch: pytest.MonkeyPatch, stem: str, more: list[str], said: str
) -> None:
    def interrupted(image: Path, *arguments: Any, **options: Any) -> Report:
        progress = Interrupting(4) if image.stem == stem else None
        return refine_raster(image, *arguments, **{**options, "progress": progress})

    with monkeypatch.context() as patch:
        patch.setattr("refine.infer.refine_raster", interrupted)
        code, _, err = command(many, *more)
    assert (code, err) == (130, f"infer.py: interrupted{said.format(many)}\n")
    code, out, _ = command(many, *more, "--resume")
    assert (code, out.count("resumed: ")) == (0, 1)
    assert out.count("finished before, left") == (0 if more or stem == "a" else 1)


def test_what_a_run_left_that_was_killed_at_its_very_end_is_removed(command: Call, many: Path) -> None:
    """The output had its name, the parts were still there."""
    assert command(many)[0] == 0
    out = many / "results" / "b.tif"
    truth, left = out.read_bytes(), folder_of(out)
    left.mkdir()
    (left / "run.json").write_text('{"identity": {}, "parts": [1]}')
    (left / "level0-part00000.gz").write_bytes(b"")
    os.utime(left / "level0-part00000.gz", ns=(0, 0))
    code, said, err = command(many, "--resume")
    assert (code, err) == (0, "")
    assert f"{out}: finished before" in said
    assert names(many / "results") == ["a.tif", "b.tif", "c.tif"]
    assert out.read_bytes() == truth


def test_a_result_without_its_preview_is_told(command: Call, many: Path) -> None:
    assert command(many, "--preview", f"{many}/seen/")[0] == 0
    assert command(many, "--preview", f"{many}/seen/", "--resume")[::2] == (0, "")
    (many / "seen" / "b_preview.png").unlink()
    code, said, err = command(many, "--preview", f"{many}/seen/", "--resume")
    assert code == 2
    assert "a.tif: finished before, left as it is" in said
    missing = f"but {many}/seen/b_preview.png is not there; --overwrite makes both anew"
    assert err == f"infer.py: {many}/results/b.tif: finished before, {missing}\n"


@pytest.mark.usefixtures("small_parts")
def test_results_that_are_not_whole_are_not_taken_as_finished(command: Call, many: Path, options: Settings) -> None:
    (many / "results").rmdir()
    assert command(many)[0] == 0
    whole = (many / "results" / "b.tif").read_bytes()
    for data in (whole[: len(whole) // 2], b"", whole[:-300]):
        (many / "results" / "b.tif").write_bytes(data)
        code, _, err = command(many, "--resume")
        assert code == 2
        assert "b.tif: exists already" in err
    code, _, err = command(many, "--resume", "--overwrite")
    assert (code, err) == (0, "")
    assert (many / "results" / "b.tif").read_bytes() == whole


def test_a_result_that_is_not_whole_stops_no_other(command: Call, many: Path) -> None:
    (many / "results" / "b.tif").write_bytes(b"half of it")
    code, said, err = command(many, "--resume")
    assert (code, err.count("\n")) == (2, 1)
    assert "b.tif: exists already" in err
    assert "a.tif: " in said
    assert sorted(path.name for path in (many / "results").iterdir()) == ["a.tif", "b.tif", "c.tif"]


@pytest.mark.usefixtures("small_parts")
def test_an_old_output_beside_an_interrupted_run_is_not_taken_as_finished(
    command: Call, many: Path, options: Settings
) -> None:
    """The interrupted run was to replace it."""
    assert command(many)[0] == 0
    old = many / "results" / "b.tif"
    truth = old.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        refine_raster(
            many / "images" / "b.tif",
            old,
            many / "masks" / "b.png",
            settings=with_option(options, overwrite=True),
            progress=Interrupting(4),
        )
    assert old.read_bytes() == truth
    code, _, err = command(many, "--resume")
    assert code == 2
    assert "b.tif: exists already; give --overwrite" in err
    assert can_resume(old)
    code, out, err = command(many, "--resume", "--overwrite")
    assert (code, err) == (0, "")
    assert "resumed" in out
    assert old.read_bytes() == truth
    assert not can_resume(old)


@pytest.mark.parametrize("newer", ["images/b.tif", "masks/b.png"])
def test_a_result_of_before_its_image_or_mask_changed_is_told_and_left(command: Call, many: Path, newer: str) -> None:
    assert command(many)[0] == 0
    old = many / "results" / "b.tif"
    write_tif(old, np.full((360, 480), 9, np.uint8))
    truth = old.read_bytes()
    before = (many / newer).stat().st_mtime_ns - 10**9
    os.utime(old, ns=(before, before))
    code, said, err = command(many, "--resume")
    assert (code, said.count("finished before, left")) == (2, 2)
    told = "finished before, but the image or its mask has changed since; --overwrite makes it anew"
    assert err == f"infer.py: {old}: {told}\n"
    assert old.read_bytes() == truth


def test_overviews_that_were_made_later_make_no_result_outdated(command: Call, many: Path) -> None:
    assert command(many)[0] == 0
    overview = write_tif(many / "images" / "b.tif.ovr", np.zeros((180, 240, 3), np.uint8))
    assert overview in read_header(many / "images" / "b.tif").files
    code, said, _ = command(many, "--resume")
    assert (code, said.count("finished before, left")) == (0, 3)


def test_a_soft_result_is_not_finished_where_a_binary_one_is_wanted(command: Call, many: Path) -> None:
    assert command(many)[0] == 0
    for name in ("a.tif", "c.tif"):
        (many / "results" / name).unlink()
    for _ in range(2):
        code, said, err = command(many, "--resume", "--binary")
        assert (code, err.count("\n")) == (2, 1)
        assert "b.tif: exists already; give --overwrite" in err
    assert said.count("finished before, left") == 2

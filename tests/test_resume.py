"""`--resume` as it is typed: after kill -9, after Ctrl-C, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from interrupted import Interrupting, Pair, interrupt, names, small_windows, with_option, write_scene
from rasters import write_tif

from refine.api import plan_raster, refine_raster
from refine.errors import InputError
from refine.plan_table import plan_table
from refine.run_folder import can_resume, folder_of
from refine.settings import Settings

ROOT = Path(__file__).parent.parent

SMALL = """
import sys
from refine import cascade, planning
cascade.PART_WINDOWS = cascade.PART_ROWS = 1  # each row of windows is a part
planning.JOURNALLED_PIXELS = 0
from refine.cli import infer
from refine.command import run
run(infer, name="infer.py", arguments=sys.argv[1:])
"""
"""The command, with a journal for small images as well."""


@pytest.fixture
def folder(tmp_path: Path, photograph: Pair) -> Path:
    return write_scene(tmp_path, photograph)


@pytest.fixture
def options(changing: Path) -> Settings:
    return small_windows(changing)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(folder: Path, changing: Path) -> Start:
    """Starts the command over the scene, in windows of 96 px, with one of them a call."""

    def started(*more: object) -> subprocess.Popen[str]:
        arguments = ["--image", folder / "scene.tif", "--mask", folder / "rough.png", "--out", folder / "out.tif"]
        arguments += ["--checkpoint", changing, "--tile", 96, "--overlap", 32, "--batch", 1]
        arguments += ["--reach", 48, "--device", "cpu", *more]
        call = [sys.executable, "-c", SMALL, *map(str, arguments)]
        return subprocess.Popen(
            call,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell gives its background jobs an ignored SIGINT, and these tests may run in one.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return started


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def stop(process: subprocess.Popen[str], folder: Path, parts: int, with_signal: int) -> tuple[int, str, str]:
    """Send a signal once that many parts are finished, by earlier runs or this one."""
    deadline = time.monotonic() + 60
    while len(list(folder.glob(".*.run/level*.gz"))) < parts and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()
    process.send_signal(with_signal)
    return ended(process)


def test_a_run_killed_three_times_has_the_bytes_of_one_that_was_not(start: Start, folder: Path) -> None:
    code, said, error = ended(start("--out", folder / "truth.tif"))
    assert (code, error) == (0, "")
    assert "resumed" not in said
    for parts in (1, 3, 5):  # of nine
        code, _, _ = stop(start("--resume"), folder, parts, signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert not (folder / "out.tif").exists()
    assert can_resume(folder / "out.tif")
    code, said, error = ended(start("--resume"))
    assert (code, error) == (0, "")
    assert "of 9 parts had been finished before" in said
    assert (folder / "out.tif").read_bytes() == (folder / "truth.tif").read_bytes()
    assert names(folder) == ["out.tif", "rough.png", "scene.tif", "truth.tif"]
    rough = cv2.imread(str(folder / "rough.png"), cv2.IMREAD_GRAYSCALE)
    assert rough is not None
    refined = cv2.imread(str(folder / "truth.tif"), cv2.IMREAD_GRAYSCALE)
    assert refined is not None
    assert np.mean(np.abs(cv2.resize(refined, (60, 45), interpolation=cv2.INTER_AREA).astype(int) - rough)) > 0.5


def test_ctrl_c_ends_soon_and_says_how_to_go_on(start: Start, folder: Path) -> None:
    code, _, error = stop(start(), folder, 2, signal.SIGINT)
    assert (code, error) == (130, "infer.py: interrupted; the same command with --resume goes on from here\n")
    kept = {path.name for path in folder_of(folder / "out.tif").iterdir()}
    assert {name for name in kept if not name.startswith("level")} == {"lock", "run.json"}
    code, _, error = ended(start())
    assert code == 2
    assert "--resume to go on with it, or --overwrite to start anew" in error
    code, said, error = ended(start("--overwrite"))
    assert (code, error) == (0, "")
    assert "resumed" not in said
    assert names(folder) == ["out.tif", "rough.png", "scene.tif"]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("out", ["out.tif", "out.png"])
def test_output_form_preview_and_budget_may_differ(folder: Path, options: Settings, out: str) -> None:
    binary = with_option(options, binary=True, threshold=0.4)
    image, rough = folder / "scene.tif", folder / "rough.png"
    refine_raster(image, folder / f"truth{out[3:]}", rough, settings=binary)
    interrupt(folder, options, out=out)
    resumed = with_option(binary, resume=True, max_memory=3 << 30, overwrite=True)
    report = refine_raster(image, folder / out, rough, settings=resumed, preview=folder / "preview.png")
    assert (folder / out).read_bytes() == (folder / f"truth{out[3:]}").read_bytes()
    assert "parts had been finished before" in report.notes[-1]
    assert names(folder) == sorted([out, "preview.png", "rough.png", "scene.tif", f"truth{out[3:]}"])


@pytest.mark.usefixtures("small_parts")
def test_nodata_and_a_network_for_the_first_mask_resume_too(folder: Path, options: Settings, checkpoints: Path) -> None:
    """Counts and windows of the report as well."""
    rng = np.random.default_rng(0)
    values = rng.integers(1, 60_000, (300, 340, 3), dtype=np.uint16)
    values[40:200, 90:180] = 0
    image = write_tif(folder / "scene.tif", values, nodata=0)
    chosen = with_option(options, coarse_checkpoint=checkpoints / "mos_l_lite.safetensors", reach=20.0)
    resuming = with_option(chosen, resume=True)
    truth = refine_raster(image, folder / "truth.tif", settings=chosen)
    for calls in (1, 4, 6):
        with pytest.raises(KeyboardInterrupt):
            refine_raster(image, folder / "out.tif", settings=resuming, progress=Interrupting(calls))
    report = refine_raster(image, folder / "out.tif", settings=resuming)
    assert (folder / "out.tif").read_bytes() == (folder / "truth.tif").read_bytes()
    for level, other in zip(report.levels, truth.levels, strict=True):
        assert level.model_dump(exclude={"seconds"}) == other.model_dump(exclude={"seconds"})


def touched(path: Path) -> None:
    os.utime(path, ns=(10**18, 10**18))


def rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: touched(folder / "scene.tif"), r"changed: the image\."),
        (lambda folder: rewritten(folder / "rough.png"), r"changed: --mask\."),
        ({"tile": 112}, r"--tile \(was 96, is 112\)"),
        ({"overlap": 16}, r"--overlap \(was 32, is 16\)"),
        ({"reach": 3.0}, r"--reach \(was 48\.0, is 3\.0\)"),
        ({"select": "all"}, r"--select \(was boundary, is all\)"),
        ({"batch": 2}, r"--batch \(was 8, is 2\)"),
        ({"roi": (1, 2, 300, 200)}, r"--roi \(was none, is 1,2,300,200\)"),
        ({"bands": (3, 2, 1)}, r"--bands \(was None, is \(3, 2, 1\)\)"),
        ({"range": (5.0, 200.0)}, r"--range \(was None, is \(5\.0, 200\.0\)\)"),
        ({"checkpoint": "mos_h_lite.safetensors"}, r"changed: --checkpoint\."),
    ],
)
def test_what_changed_since_is_refused_by_name(
    folder: Path,
    options: Settings,
    checkpoints: Path,
    change: Callable[[Path], None] | dict[str, object],
    message: str,
) -> None:
    interrupt(folder, options)
    before = names(folder_of(folder / "out.tif"))
    if isinstance(change, dict):
        change = {name: checkpoints / str(value) if name == "checkpoint" else value for name, value in change.items()}
        options = with_option(options, **change)
    else:
        change(folder)
    with pytest.raises(InputError, match=message):
        refine_raster(
            folder / "scene.tif", folder / "out.tif", folder / "rough.png", settings=with_option(options, resume=True)
        )
    assert names(folder_of(folder / "out.tif")) == before
    assert not (folder / "out.tif").exists()


def test_small_images_leave_nothing_and_are_run_anew(folder: Path, options: Settings) -> None:
    interrupt(folder, options)
    assert names(folder) == ["rough.png", "scene.tif"]
    report = refine_raster(
        folder / "scene.tif", folder / "out.tif", folder / "rough.png", settings=with_option(options, resume=True)
    )
    assert report.windows_run > 0
    assert names(folder) == ["out.tif", "rough.png", "scene.tif"]


def test_a_plan_says_what_the_parts_take_of_the_disk(folder: Path, options: Settings, checkpoints: Path) -> None:
    assert "finished parts" not in plan_table(plan_raster(folder / "scene.tif", folder / "rough.png", settings=options))
    large = write_tif(folder / "large.tif", np.zeros((4096, 4096, 3), np.uint8))
    plan = plan_raster(large, folder / "rough.png", settings=with_option(options, align="stretch"))
    assert plan.is_journalled
    assert plan.temporary["finished parts, at most"] >= 4096 * 4096
    assert "finished parts, at most" in plan_table(plan)
    assert plan.memory["part's file"] > 0

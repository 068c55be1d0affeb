"""`--resume` as it is typed: after kill -9, after Ctrl-C, over folders, and what is refused."""

from __future__ import annotations

import json
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
from numpy.typing import NDArray
from rasters import write_picture, write_tif

from refine import cascade, planning
from refine.api import plan_raster, refine_raster
from refine.cli import infer
from refine.command import run
from refine.errors import InputError
from refine.run_folder import can_resume, folder_of
from refine.settings import Settings

ROOT = Path(__file__).parent.parent
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]

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


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory, checkpoints: Path) -> Path:
    """A checkpoint that changes what it sees: the untrained network with noise on its weights."""
    import torch

    from refine.models.checkpoint import load_model, save_checkpoint

    model, metadata = load_model(checkpoints / "mos_h_lite.safetensors", expect="refiner")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("changing") / "changing.safetensors"
    save_checkpoint(path, model.state_dict(), metadata)
    return path


@pytest.fixture
def folder(tmp_path: Path, photograph: Pair) -> Path:
    """`scene.tif`, 480 x 360, and `rough.png`."""
    image, mask = (cv2.resize(array, (480, 360), interpolation=cv2.INTER_LINEAR) for array in photograph)
    write_tif(tmp_path / "scene.tif", np.asarray(image, np.uint8))
    write_picture(tmp_path / "rough.png", np.asarray(cv2.resize(mask, (60, 45), interpolation=cv2.INTER_AREA)))
    return tmp_path


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As SMALL, for calls in this process."""
    monkeypatch.setattr(cascade, "PART_WINDOWS", 1)
    monkeypatch.setattr(cascade, "PART_ROWS", 1)
    monkeypatch.setattr(planning, "JOURNALLED_PIXELS", 0)


@pytest.fixture
def options(changing: Path) -> Settings:
    return Settings(checkpoint=changing, tile=96, overlap=32, batch=8, device="cpu", reach=48.0)


class Interrupting:
    """A Progress that stands for Ctrl-C at a call of its own."""

    def __init__(self, last: int) -> None:
        self._left = last

    def begin(self, level: int, levels: int, window_rows: int, windows: int) -> None:
        pass

    def advance(self, window_rows: int, run: int, skipped: int) -> None:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt


def interrupt(folder: Path, options: Settings, calls: int = 4, out: str = "out.tif") -> None:
    with pytest.raises(KeyboardInterrupt):
        refine_raster(
            folder / "scene.tif", folder / out, folder / "rough.png", settings=options, progress=Interrupting(calls)
        )
    assert not (folder / out).exists()


def with_option(options: Settings, **changed: object) -> Settings:
    return options.model_copy(update=changed)


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


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_killed_three_times_has_the_bytes_of_one_that_was_not(start: Start, folder: Path) -> None:
    code, said, error = ended(start("--out", folder / "truth.tif"))
    assert (code, error) == (0, "")
    assert "resumed" not in said
    for parts in (1, 3, 5):  # of seven
        code, _, _ = stop(start("--resume"), folder, parts, signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert not (folder / "out.tif").exists()
    assert can_resume(folder / "out.tif")
    code, said, error = ended(start("--resume"))
    assert (code, error) == (0, "")
    assert "of 7 parts had been finished before" in said
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
    assert "finished parts" not in plan_raster(folder / "scene.tif", folder / "rough.png", settings=options).describe()
    large = write_tif(folder / "large.tif", np.zeros((4096, 4096, 3), np.uint8))
    plan = plan_raster(large, folder / "rough.png", settings=with_option(options, align="stretch"))
    assert plan.is_journalled
    assert plan.temporary["finished parts, at most"] >= 4096 * 4096
    assert "finished parts, at most" in plan.describe()
    assert plan.memory["part's file"] > 0


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

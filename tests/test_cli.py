"""The commands as they are typed: what they write, what they say, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rasters import write_picture, write_tif

from refine.api import Report, refine_raster
from refine.cli import infer
from refine.command import run
from refine.raster import Header, read_header
from refine.settings import Settings

ROOT = Path(__file__).parent.parent
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class Ended:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Call = Callable[..., Ended]


@pytest.fixture
def command(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `infer.py` with untrained checkpoints in this process."""

    def call(*arguments: object) -> Ended:
        given = [str(argument) for argument in arguments]
        if "--checkpoint" not in given:
            given += ["--checkpoint", str(checkpoints / "mos_h_lite.safetensors")]
        if not {"--mask", "--coarse", "--coarse-checkpoint"} & set(given):
            given += ["--coarse-checkpoint", str(checkpoints / "mos_l_lite.safetensors")]
        with pytest.raises(SystemExit) as ended:
            run(infer, name="infer.py", arguments=[*given, "--device", "cpu"])
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def folder(tmp_path: Path, photograph: Pair) -> Path:
    """`photo.jpg` and `rough.png`."""
    image, mask = photograph
    write_picture(tmp_path / "photo.jpg", image)
    write_picture(
        tmp_path / "rough.png", np.asarray(cv2.resize(mask, (100, 75), interpolation=cv2.INTER_AREA), np.uint8)
    )
    return tmp_path


def read(path: Path) -> NDArray[np.uint8]:
    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert read is not None
    return np.asarray(read, np.uint8)


def only_line(ended: Ended) -> str:
    """The one line on stderr of a command that failed with exit code 2."""
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert line.startswith("infer.py: ")
    return line


def copies(folder: Path, stems: str) -> Path:
    """A folder of copies of the photograph."""
    images = folder / "images"
    images.mkdir()
    for stem in stems:
        (images / f"{stem}.jpg").write_bytes((folder / "photo.jpg").read_bytes())
    return images


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Let the image of that name fail, and all others be refined."""

    def failing(image: Path, *arguments: Any, **options: Any) -> Report:
        if image.name == name:
            raise error
        return refine_raster(image, *arguments, **options)

    monkeypatch.setattr("refine.infer.refine_raster", failing)


def test_a_photograph_and_a_rough_mask_give_a_mask_a_preview_and_a_report(command: Call, folder: Path) -> None:
    ended = command(
        "--image", folder / "photo.jpg", "--mask", folder / "rough.png", "--out", folder / "refined.png",
        "--preview", folder / "preview.png", "--report", folder / "report.json",
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    assert read(folder / "refined.png").shape == (300, 400)
    assert read(folder / "preview.png").ndim == 3
    assert json.loads((folder / "report.json").read_text())["width"] == 400
    assert sorted(path.name for path in folder.iterdir()) == [
        "photo.jpg", "preview.png", "refined.png", "report.json", "rough.png",
    ]  # fmt: skip


def test_the_result_is_the_mask_of_refine_array(
    command: Call, folder: Path, photograph: Pair, checkpoints: Path
) -> None:
    from refine import refine_array

    command("--image", folder / "photo.jpg", "--mask", folder / "rough.png", "--out", folder / "out.tif")
    image = read(folder / "photo.jpg")[:, :, ::-1]
    settings = Settings(device="cpu", checkpoint=checkpoints / "mos_h_lite.safetensors")
    refined = refine_array(image, read(folder / "rough.png"), settings=settings)
    np.testing.assert_array_equal(read(folder / "out.tif"), np.floor(refined * np.float32(255) + np.float32(0.5)))


def test_by_default_the_result_lies_beside_the_image(command: Call, folder: Path) -> None:
    write_tif(folder / "raster.tif", read(folder / "photo.jpg"))
    assert command("--image", folder / "photo.jpg", folder / "raster.tif").code == 0
    assert read(folder / "photo_mask.png").shape == read(folder / "raster_mask.tif").shape == (300, 400)


def test_a_folder_goes_to_a_folder_and_one_bad_file_does_not_stop_the_others(command: Call, folder: Path) -> None:
    images, out = folder / "images", folder / "results"
    images.mkdir()
    for name in ("a.jpg", "c.jpg"):
        (images / name).write_bytes((folder / "photo.jpg").read_bytes())
    (images / "b.jpg").write_bytes(b"no image")
    ended = command("--image", images, "--out", f"{out}/", "--report", folder / "report.json")
    assert "b.jpg" in only_line(ended)
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "c.png"]
    assert ["error" in entry for entry in json.loads((folder / "report.json").read_text())] == [False, True, False]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "b.jpg: No space left on device"),
        (PermissionError(13, "Permission denied", "/secret"), "/secret: Permission denied"),
        (MemoryError(), "b.jpg: the machine has no memory left; give a smaller --max-memory"),
        (KeyError("tag"), "b.jpg: refine failed: KeyError: 'tag'; give it alone to see where"),
    ],
)
def test_an_image_stops_no_other_whatever_it_fails_of(
    command: Call, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    fail_at(monkeypatch, "b.jpg", error)
    ended = command("--image", copies(folder, "abc"), "--out", f"{folder}/out/", "--report", folder / "report.json")
    assert only_line(ended).endswith(message)
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.png", "c.png"]
    records = json.loads((folder / "report.json").read_text())
    assert [record.get("error", "").endswith(message) for record in records] == [False, True, False]


def test_a_header_that_nobody_can_read_stops_no_other(
    command: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reading(path: Path, *, max_pixels: int) -> Header:
        if path.name == "b.jpg":
            raise KeyError("tag")
        return read_header(path, max_pixels=max_pixels)

    for module in ("api", "infer"):
        monkeypatch.setattr(f"refine.{module}.read_header", reading)
    arguments = ("--image", copies(folder, "abc"), "--out", f"{folder}/out/")
    for more in (["--plan"], []):
        ended = command(*arguments, *more)
        assert only_line(ended).endswith("b.jpg: refine failed: KeyError: 'tag'; give it alone to see where")
        assert len([line for line in ended.out.splitlines() if "/out/" in line]) == 2
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.png", "c.png"]


def test_a_single_image_keeps_the_traceback_of_what_nobody_foresaw(
    command: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, "photo.jpg", KeyError("tag"))
    with pytest.raises(KeyError, match="tag"):
        command("--image", folder / "photo.jpg")
    fail_at(monkeypatch, "photo.jpg", MemoryError())
    assert "no memory left" in only_line(command("--image", folder / "photo.jpg", "--report", folder / "report.json"))
    assert not (folder / "report.json").exists()


def test_an_interrupted_run_leaves_a_report_of_what_it_finished(
    command: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, "c.jpg", KeyboardInterrupt())
    images = copies(folder, "abc")
    (images / "b.jpg").write_bytes(b"no image")
    ended = command("--image", images, "--out", f"{folder}/out/", "--report", folder / "report.json")
    assert ended.code == 130
    records = json.loads((folder / "report.json").read_text())
    assert [Path(record["image"]).name for record in records] == ["a.jpg", "b.jpg"]
    assert ["windows_run" in record for record in records] == [True, False]


def test_binary_results_hold_two_values(command: Call, folder: Path) -> None:
    command("--image", folder / "photo.jpg", "--mask", folder / "rough.png", "--binary", "--threshold", 0.4)
    assert set(np.unique(read(folder / "photo_mask.png"))) == {0, 255}


def test_the_line_for_a_part_has_the_size_of_what_was_written(command: Call, folder: Path) -> None:
    arguments = ("--image", folder / "photo.jpg", "--mask", folder / "rough.png", "--out", folder / "part.png")
    ended = command(*arguments, "--roi", "10,20,100,90")
    assert ended.out.startswith(f"{folder / 'part.png'}: 90 x 100, ")
    assert read(folder / "part.png").shape == (100, 90)


def test_a_mask_of_labels_that_shows_no_outline_is_told_of(command: Call, folder: Path, photograph: Pair) -> None:
    """0 and 2 of 255 are next to nothing; whoever means labels must hear of it."""
    write_picture(folder / "labels.png", np.asarray((photograph[1] >= 128) * 2, np.uint8))
    ended = command("--image", folder / "photo.jpg", "--mask", folder / "labels.png", "--out", folder / "out.png")
    assert ended.code == 0
    assert "no window was run: the first mask is below 0.05 or above 0.95" in ended.out


def test_an_existing_output_needs_overwrite(command: Call, folder: Path) -> None:
    arguments = ("--image", folder / "photo.jpg", "--mask", folder / "rough.png", "--out", folder / "out.png")
    (folder / "out.png").write_bytes(b"mine")
    assert "exists already; give --overwrite" in only_line(command(*arguments))
    assert (folder / "out.png").read_bytes() == b"mine"
    assert command(*arguments, "--overwrite").code == 0
    assert read(folder / "out.png").shape == (300, 400)


def test_a_name_with_a_line_break_is_told_in_one_line(command: Call, folder: Path) -> None:
    image = (folder / "photo.jpg").rename(folder / "two\nlines  apart.jpg")
    ended = command("--image", image, "--mask", folder / "rough.png")
    assert (ended.code, ended.out.count("\n")) == (0, 1)
    assert "two lines  apart_mask.png: 400 x 300" in ended.out
    assert (folder / "two\nlines  apart_mask.png").is_file()


def test_a_plan_is_printed_and_nothing_is_written(command: Call, folder: Path) -> None:
    before = sorted(folder.iterdir())
    ended = command("--image", folder / "photo.jpg", "--out", f"{folder}/new/", "--plan")
    assert (ended.code, ended.err) == (0, "")
    assert "planned peak" in ended.out
    assert sorted(folder.iterdir()) == before


NO_TORCH = """
import sys
from refine.cli import infer
from refine.command import run
try:
    run(infer, name="infer.py", arguments=sys.argv[1:])
finally:
    assert "torch" not in sys.modules and "timm" not in sys.modules
"""


def test_a_plan_of_bands_that_are_not_there_is_refused(command: Call, folder: Path) -> None:
    ended = command("--image", folder / "photo.jpg", "--bands", "4,3,2", "--plan")
    assert (ended.code, ended.out) == (2, "")
    assert "--bands 4,3,2: the image has bands 1 to 3" in ended.err


def test_a_plan_goes_on_after_an_image_that_fails(command: Call, folder: Path) -> None:
    (folder / "bad.jpg").write_bytes(b"no image")
    ended = command("--image", folder / "bad.jpg", folder / "photo.jpg", "--out", f"{folder}/results/", "--plan")
    assert "bad.jpg" in only_line(ended)
    assert "photo.jpg -> " in ended.out


def test_a_refused_command_leaves_no_folders(command: Call, folder: Path) -> None:
    report = folder / "nowhere" / "report.json"
    only_line(command("--image", folder / "photo.jpg", "--out", f"{folder}/new/results/", "--report", report))
    assert not (folder / "new").exists()


def test_a_report_replaces_no_pipe_and_no_link(command: Call, folder: Path) -> None:
    os.mkfifo(folder / "pipe.json")
    (folder / "link.json").symlink_to(folder / "elsewhere.json")
    for name in ("pipe.json", "link.json"):
        ended = command("--image", folder / "photo.jpg", "--report", folder / name, "--overwrite")
        assert "is a link, a pipe or a device, and would be replaced" in only_line(ended)
    assert (folder / "pipe.json").is_fifo()
    assert (folder / "link.json").is_symlink()


def test_a_name_that_the_terminals_encoding_lacks_does_not_stop_a_run(folder: Path, checkpoints: Path) -> None:
    image = folder / "a\u65e5.jpg"
    image.write_bytes((folder / "photo.jpg").read_bytes())
    call = ["--image", image, "--mask", folder / "rough.png", "--checkpoint", checkpoints / "mos_h_lite.safetensors"]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "infer.py"), *map(str, call), "--plan"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert rb"a\u65e5.jpg" in ended.stdout


def test_a_plan_needs_no_torch(folder: Path, checkpoints: Path) -> None:
    arguments = ["--image", folder / "photo.jpg", "--plan", "--checkpoint", checkpoints / "mos_h_lite.safetensors"]
    arguments += ["--coarse-checkpoint", checkpoints / "mos_l_lite.safetensors"]
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "{}/missing.jpg"], "missing.jpg does not exist"),
        (["--image", "{}/photo.jpg", "--mask", "{}/missing.png"], "missing.png does not exist"),
        (
            ["--image", "{}/photo.jpg", "--tile", "100"],
            "--tile 100 is not a multiple of the network's stride 16; try --tile 96",
        ),
        (
            ["--image", "{}/photo.jpg", "--tile", "224", "--overlap", "224"],
            "--overlap 224 is not smaller than --tile 224",
        ),
        (["--image", "{}/photo.jpg", "--max-memory", "lots"], "'lots' is not a size in bytes"),
        (["--image", "{}/photo.jpg", "--max-memory", "9" * 400], "is not a size in bytes"),
        (["--image", "{}/" + "n" * 300], "file name too long"),
        (["--image", "{}/photo.jpg", "--mask", "{}/" + "n" * 300], "file name too long"),
        (["--image", "{}/photo.jpg", "--max-memory", "0.05GiB"], "the smallest that works is --max-memory"),
        (["--image", "{}/photo.jpg", "--batch", "many"], "'many' is neither auto nor a whole number"),
        (
            ["--image", "{}/photo.jpg", "--batch", "0"],
            "should be 'auto' or greater than or equal to 1, got 0",
        ),
        (
            ["--image", "{}/photo.jpg", "--batch", "100000"],
            "--max-memory 4096MiB is too small for an image of 400 x 300",
        ),
        (["--image", "{}/photo.jpg", "--tile", "16000"], "with --tile 16000; the smallest that works is"),
        (["--image", "{}/photo.jpg", "--roi", "1,2,3"], "--roi 1,2,3: give row,col,height,width"),
        (["--image", "{}/photo.jpg", "--roi", "290,0,20,20"], "--roi 290,0,20,20"),
        (["--image", "{}/photo.jpg", "--reach", "1e30"], "--reach: input should be less than or equal to 100000"),
        (["--image", "{}/photo.jpg", "--bands", "5"], "--bands 5"),
        (["--image", "{}/photo.jpg", "--bands", "r,g,b"], "'r,g,b' is not of the form R,G,B"),
        (
            ["--image", "{}/photo.jpg", "--mask", "{}/rough.png", "--coarse", "mos_l"],
            "--coarse makes the first mask, but --mask",
        ),
        (["--image", "{}/photo.jpg", "--coarse", "isnet"], "get isnet-general-use.pth of the project xuebinqin/DIS"),
        (["--image", "{}/photo.jpg", "--coarse", "u2net"], "give --coarse-checkpoint FILE"),
        (["--image", "{}/photo.jpg", "--out", "{}/nowhere/out.png"], "does not exist"),
        (["--image", "{}/photo.jpg", "--out", "{}/photo.jpg/x/"], "cannot be made"),
        (["--image", "{}/photo.jpg", "--out", "{}/out.gif"], "end it in .tif, .tiff or .png"),
        (["--image", "{}/photo.jpg", "--preview", "{}/p.xyz"], "--preview"),
        (["--image", "{}/photo.jpg", "--report", "{}/nowhere/r.json"], "does not exist"),
        (["--image", "{}/photo.jpg", "--checkpoint", "{}/photo.jpg"], "photo.jpg"),
        (["--image", "{}/photo.jpg", "--checkpoint", "{}/none.safetensors"], "none.safetensors"),
        (["--image", "{}/text.jpg"], "text.jpg"),
        (["--image", "{}/photo.jpg", "--mask", "{}/other.png"], "--align stretch"),
        (["--image", "{}/photo.jpg", "stray.jpg"], "stray.jpg does not exist"),
        (["--image", "{}/photo.jpg", "--mask", "{}/rough.png", "stray"], "unexpected extra argument"),
        (["--image", "{}/photo.jpg", "--ovrlap", "3"], "--ovrlap"),
        (["--image", "{}/photo.jpg", "--out", "{}/loop.png"], "is a symbolic link"),
        (["--image", "{}/photo.jpg", "--preview", "{}/p.png", "--report", "{}/p.png"], "give another name"),
        (["--image", "{}/photo.jpg", "{}/text.jpg", "--preview", "{}/", "--report", "{}/text_preview.png"], "another"),
        (["--image", "{}/pipe"], "is a pipe"),
        (["--image", "{}/photo.jpg", "--mask", "{}/pipe"], "is a pipe"),
        (["--image", "{}/photo.jpg", "--checkpoint", "{}/pipe"], "is a pipe"),
        (["--image", "{}/photo.jpg", "--out", ""], "--out: the value is empty"),
        (["--image", "{}/photo.jpg", "--mask="], "--mask: the value is empty"),
        (["--image={}/scene.tif&signature=abc="], "scene.tif&signature=abc= does not exist"),
        (["--image", "{}/" + os.fsdecode(b"lat\xe9.png")], "no name that is not UTF-8"),
        (["--image", "{}/photo.jpg", "--out", "{}/" + os.fsdecode(b"lat\xe9.tif")], "no name that is not UTF-8"),
        (["--image", "{}/photo.jpg", "--plan", "--report", "{}/r.json"], "--report is of a run, but --plan stops"),
        (["--image", "{}/photo.jpg", "--plan", "--preview", "{}/p.png"], "--preview is of a run, but --plan stops"),
        (["--image"], "--image"),
        ([], "--image"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    command: Call, folder: Path, arguments: list[str], message: str
) -> None:
    (folder / "text.jpg").write_text("no picture")
    write_picture(folder / "other.png", np.zeros((90, 50), np.uint8))
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe")
    if sys.platform == "linux":  # elsewhere names are UTF-8
        (folder / os.fsdecode(b"lat\xe9.png")).write_bytes((folder / "rough.png").read_bytes())
    before = sorted(folder.rglob("*"))
    line = only_line(command(*(argument.format(folder) for argument in arguments)))
    assert message.lower() in line.lower()
    assert sorted(folder.rglob("*")) == before


def test_the_checkpoint_is_checked_even_when_no_window_would_run(
    command: Call, folder: Path, checkpoints: Path
) -> None:
    write_picture(folder / "empty.png", np.zeros((300, 400), np.uint8))
    whole = (checkpoints / "mos_h_lite.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-100])
    arguments = ("--image", folder / "photo.jpg", "--mask", folder / "empty.png", "--out", folder / "out.png")
    assert "cut.safetensors" in only_line(command(*arguments, "--checkpoint", folder / "cut.safetensors"))
    assert not (folder / "out.png").exists()


def test_a_truncated_image_leaves_no_file(command: Call, folder: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_tif(folder / "cut.tif", rng.integers(0, 256, (600, 600, 3), dtype=np.uint8), compress="deflate")
    path.write_bytes(path.read_bytes()[:-400_000])
    before = sorted(folder.iterdir())
    assert "cut.tif" in only_line(command("--image", path))
    assert sorted(folder.iterdir()) == before


def test_every_setting_is_an_option_and_has_a_line_in_the_help() -> None:
    options = {parameter.name: parameter for parameter in infer.params if isinstance(parameter, click.Option)}
    for name, field in Settings.model_fields.items():
        assert field.description is not None
        assert field.description in (options[name].help or "")


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 143, "terminated")],
)
def test_an_interruption_is_one_line_and_leaves_no_file(
    folder: Path, checkpoints: Path, number: signal.Signals, code: int, said: str
) -> None:
    large = cv2.resize(read(folder / "photo.jpg"), (4000, 3000), interpolation=cv2.INTER_LINEAR)
    write_picture(folder / "large.jpg", np.asarray(large, np.uint8))
    arguments = ["--image", folder / "large.jpg", "--out", folder / "out.tif", "--select", "all", "--device", "cpu"]
    arguments += ["--mask", folder / "rough.png", "--checkpoint", checkpoints / "mos_h_lite.safetensors"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "infer.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell gives its background jobs an ignored SIGINT, nohup an ignored SIGHUP; these tests may run in either.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob(".*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, f"infer.py: {said}\n")
    assert sorted(path.name for path in folder.iterdir()) == ["large.jpg", "photo.jpg", "rough.png"]

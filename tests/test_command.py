"""How a command begins and ends, whichever it is: its arguments, its exit code, and what it says on the way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from refine.cli import refine
from refine.command import repeat_option, run

ROOT = Path(__file__).parent.parent


def test_an_option_takes_as_many_files_as_a_shell_makes_of_a_pattern() -> None:
    given = ["--image", "a", "b", "--tile", "96", "--image=c", "d", "--soft"]
    expected = ["--image", "a", "--image", "b", "--tile", "96", "--image=c", "--image", "d", "--soft"]
    assert repeat_option(given, "--image") == expected


ENDS = """
import atexit, click
from refine.command import run

@click.command()
@click.argument("how")
def end(how):
    atexit.register(print, "registered in the command")
    print("said", end="")
    if how == "bug":
        raise RuntimeError("a bug")
    return 3

run(end, name="end")
"""


@pytest.mark.parametrize(("how", "code"), [("well", 3), ("bug", 1)])
def test_a_process_that_leaves_says_all_that_it_had_to_say(how: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", ENDS, how], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "saidregistered in the command\n")
    assert ("RuntimeError: a bug" in done.stderr) == (how == "bug")


@pytest.mark.parametrize(("closed", "said"), [("1", ""), ("2", "saidregistered in the command\n")])
def test_a_process_without_an_output_leaves_without_a_word(closed: str, said: str) -> None:
    call = ["sh", "-c", f'exec "$0" "$@" {closed}>&-', sys.executable, "-c", ENDS, "well"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, said, "")


def test_the_package_is_the_command() -> None:
    for arguments, code, said in (["--version"], 0, "refine, version"), (["infer"], 2, "refine infer: Missing option"):
        call = [sys.executable, "-m", "refine", *arguments]
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code
        assert (done.stdout + done.stderr).startswith(said)


def test_the_group_names_the_command_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, start in (
        (["infer", "--image", "missing.jpg"], "refine infer: --image missing.jpg does not exist"),
        (["infer", "--tile", "x"], "refine infer: "),
        (["unknown"], "refine: "),
        ([], "refine: give a command: infer, "),
    ):
        with pytest.raises(SystemExit) as ended:
            run(refine, name="refine", arguments=arguments)
        (line,) = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--run", "runs/a"], "--run"),
        (["--resume"], "--resume"),
        (["--resume", "state.safetensors", "--extend", "9"], "--resume and --extend"),
        (["--stop-after", "5"], "--stop-after"),
    ],
)
def test_a_dry_run_refuses_what_is_of_a_run(capsys: pytest.CaptureFixture[str], options: list[str], named: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(refine, name="refine", arguments=["train", "--config", "none.json", "--dry-run", *options])
    expected = f"refine train: --dry-run begins no run and keeps nothing; leave {named} out\n"
    assert (ended.value.code, capsys.readouterr().err) == (2, expected)

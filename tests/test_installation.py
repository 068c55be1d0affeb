"""What importing costs, and that what is installed is complete."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import refine
from refine.errors import CheckpointError
from refine.shipped import default_checkpoint, shipped_names

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "torchvision", "timm"}


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after `code`."""
    code += "\nimport sys\nprint(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "module", ["refine", "refine.cli", "refine.settings", "refine.api", "refine.infer", "refine.models"]
)
def test_importing_brings_no_torch(module: str) -> None:
    assert not modules_after(f"import {module}") & HEAVY


@pytest.mark.parametrize(
    "arguments", [["--help"], ["infer", "--help"], ["infer"], ["infer", "--image", "x", "--tile", "7"]]
)
def test_help_and_bad_arguments_bring_no_torch_and_no_raster_library(arguments: list[str]) -> None:
    call = f"run(refine, name='refine', arguments={arguments!r})"
    code = (
        f"from refine.cli import refine\nfrom refine.command import run\ntry:\n    {call}\nexcept SystemExit:\n    pass"
    )
    assert not modules_after(code) & (HEAVY | {"rasterio", "cv2"})


def test_the_public_names_come_from_the_package_itself() -> None:
    code = "from refine import Report, Settings, refine_array, refine_raster"
    assert not modules_after(code) & HEAVY
    assert set(refine.__all__) <= set(dir(refine))  # where a shell completes names


def test_every_package_has_an_init_so_that_the_wheel_holds_it() -> None:
    folders = {path.parent for path in (ROOT / "refine").rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_a_checkpoint_that_is_not_there_is_said_with_those_that_are() -> None:
    with pytest.raises(CheckpointError, match=r"no such checkpoint comes with this installation \(there: "):
        default_checkpoint("mos_x")


def test_shipped_checkpoints_lie_where_the_resolver_says() -> None:
    for name in shipped_names():
        assert default_checkpoint(name).is_file()


def test_ci_runs_what_the_readme_says() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("pip install")]
    assert len(commands) == 1
    assert commands[0] in (ROOT / "README.md").read_text()

"""A torch and a torchvision that do not fit together are named in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from refine.errors import InstallationError
from refine.models import build_model
try:
    build_model("mos_h_lite")
except InstallationError as error:
    print(error)
"""


def build_with_fake_torchvision(folder: Path, source: str) -> list[str]:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(source)
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={"PYTHONPATH": f"{folder}:{root}", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_cpu_torch_beside_the_default_torchvision_is_named(tmp_path: Path) -> None:
    # What the default wheel of torchvision 0.28.0 does beside torch 2.13.0+cpu.
    lines = build_with_fake_torchvision(tmp_path, "raise RuntimeError('operator torchvision::nms does not exist')")
    assert len(lines) == 1
    for part in (
        "do not fit together",
        "operator torchvision::nms does not exist",
        "install both from the same source: pip install --force-reinstall torch torchvision",
        "a CPU-only pair from PyTorch's own CPU index, see pytorch.org/get-started",
    ):
        assert part in lines[0]


def test_a_torchvision_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    lines = build_with_fake_torchvision(tmp_path, "raise ImportError('libcudart.so.13: cannot open shared object')")
    assert len(lines) == 1
    assert "torchvision cannot be imported: libcudart.so.13" in lines[0]


def test_other_errors_of_torchvision_are_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        build_with_fake_torchvision(tmp_path, "raise RuntimeError('something else')")
    assert "RuntimeError: something else" in caught.value.stderr

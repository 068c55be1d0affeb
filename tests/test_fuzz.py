"""The short version of benchmarks/fuzz.py: damaged rasters, masks, checkpoints and configs."""

from __future__ import annotations

from pathlib import Path

import pytest
from damage import whole_files
from fuzz import check_input, open_input
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return whole_files(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "part.png").write_bytes(files["mask-grey.png"])  # of the mosaic
    return folder


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(number=st.integers(0, 10**9))
def test_a_damaged_input_is_taken_or_refused_in_one_line(files: dict[str, bytes], folder: Path, number: int) -> None:
    assert check_input(number, files, folder) in ("taken", "refused")


def test_whole_inputs_are_taken(files: dict[str, bytes], folder: Path) -> None:
    """Else damage would be tried on files that are refused anyway."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
        open_input(folder / name)
        (folder / name).unlink()

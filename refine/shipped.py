"""Where the checkpoints are that come with refine: inside the installed package, or in the repository beside it."""

from __future__ import annotations

from pathlib import Path

from refine.errors import CheckpointError

_PACKAGE = Path(__file__).parent
# A wheel carries the lite ones inside the package; a source tree has all of them at its top.
_FOLDERS = (_PACKAGE / "checkpoints", _PACKAGE.parent / "checkpoints")


def default_checkpoint(name: str) -> Path:
    """The shipped checkpoint of the network `name`, such as `mos_h_lite`.

    Raises CheckpointError, with the names that are there, if it does not come with this installation.
    """
    for folder in _FOLDERS:
        path = folder / f"{name}.safetensors"
        if path.is_file():
            return path
    there = ", ".join(shipped_names()) or "none"
    raise CheckpointError(
        f"{name}: no such checkpoint comes with this installation (there: {there}); give a file with --checkpoint or"
        " --coarse-checkpoint"
    )


def shipped_names() -> tuple[str, ...]:
    """Names for `default_checkpoint`."""
    return tuple(sorted({path.stem for folder in _FOLDERS for path in folder.glob("*.safetensors")}))

"""An exported network beside its checkpoint: what the file says of itself, written and read by the same lines."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from refine.errors import CheckpointError

KEY = "refine"
"""Name of the entry in the metadata of an ONNX file."""


class Exported(BaseModel):
    """What a run must know of an exported network before it trusts it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: int = 1
    checkpoint_sha256: str
    architecture: str
    stride: int
    tile: int


def exported_path(checkpoint: Path) -> Path:
    """Where the exported network of a checkpoint is looked for: under its name, ending in `.onnx`."""
    return checkpoint.with_suffix(".onnx")


def read_exported(path: Path, entries: dict[str, str], *, sha256: str) -> Exported:
    """What the file says, from the metadata `entries` in it; `sha256` is that of the checkpoint it must come from.

    Raises CheckpointError.
    """
    try:
        about = Exported.model_validate_json(entries.get(KEY, ""))
    except ValidationError as error:
        raise CheckpointError(f"{path}: was not made by this version's `refine export`; export again") from error
    if about.checkpoint_sha256 != sha256:
        raise CheckpointError(f"{path}: was exported from another checkpoint; run refine export again")
    return about


def entry_of(about: Exported) -> tuple[str, str]:
    """Key and text for the metadata of an ONNX file."""
    return KEY, json.dumps(about.model_dump(mode="json"), sort_keys=True)

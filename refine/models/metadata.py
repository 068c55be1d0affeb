"""What a checkpoint says of itself, read from the file's header alone: no torch, no tensor."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from refine.errors import CheckpointError
from refine.models.preprocessing import Preprocessing

FORMAT = 1
"""Layout of the files this version writes and reads; a file of another number is refused, not guessed at."""

MAX_HEADER_BYTES = 16 * 2**20
"""Headers of our networks take below 200 KiB; a larger claim is a broken or a hostile file."""


class Metadata(BaseModel):
    """All that is needed to use the weights beside it: nothing of it is repeated on the command line."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: int = FORMAT
    refine_version: str
    architecture: str = Field(description="name that `build_model` knows")
    config: dict[str, JsonValue] = Field(description="the network's config, complete")
    preprocessing: Preprocessing
    training: dict[str, JsonValue] = Field(default_factory=dict, description="data, schedule, seconds: what made it")
    metrics: dict[str, JsonValue] = Field(default_factory=dict, description="what it scored, on what")
    licence: str
    step: int = Field(default=0, ge=0)

    def header(self) -> dict[str, str]:
        """The entries of a safetensors header: plain text as it is, all else as JSON."""
        values = self.model_dump(mode="json")
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def read_metadata(path: Path | str) -> Metadata:
    """The metadata of a checkpoint; the file's length is checked too, its tensors are not read.

    Raises CheckpointError if the file is unreadable, truncated, no safetensors file, not made by refine, or of
    a format that this version does not know.
    """
    path = Path(path)
    entries = read_header(path).get("__metadata__")
    if not isinstance(entries, dict) or "format" not in entries or "architecture" not in entries:
        raise CheckpointError(f"{path}: holds weights but not refine's metadata; give a checkpoint made by refine")
    if entries["format"] != str(FORMAT):
        raise CheckpointError(
            f"{path}: checkpoint format {entries['format']!r} is unknown to this version, which reads"
            f" {FORMAT}; install a newer refine"
        )
    texts = {name for name, kind in Metadata.model_fields.items() if kind.annotation is str}
    try:
        values = {key: value if key in texts else json.loads(value) for key, value in entries.items()}
        return Metadata.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise CheckpointError(f"{path}: metadata: {problems}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: metadata is not JSON: {error}") from error


def has_metadata(path: Path) -> bool:
    """Whether a file of weights says of itself what it is; published ones do not, and a `.pth` never does.

    Raises CheckpointError for a safetensors file that is broken.
    """
    if path.suffix != ".safetensors":
        return False
    entries = read_header(path).get("__metadata__")
    return isinstance(entries, dict) and "architecture" in entries


def read_header(path: Path) -> dict[str, object]:
    """The JSON header of a safetensors file, after a check that the file is as long as the header says.

    Raises CheckpointError.
    """
    try:
        if path.is_fifo():  # opening one waits for ever
            raise CheckpointError(f"{path}: is a pipe; save the checkpoint to a file first")
        length = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            claimed = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 2 <= claimed <= length - 8:
                raise CheckpointError(f"{path}: is not a safetensors file, or is cut off")
            if claimed > MAX_HEADER_BYTES:
                raise CheckpointError(f"{path}: is broken: its header claims {claimed} bytes, over {MAX_HEADER_BYTES}")
            text = file.read(claimed)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        header = json.loads(text)
        tensors = {key: value for key, value in header.items() if key != "__metadata__"}
        stop = max((int(tensor["data_offsets"][1]) for tensor in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not a safetensors file: its header makes no sense") from error
    if 8 + claimed + stop != length:
        raise CheckpointError(f"{path}: is {length} bytes but should be {8 + claimed + stop}; fetch the file again")
    return {str(key): value for key, value in header.items()}


def sha256(path: Path | str) -> str:
    """Hex digest of a file's bytes: what identifies a checkpoint in reports and in `checkpoints/README.md`."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()

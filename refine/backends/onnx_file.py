"""An exported network beside its checkpoint: what the file says of itself, written and read by the same lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
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


def about_exported(path: Path, *, sha256: str) -> Exported:
    """The same from the file itself, which needs no ONNX Runtime and takes a millisecond. Raises CheckpointError."""
    try:
        entries = dict(_entries(path.read_bytes()))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (IndexError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: is no network that ONNX Runtime reads; run refine export again") from error
    return read_exported(path, entries, sha256=sha256)


def entry_of(about: Exported) -> tuple[str, str]:
    """Key and text for the metadata of an ONNX file."""
    return KEY, json.dumps(about.model_dump(mode="json"), sort_keys=True)


_METADATA, _NAME, _TEXT = 14, 1, 2  # numbers of ModelProto's and StringStringEntryProto's fields in onnx.proto


def _entries(model: bytes) -> Iterator[tuple[str, str]]:
    for number, content in _fields(model):
        if number == _METADATA:
            entry = dict(_fields(content))
            yield entry.get(_NAME, b"").decode(), entry.get(_TEXT, b"").decode()


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of a protobuf message's fields, but for those that are numbers.

    Raises IndexError where the message ends within a field, or holds what protobuf does not know.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        match key & 7:
            case 0:  # a number
                _, place = _varint(message, place)
            case 1:  # of eight bytes
                place += 8
            case 5:  # of four
                place += 4
            case 2:  # anything else
                length, place = _varint(message, place)
                if place + length > len(message):
                    raise IndexError
                yield key >> 3, message[place : place + length]
                place += length
            case _:
                raise IndexError


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where the next field begins."""
    number = 0
    for index in range(10):  # which hold 64 bits
        byte = message[place + index]
        number |= (byte & 127) << 7 * index
        if byte < 128:
            return number, place + index + 1
    raise IndexError

"""Weights on disk: refine's own checkpoints (safetensors with metadata), and files that others published."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from refine.errors import CheckpointError, ConfigError
from refine.models.metadata import FORMAT, Metadata, read_header, read_metadata, sha256
from refine.models.registry import NETWORKS, Role, build_model, network_names
from refine.whole_file import write_whole

__all__ = [
    "FORMAT",
    "Metadata",
    "check_role",
    "load_model",
    "load_published",
    "read_encoder_weights",
    "read_metadata",
    "save_checkpoint",
    "sha256",
]

MODEL_PREFIX = "model."
"""Weights stand under this prefix, so that a file of training state can hold others beside them."""

PUBLISHED_PREFIXES = ("module.", "net.")
"""What data-parallel training and wrapper classes put before every key."""

PUBLISHED_WRAPPERS = ("state_dict", "model")
"""Under which key published files keep the weights beside epoch, optimizer and the like."""

COUNTED_BATCHES = ".num_batches_tracked"
"""How keys of BatchNorm end that files from before torch 0.4.1 lack; torch fills them in, and only training asks."""


def save_checkpoint(path: Path | str, state: Mapping[str, Tensor], metadata: Metadata, *, half: bool = True) -> None:
    """Write weights and metadata; the file appears under `path` only when whole.

    With `half`, tensors of two and more dimensions (the weights of convolutions) are stored as float16; biases and
    all of BatchNorm stay float32, since a variance does not survive float16.

    Raises CheckpointError if a value is not finite in the stored type, or if the file cannot be written.
    """
    stored = {MODEL_PREFIX + key: _as_stored(tensor, half=half) for key, tensor in state.items()}
    broken = [key for key, tensor in stored.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(f"{path}: not written: {_few(broken)} would not be finite")
    try:
        write_whole(Path(path), _with_ordered_header(save(stored, metadata.header())))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error


def load_model(path: Path | str, *, expect: Role | None = None) -> tuple[nn.Module, Metadata]:
    """The network of a checkpoint with its weights, float32, in eval mode, and its metadata.

    `expect` says what the network will be used for: "coarse" (sees the whole image) or "refiner" (sees windows and a
    mask). Raises CheckpointError if the file is broken, or holds another kind of network than expected.
    """
    path = Path(path)
    metadata = read_metadata(path)
    check_role(path, metadata, expect)
    try:
        model = build_model(metadata.architecture, metadata.config, is_loaded=True)
    except ConfigError as error:
        raise CheckpointError(f"{path}: this version cannot build its network: {error}") from error
    state = _read_tensors(path)
    foreign = [key for key in state if not key.startswith(MODEL_PREFIX)]
    if foreign:
        raise CheckpointError(f"{path}: holds training state ({_few(foreign)}); give the checkpoint that it released")
    _load_strictly(model, {key.removeprefix(MODEL_PREFIX): tensor for key, tensor in state.items()}, path)
    return model.eval(), metadata


def check_role(path: Path | str, metadata: Metadata, expect: Role | None) -> None:
    """Raise CheckpointError if the checkpoint's network is unknown or is not of the role `expect`."""
    network = NETWORKS.get(metadata.architecture)
    if network is None:
        raise CheckpointError(
            f"{path}: holds a network {metadata.architecture!r} that this version does not have;"
            f" it has {', '.join(network_names())}"
        )
    if expect is not None and network.role != expect:
        said: dict[Role, str] = {
            "coarse": "a coarse network",
            "refiner": "a refiner",
            "truth": "a truth encoder",
            "composite": "a network of composites",
        }
        raise CheckpointError(
            f"{path}: holds {metadata.architecture}, {said[network.role]}; {said[expect]} is wanted here"
            f" ({' or '.join(network_names(expect))})"
        )


def load_published(model: nn.Module, path: Path | str) -> None:
    """Load a state dict that others published, `.pth` or `.safetensors`, into `model`; all keys must match.

    Pickles are read with `weights_only=True`: nothing in the file is executed. A dict around the state dict
    ("state_dict", "model") and a prefix common to all keys ("module.", "net.") are taken off.

    Raises CheckpointError if the file is unreadable or does not fit the network.
    """
    path = Path(path)
    state = _read_tensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    _load_strictly(model, _without_prefix(state), path)


def read_encoder_weights(path: Path | str) -> dict[str, Tensor]:
    """Tensors of an encoder's weights file (safetensors, or `.pth` by `weights_only=True`), floats as float32.

    Raises CheckpointError.
    """
    path = Path(path)
    state = _read_tensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return _without_prefix(state)


def _as_stored(tensor: Tensor, *, half: bool) -> Tensor:
    tensor = tensor.detach().cpu()
    if half and tensor.is_floating_point() and tensor.ndim >= 2:
        tensor = tensor.to(torch.float16)
    # safetensors refuses tensors that share memory, and writes dense ones only.
    return tensor.clone(memory_format=torch.contiguous_format)


def _with_ordered_header(content: bytes) -> bytes:
    """The same safetensors file with its header's entries in a fixed order: safetensors 0.8 shuffles its metadata.

    So equal weights give equal bytes, and one sha256.
    """
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    text = json.dumps({"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}).encode()
    text += b" " * (-len(text) % 8)  # tensors start on a multiple of 8, which readers map into memory
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def _read_tensors(path: Path) -> dict[str, Tensor]:
    read_header(path)
    try:
        # From bytes: safetensors 0.8 loses 28 bytes for each number of a shape that it reads from a file it has opened.
        return {key: _as_float32(tensor) for key, tensor in load(path.read_bytes()).items()}
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: is not a safetensors file: {_first_line(error)}") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # Pickle protocols other than 2 are only warned of; what cannot be read is an error below.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: holds more than weights, or is no torch file; nothing of it was run") from error
    # The reader raises all of these for bytes that are no torch file.
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(f"{path}: is not a torch file, or is cut off: {_first_line(error)}") from error
    for wrapper in PUBLISHED_WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: holds no state dict: tensors by name were expected")
    return {str(key): _as_float32(tensor) for key, tensor in content.items()}


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PUBLISHED_PREFIXES * 2:  # twice: a wrapped network may have been trained data-parallel
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return dict(state)


def _load_strictly(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    missing, surplus = [key for key in own if key not in state], [key for key in state if key not in own]
    missing = [key for key in missing if not key.endswith(COUNTED_BATCHES)]
    if missing or surplus:
        parts = ([f"lacks {_few(missing)}"] if missing else []) + ([f"has {_few(surplus)} too many"] if surplus else [])
        raise CheckpointError(f"{path}: is for another network than {type(model).__name__}: it {' and '.join(parts)}")
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"{path}: is for another network than {type(model).__name__}: {key} is {tuple(state[key].shape)},"
            f" expected {tuple(own[key].shape)} ({len(wrong)} of {len(own)} tensors differ in shape)"
        )
    model.load_state_dict(dict(state), strict=True)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Run an exported refining network by ONNX Runtime on the CPU, without torch in the process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from refine.backends.onnx_file import Exported, exported_path, read_exported
from refine.errors import CheckpointError, InputError
from refine.geometry import RGB, Mask
from refine.memory import ONNX_LITE_COST
from refine.models.metadata import sha256

INPUTS = ("image", "coarse", "reach")
OUTPUT = "correction"


class OnnxRefiner:
    """A `Refiner` in float32: what `refine export` wrote beside a checkpoint; equal batches give equal bytes."""

    def __init__(self, session: Any, about: Exported) -> None:
        self._session, self._about = session, about

    @classmethod
    def load(cls, checkpoint: Path | str, *, threads: int | None = None) -> OnnxRefiner:
        """The exported network of a checkpoint.

        Raises InputError if ONNX Runtime is not installed, CheckpointError if there is no export of this very
        checkpoint.
        """
        checkpoint = Path(checkpoint)
        path = exported_path(checkpoint)
        if not path.is_file():
            raise CheckpointError(
                f"{path}: does not exist; make it with refine export --checkpoint {checkpoint} --image PHOTOGRAPH"
            )
        session = open_session(path, path, threads=threads)
        entries = dict(session.get_modelmeta().custom_metadata_map)
        return cls(session, read_exported(path, entries, sha256=sha256(checkpoint)))

    @property
    def stride(self) -> int:
        return self._about.stride

    @property
    def weight_bytes(self) -> int:
        return ONNX_LITE_COST.weight_bytes

    def activation_bytes(self, batch: int, tile: int) -> int:
        return ONNX_LITE_COST.activation_bytes(batch, tile)

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        """See `refine.sources.Refiner`. Raises InputError for windows of another size than the exported one."""
        side, tile = image.shape[1], self._about.tile
        if side != tile:
            raise InputError(f"--tile {side}: the network was exported for --tile {tile}; export it again")
        feeds = dict(zip(INPUTS, (image, coarse, np.full(len(image), reach, np.float32)), strict=True))
        return np.asarray(self._session.run([OUTPUT], feeds)[0], np.float32)


def open_session(network: Path | bytes, path: Path, *, threads: int | None = None) -> Any:
    """A session on the CPU, of a file or its content; `path` is what an error speaks of.

    Raises InputError without ONNX Runtime, CheckpointError for what it cannot read.
    """
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as states
    except ImportError as error:
        raise InputError('--backend onnxruntime: is not installed; pip install "refine[onnx]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_threads() if threads is None else threads
    options.log_severity_level = 3  # it warns of every node that it folds
    try:
        source = str(network) if isinstance(network, Path) else network
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except (states.Fail, states.InvalidArgument, states.InvalidGraph, states.InvalidProtobuf) as error:
        raise CheckpointError(f"{path}: is no network that ONNX Runtime reads; run refine export again") from error


def count_threads() -> int:
    """As many as `OMP_NUM_THREADS` says, as for torch, else the CPUs that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> str:
    """What computes: results are equal to the bit where this is equal, and the batches."""
    from importlib.metadata import version

    return f"cpu, onnxruntime {version('onnxruntime')}, {count_threads()} threads, float32"

"""Networks that run: a checkpoint in, a function on uint8 windows out. Importing this package imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refine.coarse import CoarseNetwork
    from refine.models.device import Precision
    from refine.settings import CoarseKind
    from refine.sources import Refiner

__all__ = ["coarse_footprint", "describe_exported", "load_coarse", "load_exported", "load_refiner"]


def load_refiner(
    path: Path | str, *, device: str = "auto", precision: Precision = "auto", threads: int | None = None
) -> Refiner:
    """The refining network of a checkpoint, on a device ("auto", "cpu", "cuda", "cuda:1").

    Raises CheckpointError if the file is no refiner's, InputError if the device is not there.
    """
    from refine.backends.torch_backend import TorchRefiner

    return TorchRefiner.load(path, device=device, precision=precision, threads=threads)


def load_exported(checkpoint: Path | str) -> Refiner:
    """What `refine export` made of a refiner's checkpoint, by ONNX Runtime on the CPU: no torch is imported.

    Raises CheckpointError if there is none of this checkpoint, InputError if ONNX Runtime is not installed.
    """
    from refine.backends.onnx_backend import OnnxRefiner

    return OnnxRefiner.load(checkpoint)


def describe_exported(checkpoint: Path | str) -> str:
    """What computes there, and by which file, as far as the bytes of a result depend on it."""
    from refine.backends.onnx_backend import describe
    from refine.backends.onnx_file import exported_path
    from refine.models.metadata import sha256

    return f"{describe()}, {sha256(exported_path(Path(checkpoint)))}"


def load_coarse(
    path: Path | str,
    *,
    kind: CoarseKind | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
) -> CoarseNetwork:
    """The coarse network of a checkpoint. With a `kind` other than "mos_l" the file may also be one that others
    published (`.pth`, or plain safetensors); "mos_l" takes the lite network too. float32 is the default here: it is
    one pass an image, and CPUs with and without bfloat16 then give the same mask.

    Raises CheckpointError if the file is no coarse network's, or another one's than `kind`.
    """
    from refine.backends.torch_backend import TorchCoarse

    return TorchCoarse.load(path, kind=kind, device=device, precision=precision, threads=threads)


def coarse_footprint(path: Path | str) -> tuple[int, int]:
    """Bytes of a coarse network's weights, and the most that one call needs beside them, on the CPU: by running it."""
    from refine.backends.torch_backend import TorchCoarse

    network = TorchCoarse.load(path, device="cpu")
    return network.weight_bytes, network.activation_bytes

"""Run networks by torch: uint8 windows in, float32 corrections or probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from refine.backends.activation import join_activations
from refine.backends.fold import fold_batch_norms
from refine.backends.footprint import peak_tensor_bytes, weight_bytes
from refine.backends.padding import pad_evenly
from refine.errors import CheckpointError, DeviceMemoryError
from refine.geometry import RGB, Mask
from refine.models.checkpoint import check_role, load_model, load_published, read_metadata
from refine.models.device import Precision, choose_device, choose_dtype
from refine.models.metadata import Metadata, has_metadata
from refine.models.preprocessing import Preprocessing
from refine.models.registry import build_model, published_preprocessing

T = TypeVar("T")

PROBE_SIDE = 128
"""Side of the windows that memory is measured with: a multiple of every network's stride."""

WORKSPACE_SHARE = 0.25
"""Added to the tensors counted, for what kernels borrow (oneDNN reorders, cuDNN workspaces)."""

KERNEL_BYTES = 16 * 2**20
"""What the first call keeps for good: code that oneDNN generates, thread buffers. Measured: up to 12 MiB on a CPU."""


class TorchRefiner:
    """A refining network on a device; equal batches give equal bytes.

    BatchNorm is folded into the convolutions and weights lie channels last. In bfloat16 the network's layers run under
    autocast; logits and their sigmoid stay float32.
    """

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing, *, device: str = "auto", precision: Precision = "auto"
    ) -> None:
        self.device = choose_device(device)
        self.dtype = choose_dtype(precision, self.device)
        self.stride = cast(int, model.stride)
        self.preprocessing = preprocessing
        self._correction = cast(Callable[[Tensor, Tensor, Tensor], Tensor], model.correction)
        side = max(64, 2 * self.stride)
        self._model = made_ready(model, lambda: self._correction(*_flat_windows(1, side)), self.device, self.dtype)

    @classmethod
    def load(
        cls, path: Path | str, *, device: str = "auto", precision: Precision = "auto", threads: int | None = None
    ) -> TorchRefiner:
        """The refiner of a checkpoint; `threads` sets torch's number of CPU threads for the process."""
        model, metadata = load_model(path, expect="refiner")
        _set_threads(threads)
        return cls(model, metadata.preprocessing, device=device, precision=precision)

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        """See `refine.sources.Refiner`. Raises DeviceMemoryError if the device has no room for so many windows."""
        what = f"{len(image)} windows of {image.shape[1]} px"
        return _with_room(lambda: self._corrections(image, coarse, reach), self.device, what)

    def _corrections(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        windows, masks = _as_tensor(image).to(self.device), _as_tensor(coarse).to(self.device)
        return self.correct(windows, masks, reach).cpu().numpy()

    def correct(self, windows: Tensor, masks: Tensor, reach: float) -> Tensor:
        """The same of tensors on the device: (B, T, T, 3) in 0..255 and (B, T, T) in 0..1 give (B, T, T) float32."""
        with _running(self.device, self.dtype):
            pixels = self.preprocessing.normalise(windows)
            reaches = torch.full((len(windows),), reach, device=self.device)
            return self._correction(pixels, masks[:, None], reaches)[:, 0].float()

    @property
    def weight_bytes(self) -> int:
        return weight_bytes(self._model)

    def activation_bytes(self, batch: int, tile: int) -> int:
        return self._figures.total(batch * tile * tile, _cast_bytes(self._model, self.dtype))

    @cached_property
    def _figures(self) -> MemoryFigures:
        def run(side: int) -> Mask:  # uncertain everywhere: what is certain may cost less
            return self(np.zeros((1, side, side, 3), np.uint8), np.full((1, side, side), 0.5, np.float32), 1.0)

        return MemoryFigures.measure(run)


class TorchCoarse:
    """A coarse network on a device: a `CoarseNetwork`. Images come in its own size, or an ensemble's."""

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing, *, device: str = "auto", precision: Precision = "fp32"
    ) -> None:
        if preprocessing.height is None or preprocessing.width is None:
            raise CheckpointError("a coarse network's preprocessing must state height and width of its input")
        self.input_height, self.input_width = preprocessing.height, preprocessing.width
        self.preprocessing = preprocessing
        self.device = choose_device(device)
        self.dtype = choose_dtype(precision, self.device)
        side = max(64, 2 * cast(int, model.stride))
        self._model = made_ready(model, lambda: model(_flat_windows(1, side)[0]), self.device, self.dtype)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        kind: str | None = None,
        device: str = "auto",
        precision: Precision = "fp32",
        threads: int | None = None,
    ) -> TorchCoarse:
        """The coarse network of a checkpoint, or a published file of the network `kind`; see `load_coarse`."""
        _set_threads(threads)
        if kind is not None and not has_metadata(Path(path)):
            model = build_model(kind)
            load_published(model, path)
            return cls(model.eval(), published_preprocessing(kind), device=device, precision=precision)
        check_kind(path, read_metadata(path), kind)
        model, metadata = load_model(path, expect="coarse")
        return cls(model, metadata.preprocessing, device=device, precision=precision)

    def __call__(self, rgb: RGB) -> Mask:
        """See `refine.coarse.CoarseNetwork`. Raises DeviceMemoryError if the device has no room for the image."""
        what = f"the coarse network at {rgb.shape[1]} x {rgb.shape[0]}; give --device cpu, --mask or another --coarse"
        return _with_room(lambda: self._probability(rgb), self.device, what)

    def _probability(self, rgb: RGB) -> Mask:
        with _running(self.device, self.dtype):
            pixels = self.preprocessing.normalise(_as_tensor(rgb)[None].to(self.device))
            logit: Tensor = self._model(pixels)["final"]  # (1, 1, H, W)
            return torch.sigmoid(logit.float())[0, 0].cpu().numpy()

    @property
    def weight_bytes(self) -> int:
        return weight_bytes(self._model)

    @cached_property
    def activation_bytes(self) -> int:
        """The most that one call needs beside the weights; measured by running it on a part of its input size."""
        figures = MemoryFigures.measure(lambda side: self(np.zeros((side, side, 3), np.uint8)))
        return figures.total(self.input_height * self.input_width, _cast_bytes(self._model, self.dtype))


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """Bytes of a call's tensors: those that any call makes, and those for each pixel of its windows."""

    fixed: float
    per_pixel: float

    @classmethod
    def measure(cls, run: Callable[[int], object]) -> MemoryFigures:
        """From two calls, `run` with a window of one side and with one of twice that."""
        # Weights that autocast casts and keeps are added by their own size: counted here they would hide which layer
        # holds the most, since it is the last one on a small window and the first one on a large.
        was_kept = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            small, large = (peak_tensor_bytes(partial(run, side)) for side in (PROBE_SIDE, 2 * PROBE_SIDE))
        finally:
            torch.set_autocast_cache_enabled(was_kept)
        per_pixel = (large - small) / (3 * PROBE_SIDE**2)
        return cls(max(0.0, small - per_pixel * PROBE_SIDE**2), per_pixel)

    def total(self, pixels: int, cast_bytes: int) -> int:
        """Bytes beside the weights for a call on so many pixels, with what kernels borrow and keep."""
        return int((1 + WORKSPACE_SHARE) * (self.fixed + self.per_pixel * pixels)) + cast_bytes + KERNEL_BYTES


def _cast_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """Two copies of the weights in bfloat16: the one that autocast keeps during a call, and one as oneDNN orders it."""
    return weight_bytes(model) if dtype == torch.bfloat16 else 0


def check_kind(path: Path | str, metadata: Metadata, kind: str | None) -> None:
    """Raise CheckpointError if the checkpoint is no coarse network's, or not of `kind` ("mos_l" has a lite form)."""
    check_role(path, metadata, "coarse")
    if kind is not None and metadata.architecture not in (kind, f"{kind}_lite"):
        held = metadata.architecture
        raise CheckpointError(f"{path}: holds {held}, not {kind}; give --coarse {held.removesuffix('_lite')}")


def made_ready(
    model: nn.Module, run: Callable[[], object], device: torch.device, dtype: torch.dtype | None = None
) -> nn.Module:
    """Eval mode, BatchNorm folded in float32 on the CPU, no copies to pad, weights channels last, on the device.

    `run` calls the network once. With the `dtype` that a CPU will run it in, convolutions do their activations too.
    Raises DeviceMemoryError if the device has no room for the weights.
    """
    model.eval().requires_grad_(False)
    folded = fold_batch_norms(model, run)
    pad_evenly(model)
    if device.type == "cpu" and dtype is not None:
        join_activations(model, folded, dtype)

    def moved() -> nn.Module:
        ready: nn.Module = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return ready

    return _with_room(moved, device, "a network's weights; give --device cpu")


@contextmanager
def _running(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """No gradients, one algorithm per shape, and autocast to bfloat16 if that is the dtype."""
    with (
        # Not inference_mode: constants that a network makes and keeps in a first run could not be trained with later.
        torch.no_grad(),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16),
        # Benchmarking may pick another algorithm in the next run, and TF32 is not float32.
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield


def _with_room(run: Callable[[], T], device: torch.device, what: str) -> T:
    """What `run` gives. Raises DeviceMemoryError if the device has no room for `what`."""
    try:
        return run()
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
    # Outside of the handler, whose traceback holds the tensors of the call.
    torch.cuda.empty_cache()
    raise DeviceMemoryError(f"{device} has no room for {what}")


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Of a GPU, by torch's allocator, the driver or a library, or of main memory; torch has an error for the first."""
    words = ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")
    return isinstance(error, torch.OutOfMemoryError) or any(each in str(error) for each in words)


def _flat_windows(batch: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(batch, 3, side, side), torch.zeros(batch, 1, side, side), torch.ones(batch)


def _as_tensor(array: RGB | Mask) -> Tensor:
    # torch warns of arrays it may not write to; those are copied.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)

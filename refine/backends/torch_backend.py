"""Run networks by torch: uint8 windows in, float32 corrections or probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from refine.backends import Precision
from refine.backends.fold import fold_batch_norms
from refine.backends.footprint import peak_tensor_bytes, weight_bytes
from refine.backends.precision import choose_device, choose_dtype
from refine.errors import CheckpointError
from refine.geometry import RGB, Mask
from refine.models.checkpoint import check_role, load_model, load_published, read_metadata
from refine.models.metadata import Metadata, read_header
from refine.models.preprocessing import Preprocessing
from refine.models.registry import build_model, default_preprocessing

PROBE_SIDE = 128
"""Side of the windows that memory is measured with: a multiple of every network's stride."""

WORKSPACE_SHARE = 0.25
"""Added to the tensors counted, for what kernels borrow (oneDNN reorders, cuDNN workspaces)."""


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
        self._model = _made_ready(model, lambda: self._correction(*_flat_windows(1, side)), self.device)

    @classmethod
    def load(
        cls, path: Path | str, *, device: str = "auto", precision: Precision = "auto", threads: int | None = None
    ) -> TorchRefiner:
        """The refiner of a checkpoint; `threads` sets torch's number of CPU threads for the process."""
        model, metadata = load_model(path, expect="refiner")
        _set_threads(threads)
        return cls(model, metadata.preprocessing, device=device, precision=precision)

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        windows, masks = _as_tensor(image), _as_tensor(coarse)
        with _running(self.device, self.dtype):
            pixels = self.preprocessing.normalise(windows.to(self.device))
            correction = self._correction(
                pixels, masks.to(self.device)[:, None], torch.full((len(image),), reach, device=self.device)
            )  # (B, 1, T, T)
            return correction[:, 0].float().cpu().numpy()

    @property
    def weight_bytes(self) -> int:
        return weight_bytes(self._model)

    def activation_bytes(self, batch: int, tile: int) -> int:
        fixed, per_pixel = self._memory_figures
        return int((1 + WORKSPACE_SHARE) * (fixed + per_pixel * batch * tile * tile))

    @cached_property
    def _memory_figures(self) -> tuple[float, float]:
        """Bytes that any call needs, and bytes for each pixel of its windows; from a batch of one and one of two."""

        def peak(batch: int) -> int:
            image = np.zeros((batch, PROBE_SIDE, PROBE_SIDE, 3), np.uint8)
            coarse = np.zeros((batch, PROBE_SIDE, PROBE_SIDE), np.float32)
            return peak_tensor_bytes(lambda: self(image, coarse, 1.0))

        one, two = peak(1), peak(2)
        return max(0, 2 * one - two), (two - one) / PROBE_SIDE**2


class TorchCoarse:
    """A coarse network on a device: a `CoarseNetwork`. The image arrives in the network's own size."""

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
        self._model = _made_ready(model, lambda: model(_flat_windows(1, side)[0]), self.device)

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
        if kind is not None and not _is_ours(Path(path)):
            model = build_model(kind)
            load_published(model, path)
            return cls(model.eval(), default_preprocessing(kind, model), device=device, precision=precision)
        check_kind(path, read_metadata(path), kind)
        model, metadata = load_model(path, expect="coarse")
        return cls(model, metadata.preprocessing, device=device, precision=precision)

    def __call__(self, rgb: RGB) -> Mask:
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

        def peak(side: int) -> int:
            return peak_tensor_bytes(lambda: self(np.zeros((side, side, 3), np.uint8)))

        small, large = peak(PROBE_SIDE), peak(2 * PROBE_SIDE)
        per_pixel = (large - small) / (3 * PROBE_SIDE**2)
        fixed = max(0.0, small - per_pixel * PROBE_SIDE**2)
        return int((1 + WORKSPACE_SHARE) * (fixed + per_pixel * self.input_height * self.input_width))


def check_kind(path: Path | str, metadata: Metadata, kind: str | None) -> None:
    """Raise CheckpointError if the checkpoint is no coarse network's, or not of `kind` ("mos_l" has a lite form)."""
    check_role(path, metadata, "coarse")
    if kind is not None and metadata.architecture not in (kind, f"{kind}_lite"):
        held = metadata.architecture
        raise CheckpointError(f"{path}: holds {held}, not {kind}; give --coarse {held.removesuffix('_lite')}")


def _is_ours(path: Path) -> bool:
    """Whether a file has refine's metadata; a `.pth` never has."""
    if path.suffix != ".safetensors":
        return False
    entries = read_header(path).get("__metadata__")
    return isinstance(entries, dict) and "architecture" in entries


def _made_ready(model: nn.Module, run: Callable[[], object], device: torch.device) -> nn.Module:
    """Eval mode, BatchNorm folded in float32 on the CPU, weights channels last, on the device."""
    model.eval().requires_grad_(False)
    fold_batch_norms(model, run)
    ready: nn.Module = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ready


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


def _flat_windows(batch: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(batch, 3, side, side), torch.zeros(batch, 1, side, side), torch.ones(batch)


def _as_tensor(array: RGB | Mask) -> Tensor:
    # torch warns of arrays it may not write to; those are copied.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)

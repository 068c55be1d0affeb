"""A refining network as an ONNX file: what `TorchRefiner` runs in float32, preprocessing and sigmoid included."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from refine.backends.onnx_backend import INPUTS, OUTPUT
from refine.backends.onnx_file import Exported, entry_of
from refine.backends.torch_backend import made_ready
from refine.errors import CheckpointError, InstallationError
from refine.geometry import RGB, Mask
from refine.models.checkpoint import load_model
from refine.models.metadata import sha256
from refine.models.preprocessing import Preprocessing
from refine.plan import check_stride

OPSET = 17


class _Windows(nn.Module):
    """uint8 windows, coarse masks and reaches in; corrections out."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self._model = model
        self._correction = cast(Callable[[Tensor, Tensor, Tensor], Tensor], model.correction)
        std = torch.tensor(preprocessing.std)
        self._scale = (1 / (255 * std)).view(1, 3, 1, 1)
        self._shift = (-torch.tensor(preprocessing.mean) / std).view(1, 3, 1, 1)

    def forward(self, image: Tensor, coarse: Tensor, reach: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2).float() * self._scale + self._shift
        return self._correction(pixels, coarse[:, None], reach)[:, 0]


def export_refiner(checkpoint: Path, tile: int) -> tuple[bytes, Exported]:
    """The bytes of an ONNX file for windows of `tile` px, any number of them, and what it says of itself.

    Raises CheckpointError if the file is no refiner's; InstallationError if the package `onnx` is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise InstallationError('refine export: needs the package onnx; pip install "refine[onnx]"') from error
    model, metadata = load_model(checkpoint, expect="refiner")
    stride = cast(int, model.stride)
    check_stride(tile, stride)
    if metadata.preprocessing.white != "255":
        raise CheckpointError(f"{checkpoint}: is scaled by each image's own maximum, which is not exported")
    windows = _Windows(model, metadata.preprocessing)
    example = (
        torch.zeros(2, tile, tile, 3, dtype=torch.uint8),
        torch.zeros(2, tile, tile),
        torch.ones(2),
    )
    made_ready(model, lambda: windows(*example), torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        # That this exporter is the older one, and that sizes are fixed, which they are.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            windows.eval(),
            example,
            Path(folder, "network.onnx"),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_axes={name: {0: "batch"} for name in (*INPUTS, OUTPUT)},
        )
        network = onnx.load(Path(folder, "network.onnx"))
    about = Exported(checkpoint_sha256=sha256(checkpoint), architecture=metadata.architecture, stride=stride, tile=tile)
    key, text = entry_of(about)
    onnx.helper.set_model_props(network, {key: text})
    content: bytes = network.SerializeToString()
    return content, about


def reference(checkpoint: Path) -> Callable[[RGB, Mask, float], Mask]:
    """The checkpoint's network as it was trained: float32, nothing folded, on the CPU."""
    model, metadata = load_model(checkpoint, expect="refiner")
    correction = cast(Callable[[Tensor, Tensor, Tensor], Tensor], model.correction)

    @torch.no_grad()
    def run(image: RGB, coarse: Mask, reach: float) -> Mask:
        pixels = metadata.preprocessing.normalise(torch.from_numpy(image))
        masks = torch.from_numpy(coarse)[:, None]
        return np.asarray(correction(pixels, masks, torch.full((len(image),), reach))[:, 0].numpy(), np.float32)

    return run

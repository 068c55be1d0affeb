"""Weights that others published as ONNX files, made into a checkpoint of ours, and compared with onnxruntime.

    python benchmarks/published.py --network u2netp --onnx u2netp.onnx --save u2netp.safetensors --licence Apache-2.0
    python benchmarks/published.py --network isnet --onnx isnet.onnx --images photos/ --out difference.json

An ONNX file has its batch norms folded into the convolutions: convolutions are paired in order, each batch norm becomes
the identity. What is compared is the network's first output, the mask, for the same tensor: each image brought to the
network's size and scaled as published. Where the files are to be had: see checkpoints/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from refine import __version__
from refine.errors import CheckpointError, InputError
from refine.models import build_model
from refine.models.checkpoint import Metadata, load_model, save_checkpoint
from refine.models.registry import full_config, network_names, published_preprocessing

ROOT = Path(__file__).parent.parent


def weights_from_onnx(path: Path, model: nn.Module) -> None:
    """Put the convolutions of an ONNX file into `model`, in order, and make its batch norms the identity.

    Raises CheckpointError if their number or a shape differs.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    theirs = [node.input[1:] for node in graph.node if node.op_type == "Conv"]
    ours = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if len(theirs) != len(ours):
        raise CheckpointError(f"{path}: has {len(theirs)} convolutions, the network {len(ours)}")
    with torch.no_grad():
        for names, convolution in zip(theirs, ours, strict=True):
            for name, parameter in zip(names, (convolution.weight, convolution.bias), strict=True):
                values = torch.from_numpy(numpy_helper.to_array(stored[name]).astype(np.float32))
                if parameter is None or parameter.shape != values.shape:
                    raise CheckpointError(f"{path}: {name} does not fit the network")
                parameter.copy_(values)
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            nn.init.ones_(norm.weight)
            nn.init.zeros_(norm.bias)
            norm.running_mean = torch.zeros(norm.num_features)
            norm.running_var = torch.ones(norm.num_features) - norm.eps


def images_of(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Names and RGB pixels of the photographs of a folder, or of one file."""
    paths = (
        [folder] if folder.is_file() else sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".png"))
    )
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise InputError(f"{path}: is no image")
        yield path.name, np.ascontiguousarray(picture[..., ::-1], np.uint8)


class Comparison:
    """Our network and the ONNX file, side by side."""

    def __init__(self, name: str, model: nn.Module, path: Path) -> None:
        import onnxruntime

        self._model = model.eval()
        self._preprocessing = published_preprocessing(name)
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def difference(self, image: NDArray[np.uint8]) -> dict[str, float]:
        """Of the probabilities: the largest, the mean, and the share of pixels that change sides of one half."""
        height, width = self._preprocessing.height or 0, self._preprocessing.width or 0
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        pixels = self._preprocessing.normalise(torch.from_numpy(small)[None]).contiguous()
        with torch.no_grad():
            logit: Tensor = self._model(pixels)["final"]
        ours = torch.sigmoid(logit)[0, 0].numpy()
        theirs = self._session.run(None, {self._session.get_inputs()[0].name: pixels.numpy()})[0][0, 0]
        apart = np.abs(ours - theirs)
        return {
            "largest": float(apart.max()),
            "mean": float(apart.mean()),
            "changed": float(((ours > 0.5) != (theirs > 0.5)).mean()),
        }


@click.command(help=__doc__)
@click.option("--network", "name", type=click.Choice(network_names("coarse")), required=True)
@click.option("--onnx", "path", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--images", type=click.Path(path_type=Path, exists=True), default=ROOT / "examples" / "astronaut.jpg")
@click.option("--save", type=click.Path(path_type=Path), help="write a checkpoint, and compare that")
@click.option("--licence", help="of the weights, for the checkpoint")
@click.option("--source", help="where the file came from, for the checkpoint")
@click.option("--out", type=click.Path(path_type=Path), help="also write the differences, as JSON")
def main(
    name: str, path: Path, images: Path, save: Path | None, licence: str | None, source: str | None, out: Path | None
) -> None:
    """Convert and compare."""
    model = build_model(name)
    weights_from_onnx(path, model)
    if save is not None:
        if not licence:
            raise click.UsageError("--save needs --licence: a checkpoint says what may be done with it")
        metadata = Metadata(
            refine_version=__version__,
            architecture=name,
            config=full_config(name).model_dump(mode="json"),
            preprocessing=published_preprocessing(name),
            training={"source": source or path.name, "batch_norms": "folded: the identity"},
            licence=licence,
        )
        save_checkpoint(save, model.state_dict(), metadata, half=False)  # float16 moves U2-NetP's masks by 0.065
        model, _ = load_model(save, expect="coarse")
    comparison = Comparison(name, model, path)
    found = {image: comparison.difference(pixels) for image, pixels in images_of(images)}
    for image, figures in found.items():
        print(image, " ".join(f"{key} {value:.2e}" for key, value in figures.items()))
    worst = max(figures["largest"] for figures in found.values())
    print(f"largest difference of {len(found)} images: {worst:.2e}")
    if out:
        out.write_text(json.dumps({"largest": worst, "images": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What int8 could give: every convolution of the refining network in float32, bfloat16 and int8, at its own shape.

    python benchmarks/int8.py --out int8.json

oneDNN's kernels run with the activation in them: u8 in and out, weights s8 per channel, VNNI where the CPU has it. What
quantising activations between them costs, and what it costs in accuracy, is not counted: the sum is a limit that no
way of quantising the convolutions goes below. The windows are the repository's photograph, at the outline of the mask
that U2-NetP makes of it. CPU seconds of one thread, the least of `--rounds`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import cv2
import numpy as np
import torch
from peers import read
from scenes import ROOT
from torch.utils._python_dispatch import TorchDispatchMode

from refine.allocation import keep_freed_memory
from refine.backends import load_coarse
from refine.backends.torch_backend import TorchRefiner
from refine.coarse import make_coarse
from refine.geometry import RGB, Mask
from refine.models.device import Precision
from refine.shipped import default_checkpoint
from refine.sources import ArrayImage

TILE, BATCH, REACH = 224, 8, 4.0
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

Shape = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int, bool]
"""Of a convolution: input, weight, stride, padding, dilation, groups, and whether an activation follows."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint("mos_h_lite"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    image, coarse = windows()
    whole, found = {}, Convolutions()
    for precision in PRECISIONS:
        refiner = TorchRefiner.load(options.checkpoint, device="cpu", precision=precision)
        whole[precision] = least(partial(refiner, image, coarse, REACH), options.rounds)
        if not found.shapes:
            with found:
                refiner(image, coarse, REACH)
    alone = dict.fromkeys((*PRECISIONS, "int8"), 0.0)
    for shape, count in found.shapes.items():
        for name, call in calls_of(shape).items():
            alone[name] += count * least(call, options.rounds)
    rest = {name: whole[name] - alone[name] for name in whole}
    limit = min(rest.values()) + alone["int8"]
    figures = {
        "convolutions": sum(found.shapes.values()),
        "milliseconds": {name: round(1e3 * seconds, 1) for name, seconds in whole.items()},
        "of convolutions": {name: round(1e3 * seconds, 1) for name, seconds in alone.items()},
        "int8 at best": round(1e3 * limit, 1),
        "times as fast as fp32": {
            "bf16": round(whole["fp32"] / whole["bf16"], 2),
            "int8 at best": round(whole["fp32"] / limit, 2),
        },
    }
    print(json.dumps(figures, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


def windows() -> tuple[RGB, Mask]:
    """Windows of the photograph, thrice enlarged, that see an outline."""
    pixels = read(ROOT / "examples" / "astronaut.jpg", cv2.IMREAD_COLOR)
    enlarged = cv2.resize(pixels, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    image = np.asarray(cv2.cvtColor(enlarged, cv2.COLOR_BGR2RGB), np.uint8)
    made = make_coarse(ArrayImage(image), load_coarse(default_checkpoint("u2netp"), device="cpu"))
    mask = np.asarray(cv2.resize(made, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)
    places = [
        np.s_[row : row + TILE, col : col + TILE]
        for row in range(0, image.shape[0] - TILE, TILE)
        for col in range(0, image.shape[1] - TILE, TILE)
    ]
    chosen = sorted(places, key=lambda place: abs(float(mask[place].mean()) - 0.5))[:BATCH]
    return np.stack([image[place] for place in chosen]), np.stack([mask[place] for place in chosen])


class Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its base untyped
    """Counts the convolutions of a call by their shapes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its base untyped
        self.shapes: Counter[Shape] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if "convolution" in str(func):
            sizes, joined = (tuple(args[0].shape), tuple(args[1].shape)), "pointwise" in str(func)
            if joined:
                padding, stride, dilation, groups = args[3:7]
            else:
                stride, padding, dilation, groups = args[3], args[4], args[5], args[8]
            shape = (*sizes, tuple(stride), tuple(padding), tuple(dilation), groups, joined)
            self.shapes[shape] += 1
        return func(*args, **(kwargs or {}))


def calls_of(shape: Shape) -> dict[str, Callable[[], object]]:
    """The convolution in each type, of numbers drawn at random."""
    size, weight_size, stride, padding, dilation, groups, is_active = shape
    geometry = (list(padding), list(stride), list(dilation), groups)
    after: tuple[str, list[float], str] = ("relu" if is_active else "none", [], "")
    x, weight, bias = torch.rand(size), torch.randn(weight_size) / 10, torch.zeros(weight_size[0])

    def plain(dtype: torch.dtype) -> Callable[[], object]:
        given, kernel = (last(part.to(dtype)) for part in (x, weight))
        return lambda: torch.ops.mkldnn._convolution_pointwise(given, kernel, bias.to(dtype), *geometry, *after)

    quantised = last((255 * x).to(torch.uint8))
    scales, zeros = torch.full((weight_size[0],), 0.01), torch.zeros(weight_size[0], dtype=torch.int64)
    fixed = (list(stride), list(padding), list(dilation), groups)
    packed = torch.ops.onednn.qconv_prepack((127 * weight).to(torch.int8), scales, 0.02, 0, *fixed, list(size))
    return {
        "fp32": plain(torch.float32),
        "bf16": plain(torch.bfloat16),
        "int8": lambda: torch.ops.onednn.qconv2d_pointwise(
            quantised, 0.02, 0, packed, scales, zeros, bias, *fixed, 0.05, 0, torch.uint8, *after
        ),
    }


def last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def least(call: Callable[[], object], rounds: int) -> float:
    """CPU seconds."""
    with torch.no_grad():
        call()
        taken = []
        for _ in range(rounds):
            begun = process_time()
            call()
            taken.append(process_time() - begun)
    return min(taken)


if __name__ == "__main__":
    main()

"""The same windows by every way to run the refining network on a CPU: what decides which of them refine offers.

    refine export --checkpoint REF/mos_h_lite.safetensors --image examples/astronaut.jpg
    pip install openvino
    python benchmarks/runtimes.py --checkpoint REF/mos_h_lite.safetensors --out runtimes.json

torch as refine runs it and as `torch.compile` makes it of the network as loaded (inductor), ONNX Runtime and OpenVINO
on what `refine export` wrote. One thread; ways take turns, the least CPU seconds of `--rounds` count. "ready" is from
the file to the first result, "differs" from the corrections of the first way, on average. The windows are those of
`int8.py`. Inductor's frozen weights, which torch's makers advise for CPUs, end in an error of torch 2.14 here.

OpenVINO's package asks a statistics server for an address as it is imported; its module for that is kept out here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from int8 import BATCH, REACH, windows

from refine import backends
from refine.allocation import keep_freed_memory
from refine.backends.onnx_file import exported_path
from refine.geometry import RGB, Mask
from refine.models.checkpoint import load_model
from refine.shipped import default_checkpoint
from refine.sources import Refiner

Correct = Callable[[RGB, Mask, float], Mask]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint("mos_h_lite"), help="export beside it")
    parser.add_argument("--ways", default=";".join(WAYS), help="[default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=10, help="[default: %(default)s]")
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    image, coarse = windows()
    loaded: dict[str, Correct] = {}
    ready: dict[str, float] = {}
    results: dict[str, Mask] = {}
    for way in options.ways.split(";"):
        begun = process_time()
        loaded[way] = WAYS[way](options.checkpoint)
        results[way] = loaded[way](image, coarse, REACH)
        ready[way] = process_time() - begun
    least = dict.fromkeys(loaded, float("inf"))
    for _ in range(options.rounds):
        for way, correct in loaded.items():
            begun = process_time()
            correct(image, coarse, REACH)
            least[way] = min(least[way], process_time() - begun)
    expected = next(iter(results.values()))
    rows = [
        {
            "way": way,
            "windows_per_cpu_second": round(BATCH / least[way], 1),
            "ready_cpu_seconds": round(ready[way], 2),
            "differs": float(f"{np.abs(results[way] - expected).mean():.1e}"),
        }
        for way in loaded
    ]
    print("| way | windows / CPU s | ready, CPU s | differs |\n|---|---|---|---|")
    for row in rows:
        print("|", " | ".join(str(figure) for figure in row.values()), "|")
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


def by_torch(precision: Any, checkpoint: Path) -> Refiner:
    return backends.load_refiner(checkpoint, device="cpu", precision=precision)


def by_compiled_torch(dtype: torch.dtype, checkpoint: Path) -> Correct:
    """The network as loaded, made one program by inductor."""
    model, metadata = load_model(checkpoint, expect="refiner")
    network: Any = model.eval().requires_grad_(False)
    compiled: Any = torch.compile(network.correction, dynamic=False)

    def correct(image: RGB, coarse: Mask, reach: float) -> Mask:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            pixels = metadata.preprocessing.normalise(torch.from_numpy(image))
            reaches = torch.full((len(image),), reach)
            return np.asarray(compiled(pixels, torch.from_numpy(coarse)[:, None], reaches)[:, 0].float())

    return correct


def by_openvino(precision: str, checkpoint: Path) -> Correct:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it fails, and it is done without
    openvino: Any = import_module("openvino")
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(exported_path(checkpoint)), "CPU", hints)

    def correct(image: RGB, coarse: Mask, reach: float) -> Mask:
        return np.array(compiled([image, coarse, np.full(len(image), reach, np.float32)])[0])

    return correct


WAYS: dict[str, Callable[[Path], Correct]] = {
    "torch, float32": partial(by_torch, "fp32"),
    "torch, bfloat16": partial(by_torch, "bf16"),
    "torch compiled, float32": partial(by_compiled_torch, torch.float32),
    "torch compiled, bfloat16": partial(by_compiled_torch, torch.bfloat16),
    "ONNX Runtime, float32": backends.load_exported,
    "OpenVINO, float32": partial(by_openvino, "f32"),
    "OpenVINO, bfloat16": partial(by_openvino, "bf16"),
}


if __name__ == "__main__":
    main()

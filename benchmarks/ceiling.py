"""A whole run beside its network alone: what share of the network's throughput is left from file to file.

    python benchmarks/ceiling.py --side 4096 --image car.jpg --truth car.png --out ceiling.json

The network alone runs batches of the image's windows that lie in memory. The run goes from the files of image (the
photograph, enlarged) and coarse mask to the file of the result; loading the network is taken off. Both in turn, in one
process, `--rounds` times; medians. The share is in CPU seconds of all threads, which a busy machine disturbs less;
wall-clock seconds stand beside it. Windows that fill up a batch are run, but not counted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from peers import make_files
from scenes import example_pair

from refine import backends
from refine.allocation import keep_freed_memory
from refine.api import Report, Settings, refine_raster
from refine.geometry import Window
from refine.raster import open_image
from refine.shipped import default_checkpoint
from refine.sources import Refiner

BATCH = 8
BATCHES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--image", type=Path, help="a photograph; without it, the repository's")
    parser.add_argument("--truth", type=Path, help="its true mask")
    parser.add_argument("--select", choices=["boundary", "all"], action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", choices=["torch", "onnxruntime"], default="torch")
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint("mos_h_lite"))
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="refine-ceiling-") as name:
        folder = Path(name)
        pair = (options.image, options.truth) if options.image and options.truth else example_pair(folder)
        make_files(folder, options.side, *pair)
        figures = [measure(folder, select, options) for select in options.select or ["boundary", "all"]]
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


def measure(folder: Path, select: str, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of network and run in turn; the medians."""
    refiner = load(options)
    image, coarse = sample_windows(folder / "image.tif")
    settings = Settings(
        select=select, device="cpu", backend=options.backend, checkpoint=options.checkpoint, overwrite=True
    )
    run_network(refiner, image, coarse)  # first calls
    alone, whole, reports = [], [], []
    for _ in range(options.rounds):
        alone.append(run_network(refiner, image, coarse))
        begun = process_time()
        load(options)
        loading = process_time() - begun
        begun = process_time()
        report = refine_raster(folder / "image.tif", folder / "mask.tif", folder / "coarse.png", settings=settings)
        seconds = report.seconds["total"] - report.seconds["load network"]
        whole.append((seconds / report.windows_run, (process_time() - begun - loading) / report.windows_run))
        reports.append(report)
    network = [median(one[index] for one in alone) for index in (0, 1)]
    run = [median(one[index] for one in whole) for index in (0, 1)]
    figures: dict[str, Any] = {
        "side": options.side,
        "select": select,
        "backend": options.backend,
        "windows": reports[-1].windows_run,
        "network_windows_per_cpu_second": round(1 / network[1], 1),
        "run_windows_per_cpu_second": round(1 / run[1], 1),
        "share_cpu": round(network[1] / run[1], 3),
        "share_wall": round(network[0] / run[0], 3),
        "stages": stages(reports[-1]),
        "seconds": reports[-1].seconds,
    }
    print(json.dumps(figures, indent=2), flush=True)
    return figures


def load(options: argparse.Namespace) -> Refiner:
    if options.backend == "torch":
        return backends.load_refiner(options.checkpoint, device="cpu")
    return backends.load_exported(options.checkpoint)


def run_network(refiner: Refiner, image: NDArray[np.uint8], coarse: NDArray[np.float32]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of a window."""
    begun, cpu_begun = perf_counter(), process_time()
    for start in range(0, len(image), BATCH):
        refiner(image[start : start + BATCH], coarse[start : start + BATCH], 4.0)
    return (perf_counter() - begun) / len(image), (process_time() - cpu_begun) / len(image)


def sample_windows(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Windows along the diagonal, each with its brighter half as the coarse mask."""
    windows = []
    with open_image(path) as source:
        for place in np.linspace(0, source.height - 224, BATCH * BATCHES).astype(int):
            windows.append(source.read(Window(int(place), int(place), 224, 224))[0])
    image = np.stack(windows)
    grey = [cv2.GaussianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (0, 0), 8) for pixels in windows]
    bright = [cv2.GaussianBlur((part > np.median(part)).astype(np.float32), (0, 0), 3) for part in grey]
    return image, np.asarray(np.stack(bright), np.float32)


def stages(report: Report) -> dict[str, float]:
    """Seconds of each stage over all levels; reading happens in a thread of its own."""
    names = report.levels[0].seconds
    return {name: round(sum(level.seconds[name] for level in report.levels), 3) for name in names}


if __name__ == "__main__":
    main()

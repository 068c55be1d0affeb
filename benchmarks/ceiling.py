"""A whole run beside its network alone: what share of the network's throughput is left from file to file.

    python benchmarks/ceiling.py --side 4096 --image car.jpg --truth car.png --out ceiling.json

The run goes from the files of image (the photograph, enlarged) and coarse mask to the file of the result; loading the
network is taken off. The network alone gets the very batches of that run, from memory: windows without an outline cost
it less, so that others would not do. Both in turn, in one process, `--rounds` times; medians. The share is in CPU
seconds of all threads, which a busy machine disturbs less; wall-clock seconds stand beside it. Windows that fill up a
batch are run, but not counted. What no way of refining can go below is measured too: the image's blocks read once, and
as many of one band written; "share_with_copy" is network and copy together, as a share of the run. `--profile` prints
the functions that take the most CPU time of a run in one thread, with the network's answers from memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Generator, Iterator
from cProfile import Profile
from pathlib import Path
from pstats import Stats
from statistics import median
from time import perf_counter, process_time, thread_time
from typing import Any
from unittest.mock import patch

import rasterio
from peers import make_files
from rasterio.env import set_gdal_config
from scenes import example_pair

from refine import backends
from refine.allocation import keep_freed_memory
from refine.api import Report, Settings, refine_raster
from refine.geometry import RGB, Mask
from refine.loaded import LoadedNetworks
from refine.networks import Networks
from refine.read import read_ahead
from refine.shipped import default_checkpoint
from refine.sources import Refiner
from refine.stream import Batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--image", type=Path, help="a photograph; without it, the repository's")
    parser.add_argument("--truth", type=Path, help="its true mask")
    parser.add_argument("--select", choices=["boundary", "all"], action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--overviews", action="store_true", help="of the image, so that levels are not made of it")
    parser.add_argument("--backend", choices=["torch", "onnxruntime"], default="torch")
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint("mos_h_lite"))
    parser.add_argument("--profile", type=int, default=0, help="how many functions to print  [default: none]")
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="refine-ceiling-") as name:
        folder = Path(name)
        pair = (options.image, options.truth) if options.image and options.truth else example_pair(folder)
        make_files(folder, options.side, *pair)
        if options.overviews:
            with rasterio.open(folder / "image.tif", "r+") as dataset:
                dataset.build_overviews([2, 4, 8, 16], rasterio.enums.Resampling.average)
        figures = [measure(folder, select, options) for select in options.select or ["boundary", "all"]]
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


def measure(folder: Path, select: str, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of run and network in turn; the medians."""
    settings = Settings(
        select=select, device="cpu", backend=options.backend, checkpoint=options.checkpoint, overwrite=True
    )
    kept = Kept(load(options))
    kept.records = True
    report = run_whole(folder, settings, kept)  # first calls; what the network was given
    kept.records = False
    alone, whole, copies, reports = [], [], [], []
    for _ in range(options.rounds):
        copies.append(copy(folder / "image.tif", folder / "copy.tif"))
        alone.append(run_network(kept))
        begun, cpu_begun = perf_counter(), process_time()
        reports.append(run_whole(folder, settings, kept))
        whole.append((perf_counter() - begun, process_time() - cpu_begun))
    windows = report.windows_run
    network = [median(one[index] for one in alone) for index in (0, 1)]
    run = [median(one[index] for one in whole) for index in (0, 1)]
    copied = median(copies)
    figures: dict[str, Any] = {
        "side": options.side,
        "select": select,
        "backend": options.backend,
        "windows": windows,
        "network_windows_per_cpu_second": round(windows / network[1], 1),
        "run_windows_per_cpu_second": round(windows / run[1], 1),
        "cpu_seconds": {"network": round(network[1], 3), "run": round(run[1], 3), "copy": round(copied, 3)},
        "share_cpu": round(network[1] / run[1], 3),
        "share_with_copy": round((network[1] + copied) / run[1], 3),
        "share_wall": round(network[0] / run[0], 3),
        "stages": stages(reports[-1]),
        "seconds": reports[-1].seconds,
    }
    print(json.dumps(figures, indent=2), flush=True)
    if options.profile:
        profile(folder, settings, kept, options.profile)
    return figures


def profile(folder: Path, settings: Settings, kept: Kept, count: int) -> None:
    """Print where a run spends its time, without the network."""
    kept.answers = iter([kept(*batch) for batch in kept.batches])
    profiler = Profile(thread_time)
    with patch("refine.sweep.read_ahead", in_this_thread):
        profiler.runcall(run_whole, folder, settings, kept)
    kept.answers = None
    Stats(profiler).sort_stats("tottime").print_stats(count)


def in_this_thread(items: Iterator[Batch], depth: int) -> Generator[Batch, None, None]:
    return read_ahead(items, 0)


class Kept:
    """A network that is loaded once, and keeps what it is given while it `records`; or gives `answers` it gave."""

    def __init__(self, refiner: Refiner) -> None:
        self._refiner = refiner
        self.stride, self.weight_bytes = refiner.stride, refiner.weight_bytes
        self.activation_bytes = refiner.activation_bytes
        self.records = False
        self.batches: list[tuple[RGB, Mask, float]] = []
        self.answers: Iterator[Mask] | None = None

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        if self.answers is not None:
            return next(self.answers)
        if self.records:
            self.batches.append((image, coarse, reach))
        return self._refiner(image, coarse, reach)


class Lent(LoadedNetworks):
    """Runs get this network, instead of loading their own."""

    def __init__(self, refiner: Refiner) -> None:
        super().__init__()
        self._lent = refiner

    def refiner(self, networks: Networks) -> Refiner:
        return self._lent


def load(options: argparse.Namespace) -> Refiner:
    if options.backend == "torch":
        return backends.load_refiner(options.checkpoint, device="cpu")
    return backends.load_exported(options.checkpoint)


def run_whole(folder: Path, settings: Settings, refiner: Refiner) -> Report:
    files = (folder / "image.tif", folder / "mask.tif", folder / "coarse.png")
    return refine_raster(*files, settings=settings, loaded=Lent(refiner))


def run_network(kept: Kept) -> tuple[float, float]:
    """Wall-clock and CPU seconds of all batches."""
    begun, cpu_begun = perf_counter(), process_time()
    for batch in kept.batches:
        kept(*batch)
    return perf_counter() - begun, process_time() - cpu_begun


def copy(image: Path, out: Path) -> float:
    """CPU seconds of reading a raster by its blocks and writing its first band."""
    begun = process_time()
    with rasterio.Env(), rasterio.open(image) as source:
        set_gdal_config("GDAL_CACHEMAX", 128 << 20)
        profile = source.profile | {"count": 1, "predictor": 2}
        with rasterio.open(out, "w", **profile) as made:
            for _, window in source.block_windows(1):
                made.write(source.read(window=window)[:1], window=window)
    return process_time() - begun


def stages(report: Report) -> dict[str, float]:
    """Seconds of each stage over all levels; reading happens in a thread of its own."""
    names = report.levels[0].seconds
    return {name: round(sum(level.seconds[name] for level in report.levels), 3) for name in names}


if __name__ == "__main__":
    main()

"""Measures the memory figures that plans are made of, and a whole run against its plan.

    python benchmarks/memory.py                      # baseline and networks: the figures of refine/memory.py
    python benchmarks/memory.py --side 12000         # also a run over a raster of that side, peak against plan
    python benchmarks/memory.py --smallest 2000 --out smallest.json
    python benchmarks/memory.py --smallest 40000 --height 4000 --layout rgb8-png
    python benchmarks/memory.py --smallest 2000 --layout rgb8-tiled --coarse isnet

The last three ask `infer.py --plan` for the smallest budget that works, on rasters of that side stored in several ways,
run with exactly that, and compare it with the peak that the operating system counts. Exit code 1 if one is above it.
From 8000 on the rasters are flat but for one disc, so that few windows run, and have a mask. With `--coarse` that
network makes the mask, with random weights.

Each figure comes from a process of its own, since a process that has held memory keeps some of it. Threads are torch's
default: more threads, more working memory. Peaks are the operating system's (maximum resident set size).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal

from coarse_cost import make_checkpoint, shipped_config
from measured import run_measured
from scenes import LAYOUTS, write_flat, write_layout

MIB = 1 << 20
Precision = Literal["fp32", "bf16"]
NETWORKS: tuple[tuple[str, Precision], ...] = (("mos_h_lite", "fp32"), ("mos_h_lite", "bf16"), ("mos_h", "fp32"))
BATCHES = (1, 2, 4, 8)
TILE = 224
LARGE = 8000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, action="append", default=[], help="also run over a raster of this side")
    parser.add_argument("--max-memory", default="4GiB", help="budget of that run")
    parser.add_argument("--smallest", type=int, metavar="SIDE", help="only run with the smallest budgets that work")
    parser.add_argument("--height", type=int, help="of those rasters  [default: as wide as high]")
    parser.add_argument("--layout", action="append", choices=LAYOUTS, help="only rasters stored so")
    parser.add_argument("--coarse", help="only without a mask, by this network with random weights")
    parser.add_argument("--out", type=Path, help="figures of --smallest as JSON")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    if options.smallest is not None:
        height, layouts = options.height or options.smallest, options.layout or LAYOUTS
        entries = smallest_budgets(options.smallest, height, layouts, options.coarse)
        if options.out is not None:
            options.out.write_text(json.dumps(entries, indent=2) + "\n")
        sys.exit(0 if all(entry["holds"] for entry in entries) else 1)
    baseline = in_new_process("baseline")
    print(f"baseline    {baseline['libraries'] / MIB:8.1f} MiB  interpreter and libraries")
    print(f"{'':12}{baseline['loaded'] / MIB:8.1f} MiB  with a network loaded, without its weights")
    for name, precision in NETWORKS:
        print_network(name, precision)
    for side in options.side:
        found = in_new_process("run", str(side), options.max_memory)
        print(
            f"{side} x {side}  measured peak {found['peak'] / MIB:.1f} MiB, planned {found['planned'] / MIB:.1f} MiB"
            f" ({100 * found['peak'] / found['planned']:.0f} %), {found['seconds']:.1f} s"
        )


def smallest_budgets(side: int, height: int, layouts: Sequence[str], coarse: str | None) -> list[dict[str, object]]:
    """Runs with the smallest budgets, one for each way to store a raster, with a mask and, if small, without one."""
    is_large = side >= LARGE
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="refine-memory-") as name:
        for layout in layouts:
            image, mask = (write_flat if is_large else write_layout)(Path(name), layout, height, side)
            ways = [["--mask", str(mask)], *([] if is_large else [[]])]
            if coarse is not None:
                weights = Path(name, f"{coarse}.safetensors")
                make_checkpoint(coarse, str(weights))
                ways = [["--coarse", coarse, "--coarse-checkpoint", str(weights)]]
            for given in ways:
                entry = run_with_smallest(image, given)
                found.append({"layout": layout, "side": side, "height": height, "given": given[:2], **entry})
                what = " ".join(given[:1]) or "no mask"
                print(f"{layout:16} {what:12} {'holds' if entry['holds'] else 'BROKEN'}  {entry}", flush=True)
            image.unlink()
    return found


def run_with_smallest(image: Path, given: list[str]) -> dict[str, object]:
    """Ask the plan for the smallest budget, and run with it."""
    out = image.with_name("out.tif")
    call = [sys.executable, str(Path(__file__).parent.parent / "infer.py"), "--image", str(image), *given]
    call += ["--out", str(out), "--device", "cpu"]
    named = re.search(r"--max-memory (\d+)MiB$", run_measured([*call, "--plan", "--max-memory", "1MiB"]).err.strip())
    if named is None:
        return {"holds": False, "said": "the plan names no figure"}
    run = run_measured([*call, "--max-memory", f"{named[1]}MiB"])
    out.unlink(missing_ok=True)
    holds = run.code == 0 and run.peak_bytes <= int(named[1]) * MIB
    return {
        "holds": holds,
        "budget_mib": int(named[1]),
        "peak_mib": round(run.peak_bytes / MIB, 1),
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        **({} if run.code == 0 else {"said": run.err.strip()}),
    }


def print_network(name: str, precision: Precision) -> None:
    """A line of measured peaks by batch, and the line through the smallest and the largest."""
    found = [in_new_process("network", name, precision, str(batch)) for batch in BATCHES]
    growths = [figures["growth"] for figures in found]
    per_window = (growths[-1] - growths[0]) / (BATCHES[-1] - BATCHES[0])
    peaks = ", ".join(f"{batch}: {growth / MIB:.1f}" for batch, growth in zip(BATCHES, growths, strict=True))
    print(f"{name:<12}{found[0]['weights'] / MIB:8.1f} MiB  weights, {precision}")
    print(f"{'':12}activations of {TILE} px windows by batch, MiB: {peaks}")
    call = max(0.0, growths[0] - per_window)
    print(f"{'':12}pixel_bytes={per_window / TILE**2:.0f}, call_bytes={call / MIB:.1f} MiB")


def in_new_process(*what: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", *what]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def measure(what: str, *details: str) -> dict[str, float]:
    """One figure, in this process."""
    if what == "baseline":
        return measure_baseline()
    if what == "network":
        return measure_network(details[0], "bf16" if details[1] == "bf16" else "fp32", int(details[2]))
    return measure_run(int(details[0]), details[1])


def import_libraries() -> None:
    """All that a run imports."""
    for name in ("cv2", "rasterio", "refine.infer", "refine.backends.torch_backend"):
        import_module(name)


def measure_baseline() -> dict[str, float]:
    """The peak after the imports, and after the shipped network was loaded as well."""
    import_libraries()
    libraries = peak_bytes()
    from refine.backends import load_refiner
    from refine.shipped import default_checkpoint

    refiner = load_refiner(default_checkpoint("mos_h_lite"), device="cpu")
    return {"libraries": libraries, "loaded": peak_bytes() - refiner.weight_bytes}


def measure_network(name: str, precision: Precision, batch: int) -> dict[str, float]:
    """Growth of the peak by calls of one batch, after the network is loaded; freed memory is kept, as in a run."""
    import numpy as np
    import psutil

    from refine.allocation import keep_freed_memory
    from refine.backends.torch_backend import TorchRefiner
    from refine.models import build_model
    from refine.models.registry import default_preprocessing

    model = build_model(name, shipped_config(name))
    keep_freed_memory()
    refiner = TorchRefiner(model, default_preprocessing(name, model), device="cpu", precision=precision)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch, TILE, TILE, 3), dtype=np.uint8)
    coarse = rng.random((batch, TILE, TILE), dtype=np.float32)
    before = psutil.Process().memory_info().rss
    for _ in range(3):
        refiner(image, coarse, 8.0)
    return {"weights": refiner.weight_bytes, "growth": max(0, peak_bytes() - before)}


def measure_run(side: int, max_memory: str) -> dict[str, float]:
    """`refine_raster` over a tiled raster with a small mask, by a network of random weights."""
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window

    from refine.api import Settings, refine_raster

    with tempfile.TemporaryDirectory() as folder:
        image, mask, checkpoint = (Path(folder, name) for name in ("image.tif", "mask.npy", "random.safetensors"))
        layout: dict[str, object] = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
        layout |= {"height": side, "width": side, "count": 3, "dtype": "uint8", "transform": from_origin(0, side, 2, 2)}
        with rasterio.open(image, "w", driver="GTiff", crs="EPSG:3857", **layout) as dataset:
            across = np.arange(side) // 7
            for row in range(0, side, 512):
                down = np.arange(row, min(row + 512, side))[:, None] // 5
                shade = ((across + down) % 256).astype(np.uint8)
                dataset.write(np.stack([shade] * 3), window=Window(0, row, side, len(shade)))
        rows, cols = np.mgrid[:336, :336]
        np.save(mask, (np.sin(rows / 25) * np.cos(cols / 19) > 0.2).astype(np.float32))
        make_checkpoint("mos_h_lite", str(checkpoint))
        settings = Settings(checkpoint=checkpoint, max_memory=max_memory, device="cpu")
        report = refine_raster(image, Path(folder, "out.tif"), mask, settings=settings)
    return {
        "peak": report.peak_memory_bytes,
        "planned": report.planned_peak_bytes,
        "seconds": report.seconds["total"],
    }


def peak_bytes() -> int:
    from refine.report import peak_memory_bytes

    return peak_memory_bytes()


if __name__ == "__main__":
    main()

"""How time and memory grow: with pixels at one length of outline, and with the outline at one number of pixels.

    python benchmarks/growth.py --side 2048 --side 4096 --side 8192 --out growth.json

The scenes are noisy discs of 256 px radius on a noisy ground, with overviews; the first mask is the truth on a grid of
16 px. "pixels": four discs, whatever the side. "outline": 4, 16 and 64 discs at the second side. Beside each, the time
of reading and writing a raster of that size block by block, which no way of refining can go below. Each run is a
process of its own; seconds are CPU seconds of all threads without imports and the loading of the network.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from measured import run_measured
from rasterio.transform import from_origin
from rasterio.windows import Window

MIB = 1 << 20
BLOCK, RADIUS, REDUCTION = 512, 256, 16

REFINE = """
import json, sys
from time import process_time
from refine.allocation import keep_freed_memory
from refine.api import Settings, refine_raster
from refine.networks import choose_networks, load_refiner
image, mask, out, small, backend, checkpoint = sys.argv[1:]
keep_freed_memory()
settings = Settings(device="cpu", backend=backend, overwrite=True, **({"checkpoint": checkpoint} if checkpoint else {}))
refine_raster(small, out, small, settings=settings)  # imports, first calls
begun = process_time()
load_refiner(choose_networks(settings, "cpu", needs_coarse=False))
loaded = process_time()
report = refine_raster(image, out, mask, settings=settings)
print(json.dumps({"cpu_seconds": process_time() - loaded - (loaded - begun), "windows": report.windows_run}))
"""

COPY = """
import json, sys, rasterio
from time import process_time
from rasterio.env import set_gdal_config
begun = process_time()
with rasterio.Env(), rasterio.open(sys.argv[1]) as image:
    set_gdal_config("GDAL_CACHEMAX", 128 << 20)
    profile = image.profile | {"count": 1, "predictor": 2}
    with rasterio.open(sys.argv[2], "w", **profile) as copy:
        for _, window in image.block_windows(1):
            copy.write(image.read(window=window)[:1], window=window)
print(json.dumps({"cpu_seconds": process_time() - begun}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, action="append")
    parser.add_argument("--backend", choices=["torch", "onnxruntime"], default="torch")
    parser.add_argument("--checkpoint", default="", help="refining network  [default: the shipped one]")
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    sides = options.side or [2048, 4096]
    cases = [("pixels", side, 4) for side in sides] + [("outline", sides[1], discs) for discs in (4, 16, 64)]
    rows = []
    print("| grows | side | discs | windows | CPU s | CPU s of a copy | peak MiB |\n|---|---|---|---|---|---|---|")
    for what, side, discs in cases:
        rows.append({"grows": what, "side": side, "discs": discs} | measure(side, discs, options))
        print("|", " | ".join(str(figure) for figure in rows[-1].values()), "|", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


def measure(side: int, discs: int, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="refine-growth-") as name:
        folder = Path(name)
        image, mask = make_scene(folder, side, discs)
        small = [str(folder / "small.png"), str(folder / "out.tif")]
        cv2.imwrite(small[0], np.full((224, 224, 3), 90, np.uint8))
        refined = child(REFINE, image, mask, small[1], small[0], options.backend, options.checkpoint)
        copied = child(COPY, image, folder / "copy.tif")
    return {
        "windows": refined["windows"],
        "cpu_seconds": round(refined["cpu_seconds"], 2),
        "copy_cpu_seconds": round(copied["cpu_seconds"], 2),
        "peak_mib": round(refined["peak_mib"], 1),
    }


def child(code: str, *arguments: object) -> dict[str, Any]:
    found = run_measured([sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)])
    if found.code:
        sys.exit(found.err)
    printed: dict[str, Any] = json.loads(found.out.splitlines()[-1])
    return printed | {"peak_mib": found.peak_bytes / MIB}


def make_scene(folder: Path, side: int, discs: int) -> tuple[Path, Path]:
    """Image with overviews and first mask; discs at seeded cells of an 8 x 8 grid of the smallest side they fit."""
    rng = np.random.default_rng(0)
    cells = side // (2 * RADIUS + 2 * REDUCTION)
    places = [divmod(int(cell), cells) for cell in rng.permutation(cells * cells)[:discs]]
    if len(places) < discs:
        sys.exit(f"--side {side}: has room for {cells * cells} discs only")
    rough = np.zeros((side // REDUCTION, side // REDUCTION), np.uint8)
    truth_row = np.arange(side)
    centres = [((row + 0.5) * side / cells, (col + 0.5) * side / cells) for row, col in places]
    image, mask = folder / "image.tif", folder / "mask.tif"
    layout: dict[str, Any] = {"driver": "GTiff", "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    layout |= {"compress": "deflate", "dtype": "uint8", "transform": from_origin(0, side, 1, 1)}
    noise = rng.integers(0, 24, (BLOCK, BLOCK, 3), dtype=np.uint8)
    with rasterio.open(image, "w", height=side, width=side, count=3, interleave="pixel", **layout) as dataset:
        for top in range(0, side, BLOCK):
            rows = truth_row[top : top + BLOCK, None]
            inside = np.zeros((len(rows), side), np.bool_)
            for row, col in centres:
                if top - RADIUS < row < top + BLOCK + RADIUS:
                    inside |= (rows - row) ** 2 + (truth_row - col) ** 2 < RADIUS**2
            shade = np.where(inside, 170, 60).astype(np.uint8)
            pixels = shade[..., None] + np.tile(noise[: len(rows)], (1, -(-side // BLOCK), 1))[:, :side]
            dataset.write(pixels.transpose(2, 0, 1), window=Window(0, top, side, len(rows)))
            averaged = inside.reshape(len(rows) // REDUCTION, REDUCTION, -1, REDUCTION).mean(axis=(1, 3))
            rough[top // REDUCTION : (top + len(rows)) // REDUCTION] = np.round(255 * averaged)
    with rasterio.open(image, "r+") as dataset:
        dataset.build_overviews([2, 4, 8, 16], rasterio.enums.Resampling.average)
    layout["transform"] = from_origin(0, side, REDUCTION, REDUCTION)
    with rasterio.open(mask, "w", height=len(rough), width=len(rough), count=1, **layout) as dataset:
        dataset.write(rough, 1)
    return image, mask


if __name__ == "__main__":
    main()

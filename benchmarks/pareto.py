"""Quality against time of the settings that cost or save windows, to choose defaults by.

    python benchmarks/pareto.py --data DATA --index benchmarks/validation.csv --images 14 --out pareto.json

DATA holds `<set>/<id>.jpg` and `.png`; the images, of those that the index names, are drawn from a seed, and refined
from the mask that refine begins with where none is given. Time is CPU seconds of all threads per megapixel, without
loading networks. Settings run in turn on each image, so that a busy machine disturbs them alike. A setting is on the
front if none that is as fast has a higher mean mBA.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scenes import find_pairs

from refine import backends
from refine.allocation import keep_freed_memory
from refine.api import Settings, refine_with
from refine.cascade import NETWORK_PIXELS
from refine.coarse import make_coarse
from refine.geometry import RGB, Mask
from refine.metrics import boundary_bands, mean_boundary_accuracy
from refine.networks import choose_networks, load_coarse
from refine.shipped import default_checkpoint
from refine.sources import ArrayImage

OVERLAPS = (0, 16, 32, 64, 96)
REACH_FACTORS = (0.5, 2.0, 4.0)
PASSES = (1, 3, 4)

Make = Callable[[RGB, Mask], Mask]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--index", type=Path, help="CSV with columns set, id: images that defaults may be chosen on")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--shortest", type=int, default=400, help="of the longer side, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint("mos_h_lite"))
    parser.add_argument("--exported", action="store_true", help="also --backend onnxruntime, exported beside it")
    parser.add_argument("--only", help="settings whose name holds one of these, with commas between")
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    keep_freed_memory()
    makers = make_makers(options.checkpoint, exported=options.exported)
    if options.only is not None:
        wanted = options.only.split(",")
        makers = {name: make for name, make in makers.items() if any(part in name for part in wanted)}
    coarse_network = load_coarse(choose_networks(Settings(device="cpu"), "cpu", needs_coarse=True))
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
    before: list[float] = []
    for image, truth in choose(options):
        mask = make_coarse(ArrayImage(image), coarse_network)
        bands = boundary_bands(truth)
        enlarged = cv2.resize(mask, truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
        before.append(mean_boundary_accuracy(np.asarray(enlarged, np.float32), truth, bands=bands) or 0)
        for name, make in makers.items():
            begun = process_time()
            refined = make(image, mask)
            seconds = (process_time() - begun) / (truth.size / 1e6)
            scores[name].append((seconds, mean_boundary_accuracy(refined, truth, bands=bands) or 0))
    rows = [row_of(name, found) for name, found in scores.items()]
    for row in rows:
        faster = [
            other["mba"] for other in rows if other["cpu_seconds_per_megapixel"] <= row["cpu_seconds_per_megapixel"]
        ]
        row["is_on_front"] = row["mba"] >= max(faster)
    print(f"{len(before)} images, first mask {100 * np.mean(before):.2f} % mBA")
    print("| setting | CPU s / Mpx | mBA % | on the front |\n|---|---|---|---|")
    for row in rows:
        print("|", " | ".join(str(figure) for figure in row.values()), "|")
    if options.out is not None:
        options.out.write_text(
            json.dumps({"first_mba": 100 * float(np.mean(before)), "settings": rows}, indent=2) + "\n"
        )


def make_makers(checkpoint: Path, *, exported: bool) -> dict[str, Make]:
    """What makes a refined mask of an image and its first mask, by the name of its setting."""
    refiners = {
        "bfloat16": backends.load_refiner(checkpoint, device="cpu", precision="bf16"),
        "float32": backends.load_refiner(checkpoint, device="cpu", precision="fp32"),
    }
    if exported:
        refiners["onnxruntime"] = backends.load_exported(checkpoint)

    def maker(name: str, factor: float = 1.0, **settings: Any) -> Make:
        def make(image: RGB, mask: Mask) -> Mask:
            reach = factor * max(1.0, NETWORK_PIXELS * image.shape[0] / mask.shape[0])
            chosen = Settings(reach=max(1.0, reach), align="stretch", device="cpu", **settings)
            return refine_with(refiners[name], image, mask, settings=chosen)

        return make

    makers = {f"{name}, overlap 64": maker(name) for name in refiners}
    makers |= {f"bfloat16, overlap {px}": maker("bfloat16", overlap=px) for px in OVERLAPS if px != 64}
    makers |= {f"bfloat16, passes {count}": maker("bfloat16", passes=count) for count in PASSES}
    makers |= {f"bfloat16, passes {count}, overlap 32": maker("bfloat16", passes=count, overlap=32) for count in PASSES}
    makers |= {f"bfloat16, passes 1, flips {count}": maker("bfloat16", passes=1, flips=count) for count in (2, 4)}
    makers["bfloat16, --select all"] = maker("bfloat16", select="all")
    makers |= {f"bfloat16, reach x {factor:g}": maker("bfloat16", factor) for factor in REACH_FACTORS}
    return makers


def choose(options: argparse.Namespace) -> list[tuple[RGB, NDArray[np.uint8]]]:
    """Images and truths, as many of each set as can be."""
    rng = np.random.default_rng(options.seed)
    by_set: dict[str, list[tuple[Path, Path]]] = {}
    pairs = find_pairs(options.data)
    if options.index is not None:
        with options.index.open(newline="", encoding="utf-8") as lines:
            named = {(row["set"], row["id"]) for row in csv.DictReader(lines)}
        pairs = [pair for pair in pairs if (pair[0].parent.name, pair[0].stem) in named]
    for index in rng.permutation(len(pairs)):
        by_set.setdefault(pairs[index][0].parent.name, []).append(pairs[index])
    chosen: list[tuple[RGB, NDArray[np.uint8]]] = []
    while len(chosen) < options.images and any(by_set.values()):
        for pairs in by_set.values():
            if not pairs or len(chosen) == options.images:
                continue
            image, truth = pairs.pop()
            mask = cv2.imread(str(truth), cv2.IMREAD_GRAYSCALE)
            pixels = cv2.imread(str(image), cv2.IMREAD_COLOR)
            if mask is None or pixels is None or max(mask.shape) < options.shortest:
                continue
            rgb = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
            chosen.append((rgb, np.asarray(mask, np.uint8)))
    return chosen


def row_of(name: str, found: list[tuple[float, float]]) -> dict[str, Any]:
    seconds, accuracy = np.mean(found, axis=0)
    return {
        "setting": name,
        "cpu_seconds_per_megapixel": round(float(seconds), 3),
        "mba": round(100 * float(accuracy), 3),
    }


if __name__ == "__main__":
    main()

"""What the overlap of windows and passes over them are worth: accuracy, seams and time of each, by kind of first mask.

    python benchmarks/overlaps.py --data DATA --index benchmarks/validation.csv --limit 10 --out overlaps.json
    python benchmarks/overlaps.py --data DATA --index benchmarks/validation.csv --overlaps 64 --passes 1,2,3,4

DATA holds `<set>/<id>.jpg` with `<set>/<id>.png`; the index lists images that defaults may be chosen on. Every setting
gets the same image and first mask, in turn. mBA is the mean over sets of their means, so that a large set does not
decide; time is CPU seconds of all threads per megapixel.

Seams: across the lines where a window of the finest level begins or ends, how much the mask changes from one pixel to
the next, beside how much it changes across the lines three pixels before and after. 1 is invisible; a window that ended
without a ramp would show as more. Only pixels count that differ from the enlarged first mask.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import cv2
import numpy as np
from coarse_masks import makers
from numpy.typing import NDArray
from quality import as_unit, read_index, read_pair

from refine import backends
from refine.allocation import keep_freed_memory
from refine.api import Settings, refine_with
from refine.geometry import RGB, Axis, Mask
from refine.metrics import boundary_bands, mean_boundary_accuracy
from refine.shipped import default_checkpoint

BESIDE = 3
CHANGED = 0.5 / 255

Way = tuple[int, int]
"""Overlap and passes."""

Found = dict[str, dict[Way, list[tuple[float, float, float, float, float]]]]
"""By set and setting: mBA, seconds, megapixels, change across lines of windows, and across those beside them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--index", type=Path, required=True, help="CSV with columns set, id")
    parser.add_argument("--limit", type=int, help="at most this many images of a set")
    parser.add_argument("--kinds", default="truth64,u2netp,mos_l", help="of first masks  [default: %(default)s]")
    parser.add_argument("--overlaps", default="16,32,64", help="pixels  [default: %(default)s]")
    parser.add_argument("--passes", default="2", help="over each window  [default: %(default)s]")
    parser.add_argument("--side", type=int, help="images are enlarged to this long side first, in pixels")
    parser.add_argument("--tile", type=int, default=224)
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint("mos_h_lite"))
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    keep_freed_memory()
    overlaps, passes = (map(int, text.split(",")) for text in (options.overlaps, options.passes))
    ways = list(product(overlaps, passes))
    refiner = backends.load_refiner(options.checkpoint, device="cpu")
    refiner.activation_bytes(1, options.tile)  # measured once, before the clock runs
    kinds = makers(tuple(options.kinds.split(",")), mos_l=None, isnet=None, device="cpu")
    found: dict[str, Found] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    before: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for entry in read_index(options.index, options.data, split=None, sets=[], limit=options.limit):
        image, truth = enlarged_to(options.side, *read_pair(entry))
        bands = boundary_bands(truth)
        for coarse in (coarse for make in kinds for coarse in make(entry, image, truth)):
            enlarged = cv2.resize(as_unit(coarse.mask), truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
            first = np.asarray(enlarged, np.float32)
            before[coarse.kind][entry.set_name].append(mean_boundary_accuracy(first, truth, bands=bands) or 0)
            for way in ways:
                given = {"reach": coarse.reach, "tile": options.tile, "overlap": way[0], "passes": way[1]}
                settings = Settings.model_validate({"align": "stretch", "device": "cpu", **given})
                begun = process_time()
                refined = refine_with(refiner, image, coarse.mask, settings=settings)
                seconds = process_time() - begun
                score = mean_boundary_accuracy(refined, truth, bands=bands) or 0
                lines = across_lines(refined, first, options.tile, way[0])
                found[coarse.kind][entry.set_name][way].append((score, seconds, truth.size / 1e6, *lines))
        print(f"{entry.set_name}/{entry.name}", flush=True)
    rows = [row_of(kind, way, found[kind], before[kind]) for kind in found for way in ways]
    print("| first mask | its mBA % | overlap | passes | mBA % | CPU s / Mpx | seams |\n|---|---|---|---|---|---|---|")
    for row in rows:
        print("|", " | ".join(str(figure) for figure in row.values()), "|")
    if options.out is not None:
        sets = {kind: {name: len(scores) for name, scores in by_set.items()} for kind, by_set in before.items()}
        options.out.write_text(json.dumps({"images": sets, "rows": rows}, indent=2) + "\n")


def enlarged_to(side: int | None, image: RGB, truth: NDArray[np.uint8]) -> tuple[RGB, NDArray[np.uint8]]:
    """Both as they are, or with a long side of `side`."""
    scale = 1.0 if side is None else side / max(truth.shape)
    if scale <= 1:
        return image, truth
    big, mask = (cv2.resize(p, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) for p in (image, truth))
    return np.asarray(big, np.uint8), np.asarray(mask, np.uint8)


def across_lines(refined: Mask, first: Mask, tile: int, overlap: int) -> tuple[float, float]:
    """Summed changes across the lines where windows begin or end, and the mean of those across lines beside them."""
    on = beside = 0.0
    changed = np.abs(refined - first) > CHANGED
    for mask, counts in ((refined, changed), (refined.T, changed.T)):
        steps = np.abs(np.diff(mask, axis=0)) * (counts[1:] | counts[:-1])
        origins = Axis(len(mask), tile, overlap).origins
        edges = {edge for origin in origins for edge in (origin, origin + tile)}
        for edge in edges:
            line = edge - 1  # between this row and the next
            if BESIDE <= line < len(steps) - BESIDE:
                on += float(steps[line].sum())
                beside += float(steps[line - BESIDE].sum() + steps[line + BESIDE].sum()) / 2
    return on, beside


def row_of(kind: str, way: Way, found: Found, before: dict[str, list[float]]) -> dict[str, Any]:
    """Accuracy is a mean over sets; time and seams are of all images together."""
    scores = [np.mean([one[0] for one in by_way[way]]) for by_way in found.values()]
    _, seconds, pixels, on, beside = np.sum([one for group in found.values() for one in group[way]], axis=0)
    return {
        "first_mask": kind,
        "its_mba": round(100 * float(np.mean([np.mean(group) for group in before.values()])), 2),
        "overlap": way[0],
        "passes": way[1],
        "mba": round(100 * float(np.mean(scores)), 3),
        "cpu_seconds_per_megapixel": round(float(seconds / pixels), 3),
        "seams": round(float(on / beside), 3),
    }


if __name__ == "__main__":
    main()

"""What agreement with the first mask is worth where that was reduced from an exact one, and what it costs elsewhere.

    python benchmarks/agreement.py --data DATA --index benchmarks/validation.csv --limit 3 --out agreement.json

DATA holds `<set>/<id>.jpg` with `<set>/<id>.png`; the index lists images that constants may be chosen on
(`refine/agree.py`). First masks are the truth reduced by 2 to 16 and to 64 px, exact on average; then, each reduced by
8: truths whose outline was replaced by polygons within a part of a mask pixel, truths grown by such a part, and truths
that were picked bilinearly or with Lanczos's filter, so that their averages are wrong. Each is refined twice, to the
same reach: without agreement and with it. mBA is the mean over sets of their means.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from PIL import Image
from quality import read_index, read_pair

from refine import backends
from refine.allocation import keep_freed_memory
from refine.api import Settings, refine_with
from refine.geometry import Mask
from refine.metrics import boundary_bands, mean_boundary_accuracy
from refine.shipped import default_checkpoint
from refine.validation import reduce_mask

FACTOR = 8
"""By which masks that are wrong are reduced: parts of a pixel are of this."""


def polygons(truth: Mask, within: float) -> Mask:
    """The truth with its outlines replaced by polygons that lie within so many pixels of them."""
    inside = (truth > 0.5).astype(np.uint8)
    outlines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = cv2.fillPoly(np.zeros_like(inside), [cv2.approxPolyDP(line, within, True) for line in outlines], 1)
    return np.asarray(drawn, np.float32)


def grown(truth: Mask, by: float) -> Mask:
    """The truth with its outline moved outwards by so many pixels, in whole ones."""
    radius = round(by)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate((truth > 0.5).astype(np.float32), disc), np.float32)


def picked(truth: Mask, how: Image.Resampling | None) -> Mask:
    """The truth reduced by other ways than averaging; None is bilinear between four pixels, whatever lies around."""
    size = max(1, truth.shape[1] // FACTOR), max(1, truth.shape[0] // FACTOR)
    if how is None:
        return np.asarray(cv2.resize(truth, size, interpolation=cv2.INTER_LINEAR), np.float32)
    grey = Image.fromarray(np.rint(255 * truth).astype(np.uint8))
    small: Mask = np.asarray(grey.resize(size, how), np.float32) / np.float32(255)
    return small


def reduced(truth: Mask, damage: Callable[[Mask, float], Mask], part: float) -> Mask:
    return reduce_mask(damage(truth, part * FACTOR), float(FACTOR))


KINDS: dict[str, Callable[[Mask], Mask]] = {
    **{f"reduced by {factor}": partial(reduce_mask, factor=float(factor)) for factor in (2, 4, 8, 16)},
    "reduced to 64 px": lambda truth: reduce_mask(truth, max(truth.shape) / 64),
    "by 8, Lanczos": partial(picked, how=Image.Resampling.LANCZOS),
    "by 8, bilinear without averaging": partial(picked, how=None),
    **{f"polygons within {part} px": partial(reduced, damage=polygons, part=part) for part in (0.25, 0.5, 1)},
    **{f"grown by {part} px": partial(reduced, damage=grown, part=part) for part in (0.25, 0.5)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--index", type=Path, required=True, help="CSV with columns set, id")
    parser.add_argument("--limit", type=int, help="at most this many images of a set")
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint("mos_h_lite"))
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    keep_freed_memory()
    refiner = backends.load_refiner(options.checkpoint, device="cpu")
    found: dict[str, dict[str, list[tuple[float, float, float]]]] = defaultdict(lambda: defaultdict(list))
    for entry in read_index(options.index, options.data, split=None, sets=[], limit=options.limit):
        image, stored = read_pair(entry)
        truth, bands = stored.astype(np.float32) / np.float32(255), boundary_bands(stored)
        for kind, make in KINDS.items():
            mask = make(truth)
            enlarged = np.asarray(cv2.resize(mask, truth.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
            settings = Settings(align="stretch", device="cpu")
            with patch("refine.plan.agreement_of", lambda *_, **__: 0.0):
                results = [refine_with(refiner, image, mask, settings=settings)]
            results.append(refine_with(refiner, image, mask, settings=settings))
            scores = [mean_boundary_accuracy(one, stored, bands=bands) for one in (enlarged, *results)]
            if None not in scores:
                first, alone, agreed = (100 * (score or 0) for score in scores)
                found[kind][entry.set_name].append((first, alone, agreed))
        print(f"{entry.set_name}/{entry.name}", flush=True)
    rows = [row_of(kind, by_set) for kind, by_set in found.items()]
    print("| first mask | its mBA % | refined | agreed with | better | worse |\n|---|---|---|---|---|---|")
    for row in rows:
        print("|", " | ".join(str(figure) for figure in row.values()), "|")
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


def row_of(kind: str, by_set: dict[str, list[tuple[float, float, float]]]) -> dict[str, Any]:
    """mBA of the mask and of both results; images that agreement makes better, or worse, by more than a point."""
    before, alone, agreed = np.mean([np.mean(scores, axis=0) for scores in by_set.values()], axis=0).round(2)
    gains = np.array([last - middle for scores in by_set.values() for _, middle, last in scores])
    better, worse = int((gains > 1).sum()), int((gains < -1).sum())
    return {"first_mask": kind, "its_mba": before, "alone": alone, "agreed": agreed, "better": better, "worse": worse}


if __name__ == "__main__":
    main()

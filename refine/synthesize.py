"""What the `synthesize` command does: writes composites with their masks, and prints the pictures' statistics."""

from __future__ import annotations

import csv
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from refine.errors import InputError
from refine.training.cutouts import CutOuts, Positions


@dataclass(frozen=True, slots=True)
class SynthesizeRequest:
    """The options of one invocation; `count` None: all that the folders give."""

    foregrounds: Path
    backgrounds: Path
    out: Path
    alphas: Path | None = None
    positions: Positions = "random"
    side: int = 0
    count: int | None = None
    seed: int = 0


def synthesize(request: SynthesizeRequest) -> str:
    """Write images/<number>.png, masks/<number>.png and sources.csv, and give mean and standard deviation in words.

    Numbers are evenly spread over all composites. The folder, with those above it, appears whole or not at all.
    Raises InputError where the folders cannot be used, or `out` is there already.
    """
    if request.out.exists():
        raise InputError(f"--out {request.out}: is there already; give a new folder")
    composites = CutOuts(
        request.foregrounds, request.backgrounds, alphas=request.alphas,
        positions=request.positions, side=request.side, seed=request.seed,
    )  # fmt: skip
    total = len(composites)
    count = total if request.count is None else request.count
    if count > total:
        raise InputError(f"--count {count}: the folders give {total} composites")
    part = request.out.with_name(f".{request.out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    new_parents = [folder for folder in part.parents if not folder.exists()]  # the deepest first
    try:
        for name in ("images", "masks"):
            (part / name).mkdir(parents=True)
        text = _write(composites, [i * total // count for i in range(count)], part)
        part.replace(request.out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for folder in new_parents:
            with suppress(OSError):  # it holds something, such as the result
                folder.rmdir()
    return f"{count} {'composite' if count == 1 else 'composites'} in {request.out}; {text}"


def _write(composites: CutOuts, numbers: list[int], folder: Path) -> str:
    """Sums are of whole numbers, so that no order of adding and no size of the set costs a digit."""
    pixels, sums, squares = 0, np.zeros(3, np.int64), np.zeros(3, np.int64)
    with (folder / "sources.csv").open("w", newline="", encoding="utf-8") as lines:
        table = csv.writer(lines)
        table.writerow(["id", "foreground", "background", "mirrored", "top", "left"])
        for number in tqdm(numbers, unit="image", disable=None):
            made = composites[number]
            name = f"{number:07d}"
            _save(folder / "images" / f"{name}.png", made.image[:, :, ::-1])
            _save(folder / "masks" / f"{name}.png", np.round(made.alpha * 255).astype(np.uint8))
            table.writerow([name, made.foreground, made.background, int(made.mirrored), made.top, made.left])
            values = made.image.reshape(-1, 3).astype(np.int64)
            pixels, sums, squares = pixels + len(values), sums + values.sum(axis=0), squares + (values**2).sum(axis=0)
    mean = sums / pixels / 255
    deviation = np.sqrt(np.maximum(0, squares / pixels / 255**2 - mean**2))
    shown = (", ".join(f"{value:.6f}" for value in values) for values in (mean, deviation))
    return "mean {}; standard deviation {} (red, green, blue in 0..1)".format(*shown)


def _save(path: Path, picture: NDArray[np.uint8]) -> None:
    if not cv2.imwrite(str(path), picture):
        raise InputError(f"{path}: cannot be written; is the disk full?")

"""`refine evaluate` behind its arguments: masks against the truth, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import cv2
import numpy as np

from refine.errors import InputError
from refine.geometry import Mask, Window
from refine.inputs import MASK_SUFFIXES
from refine.masks import open_mask
from refine.metrics.summary import Scores, Summary, Truth, count_worse, score, summarise
from refine.report import write_text

_LOSSY = frozenset({".jpg", ".jpeg"})
_MEASURES = (
    ("iou_mean", "IoU, mean over images"),
    ("iou_overall", "IoU, over all pixels"),
    ("mba", "mean boundary accuracy"),
    ("boundary_iou", "Boundary IoU (0.02)"),
    ("mae", "mean absolute error"),
)


def evaluate_folders(prediction: Path, truth: Path, *, before: Path | None, json_path: Path | None) -> int:
    """Score every true mask's prediction, print the table, and write JSON if asked; the exit code.

    Masks are matched by stem; a prediction may end in `_mask`, as `refine infer` names results beside their images.
    A prediction of another size is brought to the truth's. Raises InputError where one is missing.
    """
    truths, predictions = masks_by_stem(truth), masks_by_stem(prediction)
    firsts = None if before is None else masks_by_stem(before)
    after_scores: list[Scores] = []
    before_scores: list[Scores] = []
    for stem, path in truths.items():
        actual = Truth.of(read_mask(path))
        after_scores.append(score(read_mask(_of(predictions, stem, prediction), actual.mask.shape), actual))
        if firsts is not None and before is not None:
            before_scores.append(score(read_mask(_of(firsts, stem, before), actual.mask.shape), actual))
    click.echo(table(summarise(after_scores), summarise(before_scores) if before_scores else None))
    if before_scores:
        worse = count_worse(before_scores, after_scores)
        click.echo(f"{worse} of {len(truths)} images lost more than a point of mean boundary accuracy")
    if json_path is not None:
        _write_json(json_path, list(truths), before_scores, after_scores)
    return 0


def masks_by_stem(folder: Path) -> dict[str, Path]:
    """Masks of a folder, by stem, in order; beside a lossless file, a JPEG of the same stem is the photograph.

    Raises InputError if it is no folder, holds no mask, or two for one stem.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in MASK_SUFFIXES and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    masks: dict[str, Path] = {}
    for stem, paths in found.items():
        lossless = [path for path in paths if path.suffix.lower() not in _LOSSY] or paths
        if len(lossless) > 1:
            raise InputError(f"{folder}: holds {lossless[0].name} and {lossless[1].name}; keep one of them")
        masks[stem] = lossless[0]
    if not masks:
        raise InputError(f"{folder}: no mask in this folder")
    return masks


def read_mask(path: Path, size: tuple[int, ...] | None = None) -> Mask:
    """The whole mask in 0..1, brought to `size` (height, width) by bilinear interpolation if it has another.

    Raises RefineError for what is no mask.
    """
    with open_mask(path, (1, 1), align="stretch") as mask:
        values = mask.read(Window(0, 0, mask.height, mask.width))
    if size is not None and values.shape != size:
        values = np.asarray(cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.float32)
    return values


def table(after: Summary, before: Summary | None = None) -> str:
    """The figures in points of 100 (percent), a measure a row; with `before` also what changed."""
    heads = ["after"] if before is None else ["before", "after", "change"]
    lines = [
        f"| {after.images} {'image' if after.images == 1 else 'images'} | {' | '.join(heads)} |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for name, title in _MEASURES:
        last = getattr(after, name)
        figures = [last] if before is None else [getattr(before, name), last]
        cells = ["-" if figure is None else f"{100 * figure:.2f}" for figure in figures]
        if before is not None:
            cells.append("-" if None in figures else f"{100 * (figures[1] - figures[0]):+.2f}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    if after.mba_undefined:
        lines.append(f"\n{after.mba_undefined} images have no outline and are left out of mean boundary accuracy.")
    return "\n".join(lines)


def _of(masks: dict[str, Path], stem: str, folder: Path) -> Path:
    path = masks.get(stem) or masks.get(f"{stem}_mask")
    if path is None:
        raise InputError(f"{folder}: no mask of the stem {stem!r}, which the truth has")
    return path


def _write_json(path: Path, stems: Sequence[str], before: Sequence[Scores], after: Sequence[Scores]) -> None:
    images = {stem: {"after": _fractions(entry)} for stem, entry in zip(stems, after, strict=True)}
    content: dict[str, object] = {"images": images, "after": asdict(summarise(after))}
    if before:
        for stem, entry in zip(stems, before, strict=True):
            images[stem]["before"] = _fractions(entry)
        content |= {"before": asdict(summarise(before)), "worse": count_worse(before, after)}
    write_text(path, json.dumps(content, indent=2) + "\n")


def _fractions(entry: Scores) -> dict[str, float | None]:
    return {"iou": entry.iou, "mba": entry.mba, "boundary_iou": entry.boundary_iou, "mae": entry.mae}

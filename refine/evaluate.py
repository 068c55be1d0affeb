"""`refine evaluate` behind its arguments: masks against the truth, as a table and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import cv2
import numpy as np
from tqdm import tqdm

from refine.errors import InputError
from refine.geometry import Mask, Window
from refine.inputs import MASK_SUFFIXES, check_new_file, real_path
from refine.masks import Align, open_mask
from refine.metrics.further import TITLES, Further, Gathered, gather
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


def evaluate_folders(
    prediction: Path,
    truth: Path,
    *,
    before: Path | None,
    json_path: Path | None,
    overwrite: bool = False,
    further: Sequence[Further] = (),
    stretch: bool = False,
    align: Align = "fit",
) -> int:
    """Score every true mask's prediction, print the tables, and write JSON if asked; the exit code.

    Masks are matched by stem; a prediction may end in `_mask`, as `refine infer` names results beside their images.
    A prediction of another size is brought to the truth's; one of another shape only if `align` is "stretch".
    `stretch` is for the further measures of salient objects. Raises InputError where a mask is missing or of another
    shape, or the JSON has no place, InstallationError where a library of the further measures is missing.
    """
    truths = masks_by_stem(truth)
    if json_path is not None:
        check_new_file("--json", json_path, overwrite=overwrite)
    scored = {"after": _Scored.of(truths, prediction, further, stretch=stretch, align=align)}
    if before is not None:
        scored = {"before": _Scored.of(truths, before, further, stretch=stretch, align=align)} | scored
    read = [path for paths in (truths, *(folder.masks for folder in scored.values())) for path in paths.values()]
    if json_path is not None and real_path(json_path) in map(real_path, read):
        raise InputError(f"--json {json_path}: is one of the masks; give another name")
    for path in tqdm(truths.values(), unit=" images", disable=None, leave=False):
        actual = Truth.of(read_mask(path))
        for folder in scored.values():
            folder.add(path.stem, actual)
    after = scored["after"]
    first = scored["before"].scores if before is not None else []
    click.echo(table(summarise(after.scores), summarise(first) if first else None))
    if first:
        worse = count_worse(first, after.scores)
        click.echo(f"{worse} of {len(truths)} images lost more than a point of mean boundary accuracy")
    for kind in dict.fromkeys(further):
        title = TITLES[kind] + (", predictions stretched to 0..1" if stretch and kind == "salient" else "")
        click.echo("\n" + further_table(title, {name: folder.further[kind] for name, folder in scored.items()}))
    if json_path is not None:
        write_text(json_path, json.dumps(_content(list(truths), scored, stretch=stretch), indent=2) + "\n")
    return 0


@dataclass(frozen=True, slots=True)
class _Scored:
    """A folder of predictions, and what they have scored so far, in the order of the truths."""

    masks: Mapping[str, Path]
    further: Mapping[Further, Gathered]
    align: Align
    scores: list[Scores] = field(default_factory=list)

    @classmethod
    def of(
        cls, truths: Collection[str], folder: Path, further: Sequence[Further], *, stretch: bool, align: Align
    ) -> _Scored:
        """With nothing scored yet. Raises InputError unless the folder has a mask of each stem in `truths`."""
        found = masks_by_stem(folder)
        masks = {stem: _of(found, stem, folder, truths) for stem in truths}
        return cls(masks, {kind: gather(kind, stretch=stretch) for kind in further}, align)

    def add(self, stem: str, truth: Truth) -> None:
        mask = read_mask(self.masks[stem], (truth.mask.shape[0], truth.mask.shape[1]), self.align)
        self.scores.append(score(mask, truth))
        for gathered in self.further.values():
            gathered.feed(mask, truth.solid)


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


def read_mask(path: Path, size: tuple[int, int] | None = None, align: Align = "fit") -> Mask:
    """The whole mask in 0..1, brought to `size` (height, width) by bilinear interpolation if it has another.

    What its numbers were taken for is noted on stderr. Raises RefineError for what is no mask, and for one of another
    shape than `size` unless `align` is "stretch".
    """
    with open_mask(path, size or (1, 1), align=align if size else "stretch") as mask:
        for note in mask.notes:
            tqdm.write(f"{path}: {note}", file=sys.stderr)
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


def further_table(title: str, columns: Mapping[str, Gathered]) -> str:
    """Figures as they are, not in percent: a measure a row, a set of predictions a column, and what changed."""
    results = {name: gathered.results() for name, gathered in columns.items()}
    heads = [*columns, *(["change"] if "before" in columns else [])]
    lines = [f"| {title} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for measure in results["after"]:
        figures = [column[measure] for column in results.values()]
        cells = ["-" if figure is None else f"{figure:.4f}" for figure in figures]
        if len(figures) > 1:
            first, last = figures
            cells.append("-" if first is None or last is None else f"{last - first:+.4f}")
        lines.append(f"| {measure} | {' | '.join(cells)} |")
    for name, gathered in columns.items():
        left_out = gathered.left_out()
        for count in sorted(set(left_out.values())):
            measures = ", ".join(measure for measure, images in left_out.items() if images == count)
            lines.append(f"\n{name}: {count} {'mask has' if count == 1 else 'masks have'} no {measures}")
    return "\n".join(lines)


def _of(masks: dict[str, Path], stem: str, folder: Path, truths: Collection[str]) -> Path:
    """The mask of a truth's stem, or with `_mask`, beside which the stem alone is the photograph."""
    result = f"{stem}_mask"
    path = (masks.get(result) if result not in truths else None) or masks.get(stem)
    if path is None:
        raise InputError(f"{folder}: no mask of the stem {stem!r}, which the truth has")
    return path


def _content(stems: Sequence[str], scored: Mapping[str, _Scored], *, stretch: bool) -> dict[str, object]:
    """Figures of every image, means under "after" and "before"; of further measures, means alone."""
    images = {
        stem: {name: _fractions(folder.scores[index]) for name, folder in scored.items()}
        for index, stem in enumerate(stems)
    }
    content: dict[str, object] = {"images": images}
    for name, folder in scored.items():
        means: dict[str, object] = asdict(summarise(folder.scores))
        for kind, gathered in folder.further.items():
            means[kind] = {**gathered.results(), "left_out": gathered.left_out()}
        content[name] = means
    if "before" in scored:
        content["worse"] = count_worse(scored["before"].scores, scored["after"].scores)
    if "salient" in scored["after"].further:
        content["stretched"] = stretch
    return content


def _fractions(entry: Scores) -> dict[str, float | None]:
    return {"iou": entry.iou, "mba": entry.mba, "boundary_iou": entry.boundary_iou, "mae": entry.mae}

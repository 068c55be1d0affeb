"""How much better masks get: coarse masks of several kinds, before and after refinement, on images with known truth.

    python benchmarks/quality.py --data FOLDER --limit 5 --out quality.json

FOLDER holds `<set>/<id>.jpg` with `<set>/<id>.png`, and `index.csv` with columns split, set, id, accurate. Kinds:

    truth64    the truth, area-reduced to 64 px on the long side
    perturbed  the truth damaged as in training, at fixed seeds
    gate       the truth itself (with reach 1), and area-reduced by 2, 4, 8 and 16: what must not get worse
    mos_l      the coarse network of refine
    u2netp     U2-NetP with its published weights: another model's real masks, handed in like a user's
    ensemble   the mean of the log odds of both, as refine makes a first mask where none is given
    isnet      IS-Net (--isnet isnet.safetensors), handed in likewise
    stored     other models' predictions that lie beside the truth, <id>.pred-<name>.png

"Before" is the coarse mask enlarged bilinearly to the image's size. Figures are percent; an image got worse if it lost
more than a point of mean boundary accuracy. With --rivals, guided filter, GrabCut and closed-form matting get the same
masks and the same reach; a table compares all on the images that all have done.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import click
import cv2
import numpy as np
import torch
from coarse_masks import KINDS, Coarse, Entry, makers
from numpy.typing import NDArray
from rivals import MOST_MATTING_PIXELS, RIVALS
from tqdm import tqdm

from refine.api import refine_with
from refine.backends import load_refiner
from refine.cascade import choose_reach
from refine.engine import refine_mask
from refine.errors import InputError, RefineError
from refine.first_mask import MaskFacts, facts_of_mask
from refine.geometry import RGB, Mask
from refine.metrics.summary import Scores, Summary, Truth, count_worse, score, summarise
from refine.plan import Device
from refine.planning import plan_for_array
from refine.report import versions
from refine.settings import Settings
from refine.shipped import default_checkpoint
from refine.sources import ArrayImage, ArrayMask, ArraySink, Refiner

REFINE = "refine"
MEASURES = {"IoU": "iou_mean", "mBA": "mba", "Boundary IoU": "boundary_iou", "MAE": "mae"}


@dataclass(frozen=True)
class Result:
    """One image with one coarse mask."""

    set_name: str
    name: str
    kind: str
    method: str
    is_accurate: bool
    megapixels: float
    seconds: float
    before: Scores
    after: Scores


@dataclass(frozen=True)
class Choice:
    """What to run."""

    kinds: tuple[str, ...]
    checkpoint: Path
    coarse_checkpoint: Path | None
    isnet: Path | None
    rivals: tuple[str, ...]
    device: str


def read_index(path: Path, folder: Path, *, split: str | None, sets: Sequence[str], limit: int | None) -> list[Entry]:
    """Images of the index, at most `limit` of a set, evenly over its order."""
    with path.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if split is None or row.get("split", split) == split]
    by_set: dict[str, list[Entry]] = {}
    for row in rows:
        if not sets or row["set"] in sets:
            entry = Entry(folder, row["set"], row["id"], row.get("accurate", "1") == "1")
            by_set.setdefault(entry.set_name, []).append(entry)
    missing = sorted(set(sets) - set(by_set))
    if missing or not by_set:
        raise InputError(f"{path}: no images of the sets {', '.join(missing) or 'asked for'}")
    return [entry for entries in by_set.values() for entry in spread(entries, limit)]


def spread(entries: Sequence[Entry], limit: int | None) -> list[Entry]:
    """At most `limit` entries, the first and the last among them."""
    if limit is None or len(entries) <= limit:
        return list(entries)
    return [entries[index] for index in np.linspace(0, len(entries) - 1, limit).round().astype(int)]


class Bench:
    """The networks, loaded once in a process, and what they do with one image."""

    def __init__(self, choice: Choice) -> None:
        self._refiner: Refiner = load_refiner(choice.checkpoint, device=choice.device)
        self._refiner.activation_bytes(1, Settings().tile)  # measured once, before the clock runs
        self._settings = Settings(align="stretch", device="cuda" if choice.device == "cuda" else "cpu")
        self._makers = makers(choice.kinds, mos_l=choice.coarse_checkpoint, isnet=choice.isnet, device=choice.device)
        self._rivals = choice.rivals

    def run(self, entry: Entry) -> list[Result]:
        """Every kind of coarse mask of one image, by every method."""
        image, mask = read_pair(entry)
        truth = Truth.of(mask)
        return [
            result
            for make in self._makers
            for coarse in make(entry, image, mask)
            for result in self._methods(entry, image, truth, coarse)
        ]

    def _refined(self, image: RGB, coarse: Coarse) -> Mask:
        """As a run would: one that makes the first mask itself knows that a network did."""
        if not coarse.is_own:
            settings = self._settings.model_copy(update={"reach": coarse.reach})
            return refine_with(self._refiner, image, coarse.mask, settings=settings)
        source, first = ArrayImage(image), ArrayMask(coarse.mask)
        facts = MaskFacts(first.height, first.width, is_network_output=True, is_hard=False)
        device: Device = "cuda" if self._settings.device == "cuda" else "cpu"
        plan = plan_for_array(source, facts, self._settings, device, self._refiner.stride, self._refiner)
        sink = ArraySink(source.height, source.width, np.float32)
        refine_mask(source, first, self._refiner, plan, sink, as_float=True)
        return np.asarray(sink.rows, np.float32)

    def _methods(self, entry: Entry, image: RGB, truth: Truth, coarse: Coarse) -> Iterator[Result]:
        height, width = image.shape[:2]
        enlarged = cv2.resize(as_unit(coarse.mask), (width, height), interpolation=cv2.INTER_LINEAR)
        before = np.asarray(enlarged, np.float32)
        facts = facts_of_mask(ArrayMask(coarse.mask), (height, width))
        chosen = choose_reach(height, width, facts.height, facts.width, is_network_output=False, ramp=facts.ramp)
        reach = coarse.reach or chosen  # what refine takes; the rivals get the same
        methods: dict[str, Callable[[], Mask]] = {REFINE: lambda: self._refined(image, coarse)}
        for name in self._rivals:
            if name != "matting" or height * width <= MOST_MATTING_PIXELS:
                methods[name] = partial(RIVALS[name], image, before, reach)
        scored = score(before, truth)
        for name, method in methods.items():
            begun = perf_counter()
            after = method()
            seconds = perf_counter() - begun
            yield Result(
                set_name=entry.set_name,
                name=entry.name,
                kind=coarse.kind,
                method=name,
                is_accurate=entry.is_accurate,
                megapixels=height * width / 1e6,
                seconds=seconds,
                before=scored,
                after=score(after, truth),
            )


def read_pair(entry: Entry) -> tuple[RGB, NDArray[np.uint8]]:
    """The image, RGB, and its truth. Raises InputError where a file is missing or is no image."""
    image = cv2.imread(f"{entry.stem}.jpg", cv2.IMREAD_COLOR)
    mask = cv2.imread(f"{entry.stem}.png", cv2.IMREAD_GRAYSCALE)
    if image is None or mask is None:
        raise InputError(f"{entry.stem}: .jpg or .png is missing or is no image")
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8), np.asarray(mask, np.uint8)


def as_unit(mask: Mask | NDArray[np.uint8]) -> Mask:
    return np.asarray(mask / np.float32(255) if mask.dtype == np.uint8 else mask, np.float32)


def markdown(results: Sequence[Result]) -> str:
    """A table for each kind of coarse mask, a row for each set, and the mean of the accurate sets."""
    parts = []
    for kind in dict.fromkeys(result.kind for result in results):
        mine = [result for result in results if result.kind == kind and result.method == REFINE]
        rows = [
            f"### {kind}\n",
            f"| set | images | {' | '.join(f'{name} | after | change' for name in MEASURES)} | worse | s/MP |",
            "|---" * (4 + 3 * len(MEASURES)) + "|",
        ]
        sets = {name: [r for r in mine if r.set_name == name] for name in dict.fromkeys(r.set_name for r in mine)}
        rows += [row(name if group[0].is_accurate else f"{name} (rough)", [group]) for name, group in sets.items()]
        accurate = [group for group in sets.values() if group[0].is_accurate]
        if len(accurate) > 1:
            rows.append(row("**mean of the accurate sets**", accurate))
        parts.append("\n".join(rows))
        if any(result.method != REFINE for result in results):
            parts.append(comparison([result for result in results if result.kind == kind]))
    return "\n\n".join(parts)


def comparison(results: Sequence[Result]) -> str:
    """A row for each method, over the accurate images that every method has done."""
    by_method: dict[str, dict[tuple[str, str], Result]] = {}
    for result in results:
        if result.is_accurate:
            by_method.setdefault(result.method, {})[result.set_name, result.name] = result
    common = set.intersection(*(set(mine) for mine in by_method.values())) if by_method else set()
    if not common:
        return "no accurate image was done by every method"
    rows = [
        f"| method | images | {' | '.join(f'{name} | after | change' for name in MEASURES)} | worse | s/MP |",
        "|---" * (4 + 3 * len(MEASURES)) + "|",
    ]
    for method, mine in by_method.items():
        sets = sorted({key[0] for key in common})
        groups = [[mine[key] for key in sorted(common) if key[0] == name] for name in sets]
        rows.append(row(f"{method}, mean of {len(sets)} sets", groups))
    return "\n".join(rows)


def row(title: str, groups: Sequence[Sequence[Result]]) -> str:
    """One line: the mean over groups of their means, before, after and the change."""
    pairs = [(summarise([r.before for r in group]), summarise([r.after for r in group])) for group in groups]
    cells = [title, str(sum(len(group) for group in groups))]
    for name in MEASURES.values():
        before, after = mean(name, [pair[0] for pair in pairs]), mean(name, [pair[1] for pair in pairs])
        if before is None or after is None:
            cells += ["-", "-", "-"]
        else:
            cells += [f"{100 * before:.2f}", f"{100 * after:.2f}", f"{100 * (after - before):+.2f}"]
    together = [result for group in groups for result in group]
    cells.append(str(count_worse([r.before for r in together], [r.after for r in together])))
    cells.append(f"{sum(r.seconds for r in together) / sum(r.megapixels for r in together):.2f}")
    return f"| {' | '.join(cells)} |"


def mean(name: str, summaries: Sequence[Summary]) -> float | None:
    values = [value for summary in summaries if (value := getattr(summary, name)) is not None]
    return float(np.mean(values)) if values else None


def as_json(results: Sequence[Result]) -> list[Mapping[str, object]]:
    """Every image: fractions, with the IoU that `Scores` computes."""
    return [
        asdict(result)
        | {"before": asdict(result.before) | {"iou": result.before.iou}}
        | {"after": asdict(result.after) | {"iou": result.after.iou}}
        for result in results
    ]


_BENCH: dict[Choice, Bench] = {}


def run_one(choice: Choice, entry: Entry) -> list[Result]:
    """One image, with networks that are loaded once in each process."""
    if choice not in _BENCH:
        cv2.setNumThreads(1)
        _BENCH[choice] = Bench(choice)
    return _BENCH[choice].run(entry)


def run_all(choice: Choice, entries: Sequence[Entry], jobs: int) -> Iterator[list[Result]]:
    if jobs == 1:
        yield from (run_one(choice, entry) for entry in entries)
        return
    cores = max(1, len(os.sched_getaffinity(0)) // jobs)  # more threads than cores wait for one another
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (cores,)) as pool:
        yield from pool.map(partial(run_one, choice), entries)


@click.command(help=__doc__.partition("\n")[0])
@click.option("--data", type=click.Path(path_type=Path), required=True, help="folder of <set>/<id>.jpg and .png")
@click.option("--index", type=click.Path(path_type=Path), help="its list  [default: index.csv in the folder]")
@click.option("--split", default="test", show_default=True, help="part of the list; all for everything")
@click.option("--sets", default="", help="only these sets, with commas")
@click.option("--limit", type=click.IntRange(min=1), help="at most this many images of a set")
@click.option("--kinds", default="truth64,mos_l,stored", show_default=True, help=f"of {', '.join(KINDS)}")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="refining network  [default: the shipped one]")
@click.option(
    "--coarse-checkpoint",
    type=click.Path(path_type=Path),
    help="MOS_L, for mos_l and ensemble  [default: the shipped one]",
)
@click.option("--isnet", type=click.Path(path_type=Path), help="isnet.safetensors")
@click.option("--rivals", default="", help=f"also run these, with commas, of {', '.join(RIVALS)}")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="also write every figure as JSON")
def main(
    data: Path,
    index: Path | None,
    split: str,
    sets: str,
    limit: int | None,
    kinds: str,
    checkpoint: Path | None,
    coarse_checkpoint: Path | None,
    isnet: Path | None,
    rivals: str,
    device: str,
    jobs: int,
    out: Path | None,
) -> None:
    chosen = tuple(kinds.split(","))
    if unknown := sorted(set(chosen) - set(KINDS)):
        raise click.UsageError(f"--kinds: {', '.join(unknown)}: choose of {', '.join(KINDS)}")
    others = tuple(name for name in rivals.split(",") if name)
    if unknown := sorted(set(others) - set(RIVALS)):
        raise click.UsageError(f"--rivals: {', '.join(unknown)}: choose of {', '.join(RIVALS)}")
    try:
        entries = read_index(
            index or data / "index.csv",
            data,
            split=None if split == "all" else split,
            sets=[name for name in sets.split(",") if name],
            limit=limit,
        )
        refiner = checkpoint or default_checkpoint("mos_h_lite")
        choice = Choice(chosen, refiner, coarse_checkpoint, isnet, others, device)
        results: list[Result] = []
        for found in tqdm(run_all(choice, entries, jobs), total=len(entries), unit=" images", disable=None):
            results += found
    except (RefineError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(markdown(results))
    if out is not None:
        content = {"command": sys.argv[1:], "versions": versions(), "results": as_json(results)}
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

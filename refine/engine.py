"""The way of one tile: glues the stages together, level by level; it holds no arithmetic of its own.

    select (coarse mask by rows) -> read (in a thread of its own) -> run -> blend -> write
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

from refine.blend import blend_rows
from refine.cascade import LevelPlan
from refine.clock import Clock
from refine.errors import InputError
from refine.geometry import BoolArray
from refine.handover import FirstMask, Handover, LevelCoarse
from refine.level_store import DiskLevel, LevelStore, MemoryLevel
from refine.plan import Plan
from refine.read import read_ahead, read_batches
from refine.run import run_batches
from refine.select import select_windows
from refine.sources import ImageSource, MaskSink, MaskSource, Progress, Refiner
from refine.stream import Corrections, FinalRows
from refine.write import write_corrections, write_mask


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where the time of a level went. Reading goes on beside the rest; `wait` is what the rest waited for it."""

    read: float  # coarse mask, selection, image windows
    wait: float
    network: float
    blend: float
    write: float


@dataclass(frozen=True, slots=True)
class LevelReport:
    """What was done on one level."""

    decimation: int
    height: int
    width: int
    reach: float  # in pixels of the level
    windows: int  # of the swept part; run + skipped
    run: int
    skipped: int
    changed: float  # share of the finished pixels that the network moved by more than half an 8-bit step
    not_finite: int  # windows dropped because the network gave NaN or infinity
    seconds: Seconds
    tile: int
    overlap: int
    ran: BoolArray = field(repr=False, compare=False)  # (window rows, window columns) of the level's grid


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did, coarsest level first."""

    levels: tuple[LevelReport, ...]
    prepare_seconds: float  # making the levels of the image readable

    @property
    def run(self) -> int:
        """Windows run, over all levels."""
        return sum(level.run for level in self.levels)

    @property
    def skipped(self) -> int:
        return sum(level.skipped for level in self.levels)

    @property
    def not_finite(self) -> int:
        return sum(level.not_finite for level in self.levels)


def refine_mask(
    image: ImageSource,
    mask: MaskSource,
    refiner: Refiner,
    plan: Plan,
    sink: MaskSink,
    progress: Progress | None = None,
    *,
    as_float: bool = False,
    folder: Path | None = None,
) -> RunReport:
    """Refine `mask` over `image` as planned, and write it to `sink`, whose row 0 is the first of the plan's output.

    The sink gets 0..255, or 0..1 in float32 with `as_float`. `folder` takes temporary files, the system's own folder
    for such if None. Everything is called from this thread, but `image.read` and `mask.read`, which are called from
    one other thread at a time. Raises InputError if the plan is not for this image and network.
    """
    _check(image, refiner, plan)
    begun = perf_counter()
    image.prepare(plan.decimations)
    prepared = perf_counter() - begun
    first = FirstMask(mask, plan.height, plan.width)
    reports: list[LevelReport] = []
    previous: Handover | None = None
    with ExitStack() as stores:
        for number, step in enumerate(plan.levels):
            sweep = _Sweep(step, image, refiner, plan, progress)
            if progress is not None:
                progress.begin(number, len(plan.levels), step.window_rows[1] - step.window_rows[0], step.windows)
            coarse = LevelCoarse(first, plan.height, plan.width, step.level, previous, keep_first=not step.is_last)
            if step.is_last:
                with sweep.rows(coarse) as final:
                    changed = write_mask(final, sink, plan.output, as_float=as_float)
            else:
                store = stores.enter_context(closing(_make_store(step, folder)))
                with sweep.rows(coarse) as final:
                    changed = write_corrections(final, store, step.rows)
            if previous is not None:
                previous.store.close()
            if not step.is_last:
                previous = Handover(step.level, store)
            reports.append(sweep.report(changed))
    return RunReport(tuple(reports), prepared)


class _Sweep:
    """One level from top to bottom: the chain of stages, its clock and its counts."""

    def __init__(
        self, step: LevelPlan, image: ImageSource, refiner: Refiner, plan: Plan, progress: Progress | None
    ) -> None:
        self._step, self._image, self._refiner, self._plan = step, image, refiner, plan
        self._progress = progress
        self._clock = Clock()
        self._ran = np.zeros((len(step.grid.rows.origins), len(step.grid.cols.origins)), np.bool_)
        self._not_finite = 0

    @contextmanager
    def rows(self, coarse: LevelCoarse) -> Iterator[Iterator[FinalRows]]:
        """All bands of the sweep with their corrections. Leaving ends the reading thread."""
        step, plan, clock = self._step, self._plan, self._clock
        selected = select_windows(coarse.rows, step, plan)
        batches = clock.times("read", read_batches(selected, self._image, step, plan))
        with clock.running(), closing(read_ahead(batches, plan.look_ahead)) as ahead:
            ready = clock.times("wait", ahead)
            results = clock.times("network", run_batches(ready, self._refiner, step.level.reach))
            yield clock.times("blend", blend_rows(self._counted(results), step.grid))

    def report(self, changed: int) -> LevelReport:
        step, level = self._step, self._step.level
        finished = self._plan.output.width if step.is_last else level.width
        run = int(self._ran.sum())
        return LevelReport(
            decimation=level.decimation,
            height=level.height,
            width=level.width,
            reach=level.reach,
            tile=step.tile,
            overlap=step.overlap,
            windows=step.windows,
            run=run,
            skipped=step.windows - run,
            changed=changed / ((step.rows[1] - step.rows[0]) * finished),
            not_finite=self._not_finite,
            seconds=self._seconds(),
            ran=self._ran,
        )

    def _counted(self, results: Iterable[Corrections]) -> Iterator[Corrections]:
        finished = self._step.window_rows[0]
        for result in results:
            for place in result.places:
                self._ran[place] = True
            self._not_finite += result.not_finite
            if self._progress is not None:
                rows = self._ran[finished : result.finished]
                self._progress.advance(len(rows), len(result.places), int(rows.size - rows.sum()))
            finished = result.finished
            yield result

    def _seconds(self) -> Seconds:
        """Each stage asks the one before it for its items, so that its own time is the difference."""
        spent = self._clock.seconds
        return Seconds(
            read=spent["read"],
            wait=spent["wait"],
            network=spent["network"] - spent["wait"],
            blend=spent["blend"] - spent["network"],
            write=spent["all"] - spent["blend"],
        )


def _check(image: ImageSource, refiner: Refiner, plan: Plan) -> None:
    if (image.height, image.width) != (plan.height, plan.width):
        raise InputError(
            f"the plan is for {plan.width} x {plan.height} (width x height), "
            f"but the image is {image.width} x {image.height}"
        )
    if plan.tile % refiner.stride:
        raise InputError(f"--tile {plan.tile} is not a multiple of the network's stride {refiner.stride}")


def _make_store(step: LevelPlan, folder: Path | None) -> LevelStore:
    start, stop = step.rows
    if step.on_disk:
        return DiskLevel(start, stop, step.level.width, folder)
    return MemoryLevel(start, stop, step.level.width)

"""The way of one image: level by level, coarsest first; it holds no arithmetic of its own."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine.agree import Agreement
from refine.cascade import LevelPlan
from refine.errors import InputError
from refine.geometry import BoolArray
from refine.handover import FirstMask, Handover, LevelCoarse
from refine.level_store import LevelStore
from refine.plan import Plan, check_stride
from refine.run import Calls
from refine.sources import (
    SWEEP,
    ImageSource,
    Journal,
    KeepRows,
    MaskSink,
    MaskSource,
    NoJournal,
    Progress,
    Refiner,
    tells,
)
from refine.sweep import LevelReport, Seconds, Sweep
from refine.temporary import FileStore, MemoryStore
from refine.write import write_corrections, write_mask

__all__ = ["LevelReport", "RunReport", "Seconds", "refine_mask"]


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did, coarsest level first."""

    levels: tuple[LevelReport, ...]
    parts: int  # over all levels
    resumed: int  # of them, taken from the journal
    batch: int  # windows of a call; fewer than planned where the device ran out of memory

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
    journal: Journal | None = None,
) -> RunReport:
    """Refine `mask` over `image` as planned, and write it to `sink`, whose row 0 is the first of the plan's output.

    The sink gets 0..255, or 0..1 in float32 with `as_float`. `folder` takes temporary files, the system's own folder
    for such if None. Parts that `journal` holds, which must be of the same run, are not made again. Everything is
    called from this thread, but `image.read` and `mask.read`, which are called from one other thread at a time.
    Raises InputError if the plan is not for this image and network.
    """
    _check(image, refiner, plan)
    journal = journal or NoJournal()
    finished = [journal.finished(number) for number in range(len(plan.levels))]
    missing = [step for step, done in zip(plan.levels, finished, strict=True) if done < len(step.parts)]
    decimations = [step.level.decimation for step in missing if step.level.decimation > 1]
    image.prepare(decimations, tells(progress, SWEEP))
    first = FirstMask(mask, plan.height, plan.width)
    calls = Calls(refiner, plan.batch, is_given=plan.batch_is_given)
    reports: list[LevelReport] = []
    previous: Handover | None = None
    with ExitStack() as stores:
        for number, step in enumerate(plan.levels):
            sweep = Sweep(number, plan, journal, finished[number], progress)
            coarse = LevelCoarse(first, plan.height, plan.width, step.level, previous, keep_first=not step.is_last)
            agreement = Agreement(mask, plan.height, plan.width, step, plan.agreement, plan.agreement_block)
            if step.is_last:
                sweep.replay(sink.write, calls)
                write = partial(write_mask, part=plan.output, as_float=as_float)
                sweep.run(image, calls, coarse, agreement, sink.write, write)
            else:
                store = stores.enter_context(closing(_make_store(step, folder)))
                sweep.replay(_kept_in(store), calls)
                sweep.run(image, calls, coarse, agreement, _kept_in(store), partial(write_corrections, rows=step.rows))
            if previous is not None:
                previous.store.close()
            if not step.is_last:
                previous = Handover(step.level, store)
            reports.append(sweep.report())
    parts = sum(len(step.parts) for step in plan.levels)
    return RunReport(tuple(reports), parts, sum(finished), calls.most)


def _check(image: ImageSource, refiner: Refiner, plan: Plan) -> None:
    if (image.height, image.width) != (plan.height, plan.width):
        raise InputError(
            f"the plan is for {plan.width} x {plan.height} (width x height), "
            f"but the image is {image.width} x {image.height}"
        )
    check_stride(plan.tile, refiner.stride)


def _make_store(step: LevelPlan, folder: Path | None) -> LevelStore:
    start, stop = step.rows
    height, width = stop - start, step.level.width
    store = FileStore(height, width, np.int16, folder) if step.on_disk else MemoryStore(height, width, np.int16)
    return LevelStore(start, width, store)


def _kept_in(store: LevelStore) -> KeepRows:
    def keep(row: int, rows: NDArray[Any], valid: BoolArray | None) -> None:
        store.write(row, rows)

    return keep

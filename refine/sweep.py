"""One level from top to bottom: the chain of stages, part by part, its clock and its counts.

    select (coarse mask by rows) -> read (in a thread of its own) -> run -> blend -> write

Parts that the journal holds are taken from it; the chain begins at the first that is missing, with the sums that the
part before it left, as a ROI begins at a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine.agree import Agreement
from refine.blend import Strip, blend_rows
from refine.cascade import LevelPlan
from refine.clock import Clock
from refine.geometry import BoolArray, Level
from refine.handover import LevelCoarse
from refine.limit import Hold, Inside, Limit
from refine.plan import Plan
from refine.read import read_ahead, read_batches
from refine.run import Calls, run_batches
from refine.select import select_windows
from refine.sources import ImageSource, Journal, KeepRows, PartFile, Progress
from refine.stream import Corrections, FinalRows, PartEnd


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
    seconds: Seconds  # of this process: what an interrupted run spent before is not among them
    tile: int
    overlap: int
    ran: BoolArray = field(repr=False, compare=False)  # (window rows, window columns) of the level's grid


class Recorded:
    """Takes finished rows to where they are kept, and to the file of their part."""

    def __init__(self, keep: KeepRows, part: PartFile) -> None:
        self._keep, self._part = keep, part

    def write(self, row: int, rows: NDArray[Any], valid: BoolArray | None = None) -> None:
        self._keep(row, rows, valid)
        self._part.write(row, rows, valid)


WriteRows = Callable[[Iterable[FinalRows], Recorded], int]
"""Finishes rows, and gives the number of pixels that the network changed: `write_mask` or `write_corrections`."""


class Sweep:
    """The sweep of level number `level`; `finished` of its parts are in the journal."""

    def __init__(self, level: int, plan: Plan, journal: Journal, finished: int, progress: Progress | None) -> None:
        self._number, self._step, self._plan = level, plan.levels[level], plan
        self._journal, self._finished, self._progress = journal, finished, progress
        self._clock = Clock()
        self._strip = Strip(self._step.grid)
        self._ran = np.zeros((len(self._step.grid.rows.origins), len(self._step.grid.cols.origins)), np.bool_)
        self._not_finite = 0
        self._changed = 0
        if progress is not None:
            rows = self._step.window_rows[1] - self._step.window_rows[0]
            progress.begin(level, len(plan.levels), rows, self._step.windows)

    def replay(self, keep: KeepRows, calls: Calls) -> None:
        """Take the finished parts from the journal: their rows, their counts, and the sums that the last one left.

        What had no room then is not tried again.
        """
        for number, part in enumerate(self._step.parts[: self._finished]):
            end = self._journal.replay(self._number, number, keep)
            calls.most = min(calls.most, end.batch)
            self._ran[part.start : part.stop] = end.ran
            self._not_finite += end.not_finite
            self._changed += end.changed
            self._strip.take(self._row_of(part.stop), end.carry)
            self._advance(part)

    def run(
        self,
        image: ImageSource,
        calls: Calls,
        coarse: LevelCoarse,
        agreement: Agreement,
        keep: KeepRows,
        write: WriteRows,
    ) -> None:
        """Sweep the parts that are not finished. Leaving, however it is, ends the reading thread."""
        parts = self._step.parts[self._finished :]
        if not parts:
            return
        plan, clock = self._plan, self._clock
        passes = plan.passes_over(self._step.level)
        step = replace(self._step, window_rows=(parts[0].start, parts[-1].stop))
        selected = select_windows(coarse.rows, step, plan)
        batches = clock.times("read", read_batches(selected, image, agreement, step, plan))
        with clock.running(), closing(read_ahead(batches, plan.look_ahead)) as ahead:
            ready = clock.times("wait", ahead)
            refined = run_batches(ready, calls, step.level.reach, agreement, passes, limit_of(plan, step.level))
            results = clock.times("network", refined)
            final = clock.times("blend", blend_rows(self._counted(results, step), self._strip))
            for number, part in enumerate(parts, start=self._finished):
                self._run_part(number, part, final, calls, keep, write)

    def report(self) -> LevelReport:
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
            changed=self._changed / ((step.rows[1] - step.rows[0]) * finished),
            not_finite=self._not_finite,
            seconds=self._seconds(),
            ran=self._ran,
        )

    def _run_part(
        self, number: int, part: range, final: Iterator[FinalRows], calls: Calls, keep: KeepRows, write: WriteRows
    ) -> None:
        dropped = self._not_finite
        with self._journal.begin(self._number, number) as file:
            # A band for each window row, and no further: what is read beyond would already be of the next part.
            changed = write(islice(final, len(part)), Recorded(keep, file))
            self._changed += changed
            carry = self._strip.carry(self._row_of(part.stop))
            ran = self._ran[part.start : part.stop]
            file.finish(PartEnd(ran, self._not_finite - dropped, changed, carry, calls.most))

    def _row_of(self, window_row: int) -> int:
        origins = self._step.grid.rows.origins
        return origins[window_row] if window_row < len(origins) else self._step.level.height

    def _counted(self, results: Iterable[Corrections], step: LevelPlan) -> Iterator[Corrections]:
        finished = step.window_rows[0]
        for result in results:
            for place in result.places:
                self._ran[place] = True
            self._not_finite += result.not_finite
            self._advance(range(finished, result.finished), len(result.places))
            finished = result.finished
            yield result

    def _advance(self, window_rows: range, run: int | None = None) -> None:
        if self._progress is not None:
            rows = self._ran[window_rows.start : window_rows.stop]
            ran = int(rows.sum())
            self._progress.advance(len(rows), ran if run is None else run, int(rows.size) - ran)

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


def limit_of(plan: Plan, level: Level) -> Hold | None:
    """What holds the corrections of a level's windows, given its coarse mask."""
    if plan.holds_reach:
        return Limit(level.reach, plan.low, plan.high)
    return Inside(level.reach, plan.high) if plan.keeps_inside else None

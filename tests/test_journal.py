"""A run that is stopped anywhere and resumed gives the bytes of one that was not."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import Scene, Sharpening, blobs, scenes

from refine.engine import RunReport, refine_mask
from refine.errors import DeviceMemoryError, RasterError
from refine.geometry import RGB, BoolArray, Mask, Window
from refine.journal import PartFiles, is_whole, part_name
from refine.plan import Plan
from refine.sources import ArrayImage, ArrayMask, ArraySink, Refiner

laws = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Damage = Callable[[bytes], bytes]


class Stopped(Exception):
    """What stands for a kill."""


class Stopping(Sharpening):
    """Stops at its call number `last`."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self._last = last

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        if len(self.calls) == self._last:
            raise Stopped
        return super().__call__(image, coarse, reach)


class Crowded(Stopping):
    """Has room for `room` windows from its second call on."""

    def __init__(self, room: int, last: int = 10**9) -> None:
        super().__init__(last)
        self.room, self.refused = room, 0

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        if self.calls and len(image) > self.room:
            self.refused += 1
            raise DeviceMemoryError("no room")
        return super().__call__(image, coarse, reach)


def finely(plan: Plan, rows: int) -> Plan:
    """The plan in parts of so many window rows, so that small images have many."""
    return replace(plan, levels=tuple(replace(step, part_rows=rows) for step in plan.levels))


def whole_rows(plan: Plan, rows: int) -> Plan:
    """The same where a ROI has cut the sweep: its window rows widened to whole parts of that size."""
    steps = []
    for step in finely(plan, rows).levels:
        first, last = step.window_rows
        count = len(step.grid.rows.origins)
        window_rows = first // rows * rows, min(-(-last // rows) * rows, count)
        kept = step.rows if step.is_last else (0, step.level.height)  # wider sweeps read more of the level before
        steps.append(replace(step, window_rows=window_rows, rows=kept))
    return replace(plan, levels=tuple(steps))


def run(
    scene: Scene, plan: Plan, refiner: Refiner, folder: Path | None, valid: BoolArray | None = None
) -> tuple[NDArray[np.uint8], RunReport]:
    sink = ArraySink(plan.output.height, plan.output.width)
    journal = None if folder is None else PartFiles(folder, [len(step.parts) for step in plan.levels])
    image = ArrayImage(scene.image, valid)
    report = refine_mask(image, ArrayMask(scene.mask), refiner, plan, sink, journal=journal)
    return sink.rows.astype(np.uint8), report


def counts(report: RunReport) -> list[tuple[int, int, float, int]]:
    return [(level.run, level.skipped, level.changed, level.not_finite) for level in report.levels]


@laws
@given(scene=scenes(), rows=st.integers(1, 3), roi=st.booleans(), data=st.data())
def test_a_run_stopped_anywhere_and_resumed_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, scene: Scene, rows: int, roi: bool, data: st.DataObject
) -> None:
    height, width = scene.image.shape[:2]
    part = None
    if roi:
        row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        part = Window(row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col)))
    valid = np.random.default_rng(0).random((height, width)) < 0.7 if data.draw(st.booleans()) else None
    if valid is not None:
        valid[0, 0] = True
    plan = whole_rows(scene.plan(roi=part, has_invalid=valid is not None), rows)
    if data.draw(st.booleans()):
        plan = replace(plan, levels=tuple(replace(step, on_disk=not step.is_last) for step in plan.levels))
    undisturbed = Sharpening()
    expected, report = run(scene, plan, undisturbed, None, valid)
    folder = tmp_path_factory.mktemp("run")
    for _ in range(2):  # it may be stopped more than once
        stop = data.draw(st.integers(0, len(undisturbed.calls)))
        try:
            run(scene, plan, Stopping(stop), folder, valid)
        except Stopped:
            assert not list(folder.glob("*.unfinished"))
    refiner = Sharpening()
    resumed, resumed_report = run(scene, plan, refiner, folder, valid)
    assert np.array_equal(resumed, expected)
    assert counts(resumed_report) == counts(report)
    for level, other in zip(report.levels, resumed_report.levels, strict=True):
        assert np.array_equal(level.ran, other.ran)
    again, last = run(scene, plan, Stopping(0), folder, valid)  # all parts are there: nothing runs
    assert np.array_equal(again, expected)
    assert last.resumed == last.parts == sum(len(step.parts) for step in plan.levels)


@pytest.fixture
def tall() -> Scene:
    """Three levels of many parts."""
    rng = np.random.default_rng(11)
    image = rng.integers(0, 256, (900, 90, 3), dtype=np.uint8)
    return Scene(image, blobs(rng, 300, 30, soft=True), tile=24, overlap=8, reach=60.0, batch=4)


def test_only_what_is_missing_is_run_again(tall: Scene, tmp_path: Path) -> None:
    plan = finely(tall.plan(), 4)
    refiner = Sharpening()
    expected, _ = run(tall, plan, refiner, None)
    stop = len(refiner.calls) * 3 // 4
    with pytest.raises(Stopped):
        run(tall, plan, Stopping(stop), tmp_path)
    rest = Sharpening()
    rows, report = run(tall, plan, rest, tmp_path)
    assert np.array_equal(rows, expected)
    assert len(plan.levels) == 3
    assert len(plan.levels) < report.resumed < report.parts
    in_a_part = max(len(part) for step in plan.levels for part in step.parts) * len(plan.levels[-1].grid.cols.origins)
    assert len(refiner.calls) - stop <= len(rest.calls) <= len(refiner.calls) - stop + in_a_part / 4 + 1


def test_the_journal_knows_that_the_device_had_no_room(tall: Scene, tmp_path: Path) -> None:
    plan = finely(replace(tall.plan(), batch_is_given=False), 4)
    expected, report = run(tall, plan, Sharpening(), None)
    assert report.batch == plan.batch == 4
    crowded = Crowded(room=1, last=len(plan.levels[0].parts) + 12)
    with pytest.raises(Stopped):
        run(tall, plan, crowded, tmp_path)
    assert crowded.refused == 2  # of four windows, and of two
    assert set(crowded.calls[1:]) == {1}
    rest = Crowded(room=1)
    rows, report = run(tall, plan, rest, tmp_path)
    assert np.array_equal(rows, expected)
    assert report.resumed
    assert report.batch == 1
    assert rest.refused == 0  # what had no room is not tried again
    assert set(rest.calls) == {1}


def test_a_batch_that_was_asked_for_is_never_changed(tall: Scene) -> None:
    plan = tall.plan()
    assert plan.batch_is_given
    with pytest.raises(DeviceMemoryError, match="no room; give a smaller --batch than 4, or auto"):
        run(tall, plan, Crowded(room=3), None)


def test_a_resumed_run_prepares_only_the_levels_that_it_sweeps(tall: Scene, tmp_path: Path) -> None:
    prepared: list[list[int]] = []

    class Watched(ArrayImage):
        def prepare(self, decimations: object, on_progress: object = None) -> None:
            assert isinstance(decimations, list)
            prepared.append(decimations)
            super().prepare(decimations)

    plan = finely(tall.plan(), 4)
    journal = PartFiles(tmp_path, [len(step.parts) for step in plan.levels])
    for _ in range(2):
        sink = ArraySink(900, 90)
        refine_mask(Watched(tall.image), ArrayMask(tall.mask), Sharpening(), plan, sink, journal=journal)
        (tmp_path / part_name(2, 3)).unlink()
    assert prepared[0] == [step.level.decimation for step in plan.levels[:2]]
    assert prepared[-1] == []


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def flipped(data: bytes) -> bytes:
    """Several bytes: a single bit may be one that deflate does not use."""
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0x5A for byte in data[middle : middle + 8]) + data[middle + 8 :]


def zeros(data: bytes) -> bytes:
    return bytes(len(data))


@pytest.mark.parametrize("damage", [None, cut, flipped, zeros, lambda data: b"", lambda data: data[:-1]])
@pytest.mark.parametrize(("level", "part"), [(0, 0), (1, 1), (2, 0), (2, 5), (2, 13)])
def test_a_damaged_part_and_those_after_it_are_made_again(
    tall: Scene, tmp_path: Path, damage: Damage | None, level: int, part: int
) -> None:
    plan = finely(tall.plan(), 4)
    expected, report = run(tall, plan, Sharpening(), tmp_path)
    path = tmp_path / part_name(level, part)
    before = path.read_bytes()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(before))
    rows, resumed = run(tall, plan, Sharpening(), tmp_path)
    assert np.array_equal(rows, expected)
    assert counts(resumed) == counts(report)
    assert resumed.parts - resumed.resumed == len(plan.levels[level].parts) - part
    assert path.read_bytes() == before  # equal parts are equal files


def test_a_part_that_breaks_between_check_and_use_is_an_error(tall: Scene, tmp_path: Path) -> None:
    plan = finely(tall.plan(), 4)
    run(tall, plan, Sharpening(), tmp_path)
    journal = PartFiles(tmp_path, [len(step.parts) for step in plan.levels])
    path = tmp_path / part_name(1, 0)
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(RasterError, match=r"level1-part00000\.gz: cannot be read"):
        journal.replay(1, 0, lambda row, rows, valid: None)


def test_what_is_no_part_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "part.gz"
    assert not is_whole(path)
    for data in (b"", b"text", gzip.compress(b"")):
        path.write_bytes(data)
        assert not is_whole(path)
    path.write_bytes(gzip.compress(b"x"))
    assert is_whole(path)


def test_a_full_disk_is_one_error_and_leaves_no_part(tall: Scene, tmp_path: Path) -> None:
    plan = finely(tall.plan(), 4)
    folder = tmp_path / "gone"
    with pytest.raises(RasterError, match=r"level0-part00000\.gz: cannot be written: No such file"):
        run(tall, plan, Sharpening(), folder)

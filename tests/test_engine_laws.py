"""The laws of the whole way, from image and first mask to bytes, with window functions that are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import Scene, Sharpening, Unchanging, blobs, scenes

from refine.engine import RunReport, refine_mask
from refine.geometry import RGB, Mask, Window
from refine.plan import Plan
from refine.resample import mask_taps, resample
from refine.sources import SWEEP, ArrayImage, ArrayMask, ArraySink, Refiner

laws = settings(max_examples=60, deadline=None)


def run(scene: Scene, plan: Plan, refiner: Refiner) -> tuple[NDArray[np.uint8], RunReport]:
    sink = ArraySink(plan.output.height, plan.output.width)
    report = refine_mask(ArrayImage(scene.image), ArrayMask(scene.mask), refiner, plan, sink)
    return sink.rows.astype(np.uint8), report


@laws
@given(scene=scenes(), select=st.sampled_from(["boundary", "all"]), budget=st.sampled_from([None, 1 << 40]))
def test_a_network_that_changes_nothing_gives_the_first_mask_resampled_once(
    scene: Scene, select: str, budget: int | None
) -> None:
    plan = scene.plan(select="all" if select == "all" else "boundary", budget_bytes=budget)
    height, width = scene.image.shape[:2]
    first = resample(
        ArrayMask(scene.mask).read(Window(0, 0, *scene.mask.shape)),
        mask_taps(0, height, 1, height, scene.mask.shape[0]),
        mask_taps(0, width, 1, width, scene.mask.shape[1]),
    )
    rows, report = run(scene, plan, Unchanging())
    assert np.array_equal(rows, np.floor(np.float32(255) * first + np.float32(0.5)).astype(np.uint8))
    assert all(level.changed == 0 for level in report.levels)
    if scene.mask.shape == (height, width) and scene.mask.max() > 1:
        assert np.array_equal(rows, scene.mask)


@laws
@given(scene=scenes(), data=st.data())
def test_a_roi_has_the_bytes_of_that_part_of_the_whole_run(scene: Scene, data: st.DataObject) -> None:
    height, width = scene.image.shape[:2]
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    roi = Window(row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col)))
    whole, _ = run(scene, scene.plan(), Sharpening())
    part, _ = run(scene, scene.plan(roi=roi), Sharpening())
    assert np.array_equal(part, whole[roi.slices])


@laws
@given(scene=scenes(), data=st.data())
def test_what_changed_in_parts_adds_up_to_what_changed_in_all(scene: Scene, data: st.DataObject) -> None:
    height, width = scene.image.shape[:2]
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    parts = [Window(0, 0, height, col), Window(0, col, row, width - col), Window(row, col, height - row, width - col)]

    def changed(roi: Window | None) -> float:
        _, report = run(scene, scene.plan(roi=roi), Sharpening())
        share = report.levels[-1].changed
        assert 0 <= share <= 1
        return share if roi is None else share * roi.height * roi.width / (height * width)

    assert sum(changed(part) for part in parts if part.height and part.width) == pytest.approx(changed(None))


@pytest.mark.parametrize("roi", [Window(1700, 10, 40, 50), Window(618, 0, 1, 60), Window(623, 59, 5, 1)])
@pytest.mark.parametrize("reach", [1.0, 8.0, 40.0])
def test_a_roi_leaves_out_the_parts_that_it_does_not_need(roi: Window, reach: float) -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (2000, 60, 3), dtype=np.uint8)
    scene = Scene(image, blobs(rng, 500, 15, soft=False), tile=16, overlap=4, reach=reach, batch=4)
    whole, everything = run(scene, scene.plan(select="all"), Sharpening())
    part, report = run(scene, scene.plan(select="all", roi=roi), Sharpening())
    assert np.array_equal(part, whole[roi.slices])
    assert report.levels[-1].run < 0.7 * everything.levels[-1].run


@laws
@given(scene=scenes(), batch=st.integers(1, 40), look_ahead=st.integers(0, 3))
def test_batch_and_look_ahead_do_not_change_the_bytes(scene: Scene, batch: int, look_ahead: int) -> None:
    plan = scene.plan()
    rows, report = run(scene, plan, Sharpening())
    other = replace(scene.plan(batch=batch), look_ahead=look_ahead)
    other_rows, other_report = run(scene, other, Sharpening())
    assert np.array_equal(rows, other_rows)
    assert [level.run for level in report.levels] == [level.run for level in other_report.levels]


@laws
@given(scene=scenes())
def test_corrections_on_disk_and_in_memory_give_the_same_bytes(scene: Scene) -> None:
    plan = scene.plan()
    tight = replace(plan, levels=tuple(replace(step, on_disk=not step.is_last) for step in plan.levels))
    assert np.array_equal(run(scene, plan, Sharpening())[0], run(scene, tight, Sharpening())[0])


@laws
@given(scene=scenes())
def test_boundary_equals_all_where_every_window_that_touches_a_pixel_ran(scene: Scene) -> None:
    chosen, report = run(scene, scene.plan(reach=1.0), Sharpening())
    everything, _ = run(scene, scene.plan(reach=1.0, select="all"), Sharpening())
    (step,) = scene.plan(reach=1.0).levels
    missed = np.zeros(chosen.shape, np.bool_)
    for row, col in np.argwhere(~report.levels[-1].ran):
        missed[step.grid.window(row, col).clip(*chosen.shape).slices] = True
    assert np.array_equal(chosen[~missed], everything[~missed])


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 4000), (225, 224), (97, 1)])
def test_odd_shapes_come_out_whole(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    mask = blobs(rng, -(-shape[0] // 7), -(-shape[1] // 7), soft=False)
    scene = Scene(image, mask, tile=96, overlap=32, reach=None, batch=4)
    written: list[tuple[int, int]] = []

    class Counting(ArraySink):
        def write(self, row: int, mask: NDArray[np.uint8] | Mask, valid: NDArray[np.bool_] | None) -> None:
            written.append((row, len(mask)))
            super().write(row, mask, valid)

    sink = Counting(*shape)
    refine_mask(ArrayImage(image), ArrayMask(mask), Sharpening(), scene.plan(select="all"), sink)
    assert [row for row, _ in written] == list(np.cumsum([0] + [count for _, count in written])[:-1])
    assert sum(count for _, count in written) == shape[0]


def test_a_perfect_mask_at_image_size_survives_the_cascade() -> None:
    rng = np.random.default_rng(5)
    mask = blobs(rng, 200, 180, soft=False)
    image = np.repeat(mask[:, :, None], 3, axis=2)  # the network pulls to the image, which is the mask
    scene = Scene(image, mask, tile=48, overlap=16, reach=96.0, batch=4)
    rows, report = run(scene, scene.plan(), Sharpening())
    assert len(report.levels) == 3
    assert np.mean(rows != mask) < 0.02


class Broken(Unchanging):
    """Gives NaN in one pixel of every window whose first pixel is darker than 128, and a change elsewhere."""

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        correction = np.full_like(coarse, 0.25)
        correction[image[:, 0, 0, 0] < 128, 1, 1] = np.nan
        return correction


def test_windows_with_nan_count_as_unchanged_and_are_reported() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 200
    scene = Scene(image, np.zeros((64, 64), np.uint8), tile=32, overlap=0, reach=1.0, batch=3)
    rows, report = run(scene, replace(scene.plan(select="all"), holds_reach=False), Broken())
    assert report.not_finite == 2
    assert np.all(rows[:, :32] == 0)
    assert np.all(rows[:, 32:] == 64)


def test_invalid_pixels_are_filled_for_the_network_and_left_out_of_the_output() -> None:
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)
    valid = np.ones((80, 90), np.bool_)
    valid[20:50, 30:90] = False
    other = image.copy()
    other[~valid] = 255 - other[~valid]  # what lies under invalid pixels must not matter
    mask = blobs(rng, 40, 45, soft=True)
    scene = Scene(image, mask, tile=32, overlap=8, reach=None, batch=4)
    results = []
    for pixels in (image, other):
        sink = ArraySink(80, 90)
        refine_mask(ArrayImage(pixels, valid), ArrayMask(mask), Sharpening(), scene.plan(has_invalid=True), sink)
        results.append(sink.rows)
    assert np.array_equal(results[0], results[1])
    assert np.all(results[0][~valid] == 0)


class Failing(Unchanging):
    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        raise FloatingPointError("the network broke")


def test_an_error_of_the_network_or_of_reading_reaches_the_caller_and_ends_the_thread() -> None:
    import threading

    rng = np.random.default_rng(4)
    image = rng.integers(0, 256, (100, 100, 3), dtype=np.uint8)
    scene = Scene(image, blobs(rng, 100, 100, soft=True), tile=16, overlap=4, reach=1.0, batch=2)
    with pytest.raises(FloatingPointError, match="network broke"):
        run(scene, scene.plan(), Failing())

    class Torn(ArrayImage):
        def read(self, window: Window, decimation: int = 1) -> tuple[RGB, NDArray[np.bool_] | None]:
            if window.row > 40:
                raise OSError("block missing")
            return super().read(window, decimation)

    with pytest.raises(OSError, match="block missing"):
        refine_mask(Torn(image), ArrayMask(scene.mask), Sharpening(), scene.plan(select="all"), ArraySink(100, 100))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("refine-read")]


def test_float_output_is_what_the_bytes_are_rounded_from() -> None:
    rng = np.random.default_rng(6)
    image = rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)
    scene = Scene(image, blobs(rng, 30, 20, soft=True), tile=32, overlap=8, reach=None, batch=4)
    rows, _ = run(scene, scene.plan(), Sharpening())
    sink = ArraySink(90, 70, np.float32)
    refine_mask(ArrayImage(image), ArrayMask(scene.mask), Sharpening(), scene.plan(), sink, as_float=True)
    assert sink.rows.dtype == np.float32
    assert np.array_equal(np.floor(sink.rows * np.float32(255) + np.float32(0.5)), rows)


def test_progress_adds_up_to_the_report() -> None:
    rng = np.random.default_rng(7)
    image = rng.integers(0, 256, (150, 120, 3), dtype=np.uint8)
    scene = Scene(image, blobs(rng, 20, 20, soft=False), tile=32, overlap=8, reach=48.0, batch=4)
    told: list[list[int]] = []
    swept: list[tuple[str, float, int]] = []

    class Listening:
        def prepare(self, what: str, share: float) -> None:
            swept.append((what, share, len(told)))

        def begin(self, level: int, levels: int, window_rows: int, windows: int) -> None:
            told.append([window_rows, windows, 0, 0, 0])

        def advance(self, window_rows: int, run: int, skipped: int) -> None:
            for index, count in enumerate((window_rows, run, skipped), start=2):
                told[-1][index] += count

    sink = ArraySink(150, 120)
    report = refine_mask(ArrayImage(image), ArrayMask(scene.mask), Sharpening(), scene.plan(), sink, Listening())
    assert len(told) == len(report.levels) > 1
    shares = [share for _, share, _ in swept]
    assert shares == sorted(set(shares))
    assert {(what, begun) for what, _, begun in swept} == {(SWEEP, 0)}  # before any level
    assert shares[-1] == 1
    for (rows, windows, done, ran, skipped), level in zip(told, report.levels, strict=True):
        assert (done, ran, skipped) == (rows, level.run, level.skipped)
        assert ran + skipped == windows == level.windows
        assert level.ran.sum() == level.run

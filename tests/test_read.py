"""Windows are read whole and without gaps, batches keep to their part, and reading goes ahead only so far."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from refine.agree import Agreement
from refine.geometry import Window
from refine.plan import make_plan
from refine.read import read_ahead, read_batches, read_window
from refine.sources import ArrayImage, ArrayMask
from refine.stream import Band, SelectedRow


def test_a_window_beyond_the_image_is_mirrored_and_one_without_valid_pixels_is_none() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    window = read_window(ArrayImage(image), Window(0, 0, 5, 8), 1)
    assert window is not None
    assert np.array_equal(window[:, :, 0], np.pad(image[:, :, 0], ((0, 3), (0, 5)), mode="symmetric"))
    valid = np.zeros((2, 3), np.bool_)
    valid[1, 2] = True
    source = ArrayImage(image, valid)
    assert read_window(source, Window(0, 0, 2, 2), 1) is None
    filled = read_window(source, Window(0, 0, 2, 3), 1)
    assert filled is not None
    assert np.all(filled == image[1, 2])


def test_batches_are_in_order_keep_to_their_part_and_are_filled_up() -> None:
    image = ArrayImage(np.zeros((2000, 200, 3), np.uint8))
    plan = make_plan(2000, 200, mask_height=9, mask_width=9, reach=1.0, batch=8, overlap=8, tile=16, minimum_tile=1)
    (step,) = plan.levels
    per_row, part_rows = len(step.grid.cols.origins), step.part_rows
    assert len(step.grid.rows.origins) > 2 * part_rows

    def rows() -> Iterator[SelectedRow]:
        for index, origin in enumerate(step.grid.rows.origins):
            band = Band(index, origin, np.zeros((8, 200), np.float32), None)
            strip = np.zeros((16, 200), np.float32)
            cols = (0, per_row - 1) if index % 3 == 0 else ()
            ends_part = (index + 1) % part_rows == 0 or index + 1 == len(step.grid.rows.origins)
            yield SelectedRow(band, strip, cols, ends_part)

    agreement = Agreement(ArrayMask(np.zeros((9, 9))), 2000, 200, step, plan.agreement)
    batches = list(read_batches(rows(), image, agreement, step, plan))
    places = [place for batch in batches for place in batch.places]
    expected = [(i, j) for i in range(0, len(step.grid.rows.origins), 3) for j in (0, per_row - 1)]
    assert places == expected
    assert [band.index for batch in batches for band in batch.bands] == list(range(len(step.grid.rows.origins)))
    for batch in batches:
        assert len({row // part_rows for row, _ in batch.places}) <= 1
        if batch.places:
            assert batch.image is not None
            assert len(batch.image) == next(size for size in (1, 2, 4, 8) if size >= len(batch.places))
    assert all(before.finished <= after.finished for before, after in itertools.pairwise(batches))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_reading_ahead_keeps_order_and_depth(depth: int) -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    taken = []
    for number in read_ahead(numbers(), depth):
        assert len(made) <= number + depth + 1
        taken.append(number)
    assert taken == list(range(20))


def test_closing_early_ends_the_thread() -> None:
    ahead = read_ahead(iter(range(1000)), 2)
    assert next(ahead) == 0
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("refine-read")]

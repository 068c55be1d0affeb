"""The next level's coarse mask: the first mask to the bit where nothing changed, the refined one where it did."""

from __future__ import annotations

import weakref

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from refine.geometry import Level, Mask, Window
from refine.handover import FirstMask, Handover, LevelCoarse
from refine.level_store import LevelStore, quantise, restore
from refine.resample import level_taps, mask_taps, resample
from refine.sources import ArrayMask
from refine.temporary import FileStore, MemoryStore

HEIGHT, WIDTH, COARSER, FINER = 101, 83, 7, 2


def level(decimation: int) -> Level:
    return Level(decimation, -(-HEIGHT // decimation), -(-WIDTH // decimation), 2.0)


def first_at(mask: Mask, decimation: int) -> Mask:
    rows = mask_taps(0, level(decimation).height, decimation, HEIGHT, mask.shape[0])
    return resample(mask, rows, mask_taps(0, level(decimation).width, decimation, WIDTH, mask.shape[1]))


def enlarged(pixels: Mask) -> Mask:
    rows = level_taps(0, level(FINER).height, FINER, HEIGHT, COARSER)
    return resample(pixels, rows, level_taps(0, level(FINER).width, FINER, WIDTH, COARSER))


def handed(mask: Mask, correction: Mask) -> LevelCoarse:
    height, width = level(COARSER).height, level(COARSER).width
    store = LevelStore(0, width, MemoryStore(height, width, np.int16))
    store.write(0, quantise(correction))
    previous = Handover(level(COARSER), store)
    first = FirstMask(ArrayMask(mask), HEIGHT, WIDTH)
    return LevelCoarse(first, HEIGHT, WIDTH, level(FINER), previous, keep_first=True)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), share=st.sampled_from([0.0, 0.02, 0.3, 1.0]), data=st.data())
def test_the_coarse_mask_is_that_of_the_formula_in_any_rows(seed: int, share: float, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((60, 40), dtype=np.float32)
    shape = (level(COARSER).height, level(COARSER).width)
    changed = (rng.random(shape) < share) * rng.uniform(-0.4, 0.4, shape)
    coarser = first_at(mask, COARSER)
    correction = restore(quantise(np.clip(changed, -coarser, 1 - coarser).astype(np.float32)))
    near = np.pad(np.abs(correction), 1)
    magnitude = np.max([near[r : r + shape[0], c : c + shape[1]] for r in range(3) for c in range(3)], axis=0)
    weight = np.clip((enlarged(magnitude) - 0.02) / 0.08, 0, 1)
    refined = enlarged(np.clip(coarser + correction, 0, 1))  # steps are rounded, also beyond 0 and 1
    start = data.draw(st.integers(0, level(FINER).height - 1))
    stop = data.draw(st.integers(start + 1, level(FINER).height))
    coarse, first = handed(mask, correction).rows(start, stop)
    assert first is not None
    assert np.array_equal(first, first_at(mask, FINER)[start:stop])
    expected = (1 - weight) * first_at(mask, FINER) + weight * refined
    # Some roundings of float32, of which those of the weight are divided by 0.08.
    np.testing.assert_allclose(coarse, expected[start:stop], rtol=0, atol=5e-6)
    untouched = weight[start:stop] == 0
    assert np.array_equal(coarse[untouched], first[untouched])


def test_rows_made_apart_equal_rows_made_together() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((9, 300), dtype=np.float32)
    correction = rng.uniform(-0.3, 0.3, (level(COARSER).height, level(COARSER).width)).astype(np.float32)
    maker = handed(mask, correction)
    whole, _ = maker.rows(0, level(FINER).height)
    for cut in (1, 17, 50):
        pieces = [maker.rows(0, cut)[0], maker.rows(cut, level(FINER).height)[0]]
        assert np.array_equal(np.concatenate(pieces), whole)


@given(correction=st.floats(-1, 1, width=32))
def test_a_step_is_within_half_of_the_correction_and_zero_is_exact(correction: float) -> None:
    value = np.array([correction], np.float32)
    assert abs(float(restore(quantise(value))[0]) - correction) <= 0.5 / 32767 + 1e-7
    assert quantise(np.zeros(1, np.float32))[0] == 0


def test_a_level_on_disk_gives_back_what_was_written_and_zero_elsewhere() -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(-32767, 32768, (5, 11), dtype=np.int16)
    disk, memory = (LevelStore(100, 11, make(30, 11, np.int16)) for make in (FileStore, MemoryStore))
    for store in (disk, memory):
        store.write(104, rows)
        store.write(120, np.zeros((3, 11), np.int16))
        assert np.array_equal(store.read(104, 109), rows)
        assert not store.read(109, 130).any()
    assert np.array_equal(disk.read(100, 130), memory.read(100, 130))
    disk.close()


def test_a_level_in_memory_is_gone_when_it_is_closed() -> None:
    pixels = MemoryStore(30, 11, np.uint8, channels=3)
    level_store = LevelStore(100, 11, pixels)
    kept = weakref.ref(pixels.read(Window(0, 0, 30, 11)).base)
    assert kept() is not None
    level_store.close()
    assert kept() is None

"""Whole images whose foreground was given another photograph behind it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from training_data import small_config, write_pairs

from refine.training.config import parse_config
from refine.training.data import Pair, load_pairs, outline_points
from refine.training.samples import WholeImageSamples
from refine.training.transplants import LEAST_EMPTY, MOST_ASPECT, bounds, empty_part, transplanted

RED, GREEN, BLUE, GREY = (220, 10, 10), (10, 220, 10), (10, 10, 220), (120, 120, 120)
SIDE = 96


def pair_of(
    box: tuple[int, int, int, int],
    foreground: tuple[int, int, int] = RED,
    background: tuple[int, int, int] = GREEN,
    size: tuple[int, int] = (80, 120),
    void: NDArray[np.uint8] | None = None,
) -> Pair:
    """One rectangle (top, left, height, width) of one colour."""
    top, left, height, width = box
    mask = np.zeros(size, np.uint8)
    mask[top : top + height, left : left + width] = 255
    image = np.where(mask[:, :, None] > 0, foreground, background).astype(np.uint8)
    return Pair(("set", "id"), image, mask, outline_points(mask), False, (), void)


def strongest(image: NDArray[np.uint8], where: NDArray[np.bool_], channel: int) -> bool:
    """Whether a colour leads somewhere, by more than an edge's mixing brings about."""
    others = [c for c in range(3) if c != channel]
    lead = image[where][:, channel].astype(int) - image[where][:, others].max(axis=1)
    return bool((lead > 20).any())


def test_a_foreground_stands_before_another_photograph_and_nothing_else_is_taken_along() -> None:
    other = pair_of((5, 5, 50, 40), BLUE, GREY)
    places = set()
    for seed in range(40):
        made = transplanted(pair_of((20, 30, 40, 50)), lambda: other, SIDE, np.random.default_rng(seed))
        assert made is not None
        image, mask = made
        assert image.shape == (SIDE, SIDE, 3)
        assert mask.shape == (SIDE, SIDE)
        np.testing.assert_array_equal(image[mask == 255], np.full_like(image[mask == 255], RED))
        everywhere = np.ones(mask.shape, bool)
        assert not strongest(image, everywhere, 1)  # the foreground's old background
        assert not strongest(image, everywhere, 2)  # the background's own foreground
        box = bounds(mask, 128)
        assert box is not None
        assert max(box.height, box.width) > 0.25 * SIDE
        places.add((box.top, box.left))
    assert len(places) > 30


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_foreground_cut_by_the_border_stays_at_it(quarters: int) -> None:
    cut = pair_of((40, 25, 40, 30), size=(80, 80))
    cut = replace(cut, image=np.rot90(cut.image, quarters).copy(), mask=np.rot90(cut.mask, quarters).copy())
    for seed in range(10):
        made = transplanted(cut, lambda: pair_of((0, 0, 8, 8)), SIDE, np.random.default_rng(seed))
        assert made is not None
        lowest = np.rot90(made[1], -quarters)[-1]
        assert (lowest >= 128).sum() > 0.2 * SIDE


def test_what_cannot_be_transplanted_is_not() -> None:
    rng = np.random.default_rng(0)
    good, full, nothing = pair_of((20, 30, 40, 50)), pair_of((0, 0, 80, 120)), pair_of((0, 0, 0, 0))
    guessed = pair_of((20, 30, 40, 50), void=np.zeros((80, 120), np.uint8))
    for pair, behind in ((nothing, good), (guessed, good), (good, full), (good, guessed)):
        assert transplanted(pair, lambda behind=behind: behind, SIDE, rng) is None  # type: ignore[misc]
    assert transplanted(good, lambda: nothing, SIDE, rng) is not None


@given(st.data())
def test_an_empty_part_is_large_not_long_and_empty(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(4, 60)), data.draw(st.integers(4, 60))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    tall, wide = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    part = empty_part(
        pair_of((top, left, tall, wide), RED, GREEN, (height, width)), np.random.default_rng(data.draw(st.integers(0)))
    )
    largest = max(top * width, (height - top - tall) * width, left * height, (width - left - wide) * height)
    assert (part is not None) == (largest >= LEAST_EMPTY * height * width)
    if part is not None:
        assert (part == GREEN).all()
        assert max(part.shape[:2]) <= MOST_ASPECT * min(part.shape[:2])
        assert part.shape[0] * part.shape[1] >= min(largest, MOST_ASPECT * min(part.shape[:2]) ** 2)


def test_samples_of_whole_images_hold_the_share_of_composites_that_the_config_asks_for(tmp_path: Path) -> None:
    raw = small_config(write_pairs(tmp_path / "data"), model={"architecture": "mos_l_lite", "size": 64})
    plain = {"jitter": [0.0] * 4, "grey": 0.0, "jpeg": 0.0}

    def samples(share: float) -> WholeImageSamples:
        config = parse_config({**raw, "augment": {**plain, "composite": share}}, "test")
        return WholeImageSamples(load_pairs(config.data, frozenset()), config)

    some, none = samples(0.5), samples(0.0)
    changed = sum(not torch.equal(some[i]["image"], none[i]["image"]) for i in range(40))
    assert 0 < changed <= 40
    twin = some[3]
    assert all(torch.equal(twin[name], plane) for name, plane in some[3].items())
    for index in range(9):
        assert some[index]["trusted"].all()
        assert some[index]["image"].shape == (64, 64, 3)

"""Averaging over mirrored windows: a network that sees each alike, and one that does not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from refine import Settings
from refine.api import refine_with
from refine.flips import Flipped, flipped, turned, turned_back
from refine.geometry import RGB, Mask


class Drift:
    """Moves mass to the right: what a network does that is not the same in a mirror."""

    stride, weight_bytes = 16, 0

    def __init__(self) -> None:
        self.calls = 0

    def activation_bytes(self, batch: int, tile: int) -> int:
        return batch * tile * tile

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        self.calls += 1
        assert image.flags.c_contiguous
        assert coarse.flags.c_contiguous
        return np.asarray(np.roll(coarse, 1, axis=2) - coarse, np.float32)


@pytest.mark.parametrize("windows", [np.zeros((2, 5, 5, 3), np.uint8), np.zeros((1, 6, 6), np.float32)])
def test_every_view_is_numpys_and_has_a_way_back(windows: NDArray[np.generic]) -> None:
    windows = np.random.default_rng(0).integers(0, 255, windows.shape).astype(windows.dtype)
    over = windows.swapaxes(1, 2)
    for view, expected in enumerate((windows, windows[:, :, ::-1], over, over[:, :, ::-1])):
        seen = turned(windows, view)
        assert (seen.dtype, seen.flags.c_contiguous) == (windows.dtype, True)
        assert np.array_equal(seen, expected)
        assert np.array_equal(turned_back(seen, view), windows)


@pytest.mark.parametrize("flips", [2, 4])
def test_what_a_mirror_turns_round_cancels(flips: int) -> None:
    coarse = np.zeros((1, 32, 32), np.float32)
    coarse[:, 10:20, 10:20] = 1
    correction = Flipped(Drift(), flips)(np.zeros((1, 32, 32, 3), np.uint8), coarse, 4.0)
    assert np.abs(correction - correction[:, :, ::-1][:, :, np.r_[2:32, 0:2]]).max() < 1e-6
    assert correction[0, 12, 9] == pytest.approx(correction[0, 12, 20])


def test_the_setting_asks_that_often() -> None:
    image = np.zeros((96, 96, 3), np.uint8)
    mask = np.zeros((96, 96), np.uint8)
    mask[30:60, 30:60] = 255
    calls = []
    for flips in (1, 2, 4):
        network = Drift()
        refine_with(network, image, mask, settings=Settings(flips=flips, device="cpu", tile=96))
        calls.append(network.calls)
    assert calls == [calls[0], 2 * calls[0], 4 * calls[0]]


def test_one_flip_is_the_network_itself() -> None:
    network = Drift()
    assert flipped(network, 1) is network

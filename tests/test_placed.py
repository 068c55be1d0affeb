"""Placed composites, what the six-channel U-Net sees: a foreground laid on another picture, its mask and its depth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_data import CONFIGS, network_config, placed_config, write_pairs

from refine.errors import InputError
from refine.models import build_model
from refine.training.cutouts import GRID
from refine.training.data import Pairs, load_pairs
from refine.training.placed import PlacedSamples
from refine.training.run import build_network, make_samples, samples_of
from refine.training.shown import network_input


@pytest.mark.parametrize("positions", ["grid", "random"])
def test_a_composite_is_its_background_but_for_the_foreground(tmp_path: Path, positions: str) -> None:
    data = write_pairs(tmp_path / "data")
    plain = {"jitter": [0.0] * 4, "grey": 0.0, "jpeg": 0.0}
    config = placed_config(data, composites={"positions": positions, "size": [0.4, 0.5]}, augment=plain)
    samples = make_samples(config)
    assert isinstance(samples, PlacedSamples)
    places = set()
    for index in range(12):
        sample = samples[index]
        image, background, truth = (sample[name].numpy() for name in ("image", "background", "truth"))
        np.testing.assert_array_equal(image[truth == 0], background[truth == 0])
        inside = truth > 0.99
        assert image[inside].mean() > 140 > background[~inside].mean()  # discs are bright
        left, top, width, height = cv2.boundingRect((truth > 0).astype(np.uint8))
        assert 0.3 * 64 < max(width, height) <= 33
        places.add((top, left))
        if positions == "grid":
            assert any(abs(top - 64 * down) <= 1 and abs(left - 64 * across) <= 1 for down, across in GRID)
    assert len(places) > 6
    twin = samples[3]
    assert all(torch.equal(twin[name], tensor) for name, tensor in samples[3].items())
    assert network_input(build_model_on_meta("unet6"), collated(twin), build_network(config)[1]).shape == (1, 6, 64, 64)


def build_model_on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return build_model(name)


def collated(sample: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor[None] for name, tensor in sample.items()}


def test_depth_is_the_foregrounds_own_where_it_covers(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", count=2)
    own = json.loads((CONFIGS / "unet6.json").read_text())
    composites = own["composites"] | {"depths": str(tmp_path / "depths")}
    config = network_config(data, "unet6", composites=composites)
    with pytest.raises(InputError, match=r"composites.depths: .*shapes/00.png is missing \(2 are\)"):
        make_samples(config)
    for name, value in (("00", 0), ("01", 65535)):
        (tmp_path / "depths" / "shapes").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "depths" / "shapes" / f"{name}.png"), np.full((9, 7), value, np.uint16))
    samples, seen = make_samples(config), set()
    for index in range(16):
        sample = samples[index]
        depth, covered = sample["depth"], sample["truth"] > 0.5
        near, far = float(depth[covered].mean()), float(depth[~covered].mean())
        assert {near, far} <= {0.0, 1.0}  # each of one picture, never mixed
        seen.add((near, far))
    assert len(seen) == 4


def test_what_was_laid_is_known_even_where_the_pairs_own_mask_is_a_guess(tmp_path: Path) -> None:
    config = placed_config(write_pairs(tmp_path / "data"), composites={"positions": "random", "size": [0.4, 0.5]})
    pairs = load_pairs(config.data, frozenset())
    guessed = Pairs([replace(pair, void=np.full_like(pair.mask, 255)) for pair in pairs.pairs], pairs.weights)
    for index in range(3):
        sample, usual = (samples_of(chosen, config)[index] for chosen in (guessed, pairs))
        assert bool(sample["trusted"].all())
        assert all(torch.equal(sample[name], tensor) for name, tensor in usual.items())

"""Fixtures that several test modules share: checkpoints, a photograph-like pair, one thread, small journals."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

# The same examples in every CI run, so that a change is not blamed for what another would have found; by hand new ones.
# None has a deadline: how long an example takes says nothing of whether the law holds.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("by hand", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "by hand")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained `mos_h_lite.safetensors`, which changes nothing, and `mos_l_lite.safetensors`.

    They are as large as those that are shipped, so that plans know what they take.
    """
    import torch

    from refine import __version__
    from refine.models import build_model
    from refine.models.checkpoint import save_checkpoint
    from refine.models.metadata import Metadata, read_metadata
    from refine.models.registry import default_preprocessing
    from refine.shipped import default_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints")
    for name in ("mos_h_lite", "mos_l_lite"):
        config = read_metadata(default_checkpoint(name)).config
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build_model(name, config)
        metadata = Metadata(
            refine_version=__version__,
            architecture=name,
            config=config,
            preprocessing=default_preprocessing(name, model),
            licence="none",
        )
        save_checkpoint(folder / f"{name}.safetensors", model.state_dict(), metadata)
    return folder


@pytest.fixture(scope="session")
def changing(tmp_path_factory: pytest.TempPathFactory, checkpoints: Path) -> Path:
    """A checkpoint that changes what it sees: the untrained network with noise on its weights."""
    import torch

    from refine.models.checkpoint import load_model, save_checkpoint

    model, metadata = load_model(checkpoints / "mos_h_lite.safetensors", expect="refiner")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("changing") / "changing.safetensors"
    save_checkpoint(path, model.state_dict(), metadata)
    return path


@pytest.fixture(scope="session")
def photograph() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A textured blob on textured ground, (300, 400, 3) RGB, and its true mask, 0 and 255."""
    rng = np.random.default_rng(7)
    rows, cols = np.mgrid[:300, :400]
    angle = np.arctan2(rows - 150, cols - 210)
    inside = np.hypot(rows - 150, cols - 210) < 90 + 14 * np.sin(5 * angle)
    colours = np.where(inside[:, :, None], (200, 120, 60), (40, 90, 140)) + rng.normal(0, 12, (300, 400, 3))
    image = cv2.GaussianBlur(colours.clip(0, 255).astype(np.uint8), (3, 3), 0)
    return np.asarray(image, np.uint8), inside.astype(np.uint8) * 255


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on a single CPU thread. A fork does not take OpenMP's threads with it, and would wait for them for ever."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal for small images as well, in which each row of windows is a part."""
    from refine import cascade, planning

    monkeypatch.setattr(cascade, "PART_WINDOWS", 1)
    monkeypatch.setattr(cascade, "PART_ROWS", 1)
    monkeypatch.setattr(planning, "JOURNALLED_PIXELS", 0)

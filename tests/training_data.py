"""A small training set on disk, and the smallest config that trains on it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import cv2
import numpy as np

from refine.training.config import Data, TrainingConfig, parse_config

CONFIGS = Path(__file__).parent.parent / "configs"


def write_pairs(folder: Path, count: int = 4, side: int = 96) -> Path:
    """`count` discs on noise as shapes/<id>.jpg + .png."""
    rng = np.random.default_rng(0)
    (folder / "shapes").mkdir(parents=True)
    rows, cols = np.mgrid[0:side, 0:side]
    for i in range(count):
        centre = rng.uniform(0.35, 0.65, 2) * side
        disc = np.hypot(rows - centre[0], cols - centre[1]) < side * rng.uniform(0.15, 0.3)
        noise = rng.integers(0, 80, (side, side, 3), dtype=np.uint8)
        image = noise + np.where(disc, 150, 20)[:, :, None].astype(np.uint8)
        cv2.imwrite(str(folder / "shapes" / f"{i:02d}.jpg"), image)
        cv2.imwrite(str(folder / "shapes" / f"{i:02d}.png"), disc.astype(np.uint8) * 255)
    return folder


def tiny_network(architecture: str, size: int) -> dict[str, object]:
    """A config's `model` with one of the encoders that timm has for tests: a step takes a hundredth of a second."""
    options = {"encoder": "test_efficientnet", "widths": [8, 8, 8, 8], "point_width": 4}
    return {"architecture": architecture, "size": size, "options": options}


def write_shard(folder: Path, tar: Path) -> Path:
    with tarfile.open(tar, "w") as shard:
        for path in sorted(folder.rglob("*.*")):
            shard.add(path, path.relative_to(folder))
    return tar


def small_config(data: Path, **changes: object) -> dict[str, object]:
    model = changes.get("model", {"architecture": "mos_h_lite", "size": 64})
    takes_mask = isinstance(model, dict) and str(model["architecture"]).startswith("mos_h")
    identity = {"identity": 0.05} if takes_mask else {}
    perturb = {
        "kinds": {"exact": 0.2, "reduce": 0.5, "warp": 0.3},
        "late_kinds": {"cascade": 1.0},
        "late_from": 0.5,
    }
    config: dict[str, object] = {
        "seed": 3,
        "data": [{"name": "shapes", "path": str(data)}],
        "perturb": perturb if takes_mask else {},
        "model": model,
        "loss": {"outputs": {"s": {"bce": 0.5}, "final": {"bce": 1.0, "sobel": 1.0}}, **identity},
        "schedule": {"steps": 8, "batch": 2, "warmup_steps": 2},
        "checkpoint": {"every": 4, "log_every": 4},
    }
    return {**config, **changes}


def network_config(data: Path, name: str, **changes: object) -> TrainingConfig:
    """The losses of a network's own config on a few small images."""
    own = json.loads((CONFIGS / f"{name}.json").read_text())
    raw = small_config(data, model={**own["model"], "size": 64}, loss=own["loss"])
    raw["schedule"] = {"steps": 2, "batch": 2, "warmup_steps": 0}
    return parse_config({**raw, **changes}, name)


def placed_config(data: Path, **changes: object) -> TrainingConfig:
    """Masks alone of composites, by the six-channel U-Net."""
    model = {"architecture": "unet6", "size": 64, "options": {"depth": False}}
    return network_config(data, "unet6", model=model, loss={"outputs": {"final": {"bce": 1.0}}}, **changes)


def sections(path: Path, predictions: Path | None = None) -> list[Data]:
    """The config's data of a folder of pairs."""
    return [Data(name="shapes", path=str(path), predictions=[] if predictions is None else [str(predictions)])]

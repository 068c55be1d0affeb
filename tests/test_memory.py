"""What a sweep takes stays within the plan's figures for it, and follows the width."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rasters import write_tif
from strategies import Sharpening, blobs

from refine.engine import refine_mask
from refine.geometry import RGB, BoolArray, Mask, Window
from refine.masks import mask_size, open_mask
from refine.memory import LITE_COST, MeasuredCost, raster_cache_bytes
from refine.networks import choose_networks
from refine.plan import make_plan
from refine.settings import Settings
from refine.shipped import default_checkpoint
from refine.sources import ArrayMask


class GreyImage:
    """An ImageSource of any size that holds nothing."""

    def __init__(self, height: int, width: int, *, has_invalid: bool) -> None:
        self.height, self.width, self.has_invalid = height, width, has_invalid

    def prepare(self, decimations: object, on_progress: object = None) -> None:
        pass

    def read(self, window: Window, decimation: int = 1) -> tuple[RGB, BoolArray | None]:
        shape = (window.height, window.width)
        return np.full((*shape, 3), 128, np.uint8), np.ones(shape, np.bool_) if self.has_invalid else None

    def read_valid(self, window: Window) -> BoolArray | None:
        return self.read(window)[1]

    def close(self) -> None:
        pass


class Nowhere:
    """A MaskSink that keeps nothing."""

    def write(self, row: int, mask: NDArray[np.uint8] | Mask, valid: BoolArray | None) -> None:
        pass


OWN = ("interpreter and libraries", "network weights", "network activations", "raster cache")
"""Parts of the plan that are not the sweep's."""


@pytest.mark.parametrize(
    ("height", "width", "mask_side", "batch", "look_ahead", "has_invalid"),
    [
        (700, 3000, 64, 8, 2, False),
        (700, 3000, 64, 1, 0, True),
        (2500, 800, 64, 4, 1, False),
        (900, 900, 900, 8, 2, True),
        (400, 6000, 3000, 2, 2, False),
    ],
)
def test_the_measured_peak_is_within_the_plan(
    height: int, width: int, mask_side: int, batch: int, look_ahead: int, has_invalid: bool
) -> None:
    mask = ArrayMask(blobs(np.random.default_rng(0), mask_side, mask_side, soft=True))
    plan = make_plan(
        height,
        width,
        mask_height=mask_side,
        mask_width=mask_side,
        batch=batch,
        has_invalid=has_invalid,
        cost=MeasuredCost(0, 0.0),
        select="all",
    )
    planned = sum(size for name, size in plan.memory.items() if name not in OWN)
    image = GreyImage(height, width, has_invalid=has_invalid)
    # The test's network works in float32 all over; a real one's working memory is planned apart.
    working = 40 * batch * plan.tile**2
    gc.collect()
    tracemalloc.start()
    try:
        refine_mask(image, mask, Sharpening(), replace(plan, look_ahead=look_ahead), Nowhere())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= planned + working
    assert peak >= 0.1 * planned


@pytest.mark.parametrize("kind", ["u8", "tiled", "f32", "rgba16", "npy", "columns"])
def test_reading_a_mask_takes_no_more_than_its_size_says(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    soft = blobs(rng, 1500, 1700, soft=True) / np.float32(255)
    path = tmp_path / ("mask.npy" if kind in ("npy", "columns") else "mask.tif")
    match kind:
        case "npy":
            np.save(path, soft.astype(np.float64))
        case "columns":
            np.save(path, np.asfortranarray(soft))
        case "rgba16":
            values = (65535 * soft).astype(np.uint16)[:, :, None]
            write_tif(path, np.repeat(values, 4, axis=2), photometric="rgb", alpha="yes")
        case "f32":
            write_tif(path, soft)
        case _:
            tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512} if kind == "tiled" else {}
            write_tif(path, (255 * soft).astype(np.uint8), compress="deflate", **tiles)
    size = mask_size(path)
    gc.collect()
    tracemalloc.start()
    try:
        with open_mask(path, (3000, 3400), memory_bytes=0, directory=tmp_path) as mask:
            _, peak = tracemalloc.get_traced_memory()
            assert (mask.height, mask.width) == (size.height, size.width)
            np.testing.assert_allclose(mask.read(Window(0, 0, 1500, 1700)), soft, rtol=0, atol=1 / 255)
    finally:
        tracemalloc.stop()
    assert 0.2 * size.reading_bytes <= peak <= size.reading_bytes


def test_a_network_of_another_config_is_measured_for_the_plan(tmp_path: Path) -> None:
    import torch

    from refine import __version__
    from refine.backends import load_refiner
    from refine.models import build_model
    from refine.models.checkpoint import save_checkpoint
    from refine.models.metadata import Metadata
    from refine.models.registry import default_preprocessing, full_config

    own: dict[str, object] = {"widths": [384, 256, 128, 96], "point_width": 128}
    with torch.random.fork_rng():
        model = build_model("mos_h_lite", own)
    path = tmp_path / "wide.safetensors"
    metadata = Metadata(
        refine_version=__version__,
        architecture="mos_h_lite",
        config=full_config("mos_h_lite", own).model_dump(mode="json"),
        preprocessing=default_preprocessing("mos_h_lite", model),
        licence="none",
    )
    save_checkpoint(path, model.state_dict(), metadata)
    settings = Settings(checkpoint=path, device="cpu")
    cost = choose_networks(settings, "cpu", needs_coarse=False).cost
    refiner = load_refiner(path, device="cpu")
    for batch in (1, 4, 8):
        assert cost.activation_bytes(batch, 224) == pytest.approx(refiner.activation_bytes(batch, 224), rel=0.01)
    usual = load_refiner(default_checkpoint("mos_h_lite"), device="cpu", precision="fp32")
    assert cost.activation_bytes(8, 224) > 1.1 * usual.activation_bytes(8, 224)


@pytest.mark.parametrize(
    ("changed", "is_known"),
    [({}, True), ({"deep": None}, True), ({"point_width": 16, "widths": [96, 64, 32, 16]}, True),
     ({"widths": [128, 96, 48, 64]}, False), ({"encoder": "mobilenetv2_100"}, False)],
)  # fmt: skip
def test_a_network_that_is_nowhere_larger_is_planned_for_without_loading_it(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, object], is_known: bool
) -> None:
    networks = choose_networks(Settings(device="cpu"), "cpu", needs_coarse=False)
    config = {key: value for key, value in {**networks.metadata.config, **changed}.items() if value is not None}
    other = replace(networks, metadata=networks.metadata.model_copy(update={"config": config}))
    measured = MeasuredCost(1, 2.0, 3)
    monkeypatch.setattr("refine.networks._measured_cost", lambda *_: measured)
    assert other.cost == (LITE_COST if is_known else measured)


def test_the_shipped_network_takes_what_the_plan_knows_of_it() -> None:
    from refine.backends import load_refiner

    networks = choose_networks(Settings(device="cpu"), "cpu", needs_coarse=False)
    assert networks.cost.pixel_bytes == LITE_COST.pixel_bytes
    refiner = load_refiner(networks.checkpoint, device="cpu", precision="fp32")
    for batch in (1, 8):
        known, measured = networks.cost.activation_bytes(batch, 224), refiner.activation_bytes(batch, 224)
        assert measured <= known <= 2 * measured


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="other systems tell no peak of the process alone")
def test_the_peak_is_that_of_the_process_not_of_the_one_that_started_it() -> None:
    held = np.ones(300 << 20, np.uint8)
    code = "from refine.report import peak_memory_bytes; print(peak_memory_bytes())"
    root = Path(__file__).parent.parent
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root).stdout
    assert 8 << 20 < int(said) < held.nbytes


def test_a_cache_holds_every_block_that_a_row_of_windows_touches() -> None:
    for block_height in (1, 16, 64, 256, 512):
        rows = raster_cache_bytes(40_000, 40_000, 224, block_height, 3) / (40_000 * 3)
        assert rows >= 224 + block_height
    assert raster_cache_bytes(8000, 8000, 224, 8000, 3) <= 2 * 8000 * 8000 * 3

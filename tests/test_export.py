"""The exported network says what torch says, is refused where it cannot be trusted, and needs no torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasters import write_tif

from refine import backends, export, refine_raster
from refine.api import plan_raster
from refine.backends.onnx_file import about_exported, exported_path
from refine.errors import CheckpointError, InputError, RefineError
from refine.geometry import RGB, Mask
from refine.models.metadata import sha256
from refine.settings import Settings
from refine.shipped import default_checkpoint

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TILE = 96

WITHOUT_TORCH = """
import sys
from refine import cli, command
image, mask, out, checkpoint = sys.argv[1:]
call = ["infer", "--image", image, "--mask", mask, "--out", out, "--checkpoint", checkpoint]
try:
    command.run(cli.refine, name="refine", arguments=[*call, "--backend", "onnxruntime", "--tile", "96"])
except SystemExit as left:
    assert not left.code, left.code
assert "torch" not in sys.modules and "timm" not in sys.modules
"""


def scene(side: int = 160) -> tuple[RGB, Mask]:
    """A dark disc on a bright noisy ground, and its rough mask."""
    rng = np.random.default_rng(3)
    rows, cols = np.mgrid[:side, :side]
    inside = (rows - side / 2) ** 2 + (cols - side / 2) ** 2 < (side / 3) ** 2
    image = np.where(inside[..., None], 60, 180) + rng.integers(0, 40, (side, side, 3))
    rough = cv2.resize(inside.astype(np.float32), (20, 20), interpolation=cv2.INTER_AREA)
    return image.astype(np.uint8), np.asarray(rough, np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped refiner with its export beside it."""
    folder = tmp_path_factory.mktemp("exported")
    path = Path(shutil.copy(default_checkpoint("mos_h_lite"), folder / "refiner.safetensors"))
    cv2.imwrite(str(folder / "image.png"), scene()[0])
    assert export.export_network(path, folder / "image.png", out=None, tile=TILE, overwrite=False) == 0
    return path


@pytest.mark.parametrize("batch", [1, 3])
def test_it_says_what_torch_says(checkpoint: Path, batch: int) -> None:
    image, rough = scene()
    coarse = np.asarray(cv2.resize(rough, image.shape[:2], interpolation=cv2.INTER_LINEAR), np.float32)
    places = [(0, 0), (32, 50), (64, 20)][:batch]
    windows = np.stack([image[row : row + TILE, col : col + TILE] for row, col in places])
    masks = np.stack([coarse[row : row + TILE, col : col + TILE] for row, col in places])
    torch_refiner = backends.load_refiner(checkpoint, device="cpu", precision="fp32")

    corrections = backends.load_exported(checkpoint)(windows, masks, 8.0)

    assert np.abs(corrections).max() > 0.05
    assert np.abs(corrections - torch_refiner(windows, masks, 8.0)).max() < 1e-4


def test_a_run_imports_no_torch(checkpoint: Path, tmp_path: Path) -> None:
    image, rough = scene()
    for name, pixels in (("image", image), ("mask", 255 * rough)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels)
    paths = [str(tmp_path / name) for name in ("image.png", "mask.png", "out.png")]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *paths, str(checkpoint)], check=True, capture_output=True)
    refined = cv2.imread(paths[2], cv2.IMREAD_GRAYSCALE)
    assert refined is not None
    assert refined.shape == image.shape[:2]


def test_an_export_that_differs_from_torch_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    with pytest.raises(CheckpointError, match="not exported: on 16 windows"):
        export.export_network(
            checkpoint, checkpoint.parent / "image.png", out=tmp_path / "x.onnx", tile=TILE, overwrite=False
        )
    assert not list(tmp_path.iterdir())


def test_an_image_that_the_network_leaves_alone_compares_nothing(checkpoint: Path, tmp_path: Path) -> None:
    flat, out = tmp_path / "flat.png", tmp_path / "refiner.onnx"
    cv2.imwrite(str(flat), np.full((200, 200, 3), 90, np.uint8))
    with pytest.raises(InputError, match=r"corrects nothing on --image .*flat\.png, so nothing was compared"):
        export.export_network(checkpoint, flat, out=out, tile=TILE, overwrite=False)
    assert not out.exists()


def test_an_image_whose_windows_are_all_nodata_compares_nothing(checkpoint: Path, tmp_path: Path) -> None:
    empty, out = tmp_path / "empty.tif", tmp_path / "refiner.onnx"
    pixels = np.zeros((1500, 1500, 3), np.uint8)
    pixels[0, 0] = 90
    write_tif(empty, pixels, nodata=0)
    with pytest.raises(InputError, match=r"corrects nothing on --image .*empty\.tif, so nothing was compared"):
        export.export_network(checkpoint, empty, out=out, tile=TILE, overwrite=False)
    assert not out.exists()


def test_the_export_of_another_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(checkpoint.read_bytes() + b"x")
    shutil.copy(exported_path(checkpoint), exported_path(other))
    with pytest.raises(CheckpointError, match="from another checkpoint; run refine export again"):
        backends.load_exported(other)


def test_a_broken_export_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(checkpoint, tmp_path))
    exported_path(copy).write_bytes(exported_path(checkpoint).read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="is no network that ONNX Runtime reads"):
        backends.load_exported(copy)


def test_windows_of_another_size_are_refused(checkpoint: Path) -> None:
    refiner = backends.load_exported(checkpoint)
    with pytest.raises(InputError, match="--tile 112: the network was exported for --tile 96"):
        refiner(np.zeros((1, 112, 112, 3), np.uint8), np.zeros((1, 112, 112), np.float32), 1.0)


def test_another_tile_is_refused_before_any_work(checkpoint: Path, tmp_path: Path) -> None:
    image = checkpoint.parent / "image.png"
    settings = Settings(backend="onnxruntime", checkpoint=checkpoint, tile=112, overlap=32)
    for work in (partial(refine_raster, image, tmp_path / "out.png", image), partial(plan_raster, image, image)):
        with pytest.raises(InputError, match=r"--tile 112: .*\.onnx was exported for --tile 96; give that"):
            work(settings=settings)
    assert not (tmp_path / "out.png").exists()


@given(st.data())
def test_what_a_damaged_export_says_of_itself_is_read_or_refused(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole, sha = exported_path(checkpoint).read_bytes(), sha256(checkpoint)
    about = about_exported(exported_path(checkpoint), sha256=sha)
    assert (about.tile, about.checkpoint_sha256) == (TILE, sha)
    end = data.draw(st.integers(0, len(whole)) | st.integers(len(whole) - 400, len(whole)))
    place = data.draw(st.integers(0, 200) | st.integers(len(whole) - 400, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(damaged[:end])
    with suppress(CheckpointError):
        about_exported(path, sha256=sha)


def test_onnxruntime_with_a_gpu_is_refused() -> None:
    with pytest.raises(InputError, match="--backend onnxruntime runs on the CPU"):
        Settings(backend="onnxruntime", device="cuda")


@pytest.mark.parametrize(
    ("image", "out", "message"),
    [
        ("image.png", "none/y.onnx", "--out .*y.onnx: the folder .* does not exist"),
        ("image.png", "refiner.onnx", "exists already; give --overwrite"),
        ("refiner.safetensors", "y.onnx", "not an image"),
    ],
)
def test_what_is_wrong_with_the_paths_is_said_before_the_export(
    checkpoint: Path, image: str, out: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "export_refiner", lambda *_: pytest.fail("exported first"))
    folder = checkpoint.parent
    with pytest.raises(RefineError, match=message):
        export.export_network(checkpoint, folder / image, out=folder / out, tile=TILE, overwrite=False)
    assert not (folder / "y.onnx").exists()

"""Large rasters from photographs whose masks are known: each enlarged and put somewhere, nothing elsewhere.

The coarse mask is the truth, averaged over areas. All is drawn from a seed, and written photograph by photograph, so
that a scene of any size is made in little memory.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window

ROOT = Path(__file__).parent.parent
BLOCK = 512
CELLS = 6
"""The scene is CELLS x CELLS cells; a photograph fills at most one."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Placed:
    """A photograph in a scene, enlarged."""

    row: int
    col: int
    image: Pixels  # (h, w, 3) RGB
    mask: Pixels  # (h, w)


def find_pairs(data: Path | None) -> list[tuple[Path, Path]]:
    """Photographs and their masks, `<set>/<id>.jpg` with `<set>/<id>.png`, sorted by name."""
    if data is None:
        return []
    pairs = [(path, path.with_suffix(".png")) for path in sorted(data.glob("*/*.jpg"))]
    return [(image, mask) for image, mask in pairs if mask.exists()]


def example_pair(folder: Path) -> tuple[Path, Path]:
    """The photograph of the repository, and the mask that refine makes of it."""
    image, mask = ROOT / "examples" / "astronaut.jpg", folder / "astronaut_mask.png"
    call = [sys.executable, str(ROOT / "infer.py"), "--image", str(image), "--out", str(mask), "--device", "cpu"]
    subprocess.run(call, check=True, capture_output=True)
    return image, mask


def make_scene(
    folder: Path, side: int, *, data: Path | None = None, photographs: int = 12, reduction: int = 16, seed: int = 0
) -> tuple[Path, Path]:
    """A tiled, sparse RGB GeoTIFF of `side` x `side`, and a mask of a `reduction`-th of its side; their paths."""
    rng = np.random.default_rng(seed)
    pairs = find_pairs(data)
    with tempfile.TemporaryDirectory() as made:
        pairs = pairs or [example_pair(Path(made))]
        chosen = [pairs[index] for index in rng.permutation(len(pairs))[:photographs]]
        cells = rng.permutation(CELLS * CELLS)[:photographs]
        placed = [(chosen[index % len(chosen)], int(cell)) for index, cell in enumerate(cells)]
        return _write_scene(folder, side, placed, reduction)


LAYOUTS = ("rgb8-tiled", "rgb8-stripped", "rgb8-png", "four16-tiled", "four16-stripped", "four16-png", "nodata32-tiled")
_KINDS = {"rgb8": (3, "uint8", 255), "four16": (4, "uint16", 40_000), "nodata32": (3, "float32", 1)}


def write_layout(folder: Path, layout: str, height: int, width: int, seed: int = 0) -> tuple[Path, Path]:
    """A raster of blobs stored as one of `LAYOUTS` says, and a mask of them at a sixteenth of its side; their paths."""
    kind, place = layout.split("-")
    bands, dtype, top = _KINDS[kind]
    rng = np.random.default_rng(seed)
    field = cv2.resize(rng.normal(size=(9, 9)), (width, height), interpolation=cv2.INTER_CUBIC)
    inside = (field > 0.3).astype(np.float32)
    image = np.empty((bands, height, width), dtype)
    for band in range(bands):
        shade = top * (0.2 + 0.1 * band + 0.4 * inside + rng.normal(0, 0.04, inside.shape).astype(np.float32))
        image[band] = np.clip(shade, 0, top)
    path, mask = folder / f"{layout}.{'png' if place == 'png' else 'tif'}", folder / f"{layout}-mask.png"
    if place == "png":
        cv2.imwrite(str(path), np.ascontiguousarray(image.transpose(1, 2, 0)[:, :, [2, 1, 0, 3][:bands]]))
    else:
        options: dict[str, object] = {"compress": "deflate", "crs": "EPSG:3857"}
        options |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK} if place == "tiled" else {}
        if kind == "nodata32":
            image[:, : height // 4, : width // 4] = -1
            options["nodata"] = -1
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=dtype,
            transform=rasterio.Affine(1, 0, 0, 0, -1, height), **options,
        ) as dataset:  # fmt: skip
            dataset.write(image)
    rough = cv2.resize(inside, (-(-width // 16), -(-height // 16)), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(mask), (255 * rough).astype(np.uint8))
    return path, mask


def write_flat(folder: Path, layout: str, height: int, width: int) -> tuple[Path, Path]:
    """As `write_layout`, of one disc on a flat ground, made by rows: any size, and few windows run.

    The ground of TIFFs is not stored, but where there is nodata, which it would be.
    """
    kind, place = layout.split("-")
    bands, dtype, top = _KINDS[kind]
    path, mask = folder / f"{layout}.{'png' if place == 'png' else 'tif'}", folder / f"{layout}-mask.png"
    options: dict[str, object] = {"compress": "deflate", "zlevel": 1, "interleave": "pixel", "bigtiff": "IF_SAFER"}
    options |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK} if place != "stripped" else {}
    options |= {"nodata": -1} if kind == "nodata32" else {"sparse_ok": True}
    stored = path.with_suffix(".tif")
    radius, across = min(300, height // 4), np.arange(width) - width // 2
    with rasterio.open(
        stored, "w", driver="GTiff", height=height, width=width, count=bands, dtype=dtype, crs="EPSG:3857",
        transform=rasterio.Affine(1, 0, 0, 0, -1, height), **options,
    ) as dataset:  # fmt: skip
        for row in range(0, height, BLOCK):
            down = np.arange(row, min(row + BLOCK, height))[:, None] - height // 2
            inside = across**2 + down**2 < radius**2
            if kind != "nodata32" and not inside.any():
                continue
            shades = [np.where(inside, 0.8 * top, top * 0.1 * (band + 1)).astype(dtype) for band in range(bands)]
            dataset.write(np.stack(shades), window=Window(0, row, width, len(inside)))
    if place == "png":
        rasterio.shutil.copy(stored, path, driver="PNG", zlevel=1)
        stored.unlink()
        path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)
    rough = np.zeros((-(-height // 16), -(-width // 16)), np.uint8)
    cv2.circle(rough, (width // 32, height // 32), radius // 16, 255, -1)
    cv2.imwrite(str(mask), rough)
    return path, mask


def _write_scene(
    folder: Path, side: int, placed: list[tuple[tuple[Path, Path], int]], reduction: int
) -> tuple[Path, Path]:
    scene, mask = folder / "scene.tif", folder / "rough.tif"
    small = -(-side // reduction)
    layout: dict[str, object] = {"driver": "GTiff", "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    layout |= {"compress": "deflate", "predictor": 2, "sparse_ok": True, "bigtiff": "IF_SAFER", "dtype": "uint8"}
    layout |= {"crs": "EPSG:32633"}
    rough = np.zeros((small, small), np.uint8)
    with rasterio.open(
        scene, "w", height=side, width=side, count=3, interleave="pixel",
        transform=rasterio.Affine(0.5, 0, 399_000, 0, -0.5, 5_820_000), **layout,
    ) as dataset:  # fmt: skip
        for pair, cell in placed:
            photograph = _placed(pair, cell, side, reduction)
            for row in range(0, photograph.image.shape[0], BLOCK):
                part = photograph.image[row : row + BLOCK]
                place = Window(photograph.col, photograph.row + row, part.shape[1], len(part))
                dataset.write(part.transpose(2, 0, 1), window=place)
            height, width = (length // reduction for length in photograph.mask.shape)
            reduced = cv2.resize(photograph.mask, (width, height), interpolation=cv2.INTER_AREA)
            top, left = photograph.row // reduction, photograph.col // reduction
            rough[top : top + height, left : left + width] = reduced
    with rasterio.open(
        mask, "w", height=small, width=small, count=1,
        transform=rasterio.Affine(0.5 * side / small, 0, 399_000, 0, -0.5 * side / small, 5_820_000), **layout,
    ) as dataset:  # fmt: skip
        dataset.write(rough, 1)
    return scene, mask


def _placed(pair: tuple[Path, Path], cell: int, side: int, reduction: int) -> Placed:
    """Enlarged to its cell, on a multiple of `BLOCK` and of the reduction, as the mask's pixels are."""
    grain = max(BLOCK if side >= 8 * BLOCK else reduction, reduction)
    room = side // CELLS // grain * grain
    image = cv2.cvtColor(_read(pair[0], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    mask = _read(pair[1], cv2.IMREAD_GRAYSCALE)
    scale = room / max(image.shape[:2])
    height, width = (max(reduction, int(length * scale) // reduction * reduction) for length in image.shape[:2])
    row, col = (index * (side // CELLS) // grain * grain for index in divmod(cell, CELLS))
    return Placed(
        row,
        col,
        np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8),
        np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8),
    )


def _read(path: Path, how: int) -> Pixels:
    pixels = cv2.imread(str(path), how)
    if pixels is None:
        sys.exit(f"{path}: cannot be read")
    return np.asarray(pixels, np.uint8)

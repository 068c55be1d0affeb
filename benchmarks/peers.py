"""refine beside the ways others tile an image: the same network, image, coarse mask, window and overlap, in one run.

    pip install -e ".[benchmarks]" && pip install --no-deps pytorch-toolbelt
    python benchmarks/peers.py --side 2048 --side 4096 --image car.jpg --truth car.png --out peers.json

The image is a photograph whose mask is known, enlarged to `side` x `side`; the coarse mask is what MOS_L_lite makes of
it at 336 px. With `--share` the photograph takes that share of the side, in the middle of a grey ground with noise: so
much shorter is the outline. Without `--image`, the repository's photograph with the mask that refine makes of it. Each
way runs in a process of its own, in turn, `--rounds` times; seconds go from the files of image and mask to the file of
the result, without imports and without the loading of the network; the median counts. CPU seconds, of all threads, tell
ways apart on a busy machine, and ratios are of those. Peaks are the operating system's, of the whole process. mBA and
IoU are in percent, on a grid of at most 4096 px.

refine runs one pass, as the others do, where its default is two (--passes). "refine all flat" is told a reach that one
level of the cascade holds, so that it runs the windows that MONAI runs.

"monai as loaded" is the checkpoint's network in float32 as torch makes it, which is how MONAI is used; all others get
the network that refine prepares: BatchNorm folded, channels last, bfloat16 where the CPU multiplies it.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import cv2
import numpy as np
import rasterio
from measured import run_measured
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window
from scenes import example_pair

from refine.allocation import keep_freed_memory
from refine.backends import load_coarse
from refine.cascade import FIRST_REACH, NETWORK_PIXELS
from refine.shipped import default_checkpoint

MIB = 1 << 20
COARSE_SIDE = 336
SCORED_SIDE = 4096
BLOCK = 512
WAYS = ("refine boundary", "refine all", "monai", "monai as loaded", "toolbelt", "whole")
ONNX = "refine boundary onnxruntime"
FLAT = "refine all flat"
WHOLE_PIXEL_BYTES = 800
"""What a whole-image call needs for each pixel; it is left out where main memory has less."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, action="append", help="pixels of the image's side, several times")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"which, with commas between; also {ONNX!r}, {FLAT!r}")
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint("mos_h_lite"))
    parser.add_argument("--image", type=Path, help="a photograph")
    parser.add_argument("--truth", type=Path, help="its true mask")
    parser.add_argument("--share", type=float, default=1.0, help="of the side that the photograph takes")
    parser.add_argument("--tile", type=int, default=224)
    parser.add_argument("--overlap", type=int, default=64)
    parser.add_argument("--passes", type=int, default=1, help="refine's; the others have one")
    parser.add_argument("--max-memory", default="4GiB", help="refine's budget")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where images are made and removed [default: the system's]")
    parser.add_argument("--out", type=Path, help="figures as JSON")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        way, side, *files = options.run
        print(json.dumps(run(way, int(side), options, *map(Path, files))))
        return
    figures = []
    for side in options.side or [2048]:
        with tempfile.TemporaryDirectory(prefix="refine-peers-", dir=options.folder) as name:
            figures += compare(Path(name), side, options)
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


def compare(folder: Path, side: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One size: a row of figures for each way, printed as they come."""
    from refine.metrics import boundary_bands, iou, mean_boundary_accuracy

    pair = (options.image, options.truth) if options.image and options.truth else example_pair(folder)
    scored = make_files(folder, side, *pair, share=options.share)
    bands = boundary_bands(scored)
    ways = [way for way in options.ways.split(",") if way != "whole" or fits(side)]
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            call = [sys.executable, __file__, "--tile", options.tile, "--overlap", options.overlap]
            call += ["--passes", options.passes, "--max-memory", options.max_memory, "--checkpoint", options.checkpoint]
            call += ["--run", way, side, folder / "image.tif", folder / "coarse.png", folder / f"{way}.tif"]
            found = run_measured([*map(str, call)])
            if found.code:
                sys.exit(f"{way}: {found.err}")
            taken[way].append(json.loads(found.out.splitlines()[-1]) | {"peak_mib": found.peak_bytes / MIB})
    middle = {way: {name: median(one[name] for one in found) for name in found[0]} for way, found in taken.items()}
    print(f"\n| {side} px | s | CPU s | windows | times as fast as MONAI | peak MiB | mBA % | IoU % |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    start = cv2.resize(read(folder / "coarse.png", cv2.IMREAD_GRAYSCALE), scored.shape, interpolation=cv2.INTER_LINEAR)
    middle = {"coarse mask": {}, **middle}
    for way in middle:
        mask = read_reduced(folder / f"{way}.tif", len(scored)) if way in ways else np.asarray(start, np.uint8)
        row: dict[str, Any] = {"way": way, "side": side}
        row |= {name: round(figure, 3 if "seconds" in name else 1) for name, figure in middle[way].items()}
        if "monai" in middle and way in ways:
            row["times_monai"] = round(middle["monai"]["cpu_seconds"] / middle[way]["cpu_seconds"], 2)
        row["mba"] = round(100 * (mean_boundary_accuracy(mask, scored, bands=bands) or 0), 3)
        row["iou"] = round(100 * iou(mask, scored), 3)
        rows.append(row)
        shown = ("way", "seconds", "cpu_seconds", "windows", "times_monai", "peak_mib", "mba", "iou")
        print("|", " | ".join(str(row.get(name, "")) for name in shown), "|", flush=True)
    return rows


def run(way: str, side: int, options: argparse.Namespace, image: Path, coarse: Path, result: Path) -> dict[str, float]:
    """One way, in this process; what it took."""
    keep_freed_memory()
    if way.startswith("refine"):
        return run_refine(way.removeprefix("refine "), side, options, image, coarse, result)
    from tilings import TILINGS, enlarge

    make = as_loaded if way == "monai as loaded" else prepared
    correct = make(options.checkpoint, reach_of(side))
    tiling = TILINGS[way.split()[0]]
    small = np.zeros((options.tile, options.tile), np.float32)
    tiling(np.zeros((*small.shape, 3), np.uint8), small, correct, options.tile, options.overlap)  # imports, first calls
    settle()
    begun, cpu_begun = perf_counter(), process_time()
    with rasterio.open(image) as dataset:
        pixels = np.ascontiguousarray(dataset.read().transpose(1, 2, 0))
    first = read(coarse, cv2.IMREAD_GRAYSCALE).astype(np.float32) / np.float32(255)
    enlarged = enlarge(first, *pixels.shape[:2])
    refined = tiling(pixels, enlarged, correct, options.tile, options.overlap)
    write(result, np.floor(refined * np.float32(255) + np.float32(0.5)).astype(np.uint8))
    return {"seconds": perf_counter() - begun, "cpu_seconds": process_time() - cpu_begun}


def run_refine(
    way: str, side: int, options: argparse.Namespace, image: Path, coarse: Path, result: Path
) -> dict[str, float]:
    """refine; its network stays loaded from the first call."""
    from refine.api import Settings, refine_raster
    from refine.loaded import LoadedNetworks

    select, backend = (*way.removesuffix(" flat").split(), "torch")[:2]
    settings = Settings(
        tile=options.tile,
        overlap=options.overlap,
        reach=min(reach_of(side), FIRST_REACH) if way.endswith(" flat") else reach_of(side),
        select=select,
        passes=options.passes,
        backend=backend,
        checkpoint=options.checkpoint,
        max_memory=options.max_memory,
        device="cpu",
        overwrite=True,
    )
    loaded = LoadedNetworks()
    refine_raster(coarse, result, coarse, settings=settings, loaded=loaded)  # imports, first calls
    settle()
    cpu_begun = process_time()
    report = refine_raster(image, result, coarse, settings=settings, loaded=loaded)
    return {
        "seconds": report.seconds["total"] - report.seconds["load network"],
        "cpu_seconds": process_time() - cpu_begun,
        "windows": report.windows_run,
    }


def settle() -> None:
    """Look through what the imports left behind now: Python would do so once in the run, or not, and it takes 0.1 s."""
    gc.collect()
    gc.freeze()


def reach_of(side: int) -> float:
    """As refine takes it for a network's output."""
    return NETWORK_PIXELS * side / COARSE_SIDE


def prepared(checkpoint: Path, reach: float) -> Any:
    """The network as refine prepares it."""
    from refine.backends.torch_backend import TorchRefiner

    refiner = TorchRefiner.load(checkpoint, device="cpu")

    def correct(windows: Any, masks: Any) -> Any:
        return refiner.correct(windows, masks, reach)

    return correct


def as_loaded(checkpoint: Path, reach: float) -> Any:
    """The network as the checkpoint gives it, in float32."""
    import torch

    from refine.models.checkpoint import load_model

    model, metadata = load_model(checkpoint, expect="refiner")
    model.eval()

    @torch.no_grad()
    def correct(windows: Any, masks: Any) -> Any:
        pixels = metadata.preprocessing.normalise(windows).contiguous()
        return model.correction(pixels, masks[:, None], torch.full((len(windows),), reach))[:, 0]  # type: ignore[operator]  # a method, which torch's Module types as tensor or module

    return correct


def fits(side: int) -> bool:
    import psutil

    return side * side * WHOLE_PIXEL_BYTES < int(psutil.virtual_memory().available)


def make_files(folder: Path, side: int, photograph: Path, truth: Path, *, share: float = 1.0) -> NDArray[np.uint8]:
    """Image and coarse mask in the folder; gives the truth on the grid that is scored."""
    pixels = cv2.cvtColor(read(photograph, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    mask = read(truth, cv2.IMREAD_GRAYSCALE)
    scored = min(side, SCORED_SIDE)
    enlarged = cv2.resize(mask, (round(share * scored),) * 2, interpolation=cv2.INTER_CUBIC)
    exact = in_the_middle(np.where(enlarged >= 128, 255, 0).astype(np.uint8), np.zeros((scored, scored), np.uint8))
    small = np.asarray(cv2.resize(pixels, (COARSE_SIDE,) * 2, interpolation=cv2.INTER_AREA), np.uint8)
    made = load_coarse(default_checkpoint("mos_l_lite"), device="cpu")(small)
    reduced = cv2.resize(made, (round(share * COARSE_SIDE),) * 2, interpolation=cv2.INTER_AREA)
    coarse = np.floor(255 * reduced + 0.5).astype(np.uint8)
    cv2.imwrite(str(folder / "coarse.png"), in_the_middle(coarse, np.zeros((COARSE_SIDE,) * 2, np.uint8)))
    image = np.asarray(cv2.resize(pixels, (round(share * side),) * 2, interpolation=cv2.INTER_CUBIC), np.uint8)
    if share < 1:
        ground = np.random.default_rng(0).integers(110, 130, (BLOCK, BLOCK, 3), np.uint8)
        image = in_the_middle(image, np.tile(ground, (-(-side // BLOCK),) * 2 + (1,))[:side, :side])
    write(folder / "image.tif", image)
    return exact


def in_the_middle(part: NDArray[np.uint8], whole: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`whole`, in which `part` was put."""
    row, col = ((one - other) // 2 for one, other in zip(whole.shape[:2], part.shape[:2], strict=True))
    whole[row : row + part.shape[0], col : col + part.shape[1]] = part
    return whole


def write(path: Path, pixels: NDArray[np.uint8]) -> None:
    """A GeoTIFF such as refine writes: tiled, deflate, horizontal predictor."""
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    layout: dict[str, Any] = {
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "predictor": 2,
    }
    layout |= {"count": len(planes), "height": planes.shape[1], "width": planes.shape[2], "dtype": "uint8"}
    layout["transform"] = from_origin(0, planes.shape[1], 1, 1)
    with rasterio.open(path, "w", driver="GTiff", interleave="pixel", **layout) as dataset:
        for row in range(0, planes.shape[1], BLOCK):
            rows = planes[:, row : row + BLOCK]
            dataset.write(rows, window=Window(0, row, rows.shape[2], rows.shape[1]))


def read(path: Path, how: int) -> NDArray[np.uint8]:
    pixels = cv2.imread(str(path), how)
    if pixels is None:
        sys.exit(f"{path}: cannot be read")
    return np.asarray(pixels, np.uint8)


def read_reduced(path: Path, side: int) -> NDArray[np.uint8]:
    """Averaged over areas where it is larger, strip by strip."""
    with rasterio.open(path) as dataset:
        factor = dataset.height // side
        height = 256 * factor
        strips = [
            np.asarray(dataset.read(1, window=Window(0, row, dataset.width, height)), np.uint8)
            for row in range(0, dataset.height, height)
        ]
    reduced = [np.asarray(cv2.resize(strip, (side, 256), interpolation=cv2.INTER_AREA), np.uint8) for strip in strips]
    return np.concatenate(reduced)


if __name__ == "__main__":
    main()

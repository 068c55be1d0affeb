"""Resident memory over a folder of many images: it must not grow with their number.

    python benchmarks/soak.py                                      # 1000 photographs of about 320 x 240
    python benchmarks/soak.py --images 200 --out soak.json -- --coarse mos_l

`infer.py` runs over the folder while its resident memory is sampled (by psutil) each time a result appears. The slope
is that of a line through the samples after the first fifth, when caches are warm; exit code 1 above 1 KiB an image.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
KIB = 1 << 10
WARM = 0.2
"""Share of the images after which caches are taken to be warm."""

LIMIT_BYTES = KIB
"""Below this a thousand images add a mebibyte."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="figures as JSON")
    parser.add_argument("arguments", nargs="*", help="more arguments of infer.py, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="refine-soak-") as name:
        folder = Path(name)
        make_images(folder, options.images, options.seed)
        code, samples = watch(folder, options.arguments)
        finished = len(list((folder / "results").glob("*.png")))
    warm = samples[samples[:, 0] >= WARM * options.images]
    slope = float(np.polyfit(warm[:, 0], warm[:, 1], 1)[0]) if len(warm) > 2 else float("nan")
    half = len(warm) // 2
    figures = {
        "images": options.images,
        "finished": finished,
        "exit_code": code,
        "slope_bytes_per_image": round(slope, 1),
        "mean_of_first_half_mib": round(float(warm[:half, 1].mean()) / KIB**2, 2),
        "mean_of_second_half_mib": round(float(warm[half:, 1].mean()) / KIB**2, 2),
        "highest_mib": round(float(samples[:, 1].max()) / KIB**2, 2),
        "samples": len(samples),
        "seconds": round(float(samples[-1, 2]), 1),
    }
    holds = code == 0 and finished == options.images and slope <= LIMIT_BYTES
    text = json.dumps(figures | {"holds": holds}, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    sys.exit(0 if holds else 1)


def make_images(folder: Path, count: int, seed: int) -> None:
    """Photograph-like pairs of slightly different sizes, so that no buffer fits all of them."""
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    rng = np.random.default_rng(seed)
    for index in range(count):
        height, width = int(rng.integers(200, 281)), int(rng.integers(280, 361))
        field = cv2.resize(rng.normal(size=(5, 6)), (width, height), interpolation=cv2.INTER_CUBIC)
        inside = (field > 0.3).astype(np.float32)[:, :, None]
        image = np.clip(80 + 90 * inside + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{index:05d}.jpg"), image)
        rough = cv2.resize(inside, (width // 8, height // 8), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / "masks" / f"{index:05d}.png"), (255 * rough).astype(np.uint8))


def watch(folder: Path, arguments: list[str]) -> tuple[int, NDArray[np.float64]]:
    """Exit code, and (n, 3): results so far, resident bytes, seconds."""
    results = folder / "results"
    given = ["--image", str(folder / "images"), "--out", f"{results}/", "--device", "cpu", *arguments]
    if not any(argument.startswith("--coarse") for argument in arguments):
        given += ["--mask", str(folder / "masks")]
    process = subprocess.Popen([sys.executable, str(ROOT / "infer.py"), *given], stdout=subprocess.DEVNULL)
    about, begun = psutil.Process(process.pid), time.monotonic()
    samples: list[tuple[int, int, float]] = []
    while process.poll() is None:
        done = len(list(results.glob("*.png"))) if results.is_dir() else 0
        if done and (not samples or done > samples[-1][0]):
            try:
                samples.append((done, about.memory_info().rss, time.monotonic() - begun))
            except psutil.NoSuchProcess:
                break
        time.sleep(0.02)
    return process.wait(), np.array(samples, np.float64)


if __name__ == "__main__":
    main()

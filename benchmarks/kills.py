"""Kills `infer.py` at random moments over one raster, goes on with --resume, and compares bytes.

    python benchmarks/kills.py --kills 20                        # a made raster of 5000 x 5000
    python benchmarks/kills.py --kills 50 --image scene.tif --mask rough.png

An undisturbed run comes first: its bytes are the truth, its seconds the span in which a kill falls. Then runs are
killed (SIGKILL, or SIGINT with --interrupt), each after a random time, and gone on with until one ends by itself; then
the next begins. Every end is one of: identical, refused (exit code 2), wrong. A wrong one makes the exit code 1.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--side", type=int, default=5000, help="of the raster that is made where none is given")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--interrupt", action="store_true", help="SIGINT, as Ctrl-C does, instead of SIGKILL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("arguments", nargs="*", help="more arguments of infer.py, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="refine-kills-") as name:
        folder = Path(name)
        image, mask = options.image, options.mask
        if image is None:
            image, mask = make_pair(folder, options.side)
        given = ["--image", str(image), *([] if mask is None else ["--mask", str(mask)]), *options.arguments]
        sys.exit(campaign(folder, given, options))


def campaign(folder: Path, given: list[str], options: argparse.Namespace) -> int:
    """Kill, go on, compare; the exit code."""
    out, truth = folder / "out.tif", folder / "truth.tif"
    begun = time.monotonic()
    subprocess.run(command(given, truth), check=True, capture_output=True)
    span = time.monotonic() - begun
    print(f"undisturbed: {span:.1f} s")
    rng = random.Random(options.seed)
    ends: Counter[str] = Counter()
    kills = 0
    leaving: list[float] = []
    while kills < options.kills:
        parts, killed = 0, 0
        while True:
            wait = rng.uniform(0, 0.9 * span) if kills < options.kills else None
            code, took, message = run_and_kill(command([*given, "--resume"], out), wait, interrupt=options.interrupt)
            if code in (0, 2):
                break
            kills, killed = kills + 1, killed + 1
            leaving.append(took)
            parts = len(list((folder / ".out.tif.run").glob("level*")))
        left = [path.name for path in folder.glob(".*")]
        is_identical = code == 0 and not left and out.read_bytes() == truth.read_bytes()
        end = "identical" if is_identical else "refused" if code == 2 else "wrong"
        ends[end] += 1
        print(f"{killed} kills, {parts} parts at the last one, then {end} {message if code else ''}{left or ''}")
        out.unlink(missing_ok=True)
    slowest = f", {max(leaving):.1f} s at most from signal to end" if options.interrupt and leaving else ""
    print(", ".join(f"{count} {end}" for end, count in sorted(ends.items())) + f" after {kills} kills{slowest}")
    return 1 if ends["wrong"] else 0


def command(given: list[str], out: Path) -> list[str]:
    return [sys.executable, str(ROOT / "infer.py"), *given, "--out", str(out)]


def run_and_kill(call: list[str], wait: float | None, *, interrupt: bool) -> tuple[int, float, str]:
    """Exit code, seconds from the signal to the end, and what was said on stderr."""
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    begun = time.monotonic()
    try:
        process.wait(wait)
    except subprocess.TimeoutExpired:
        begun = time.monotonic()
        process.send_signal(signal.SIGINT if interrupt else signal.SIGKILL)
    _, said = process.communicate()
    return process.returncode, time.monotonic() - begun, said.strip()


def make_pair(folder: Path, side: int) -> tuple[Path, Path]:
    """A textured raster with blobs, and a mask of them at a sixteenth of its side, wrong by a little."""
    rng = np.random.default_rng(0)
    field = cv2.resize(rng.normal(size=(9, 9)), (side, side), interpolation=cv2.INTER_CUBIC)
    inside = (field > 0.3).astype(np.float32)
    image = np.empty((side, side, 3), np.uint8)
    for channel, (low, high) in enumerate(((60, 190), (90, 130), (140, 70))):
        shade = low + (high - low) * inside + rng.normal(0, 10, (side, side)).astype(np.float32)
        image[:, :, channel] = np.clip(shade, 0, 255)
    cv2.imwrite(str(folder / "image.tif"), image)
    rough = cv2.resize(inside, (side // 16, side // 16), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "mask.png"), (255 * cv2.dilate(rough, np.ones((3, 3), np.uint8))).astype(np.uint8))
    return folder / "image.tif", folder / "mask.png"


if __name__ == "__main__":
    main()

"""How long a command takes until its network sees the first window, and what it imports for that.

    refine export --image examples/astronaut.jpg     # for --backend onnxruntime
    python benchmarks/start.py --out start.json

A picture of 224 px, which is one window, from the start of the process to its end: Python, imports, plan, weights, one
call, one file. Commands in turn, `--rounds` times; medians. CPU seconds are of the process, user and system.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).parent.parent
WATCHED = ("torch", "torchvision", "timm", "onnxruntime", "rasterio", "cv2")

CALL = """
import resource, sys, json
from refine import cli, command
try:
    command.run(cli.refine, name="refine", arguments=sys.argv[2:])
except SystemExit as left:
    code = left.code
usage = resource.getrusage(resource.RUSAGE_SELF)
found = {"code": code, "cpu": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}
print("\\n" + json.dumps(found | {"imported": [name for name in sys.argv[1].split(",") if name in sys.modules]}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="refining network  [default: the shipped one]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="refine-start-") as name:
        commands = make_commands(Path(name), options.checkpoint)
        taken: dict[str, list[dict[str, Any]]] = {title: [] for title in commands}
        for _ in range(options.rounds):
            for title, command in commands.items():
                taken[title].append(call(command))
    figures = []
    print("| command | s | CPU s | peak MiB | imports |\n|---|---|---|---|---|")
    for title, found in taken.items():
        middle = {key: round(median(one[key] for one in found), 2) for key in ("seconds", "cpu", "peak_mib")}
        figures.append({"command": title, **middle, "imported": found[0]["imported"]})
        print("|", " | ".join(map(str, (title, *middle.values(), ", ".join(found[0]["imported"])))), "|")
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


def make_commands(folder: Path, checkpoint: Path | None) -> dict[str, list[str]]:
    """Commands by title; their files lie in the folder."""
    rng = np.random.default_rng(0)
    image, mask = folder / "image.png", folder / "mask.png"
    rough = (np.add.outer(np.arange(28), np.arange(28)) > 28).astype(np.uint8) * 255
    cv2.imwrite(str(image), cv2.GaussianBlur(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8), (0, 0), 3))
    cv2.imwrite(str(mask), rough)
    run = ["infer", "--image", str(image), "--out", str(folder / "out.png"), "--overwrite", "--device", "cpu"]
    run += [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
    given = [*run, "--mask", str(mask)]
    return {
        "--help": ["infer", "--help"],
        "--mask --plan": [*given, "--plan"],
        "--mask": given,
        "--mask --backend onnxruntime": [*given, "--backend", "onnxruntime"],
        "without --mask": run,
    }


def call(arguments: list[str]) -> dict[str, Any]:
    begun = perf_counter()
    command = [sys.executable, "-c", CALL, ",".join(WATCHED), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    seconds = perf_counter() - begun
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["code"]:
        sys.exit(done.stderr)
    return found | {"seconds": seconds}


if __name__ == "__main__":
    main()

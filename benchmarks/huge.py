"""A huge sparse raster refined within a budget of memory, beside a plain read and write of the same raster.

    python benchmarks/huge.py                                            # 8000 x 8000, from the example's photograph
    python benchmarks/huge.py --side 40000 --data DATA --out huge.json   # DATA holds <set>/<id>.jpg and .png
    python benchmarks/huge.py --side 40000 --data DATA --kills 2         # once more, killed twice and resumed

Peaks are the operating system's, of the whole process; disk is sampled. Exit code 1 if the run fails, takes more than
its budget, or writes something where the mask is empty for a window of the coarsest level around; or if the run that
was killed does not end with the bytes of the one that was not.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from measured import Measured, run_measured

ROOT = Path(__file__).parent.parent
MIB = 1 << 20

MAKE = """
import sys
from pathlib import Path
from scenes import make_scene
folder, side, data, photographs, reduction, seed = sys.argv[1:]
make_scene(Path(folder), int(side), data=Path(data) if data else None, photographs=int(photographs),
           reduction=int(reduction), seed=int(seed))
"""

COPY = """
import sys, rasterio
from rasterio.env import set_gdal_config
with rasterio.Env(), rasterio.open(sys.argv[1]) as image:
    set_gdal_config("GDAL_CACHEMAX", 128 << 20)
    with rasterio.open(sys.argv[2], "w", **image.profile, predictor=2, sparse_ok=True, bigtiff="IF_SAFER") as copy:
        for _, window in image.block_windows(1):
            pixels = image.read(window=window)
            if pixels.any():
                copy.write(pixels, window=window)
"""

CHECK = """
import json, sys
import cv2, numpy as np, rasterio
from rasterio.windows import Window
with rasterio.open(sys.argv[1]) as image, rasterio.open(sys.argv[2]) as rough, rasterio.open(sys.argv[3]) as out:
    coarse, factor = rough.read(1), image.height // rough.height
    margin = 224 // 2 + 16  # a window of the coarsest level, two of whose pixels are one of the mask
    far = cv2.dilate((coarse > 0).astype(np.uint8), np.ones((2 * margin + 1,) * 2, np.uint8)) == 0
    same = (out.transform, out.crs, out.shape) == (image.transform, image.crs, image.shape)
    outside, union, common = 0, 0, 0
    for top in range(0, out.height, 32 * factor):
        mask = out.read(1, window=Window(0, top, out.width, min(32 * factor, out.height - top)))
        rows = slice(top // factor, top // factor + mask.shape[0] // factor)
        small = mask[::factor, ::factor][:rows.stop - rows.start, :coarse.shape[1]]
        there = slice(0, small.shape[1])
        outside += int(np.count_nonzero(small[far[rows, there]]))
        union += int(np.count_nonzero((small >= 128) | (coarse[rows, there] >= 128)))
        common += int(np.count_nonzero((small >= 128) & (coarse[rows, there] >= 128)))
print(json.dumps({"georeferenced": same, "outside": outside, "iou_with_coarse": common / max(union, 1)}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8000)
    parser.add_argument("--data", type=Path, help="folder of <set>/<id>.jpg and .png; without it the example is used")
    parser.add_argument("--photographs", type=int, default=12)
    parser.add_argument("--reduction", type=int, default=16, help="pixels of the image for one of the mask, per axis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-memory", default="2GiB")
    parser.add_argument("--kills", type=int, default=0, help="of a second run, which is resumed after each")
    parser.add_argument("--folder", type=Path, help="where everything is written (and removed) [default: the system's]")
    parser.add_argument("--out", type=Path, help="figures as JSON")
    parser.add_argument("arguments", nargs="*", help="more arguments of infer.py, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="refine-huge-", dir=options.folder) as name:
        figures = measure(Path(name), options)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    sys.exit(0 if figures["holds"] else 1)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Make the scene, copy it, plan, refine, check."""
    made = _python(MAKE, folder, options.side, options.data or "", options.photographs, options.reduction, options.seed)
    scene, mask, results = folder / "scene.tif", folder / "rough.tif", folder / "results"
    results.mkdir()
    copied = _python(COPY, scene, results / "copy.tif", folder=results)
    (results / "copy.tif").unlink(missing_ok=True)
    given = ["--image", scene, "--mask", mask, "--out", results / "mask.tif", "--max-memory", options.max_memory]
    call = [sys.executable, ROOT / "infer.py", *given, "--device", "cpu", *options.arguments]
    plan = run_measured([*map(str, call), "--plan"])
    run = run_measured([*map(str, call), "--report", str(results / "report.json")], results)
    figures: dict[str, object] = {
        "side": options.side,
        "megapixels": options.side**2 / 1e6,
        "photographs": options.photographs,
        "scene_bytes": scene.stat().st_size,
        "made": _taken(made, options.side),
        "copied": _taken(copied, options.side),
        "refined": _taken(run, options.side),
        "times_the_copy": round(run.cpu_seconds / copied.cpu_seconds, 2),
        "planned_peak_mib": _planned(plan.out, "planned peak"),
        "planned_disk_mib": _planned(plan.out, "temporary files"),
        "max_memory": options.max_memory,
    }
    holds = run.code == 0
    if holds:
        report = json.loads((results / "report.json").read_text())
        figures |= {name: report[name] for name in ("windows_run", "windows_skipped", "seconds", "notes")}
        figures["mask_bytes"] = (results / "mask.tif").stat().st_size
        checked = json.loads(_python(CHECK, scene, mask, results / "mask.tif").out)
        figures |= checked
        budget = report["settings"]["max_memory"]
        holds = run.peak_bytes <= budget and checked["georeferenced"] and not checked["outside"]
        holds = holds and sorted(path.name for path in results.iterdir()) == ["mask.tif", "report.json"]
        if holds and options.kills:
            figures["killed"] = killed = resumed_run(folder, call, _parts(plan.out), options)
            holds = bool(killed["identical"]) and killed["peak_mib"] <= budget / MIB
    else:
        figures["said"] = run.err or asdict(run)
    return figures | {"holds": holds}


def resumed_run(folder: Path, call: list[object], parts: int, options: argparse.Namespace) -> dict[str, object]:
    """The run again, to another place: killed when a random number of its parts is finished, then let end."""
    truth, place = folder / "results", folder / "resumed"
    place.mkdir()
    again = [str(part).replace(str(truth), str(place)) for part in call] + ["--resume"]
    killed_at = sorted(random.Random(options.seed).sample(range(1, parts), options.kills))
    codes = [_kill_at(again, place / ".mask.tif.run", count) for count in killed_at]
    last = run_measured([*again, "--report", str(place / "report.json")], place)
    if last.code:
        sys.exit(last.err)
    names = sorted(path.name for path in place.iterdir())
    is_identical = filecmp.cmp(truth / "mask.tif", place / "mask.tif", shallow=False)
    return {
        "parts": parts,
        "killed_after_parts": killed_at,
        "exit_codes": codes,
        **_taken(last, options.side),
        "notes": json.loads((place / "report.json").read_text())["notes"],
        "identical": is_identical and names == ["mask.tif", "report.json"] and all(code < 0 for code in codes),
    }


def _kill_at(call: list[str], run_folder: Path, parts: int) -> int:
    """SIGKILL once so many parts lie there; the exit code."""
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if len(list(run_folder.glob("level*-part*.gz"))) >= parts:
            process.kill()
        time.sleep(0.05)
    return process.wait()


def _python(code: str, *arguments: object, folder: Path | None = None) -> Measured:
    """Run code in a process of its own; leave if it fails."""
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    found = run_measured([sys.executable, "-c", path + code, *map(str, arguments)], folder)
    if found.code:
        sys.exit(found.err)
    return found


def _taken(found: Measured, side: int) -> dict[str, float]:
    return {
        "seconds": found.seconds,
        "cpu_seconds": found.cpu_seconds,
        "cpu_seconds_per_megapixel": round(found.cpu_seconds / (side**2 / 1e6), 5),
        "peak_mib": round(found.peak_bytes / MIB, 1),
        "disk_mib": round(found.disk_bytes / MIB, 1),
    }


def _parts(text: str) -> int:
    """Over all levels: the number after the windows of each way."""
    return sum(map(int, re.findall(r"^1/\d+ .* \d+ x \d+ +(\d+) +\d+ ", text, re.MULTILINE)))


def _planned(text: str, name: str) -> float | None:
    found = re.search(rf"{name} +([\d.]+) MiB", text)
    return float(found[1]) if found else None


if __name__ == "__main__":
    main()

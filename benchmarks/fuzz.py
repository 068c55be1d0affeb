"""Damaged inputs of every kind: none may end in a traceback, a hang, a crash, or a file left behind.

    python benchmarks/fuzz.py --inputs 10000 --commands 300
    python benchmarks/fuzz.py --inputs 0 --commands 1 --first 1234     # one of them again

Input number n is a whole file of some kind (rasters, masks, checkpoints, configs), damaged as `damage.py` draws it from
n. It is opened as a run would open it: header, plan, pixels. Inputs go by the hundred to a process of their own, which
tells the number it is at, so that a crash or a hang has a name. Then whole commands run over such files. Exit code 1 if
one of them ended otherwise than well, or in one line that says what is wrong.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import psutil
from damage import damaged, whole_files
from forked import import_all, names, run_forked

from refine.errors import RefineError

INPUT_SECONDS, WAITING_SECONDS = 20.0, 300.0
"""An input hangs that computes for longer, or waits for longer: other work on the machine is no hang."""

COMMAND_SECONDS = 600.0
BATCH = 100
READ_PIXELS = 1 << 22
"""A header may honestly declare more; then only a corner is read."""


def open_input(path: Path) -> None:
    """Open a file as a run does. Raises RefineError for what it refuses."""
    match path.name.split("-")[0]:
        case "image":
            _open_image(path)
        case "mask":
            _open_mask(path)
        case "checkpoint":
            from refine.models.checkpoint import load_model
            from refine.networks import choose_networks
            from refine.settings import Settings

            choose_networks(Settings(checkpoint=path), "cpu", needs_coarse=False)
            load_model(path, expect="refiner")
        case "weights":
            from refine.models.checkpoint import read_encoder_weights

            read_encoder_weights(path)
        case "config":
            from refine.training.config import load_config

            load_config(path)


def _open_image(path: Path) -> None:
    from refine.api import plan_raster
    from refine.geometry import Window
    from refine.raster import open_image

    plan = plan_raster(path)
    with open_image(path, cache_bytes=plan.cache_bytes, directory=path.parent) as image:
        side = 256 if plan.height * plan.width > READ_PIXELS else max(plan.height, plan.width)
        image.read(Window(0, 0, side, side).clip(plan.height, plan.width))
        if side >= max(plan.height, plan.width):
            image.prepare([3])
            image.read(Window(0, 0, 1, 1), 3)


def _open_mask(path: Path) -> None:
    from refine.geometry import Window
    from refine.masks import mask_size, open_mask

    size = mask_size(path)
    if size.height * size.width > 64 * READ_PIXELS:
        return
    with open_mask(path, (1000, 1000), align="stretch", directory=path.parent) as mask:
        mask.read(Window(0, 0, min(256, mask.height), min(256, mask.width)))


def check_input(number: int, files: dict[str, bytes], folder: Path) -> str:
    """ "taken" or "refused"; else what was wrong, in one line."""
    name, data = damaged(number, files)
    path = folder / name
    path.write_bytes(data)
    before = names(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a line on stderr that nobody asked for
            warnings.simplefilter("ignore", DeprecationWarning)
            open_input(path)
        end = "taken"
    except RefineError as error:
        end = "refused" if str(error).strip() and "\n" not in str(error) else f"several lines: {error!s:.200}"
    # What this looks for is just what nobody thought of.
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        end = f"{type(error).__name__}: {error!s:.150} ({Path(last.filename).name}:{last.lineno})"
    left = names(folder)
    path.unlink()
    return f"left behind {left}" if left != before else end


def check_batch(numbers: range, files: dict[str, bytes], folder: Path) -> list[tuple[int, str]]:
    """Check inputs in children; how each ended. A child that dies or hangs is followed by another."""
    found: list[tuple[int, str]] = []
    todo = numbers
    while todo:
        told, pid = _start(todo, files, folder)
        at, last, spent, hung = todo.start, time.monotonic(), 0.0, False
        child = psutil.Process(pid)
        with told:
            while True:
                line = told.readline()
                if line:
                    number, end = json.loads(line)
                    found.append((number, end))
                    at, last, spent = number + 1, time.monotonic(), _cpu_seconds(child)
                elif os.waitpid(pid, os.WNOHANG)[0]:
                    break
                elif time.monotonic() - last > WAITING_SECONDS or _cpu_seconds(child) - spent > INPUT_SECONDS:
                    hung = True
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    break
                else:
                    time.sleep(0.01)
            for line in told:
                number, end = json.loads(line)
                found.append((number, end))
                at = number + 1
        if at < todo.stop:
            found.append((at, "hangs" if hung else "the process died"))
        todo = range(at + 1, todo.stop)
    return found


def _cpu_seconds(process: psutil.Process) -> float:
    """So far; of one that has ended, but was not waited for, as well."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _start(numbers: range, files: dict[str, bytes], folder: Path) -> tuple[io.TextIOWrapper, int]:
    """A child at work on the inputs, and the file in which it tells how each ended."""
    descriptor, name = tempfile.mkstemp()
    pid = os.fork()
    if pid == 0:
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 2)
            with os.fdopen(descriptor, "w") as told, tempfile.TemporaryDirectory(dir=folder) as place:
                (Path(place) / "part.png").write_bytes(files["mask-grey.png"])
                for number in numbers:
                    told.write(json.dumps([number, check_input(number, files, Path(place))]) + "\n")
                    told.flush()
        finally:
            os._exit(0)
    os.close(descriptor)
    told = open(name, encoding="utf-8")  # noqa: SIM115, PTH123  the caller closes it
    Path(name).unlink()
    return told, pid


def check_command(number: int, files: dict[str, bytes], folder: Path) -> str:
    """As `check_input`, of the whole command with one of its files damaged."""
    rng = random.Random(number)
    inputs, results = folder / "inputs", folder / "results"
    for place in (inputs, results):
        place.mkdir()
    name, data = damaged(
        number, {key: value for key, value in files.items() if not key.startswith(("config", "weights"))}
    )
    (inputs / name).write_bytes(data)
    kind = name.split("-")[0]
    (inputs / "part.png").write_bytes(files["mask-grey.png"])
    (inputs / "good.png").write_bytes(files["image-plain.png"])
    image, mask = inputs / (name if kind == "image" else "good.png"), inputs / (name if kind == "mask" else "part.png")
    out = results / f"out.{rng.choice(('tif', 'png'))}"
    given = ["--image", str(image), "--mask", str(mask), "--align", "stretch", "--out", str(out), "--device", "cpu"]
    given += ["--tile", "96", "--overlap", "32"]
    given += ["--checkpoint", str(inputs / name)] if kind == "checkpoint" else []
    ended = run_forked(given, timeout=COMMAND_SECONDS)
    left = names(results)
    for place in (inputs, results):
        shutil.rmtree(place)
    if ended.timed_out:
        return "hangs"
    if ended.code == 0:
        return "taken" if left == [out.name] else f"left behind {left}"
    if ended.code == 2 and not left and not ended.is_traceback and ended.err.strip().count("\n") == 0:
        return "refused"
    return f"exit code {ended.code}, left {left}: {ended.err.strip()[-300:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--commands", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    import_all()
    begun = time.monotonic()
    ends: Counter[str] = Counter()
    bad: list[str] = []
    with tempfile.TemporaryDirectory(prefix="refine-fuzz-") as name:
        files = whole_files(Path(name))
        last = options.first + options.inputs
        for first in range(options.first, last, BATCH):
            for number, end in check_batch(range(first, min(first + BATCH, last)), files, Path(name)):
                _count(f"input {number} ({damaged(number, files)[0]})", end, ends, bad)
        for number in range(options.first, options.first + options.commands):
            _count(f"command {number}", check_command(number, files, Path(name)), ends, bad)
        left = names(Path(name))
        if left:
            bad.append(f"left behind {left}")
    figures = {"seconds": round(time.monotonic() - begun, 1), "ends": dict(ends), "bad": bad}
    print(json.dumps(figures | {"bad": len(bad)}))
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(1 if bad else 0)


def _count(what: str, end: str, ends: Counter[str], bad: list[str]) -> None:
    is_good = end in ("taken", "refused")
    ends[f"{what.split()[0]} {end if is_good else 'bad'}"] += 1
    if not is_good:
        bad.append(f"{what}: {end}")
        print(bad[-1], flush=True)


if __name__ == "__main__":
    main()

"""What each coarse network takes: memory while it is loaded and while it runs, seconds for one image.

    python benchmarks/coarse_cost.py                          # the figures of COARSE_COSTS in refine/memory.py
    python benchmarks/coarse_cost.py --names u2netp --out cost.json

Weights are random: they cost what trained ones cost. Each figure comes from a process of its own, which loads a
checkpoint as it is shipped (float16) and runs it at about half of its side and at its side. Memory is the growth of the
operating system's peak (maximum resident set size); threads are torch's default.
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

from pydantic import JsonValue

from refine.models.registry import NETWORKS, network_names

MIB = 1 << 20
STRIDE = 32  # a multiple of every network's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", default=",".join(network_names("coarse")), help="networks  [default: %(default)s]")
    parser.add_argument("--out", type=Path, help="also write the figures, as JSON")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make_checkpoint(*options.make)
        return
    if options.measure:
        print(json.dumps(measure(options.measure[0], int(options.measure[1]))))
        return
    found = {name: cost_of(name) for name in options.names.split(",")}
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def cost_of(name: str) -> dict[str, float]:
    """A printed line, and its figures in bytes and seconds."""
    side = NETWORKS[name].side
    part = side // 2 // STRIDE * STRIDE
    with tempfile.TemporaryDirectory(prefix="refine-coarse-") as folder:
        path = Path(folder, "random.safetensors")
        run_self("--make", name, str(path))
        half, whole = (json.loads(run_self("--measure", str(path), str(tried))) for tried in (part, side))
    pixel_bytes = max(0.0, (whole["running"] - half["running"]) / (side**2 - part**2))
    call_bytes = max(0.0, whole["running"] - pixel_bytes * side**2)
    print(
        f"{name:12}{side:5} px  loading {whole['loading'] / MIB:7.1f} MiB, running {whole['running'] / MIB:7.1f} MiB"
        f" (pixel_bytes={pixel_bytes:.0f}, call_bytes={call_bytes / MIB:.0f} MiB), {whole['seconds']:.2f} s",
        flush=True,
    )
    return {"side": side, **whole, "pixel_bytes": pixel_bytes, "call_bytes": call_bytes}


def run_self(*arguments: str) -> str:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def make_checkpoint(name: str, path: str) -> None:
    """A checkpoint of random weights; of a network that is shipped, as large as that."""
    from refine import __version__
    from refine.models import build_model
    from refine.models.checkpoint import Metadata, save_checkpoint
    from refine.models.registry import default_preprocessing

    config = shipped_config(name)
    model = build_model(name, config)
    metadata = Metadata(
        refine_version=__version__,
        architecture=name,
        config=config,
        preprocessing=default_preprocessing(name, model),
        licence="none: random weights",
    )
    save_checkpoint(path, model.state_dict(), metadata)


def shipped_config(name: str) -> dict[str, JsonValue]:
    """The config of a network's shipped checkpoint; the usual one where none is shipped."""
    from refine.models.metadata import read_metadata
    from refine.models.registry import full_config
    from refine.shipped import default_checkpoint, shipped_names

    if name in shipped_names():
        return read_metadata(default_checkpoint(name)).config
    config: dict[str, JsonValue] = full_config(name).model_dump(mode="json")
    return config


def measure(path: str, side: int) -> dict[str, float]:
    """Growth of the peak by loading, and by running over what lies there when the network is loaded."""
    import numpy as np
    import psutil
    from memory import import_libraries

    from refine.backends import load_coarse
    from refine.report import peak_memory_bytes

    import_libraries()
    process = psutil.Process()
    before = process.memory_info().rss
    network = load_coarse(path, device="cpu")
    loading = max(0, peak_memory_bytes() - before)
    held = process.memory_info().rss - before
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    seconds = []
    for _ in range(2):
        begun = perf_counter()
        network(image)
        seconds.append(perf_counter() - begun)
    return {
        "loading": loading,
        "running": max(0, peak_memory_bytes() - before - held),
        "held": held,
        "seconds": median(seconds),
    }


if __name__ == "__main__":
    main()

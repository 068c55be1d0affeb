"""Which parts of a training recipe pay: short runs that differ from a config in one thing, measured on images held out.

    python benchmarks/search.py --config configs/MOS_H_lite.json --data 'pack=data/train-*.tar' \
        --validation DATA --index benchmarks/validation.csv --steps 300 --runs runs/search

Every run has the config's schedule cut to `--steps`, its seed, and its start; VARIANTS says what else is changed. What
is there already is kept, so a stopped search goes on. Figures are mBA in percent, means over sets, of the gate's rows
(the truth reduced by 2 and by 8, which must not get worse), of the truth at 64 px and of U2-NetP's masks. Two seeds of
the config as it stands tell what is chance.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from coarse_masks import makers
from quality import read_index, read_pair
from scenes import ROOT

from refine.allocation import keep_freed_memory
from refine.api import Settings, refine_with
from refine.backends import load_refiner
from refine.metrics import boundary_bands, mean_boundary_accuracy
from refine.models.metadata import read_metadata

MEASURED = ("x2", "x8", "truth64", "u2netp")

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "the config": {},
    "the config, another seed": {"seed": 1001},
    "untrained, but for one step": {"schedule.steps": 1, "schedule.warmup_steps": 0},
    "plain head, no residual": {"model.options.output": "direct", "model.options.reach_gate": False},
    "no reach plane": {"model.options.reach_input": False, "model.options.reach_gate": False},
    "no gain on the coarse logit": {"model.options.gain": False, "model.options.bounded_gain": False},
    "no features at stride 32": {"model.options.deep": False},
    "no gradient loss": {"loss.outputs.final.sobel": 0.0},
    "gradient loss of CascadePSP": {"loss.outputs.final.sobel": 5.0},
    "loss not relative to the mask's": {"loss.relative": 0.0},
    "all damaged masks soft": {"perturb.hard": 0.0},
    "all damaged masks hard": {"perturb.hard": 1.0},
    "no exact masks": {"perturb.kinds.exact": 0.0},
    "thrice as many exact masks": {"perturb.kinds.exact": 0.39},
    "no masks of networks": {"perturb.kinds.model": 0.0},
    "crops between 1/2 and 2": {"augment.scale": [0.5, 2.0]},
    "no composites": {"augment.composite": 0.0},
    "encoder at the decoder's rate": {"optim.encoder_rate": 0.0008},
    "encoder frozen": {"optim.encoder_rate": 0.0},
    "encoder's BatchNorm frozen": {"optim.freeze_encoder_norm": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "MOS_H_lite.json")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH", help="as train.py takes it")
    parser.add_argument("--validation", type=Path, required=True, help="folder of <set>/<id>.jpg and .png")
    parser.add_argument("--index", type=Path, default=ROOT / "benchmarks" / "validation.csv")
    parser.add_argument("--limit", type=int, default=2, help="images of a set  [default: %(default)s]")
    parser.add_argument("--steps", type=int, default=300, help="[default: %(default)s]")
    parser.add_argument("--only", default=";".join(VARIANTS), help="variants, with semicolons  [default: all]")
    parser.add_argument("--runs", type=Path, default=Path("runs/search"), help="[default: %(default)s]")
    options = parser.parse_args()
    keep_freed_memory()
    names = options.only.split(";")
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise SystemExit(f"search.py: --only {unknown[0]!r}: is none of {'; '.join(VARIANTS)}")
    rows = []
    for name in names:
        folder = options.runs / "_".join("".join(c if c.isalnum() else " " for c in name).split())
        weights = train(folder, name, options)
        found = folder / "figures.json"
        if not found.exists():
            found.write_text(json.dumps(measure(weights, options), indent=2) + "\n")
        rows.append([name, *json.loads(found.read_text()).values()])
        print(f"{name}: {rows[-1][1:]}", flush=True)
    print("| " + " | ".join(("variant", *MEASURED)) + " |\n|" + "---|" * (1 + len(MEASURED)))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


def train(folder: Path, name: str, options: argparse.Namespace) -> Path:
    """The averaged weights of a variant's run, which is made or gone on with."""
    config = json.loads(options.config.read_text())
    changes = {"schedule.steps": options.steps, "schedule.warmup_steps": options.steps // 10, **VARIANTS[name]}
    for place, value in changes.items():
        change(config, place, value)
    config["optim"]["ema"] = min(config["optim"]["ema"], 1 - 10 / options.steps)  # else it is mostly the start
    config["checkpoint"]["every"] = 100
    weights = folder / "last.safetensors"
    if weights.exists() and read_metadata(weights).step == config["schedule"]["steps"]:  # one that was stopped has less
        return weights
    path = options.runs / f"{folder.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=2) + "\n")
    call = [sys.executable, str(ROOT / "train.py"), "--config", str(path), "--run", str(folder), "--workers", "0"]
    call += [part for given in options.data for part in ("--data", given)]
    call += ["--resume"] if list(folder.glob("state-*")) else []
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    return weights


def change(config: dict[str, Any], place: str, value: Any) -> None:
    """Set the value at `place`, the names on the way with dots between them."""
    *way, last = place.split(".")
    for name in way:
        config = config.setdefault(name, {})
    config[last] = value


def measure(weights: Path, options: argparse.Namespace) -> dict[str, float]:
    """mBA by kind of first mask."""
    refiner = load_refiner(weights, device="cpu")
    kinds = makers(("gate", "truth64", "u2netp"), mos_l=None, isnet=None, device="cpu")
    scores: dict[str, dict[str, list[float]]] = {kind: defaultdict(list) for kind in MEASURED}
    for entry in read_index(options.index, options.validation, split=None, sets=[], limit=options.limit):
        image, truth = read_pair(entry)
        bands = boundary_bands(truth)
        for coarse in (coarse for make in kinds for coarse in make(entry, image, truth)):
            if coarse.kind in MEASURED:
                settings = Settings(align="stretch", device="cpu", reach=coarse.reach)
                refined = refine_with(refiner, image, coarse.mask, settings=settings)
                scores[coarse.kind][entry.set_name].append(mean_boundary_accuracy(refined, truth, bands=bands) or 0)
    means = {kind: np.mean([np.mean(group) for group in by_set.values()]) for kind, by_set in scores.items()}
    return {kind: round(100 * float(mean), 2) for kind, mean in means.items()}


if __name__ == "__main__":
    main()

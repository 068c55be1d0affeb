"""Kills training at random steps, goes on with --resume, and compares the end with a run that was left alone.

    python benchmarks/training_kills.py                                # MOS_H, IS-Net's second phase, two processes
    python benchmarks/training_kills.py --runs mos_h --kills 20 --seed 3 --out kills.json

Every run is `train.py` itself, in a fork of this process, on drawn discs at 64 px, two or four samples a step, a state
every few steps. A kill is SIGKILL to the whole of it (both processes of a shared run) once the log shows a step that
was drawn, and a drawn part of a step later. What must be the same, to the bit: weights, averaged weights, the
optimizer's moments, what the state says beside them, and the released checkpoint. Exit code 1 if anything differs.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import click
import cv2
import numpy as np
import torch
from safetensors import safe_open
from tqdm import tqdm

from refine.cli import train as train_command
from refine.command import run as run_command
from refine.models.registry import build_model, default_preprocessing
from refine.training.config import TrainingConfig, parse_config
from refine.training.dry_run import dry_run
from refine.training.log import Log
from refine.training.run import release
from refine.training.state import newest_readable, read_state, states

RUNS = ("mos_h", "isnet", "two processes")
PATIENCE = 600  # seconds without the step that is waited for, or the end, after which a run is taken to hang
SAYING = 2  # seconds for the processes of such a run to write where they are


@dataclass(frozen=True, slots=True)
class Result:
    run: str
    kills: int
    killed_at: list[int]
    resumed_at: list[int]
    steps: int
    tensors: int
    differing: list[str]

    def line(self) -> str:
        verdict = "the same to the bit" if not self.differing else f"DIFFERS in {', '.join(self.differing[:5])}"
        at = ", ".join(
            f"{killed} -> {resumed}" for killed, resumed in zip(self.killed_at, self.resumed_at, strict=True)
        )
        return (
            f"{self.run}: {self.tensors} tensors {verdict} at step {self.steps} after {self.kills} kills"
            f" (at step -> went on from: {at})"
        )


def config_of(name: str, folder: Path, *, steps: int, every: int) -> TrainingConfig:
    """The smallest config that has everything of the run `name`."""
    raw: dict[str, object] = {
        "seed": 5,
        "data": [{"name": "discs", "path": str(write_discs(folder / "discs"))}],
        "perturb": {"kinds": {"reduce": 0.4, "contour": 0.3, "warp": 0.2, "cascade": 0.1}},
        "model": {"architecture": "mos_h", "size": 64},
        "loss": {"outputs": {"s": {"bce": 0.5}, "final": {"bce": 1.0, "sobel": 1.0}}, "identity": 0.05},
        "schedule": {"steps": steps, "batch": 2, "warmup_steps": 3},
        "checkpoint": {"every": every, "log_every": 1},
    }
    if name == "isnet":
        del raw["perturb"]  # it takes no mask to be damaged
        raw["model"] = {"architecture": "isnet", "size": 64}
        raw["loss"] = {
            "outputs": {"side": {"bce": 1.0}},
            "features": {"encoder": str(write_encoder(folder / "encoder.safetensors"))},
        }
    if name == "two processes":
        raw["model"] = {"architecture": "mos_h_lite", "size": 64}
        raw["schedule"] = {"steps": steps, "batch": 4, "warmup_steps": 3}
    return parse_config(raw, name)


def write_discs(folder: Path, count: int = 6, side: int = 96) -> Path:
    """Discs on noise, as discs/<number>.png with their masks."""
    (folder / "discs").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[0:side, 0:side]
    for number in range(count):
        row, col = rng.uniform(0.35, 0.65, 2) * side
        inside = np.hypot(rows - row, cols - col) < rng.uniform(0.15, 0.3) * side
        noise = rng.integers(0, 80, (side, side, 3), dtype=np.uint8)
        cv2.imwrite(
            str(folder / "discs" / f"{number}.jpg"), noise + np.where(inside, 150, 20)[..., None].astype(np.uint8)
        )
        cv2.imwrite(str(folder / "discs" / f"{number}.png"), inside.astype(np.uint8) * 255)
    return folder


def write_encoder(path: Path) -> Path:
    """A truth encoder as it begins: what it has learnt does not matter here."""
    torch.manual_seed(1)
    network = build_model("gt_encoder")
    raw = {"data": [{"name": "none", "path": "none"}], "model": {"architecture": "gt_encoder", "size": 64}}
    rest = {"loss": {"outputs": {"side": {"bce": 1.0}}}, "schedule": {"steps": 1, "batch": 1}}
    config = parse_config({**raw, **rest}, "encoder")
    release(network, config, default_preprocessing("gt_encoder", network), path, step=0, metrics={})
    return path


class Training:
    """`train.py` with one config in one folder, as `processes` forks that meet as those of torchrun do."""

    def __init__(self, config: Path, folder: Path, processes: int) -> None:
        self.config, self.folder, self.processes = config, folder, processes

    def start(self) -> list[int]:
        """Begin or go on; the ids of its processes."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = ["--config", str(self.config), "--run", str(self.folder), "--device", "cpu"]
        arguments += ["--precision", "fp32", "--workers", "1", *(["--resume"] if states(self.folder) else [])]
        sys.stdout.flush()
        sys.stderr.flush()
        return [self._fork(rank, port, arguments) for rank in range(self.processes)]

    def _fork(self, rank: int, port: int, arguments: Sequence[str]) -> int:
        child = os.fork()
        if child:
            return child
        os.setsid()  # its workers belong to it
        said = os.open(self.folder.parent / f"{self.folder.name}-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        faulthandler.register(signal.SIGUSR1, file=2)  # its workers as well; see _fail
        # tqdm's own lock is one semaphore of all forks: killed while it holds it, a process would stop those after it.
        tqdm.set_lock(threading.RLock())
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
        if self.processes > 1:
            os.environ.update(
                RANK=str(rank), WORLD_SIZE=str(self.processes), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
            )
        code = 1
        try:
            run_command(train_command, name="train.py", arguments=list(arguments))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            os._exit(code)

    def finish(self, children: list[int]) -> None:
        """Wait for all of them; whichever fails first, since the others may wait for it for hours."""
        limit, logged = time.monotonic() + PATIENCE, 0
        left = list(children)
        while left:
            if (now := self.log_size()) != logged:
                limit, logged = time.monotonic() + PATIENCE, now
            for child in left:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid and status:
                    left.remove(child)
                    self._fail(f"a process ended with {os.waitstatus_to_exitcode(status)}", left)
                if pid:
                    left.remove(child)
                    break
            else:
                if time.monotonic() > limit:
                    self._fail(f"neither a step nor the end within {PATIENCE} s", left)
                time.sleep(0.005)

    def _fail(self, what: str, children: Sequence[int]) -> NoReturn:
        """Have the children that are left say where they are, end them, and give what all have said."""
        for child in children:
            os.killpg(child, signal.SIGUSR1)
        time.sleep(SAYING if children else 0)
        kill(children)
        files = sorted(self.folder.parent.glob(f"{self.folder.name}-[0-9].txt"))
        said = "\n".join(f"{file.name}:\n{file.read_text(encoding='utf-8')}" for file in files)
        raise SystemExit(f"{self.folder.name}: {what}:\n{said}")

    def saved(self) -> int:
        """The step of the newest state that is whole."""
        return read_state(newest_readable(self.folder))[1].step if states(self.folder) else 0

    def is_unfinished(self) -> bool:
        return not (self.folder / "last.safetensors").exists()

    def log_size(self) -> int:
        log = self.folder / "log.jsonl"
        return log.stat().st_size if log.exists() else 0

    def last_logged(self) -> int:
        """The last step of the log; a kill may have cut its last line."""
        try:
            lines = (self.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return 0
        for line in reversed(lines):
            if line.endswith("}"):
                return int(json.loads(line)["step"])
        return 0

    def kill_at(self, step: int, children: list[int], later: float) -> int:
        """Wait for the step, and a share of a step more; kill all; the step that was logged last."""
        before = self.log_size()
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            if self.log_size() > before and self.last_logged() >= step:
                break
            ended = [child for child in children if os.waitpid(child, os.WNOHANG)[0]]
            if ended:
                self._fail(f"a process ended before step {step}", [child for child in children if child not in ended])
            time.sleep(0.005)
        else:
            self._fail(f"no step {step} within {PATIENCE} s", children)
        time.sleep(later)
        kill(children)
        return self.last_logged()


def kill(children: Sequence[int]) -> None:
    """SIGKILL to each child and its workers."""
    for child in children:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)


def campaign(name: str, folder: Path, *, kills: int, steps: int, every: int, seed: int) -> Result:
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(name, folder, steps=steps, every=every)
    return compare(name, config, folder, kills=kills, seed=seed, processes=2 if name == "two processes" else 1)


def compare(name: str, config: TrainingConfig, folder: Path, *, kills: int, seed: int, processes: int) -> Result:
    """One run left alone, one killed `kills` times; what differs in the end."""
    import_all(config, folder)
    path = folder / "config.json"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    steps, every = config.schedule.steps, config.checkpoint.every
    alone = Training(path, folder / "alone", processes)
    began = time.monotonic()
    alone.finish(alone.start())
    a_step = (time.monotonic() - began) / steps
    rng = random.Random(seed)
    killed = Training(path, folder / "killed", processes)
    at, again, differing = [], [], []
    for _ in range(kills):
        done = killed.saved()
        if steps - done <= every:  # little is left to fall into: let it end, and begin another
            killed.finish(killed.start() if killed.is_unfinished() else [])
            differing += differences(alone.folder, killed.folder, steps)[1]
            shutil.rmtree(killed.folder)
            done = 0
        # A state or two farther at most, so that kills fall before, in and after what the last one left.
        step = min(steps - 1, done + rng.randint(1, 2 * every))
        at.append(killed.kill_at(step, killed.start(), rng.uniform(0, a_step)))
        again.append(killed.saved())
    killed.finish(killed.start() if killed.is_unfinished() else [])
    tensors, last = differences(alone.folder, killed.folder, steps)
    return Result(name, kills, at, again, steps, tensors, differing + last)


def import_all(config: TrainingConfig, folder: Path) -> None:
    """What every fork would import first, by two steps of the run here; that takes a fork longer than all its steps."""
    dry_run(config, device="cpu", precision="fp32", workers=0)
    (folder / "unused").mkdir(exist_ok=True)
    Log(folder / "unused").close()


def differences(first: Path, second: Path, step: int) -> tuple[int, list[str]]:
    """The number of tensors in the last states, and what is not equal of them and of the released checkpoints."""
    wrong = []
    count = 0
    for name in (f"state-{step:08d}.safetensors", "last.safetensors"):
        with safe_open(first / name, framework="pt") as one, safe_open(second / name, framework="pt") as other:
            if one.metadata() != other.metadata() or set(one.keys()) != set(other.keys()):
                wrong.append(f"{name}: what it says")
            held = [key for key in one.keys() if key in set(other.keys())]  # noqa: SIM118  # the file is no dict
            count += len(held)
            wrong += [key for key in held if not torch.equal(one.get_tensor(key), other.get_tensor(key))]
    return count, wrong


@click.command(help=__doc__)
@click.option("--runs", default=",".join(RUNS), show_default=True)
@click.option("--kills", default=10, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--every", default=4, show_default=True, help="steps between states")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="also write the figures, as JSON")
def main(runs: str, kills: int, steps: int, every: int, seed: int, out: Path | None) -> None:
    """Kill, go on, compare."""
    torch.set_num_threads(1)  # a fork does not take the threads of its parent along
    found = []
    for name in runs.split(","):
        with tempfile.TemporaryDirectory(prefix="refine-training-kills-") as folder:
            result = campaign(name, Path(folder), kills=kills, steps=steps, every=every, seed=seed)
        print(result.line(), flush=True)
        found.append(result)
        if out:
            out.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if any(result.differing for result in found) else 0)


if __name__ == "__main__":
    main()

"""A command watched from outside: exit code, seconds, CPU seconds, peak resident memory, and disk used on the way.

    python benchmarks/measured.py --folder results/ -- python infer.py --image huge.tif --out results/mask.tif

Memory is what the operating system counts for the command and its children (`ru_maxrss` of wait4). A process inherits
that figure from whoever starts it, so the command is started by this small program, not by the caller itself. Disk is
sampled: what lies in the folder, and files without a name that the command holds open.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.1
SECTOR = 512  # what st_blocks counts


@dataclass(frozen=True, slots=True)
class Measured:
    """What a command did and took."""

    code: int  # negative: the signal that ended it
    seconds: float
    cpu_seconds: float  # user's and system's: what other work on the machine does not lengthen
    peak_bytes: int
    disk_bytes: int  # more than lay in the folder before, at the worst sample
    out: str
    err: str


def run_measured(command: Sequence[str], folder: Path | None = None, timeout: float | None = None) -> Measured:
    """Run a command through this file as a process of its own; `folder` is where its files go.

    Raises subprocess.TimeoutExpired after `timeout` seconds, when the command has been killed.
    """
    call = [sys.executable, __file__, *([] if folder is None else ["--folder", str(folder)])]
    call += [] if timeout is None else ["--timeout", str(timeout)]
    output = subprocess.run([*call, "--json", "--", *command], check=True, capture_output=True, text=True).stdout
    found = json.loads(output)
    if found is None:
        raise subprocess.TimeoutExpired(list(command), timeout or 0)
    return Measured(**found)


def watch(command: Sequence[str], folder: Path | None, timeout: float | None) -> Measured | None:
    """Run a command from here; None if it was killed because it took too long."""
    begun = time.monotonic()
    before = 0 if folder is None else _named_bytes(folder)
    most = before
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if timeout is not None and time.monotonic() - begun > timeout:
                process.kill()
                os.wait4(process.pid, 0)
                return None
            if folder is not None:
                most = max(most, _named_bytes(folder) + _nameless_bytes(process.pid))
            time.sleep(SAMPLE_SECONDS)
        seconds = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        said = [file.read().decode(errors="replace") for file in (out, err)]
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cpu_seconds = round(usage.ru_utime + usage.ru_stime, 3)
    return Measured(process.returncode, round(seconds, 3), cpu_seconds, peak, most - before, *said)


def _named_bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it went while this looked
                total += Path(place, name).lstat().st_blocks * SECTOR
    return total


def _nameless_bytes(pid: int) -> int:
    """Files that a process holds open and that have no name any more; only Linux tells."""
    total = 0
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                about = entry.stat()
                if about.st_nlink == 0 and not str(Path(entry.path).readlink()).startswith("/memfd:"):
                    total += about.st_blocks * SECTOR
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the command's files go")
    parser.add_argument("--timeout", type=float, help="seconds after which it is killed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    found = watch([part for part in options.command if part != "--"], options.folder, options.timeout)
    if options.json:
        print(json.dumps(None if found is None else asdict(found)))
    elif found is None:
        sys.exit(f"measured.py: killed after {options.timeout:g} s")
    else:
        print(
            f"{found.out}{found.err}exit code {found.code}, {found.seconds:.1f} s, {found.cpu_seconds:.1f} s of CPU,"
            f" peak {found.peak_bytes / 2**20:.1f} MiB, disk {found.disk_bytes / 2**20:.1f} MiB"
        )


if __name__ == "__main__":
    main()

"""The real command in children of a process that has imported everything: a run costs no import, and may be killed.

A child is a fork, so it starts as a fresh `infer.py` would, and a signal that ends it ends nothing else. POSIX only.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

_HEAVY = ("torch", "timm", "cv2", "rasterio", "refine.cli", "refine.infer", "refine.backends.torch_backend")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended."""

    code: int  # negative: the signal that ended it
    seconds: float
    out: str
    err: str
    timed_out: bool = False
    leaving_seconds: float = 0.0  # from the interruption to the end

    @property
    def is_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.err


def import_all() -> None:
    """What every child would import first. Nothing here may start a thread: a fork does not take it along."""
    for name in _HEAVY:
        import_module(name)


def run_forked(
    arguments: Sequence[str],
    *,
    before: Callable[[], None] | None = None,
    kill_after: float | None = None,
    interrupt_after: float | None = None,
    timeout: float = 600,
) -> Ended:
    """`infer.py` with these arguments. `before` is called in the child; SIGKILL comes after `kill_after` seconds, or
    SIGINT, as Ctrl-C sends it, after `interrupt_after`.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _be_the_command(arguments, before, out.fileno(), err.fileno())
        limit, interrupted = begun + (timeout if kill_after is None else kill_after), 0.0
        status = None if interrupt_after is None else _wait(pid, begun + interrupt_after)
        if interrupt_after is not None and status is None:
            interrupted = time.monotonic()
            os.kill(pid, signal.SIGINT)
        status, timed_out = _wait(pid, limit) if status is None else status, False
        if status is None:
            os.kill(pid, signal.SIGKILL)
            timed_out = kill_after is None
            _, status = os.waitpid(pid, 0)
        said: list[str] = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
        code, ended = os.waitstatus_to_exitcode(status), time.monotonic()
        return Ended(code, ended - begun, said[0], said[1], timed_out, ended - interrupted if interrupted else 0.0)


def _wait(pid: int, limit: float) -> int | None:
    while time.monotonic() < limit:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.005)
    return None


def _be_the_command(arguments: Sequence[str], before: Callable[[], None] | None, out: int, err: int) -> None:
    """Never returns."""
    code = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background may not have
        if before is not None:
            before()
        from refine.cli import infer
        from refine.command import run

        try:
            run(infer, name="infer.py", arguments=list(arguments))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        code = 1
    finally:
        os._exit(code)


def with_small_parts() -> None:
    """Every two rows of windows are a part, and images of any size have a journal: a run has many parts."""
    from refine import cascade, planning

    cascade.PART_WINDOWS, cascade.PART_ROWS = 1, 2
    planning.JOURNALLED_PIXELS = 0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())

"""How a command's process keeps its memory, looks for garbage, and waits for its threads.

Memory that is freed stays with the process, so that the next batch does not have to ask for it again.

A network on a CPU frees and takes hundreds of megabytes with every batch. glibc gives such blocks back to the system,
which has to clear every page of the next ones: half of all page faults of a run, and up to a fifth of its time.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Mapping, MutableMapping

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell glibc to keep what is freed for later, in this process; gives whether it does now.

    For a command at its start, not for a library: it holds for the whole process. Does nothing where there is no glibc,
    and where the environment sets its allocator itself.
    """
    if not sys.platform.startswith("linux") or _is_set_by_user(environment):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, _NEVER))


def collect_seldom() -> None:
    """Look for garbage in cycles after every 20 000 objects that are made and kept; Python does after 700 or 2 000.

    Imports make hundreds of thousands that are no garbage: to look through them took 0.2 of 1.7 CPU seconds. For a
    command at its start, as above.
    """
    gc.set_threshold(20_000, 20, 20)


def wait_without_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait for others sleep, where the environment does not say how OpenMP's are to wait.

    They spin by default, on cores that the reader and others need: with one of two cores busy, 2.5 megapixels took 32 s
    so and 8 s asleep; with both free 11 megapixels 13.6 and 9.0 s. Steps of training, which nothing else runs beside,
    take 11 % longer asleep: not for them. For a command at its start: OpenMP reads it when torch is imported.
    """
    if not environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"


def _is_set_by_user(environment: Mapping[str, str]) -> bool:
    return any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in environment)

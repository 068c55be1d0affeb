"""What is freed stays, and garbage is looked for seldom: in processes of their own, since it cannot be undone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from refine.allocation import keep_freed_memory, wait_without_spinning

FAULTS = """
import resource, sys
import numpy as np
from refine.allocation import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory({})
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    np.ones(1 << 23)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    assert faults("keep") * 10 < faults("leave")


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_an_allocator_that_the_user_set_is_left_alone(name: str) -> None:
    assert not keep_freed_memory({name: "1"})


LOOKS = """
import gc, sys
from refine.allocation import collect_seldom
if sys.argv[1] == "seldom":
    collect_seldom()
looks = []
gc.callbacks.append(lambda phase, info: looks.append(phase))
kept = [[number] for number in range(200_000)]
for _ in range(300_000):
    cycle = []
    cycle.append(cycle)
print(len(looks), len(gc.get_objects()) - len(kept))
"""


def test_garbage_is_looked_for_seldom_but_found() -> None:
    often, seldom = (
        [int(word) for word in subprocess.check_output([sys.executable, "-c", LOOKS, how]).split()]
        for how in ("often", "seldom")
    )
    assert seldom[0] * 5 < often[0]
    assert seldom[1] < 150_000  # of 300 000 cycles


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "1"}, {"KMP_BLOCKTIME": "0"}])
def test_threads_wait_asleep_unless_the_user_says_how(chosen: dict[str, str]) -> None:
    environment = dict(chosen)
    wait_without_spinning(environment)
    assert environment == (chosen or {"OMP_WAIT_POLICY": "PASSIVE"})

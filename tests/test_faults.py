"""The short version of benchmarks/faults.py: each fault at least once, on small images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are children of one process, which takes fork")
def test_no_fault_ends_in_a_wrong_result_or_a_traceback(tmp_path: Path) -> None:
    faults = ("interrupts", "kill_operations", "file_limit", "damaged_image", "power_cut")
    call = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--scale", "0.05", "--side", "300"]
    call += [part for fault in faults for part in ("--only", fault)] + ["--out", str(tmp_path / "faults.json")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    }
    ended = subprocess.run(call, capture_output=True, text=True, timeout=600, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "faults.json").read_text())
    assert found["wrong"] == []
    ends = {end for counted in found["ends"].values() for end in counted}
    assert ends == {"identical", "refused", "left as it should be"}

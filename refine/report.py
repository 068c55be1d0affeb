"""What was done to one image, as a frozen value and as JSON."""

from __future__ import annotations

import platform
import sys
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue

from refine import __version__
from refine.engine import RunReport
from refine.errors import RasterError
from refine.whole_file import write_whole

_LIBRARIES = ("numpy", "opencv-python-headless", "rasterio", "safetensors", "timm", "torch", "torchvision")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LevelEntry(_Entry):
    """One level of the cascade, as it was swept."""

    decimation: int
    height: int
    width: int
    reach: float
    windows: int
    run: int
    skipped: int
    changed: float  # share of the pixels that the network moved by more than half an 8-bit step
    not_finite: int
    seconds: dict[str, float]


class NetworkEntry(_Entry):
    """A network that was used, and the file it came from."""

    architecture: str
    checkpoint: str
    sha256: str


class Report(_Entry):
    """All that `refine_raster` did: sizes, levels, windows, seconds, memory, versions, checkpoints."""

    image: str
    mask: str | None  # None: made by `coarse`
    out: str
    height: int
    width: int
    roi: tuple[int, ...] | None
    mask_height: int
    mask_width: int
    shown_values: tuple[tuple[float, float], ...] | None  # as black and white, of each band; None: 8 bit as it is
    reach: float
    agreement: float  # 0..1, how far the result, averaged over the mask's pixels, was to be the mask
    levels: tuple[LevelEntry, ...]
    windows_run: int
    windows_skipped: int
    seconds: dict[str, float]
    peak_memory_bytes: int  # of the process so far, as the operating system counts it
    planned_peak_bytes: int
    device: str
    batch: int
    network: NetworkEntry
    coarse: tuple[NetworkEntry, ...]  # those that made the first mask
    settings: dict[str, JsonValue]
    versions: dict[str, str]
    notes: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Write it as JSON; the file appears when whole. Raises RasterError."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    def summary(self) -> str:
        """One line for a terminal."""
        windows = self.windows_run + self.windows_skipped
        height, width = (self.height, self.width) if self.roi is None else self.roi[2:]
        return (
            f"{self.out}: {width} x {height}, {self.windows_run} of {windows} windows run on"
            f" {len(self.levels)} {'level' if len(self.levels) == 1 else 'levels'}, {self.seconds['total']:.1f} s"
        )


def level_entries(run: RunReport) -> tuple[LevelEntry, ...]:
    """The engine's reports, coarsest level first."""
    return tuple(
        LevelEntry(
            decimation=level.decimation,
            height=level.height,
            width=level.width,
            reach=level.reach,
            windows=level.windows,
            run=level.run,
            skipped=level.skipped,
            changed=level.changed,
            not_finite=level.not_finite,
            seconds={name: round(spent, 4) for name, spent in asdict(level.seconds).items()},
        )
        for level in run.levels
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file, which appears when it is whole. Raises RasterError."""
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise RasterError(f"{path}: cannot be written: {error.strerror or error}") from error


def peak_memory_bytes() -> int:
    """The most main memory that this process has held so far."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    with suppress(OSError, ValueError, StopIteration):  # Linux. getrusage would count whoever started this process too
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def versions() -> dict[str, str]:
    """What the run's numbers may depend on."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"refine": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found

"""Images, the bytes that undisturbed runs make of them, and a count of how disturbed runs ended; see `faults.py`."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from forked import Ended, names, run_forked
from scenes import write_layout

STEMS = ("a", "b", "c")
_FILE_EVENTS = frozenset({"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"})


class Campaign:
    """A folder with three images and masks, the truth of each, and the count of how runs ended."""

    def __init__(self, folder: Path, side: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.ends: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.wrong: list[str] = []
        self.leaving_seconds = 0.0  # the most from an interruption to the end
        self._told: set[str] = set()
        self._wrong_told = 0
        self.folder, self.images, self.masks = folder, folder / "images", folder / "masks"
        for place in (self.images, self.masks):
            place.mkdir()
        for index, stem in enumerate(STEMS):
            image, mask = write_layout(folder, "rgb8-tiled", side, side + 40 * index, seed=index)
            image.rename(self.images / f"{stem}.tif")
            mask.rename(self.masks / f"{stem}.png")
        self.image, self.mask = self.images / "a.tif", self.masks / "a.png"
        truth = self.place()
        first = self.infer(truth / "a.tif")
        assert first.code == 0, first.err
        self.events = self.count_events()
        whole = self.infer_folder(truth)
        assert whole.code == 0, whole.err
        self.seconds, self.folder_seconds = first.seconds, whole.seconds
        self.truth = {stem: (truth / f"{stem}.tif").read_bytes() for stem in STEMS}

    def place(self) -> Path:
        """A new folder for results."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def infer(
        self, out: Path, *more: str, image: Path | None = None, before: Callable[[], None] | None = None,
        kill_after: float | None = None, interrupt_after: float | None = None,
    ) -> Ended:  # fmt: skip
        given = ["--image", str(image or self.image), "--mask", str(self.mask), "--out", str(out), "--device", "cpu"]
        given += ["--batch", "4", "--resume", *more]
        return run_forked(given, before=before, kill_after=kill_after, interrupt_after=interrupt_after)

    def infer_folder(self, out: Path, kill_after: float | None = None) -> Ended:
        given = ["--image", str(self.images), "--mask", str(self.masks), "--out", f"{out}/", "--device", "cpu"]
        return run_forked([*given, "--batch", "4", "--resume"], kill_after=kill_after)

    def count_events(self) -> int:
        """File operations of an undisturbed run."""
        place = self.place()
        told = place.with_suffix(".events")

        def before() -> None:
            count = 0

            def hook(event: str, arguments: tuple[object, ...]) -> None:
                nonlocal count
                if is_file_event(place, event, arguments):
                    count += 1
                    os.pwrite(descriptor, str(count).encode(), 0)

            descriptor = os.open(told, os.O_CREAT | os.O_WRONLY)
            sys.addaudithook(hook)

        ended = self.infer(place / "a.tif", before=before)
        assert ended.code == 0, ended.err
        return int(told.read_text())

    def judge(self, fault: str, ended: Ended, out: Path, stem: str = "a", old: bytes | None = None) -> str:
        """Count how a run ended; `old` is what lay under the output's name before."""
        here = out.read_bytes() if out.exists() else None
        left = [name for name in names(out.parent) if name.startswith(".") or name.endswith(".aux.xml")]
        if ended.code == 0:
            end = "identical" if here == self.truth[stem] and not left else "wrong"
        else:
            lines = ended.err.strip().count("\n") + 1
            said = ended.code == 2 and not ended.is_traceback and lines == 1 and bool(ended.err.strip())
            end = "refused" if said and here == old and all(name.endswith(".run") for name in left) else "wrong"
        self.ends[fault][end] += 1
        if end == "wrong":
            self.wrong.append(f"{fault}: exit code {ended.code}, left {left}, {ended.err.strip()[-300:]}")
        return end

    def tell(self) -> None:
        """Print what has not been printed."""
        for what in [what for what in self.ends if what not in self._told]:
            self._told.add(what)
            print(
                f"{what:40} {', '.join(f'{count} {end}' for end, count in sorted(self.ends[what].items()))}", flush=True
            )
        for line in self.wrong[self._wrong_told :]:
            print(f"WRONG  {line}", flush=True)
        self._wrong_told = len(self.wrong)

    def ends_well(self, fault: str, out: Path) -> None:
        """Go on; if that is refused, start anew, which must then do."""
        ended = self.infer(out)
        if self.judge(fault, ended, out, old=out.read_bytes() if out.exists() else None) == "refused":
            given = ["--image", str(self.image), "--mask", str(self.mask), "--out", str(out), "--device", "cpu"]
            anew = run_forked([*given, "--batch", "4", "--overwrite"])
            if anew.code or out.read_bytes() != self.truth["a"]:
                self.wrong.append(f"{fault}: starting anew ended in {anew.code}: {anew.err.strip()[-300:]}")
                self.ends[fault]["wrong"] += 1
        shutil.rmtree(out.parent)


def is_file_event(place: Path, event: str, arguments: tuple[object, ...]) -> bool:
    """Whether an audited event is an operation on a file below `place`."""
    return event in _FILE_EVENTS and bool(arguments) and str(arguments[0]).startswith(str(place))

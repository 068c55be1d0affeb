"""What goes wrong under a run: kills, full disks, damaged images, power cuts; and what comes out of the run after it.

    python benchmarks/faults.py                                 # the whole campaign: 50 kills among them
    python benchmarks/faults.py --scale 0.1 --out faults.json   # a tenth of it

A small image is refined in many parts, undisturbed first: those bytes are the truth. Then each fault happens to a run
of its own, and the command is given again with --resume. Every end is one of

    identical   exit code 0 and the bytes of the undisturbed run
    refused     exit code 2, one line, and nothing new under the output's name
    wrong       all else: other bytes, a traceback, a hang, a file left behind; then the exit code is 1

A kill falls at a random moment, or at a random file operation (opening, renaming, removing), where it does most.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from campaign import STEMS, Campaign, is_file_event
from forked import import_all, names, with_small_parts


def kill_moments(campaign: Campaign, count: int) -> None:
    """SIGKILL at random moments, one to three times before a run may end."""
    done = 0
    while done < count:
        out = campaign.place() / "a.tif"
        for _ in range(min(count - done, campaign.rng.randint(1, 3))):
            campaign.infer(out, kill_after=campaign.rng.uniform(0.05, 0.95) * campaign.seconds)
            done += 1
        campaign.ends_well("kill at a moment", out)


def interrupts(campaign: Campaign, count: int) -> None:
    """Ctrl-C at random moments and file operations: one line is said, and finished parts are left, or nothing."""
    for index in range(count):
        out = campaign.place() / "a.tif"
        if index % 2:
            ended = campaign.infer(out, interrupt_after=campaign.rng.uniform(0, 0.95) * campaign.seconds)
        else:
            event = campaign.rng.randint(1, campaign.events)
            ended = campaign.infer(out, before=partial(_signalled, out.parent, event, signal.SIGINT))
        campaign.leaving_seconds = max(campaign.leaving_seconds, ended.leaving_seconds)
        run, said = out.with_name(".a.tif.run"), ended.err.strip()
        if out.exists():  # it was published; its folder goes with the next run, if it is still there
            is_left_well = out.read_bytes() == campaign.truth["a"] and set(names(out.parent)) <= {out.name, run.name}
        elif any(run.glob("level*-part*.gz")) and (run / "run.json").exists():
            is_left_well = names(out.parent) == [run.name] and "--resume" in said
        else:
            is_left_well = not names(out.parent)
        if ended.code != 0:  # else it was through before
            well = ended.code == 130 and is_left_well and said.startswith("infer.py: interrupted") and "\n" not in said
            campaign.ends["Ctrl-C"]["left as it should be" if well else "wrong"] += 1
            if not well:
                campaign.wrong.append(f"Ctrl-C: exit code {ended.code}, left {names(out.parent)}, {said[-300:]}")
        campaign.ends_well("Ctrl-C, then gone on with", out)
    print(f"{campaign.leaving_seconds:.1f} s at most from Ctrl-C to the end", flush=True)


def kill_operations(campaign: Campaign, count: int) -> None:
    """SIGKILL at random file operations, the last ones (when the output gets its name) more often."""
    for index in range(count):
        out = campaign.place() / "a.tif"
        last = campaign.rng.randrange(12) if index % 2 else campaign.rng.randrange(campaign.events)
        campaign.infer(out, before=partial(_signalled, out.parent, campaign.events - last, signal.SIGKILL))
        campaign.ends_well("kill at a file operation", out)


def kill_folders(campaign: Campaign, count: int) -> None:
    """SIGKILL at random moments of a run over a folder."""
    for _ in range(count):
        place = campaign.place()
        campaign.infer_folder(place, kill_after=campaign.rng.uniform(0.05, 0.95) * campaign.folder_seconds)
        last = campaign.infer_folder(place)
        for stem in STEMS:
            campaign.judge("kill over a folder", last, place / f"{stem}.tif", stem)
        shutil.rmtree(place)


def full_disk(campaign: Campaign, count: int) -> None:
    """A file system that fills up in the run; then it grows, and the run goes on."""
    with _small_file_system(campaign.folder) as resize:
        if resize is None:
            print("full disk: skipped, since nothing can be mounted here (it takes root)")
            return
        place = campaign.folder / "small"
        for _ in range(count):
            resize(campaign.rng.randint(8, 400) << 10)
            out = place / "a.tif"
            campaign.judge("full disk", campaign.infer(out), out)
            resize(64 << 20)
            if not out.exists():
                campaign.judge("full disk, then room", campaign.infer(out), out)
            for path in place.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def file_limit(campaign: Campaign, count: int) -> None:
    """No file may grow beyond a random size (RLIMIT_FSIZE), as where a quota ends; then it may."""
    for _ in range(count):
        out = campaign.place() / "a.tif"
        limit = campaign.rng.randint(100, len(campaign.truth["a"]) * 2)
        campaign.judge("no room in a file", campaign.infer(out, before=partial(_limited, limit)), out)
        if out.exists():
            shutil.rmtree(out.parent)
        else:
            campaign.ends_well("no room in a file, then room", out)


def damaged_image(campaign: Campaign, count: int) -> None:
    """Some bytes inside the image flipped, or its end cut off, before the run or in the middle of it."""
    data = campaign.image.read_bytes()
    for index in range(count):
        place = campaign.place()
        image, out = place / "image.tif", place / "a.tif"
        is_later, is_cut = index % 2, index % 4 < 2
        image.write_bytes(data)
        if is_later:
            campaign.infer(out, image=image, kill_after=campaign.rng.uniform(0.4, 0.9) * campaign.seconds)
            if out.exists():
                continue
        about = image.stat()
        if is_cut:
            os.truncate(image, campaign.rng.randrange(1, len(data)))
        else:
            where, length = campaign.rng.randrange(1 << 10, len(data) - (1 << 10)), campaign.rng.randint(1, 1 << 10)
            image.write_bytes(
                data[:where] + bytes(byte ^ 0x5A for byte in data[where:][:length]) + data[where + length :]
            )
        os.utime(image, ns=(about.st_atime_ns, about.st_mtime_ns))  # a disk that decays leaves the time
        ended = campaign.infer(out, image=image)
        campaign.judge(
            f"image {'cut' if is_cut else 'damaged'}{' in the middle of a run' if is_later else ''}", ended, out
        )
        shutil.rmtree(place)


def power_cut(campaign: Campaign, count: int) -> None:
    """A killed run whose last file lost its end, or holds zeros, or nothing; or its run.json did."""
    for index in range(count):
        out = campaign.place() / "a.tif"
        campaign.infer(out, kill_after=campaign.rng.uniform(0.4, 0.95) * campaign.seconds)
        run = out.with_name(".a.tif.run")
        parts = sorted(run.glob("level*-part*.gz"), key=lambda path: path.stat().st_mtime_ns) if run.exists() else []
        chosen = run / "run.json" if index % 5 == 4 else parts[-1] if parts else None
        if chosen is not None and chosen.exists():
            data = chosen.read_bytes()
            kept = campaign.rng.randrange(len(data))
            lost = (b"", bytes(len(data)), data[:kept], data[:kept] + bytes(len(data) - kept))[index % 4]
            chosen.write_bytes(lost)
        campaign.ends_well("power cut", out)


FAULTS: tuple[tuple[Callable[[Campaign, int], None], int], ...] = (
    (kill_moments, 25),
    (interrupts, 40),
    (kill_operations, 40),
    (kill_folders, 25),
    (full_disk, 12),
    (file_limit, 12),
    (damaged_image, 24),
    (power_cut, 20),
)


def _signalled(place: Path, count: int, number: signal.Signals) -> None:
    """From here on, the process gets a signal at file operation number `count` below `place`."""
    left = count

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if is_file_event(place, event, arguments):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def _limited(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then the write fails with an error instead


@contextmanager
def _small_file_system(folder: Path) -> Iterator[Callable[[int], None] | None]:
    """A tmpfs at `folder`/small, and what sets its size in bytes; None where nothing can be mounted."""
    place = folder / "small"
    place.mkdir()
    mount = shutil.which("mount")
    call = [mount or "", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if mount is None or subprocess.run(call, capture_output=True).returncode:
        yield None
        return

    def resize(size: int) -> None:
        subprocess.run([mount, "-o", f"remount,size={size}", str(place)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", str(place)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the campaign's runs; each fault at least once"
    )
    parser.add_argument("--side", type=int, default=1100, help="of the images")
    parser.add_argument("--only", action="append", choices=[fault.__name__ for fault, _ in FAULTS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    import_all()
    with_small_parts()
    with tempfile.TemporaryDirectory(prefix="refine-faults-") as name:
        campaign = Campaign(Path(name).resolve(), options.side, options.seed)
        print(f"undisturbed: {campaign.seconds:.1f} s, {campaign.events} file operations", flush=True)
        for fault, count in FAULTS:
            if options.only is None or fault.__name__ in options.only:
                fault(campaign, max(1, round(options.scale * count)))
                campaign.tell()
    if options.out is not None:
        ends = {what: dict(counted) for what, counted in campaign.ends.items()}
        options.out.write_text(json.dumps({"ends": ends, "wrong": campaign.wrong}, indent=2) + "\n")
    sys.exit(1 if campaign.wrong else 0)


if __name__ == "__main__":
    main()

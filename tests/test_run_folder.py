"""The folder beside an output: one process at a time, what an interrupted run leaves, and that nothing else is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refine.errors import InputError, RasterError
from refine.identity import changes, fingerprint
from refine.journal import part_name
from refine.run_folder import RunFolder, can_resume, check_left_over, folder_of, is_published
from refine.stream import Carry, PartEnd

IDENTITY = {"the image": "abc", "--tile": "224"}
END = PartEnd(np.zeros((1, 1), np.bool_), 0, 0, Carry(np.zeros((0, 5), np.float32), np.zeros(1, np.int64)), 1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "mask.tif"


def interrupt(out: Path, *, parts: int = 1) -> None:
    """Leave what a run leaves that is stopped after so many of its four parts."""
    with RunFolder(out) as folder:
        journal = folder.journal(IDENTITY, [4], resume=False)
        for part in range(parts):
            with journal.begin(0, part) as file:
                file.write(0, np.zeros((2, 5), np.uint8), None)
                file.finish(END)


def test_a_run_that_finishes_leaves_nothing(out: Path) -> None:
    with RunFolder(out) as folder:
        journal = folder.journal(IDENTITY, [1], resume=False)
        with journal.begin(0, 0) as file:
            file.finish(END)
        assert can_resume(out)
        folder.finish()
    assert not list(out.parent.iterdir())


def test_a_run_that_ends_before_a_part_is_finished_leaves_nothing(out: Path) -> None:
    interrupt(out, parts=0)
    with RunFolder(out) as folder:
        (folder.path / "unfinished.tif").write_bytes(b"half")
    assert not list(out.parent.iterdir())


def test_a_run_that_is_interrupted_once_its_output_has_its_name_leaves_only_that(out: Path) -> None:
    with RunFolder(out) as folder:
        with folder.journal(IDENTITY, [1], resume=False).begin(0, 0) as file:
            file.finish(END)
        out.write_bytes(b"whole")  # and the interruption comes before `finish`
    assert list(out.parent.iterdir()) == [out]


def test_finished_parts_stay_and_are_gone_on_with(out: Path) -> None:
    interrupt(out, parts=2)
    assert can_resume(out)
    (folder_of(out) / "half.unfinished").write_bytes(b"half")
    with RunFolder(out) as folder:
        assert not (folder.path / "half.unfinished").exists()
        assert folder.journal(IDENTITY, [4], resume=True).finished(0) == 2
    with RunFolder(out) as folder:
        assert folder.journal(IDENTITY, [4], resume=False).finished(0) == 0
    assert not folder_of(out).exists()


def test_what_an_interrupted_run_left_is_refused_with_both_ways_out(out: Path) -> None:
    check_left_over(out)
    interrupt(out)
    with pytest.raises(InputError, match=r"mask\.tif: an interrupted run .* --resume to go on .* --overwrite to start"):
        check_left_over(out)
    assert can_resume(out)


def test_what_changed_is_named(out: Path) -> None:
    interrupt(out)
    changed = {"the image": "abd", "--tile": "256", "--roi": "1,2,3,4"}
    message = r"changed: the image \(was abc, is abd\); --tile \(was 224, is 256\); --roi \(was none, is 1,2,3,4\)\."
    with RunFolder(out) as folder, pytest.raises(InputError, match=message):
        folder.journal(changed, [4], resume=True)
    assert can_resume(out)
    (folder_of(out) / "run.json").write_text("{")
    with RunFolder(out) as folder, pytest.raises(InputError, match=r"run\.json, which cannot be read"):
        folder.journal(IDENTITY, [4], resume=True)


def test_long_texts_are_not_shown() -> None:
    assert changes({"the image": "a" * 64}, {"the image": "b" * 64}) == ("the image",)


HOLD = """
import sys, time
from pathlib import Path
from refine.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_while_the_first_lives(out: Path) -> None:
    interrupt(out)
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    with first.stdout:
        assert first.stdout.readline() == "held\n"
        for enter in (lambda: RunFolder(out).__enter__(), lambda: check_left_over(out)):
            with pytest.raises(InputError, match=rf"another process is making it \(process {first.pid} on "):
                enter()
        first.kill()
        first.wait()
    with RunFolder(out) as folder:  # what a killed process locked is free
        assert folder.journal(IDENTITY, [4], resume=True).finished(0) == 1


def test_a_lock_that_was_removed_counts_for_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first leaves and removes the folder after the second has opened the lock, before it is locked."""
    import refine.run_folder as module

    lock, first = module._lock, RunFolder(out)
    first.__enter__()
    calls: list[int] = []

    def late(descriptor: int) -> bool:
        if not calls:
            first.__exit__(None, None, None)
        calls.append(descriptor)
        return lock(descriptor)

    monkeypatch.setattr(module, "_lock", late)
    with RunFolder(out) as second:
        assert len(calls) == 2
        assert (second.path / "lock").read_text().startswith(f"process {os.getpid()} on ")
    assert not list(out.parent.iterdir())


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"mask\.tif: cannot be written"):
        RunFolder(tmp_path / "nowhere" / "mask.tif").__enter__()
    (tmp_path / ".mask.tif.run").write_text("a file")
    with pytest.raises(RasterError, match=r"mask\.tif: cannot be written"):
        RunFolder(tmp_path / "mask.tif").__enter__()


@pytest.mark.skipif(os.name == "nt", reason="links take rights there")
@pytest.mark.parametrize("linked", ["folder", "lock"])
def test_what_a_link_leads_to_is_left_alone(out: Path, linked: str) -> None:
    """Whoever may write beside the output may have put it there."""
    others = out.with_name("others")
    others.mkdir()
    (others / "precious").write_text("of somebody else")
    if linked == "folder":
        folder_of(out).symlink_to(others)
    else:
        folder_of(out).mkdir()
        (folder_of(out) / "lock").symlink_to(others / "precious")
    with pytest.raises((InputError, RasterError), match="link"):
        RunFolder(out).__enter__()
    assert (others / "precious").read_text() == "of somebody else"


def test_long_names_have_a_folder_too(tmp_path: Path) -> None:
    out = tmp_path / ("ä" * 124 + ".tif")
    interrupt(out)
    assert can_resume(out)
    assert folder_of(out) != folder_of(tmp_path / ("ö" * 124 + ".tif"))


def test_an_output_is_published_if_it_is_newer_than_the_last_part(out: Path) -> None:
    assert not is_published(out)
    out.write_bytes(b"old")
    interrupt(out, parts=3)
    assert not is_published(out)
    interrupt(out, parts=4)
    last = (folder_of(out) / part_name(0, 3)).stat().st_mtime_ns
    os.utime(out, ns=(last - 1, last - 1))
    assert not is_published(out)
    out.write_bytes(b"new")
    assert is_published(out)


def test_a_fingerprint_sees_size_time_both_ends_and_every_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(bytes(3 << 20))
    second.write_bytes(b"x")
    os.utime(first, ns=(10**18, 10**18))
    found = {fingerprint([first]), fingerprint([first, second]), fingerprint([second])}
    for place in (0, (3 << 20) - 1):
        data = bytearray(3 << 20)
        data[place] = 1
        first.write_bytes(data)
        os.utime(first, ns=(10**18, 10**18))
        found.add(fingerprint([first]))
    os.utime(first, ns=(10**18, 10**18 + 1))
    found.add(fingerprint([first]))
    first.write_bytes(data[:-1])
    os.utime(first, ns=(10**18, 10**18))
    found.add(fingerprint([first]))
    assert len(found) == 7
    with pytest.raises(RasterError, match="cannot be read"):
        fingerprint([tmp_path / "missing"])


def test_a_viewers_statistics_change_no_fingerprint(tmp_path: Path) -> None:
    image, statistics = tmp_path / "a.tif", tmp_path / "a.tif.aux.xml"
    image.write_bytes(b"pixels")
    before = fingerprint([image])
    statistics.write_text("<PAMDataset/>")
    assert fingerprint([image, statistics]) == before


@pytest.mark.parametrize("moment", ["_acquire", "_clear"])
def test_an_interruption_on_the_way_in_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """There is no `with` block yet that would clean up."""
    whole = getattr(RunFolder, moment)
    calls = []

    def interrupted_once(folder: RunFolder) -> object:
        done = whole(folder)
        calls.append(moment)
        if len(calls) == 1:
            if moment == "_acquire":
                os.close(done)
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(RunFolder, moment, interrupted_once)
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "out.tif"):
        pass
    assert not list(tmp_path.iterdir())

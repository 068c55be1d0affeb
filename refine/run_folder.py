"""The hidden folder beside an output while it is made: one process at a time, and what an interrupted one left.

    .<output>.run/  lock  run.json (what the bytes depend on)  level0-part00000.gz ...  the output, unfinished

Nothing of it lasts: it goes when the output has its name, and when a run ends before a part was finished.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from refine.errors import InputError, RasterError
from refine.identity import Identity, changes
from refine.journal import PartFiles, part_name
from refine.whole_file import write_whole

FORMAT = "3"
"""Layout of the folder, and arithmetic of what lies in it; it is a part of the identity."""

_LOCK, _RUN, _PARTS = "lock", "run.json", "level*-part*.gz"
_LONGEST_NAME = 240  # bytes; file systems allow 255


def folder_of(out: Path) -> Path:
    """Where the run folder of an output lies."""
    name = os.fsencode(out.name)
    return out.with_name(f".{out.name if len(name) <= _LONGEST_NAME else format(zlib.crc32(name), '08x')}.run")


def can_resume(out: Path) -> bool:
    """Whether an interrupted run left finished parts."""
    folder = folder_of(out)
    return (folder / _RUN).exists() and any(folder.glob(_PARTS))


def check_left_over(out: Path) -> None:
    """Raises InputError if another process is at work on `out`, or an interrupted run left finished parts."""
    if can_resume(out):
        with RunFolder(out):
            pass
        if can_resume(out):
            raise InputError(
                f"{out}: an interrupted run left finished parts beside it; give --resume to go on with it, or"
                " --overwrite to start anew"
            )


def is_published(out: Path) -> bool:
    """Whether the run that left its parts had given the output its name: all are there, and the output is newer."""
    folder = folder_of(out)
    try:
        counts = json.loads((folder / _RUN).read_text())["parts"]
        last = (folder / part_name(len(counts) - 1, counts[-1] - 1)).stat()
        return out.stat().st_mtime_ns >= last.st_mtime_ns
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return False


def forget(out: Path) -> None:
    """Remove what a run left that was killed after the output had its name; nothing if another process is there."""
    if folder_of(out).is_dir():
        with suppress(InputError, RasterError), RunFolder(out) as folder:
            folder.finish()


class RunFolder:
    """The folder of one output, locked for this process inside a `with` block.

    Leaving removes it, unless it holds finished parts of a run whose output has not got its name. Raises InputError if
    another process works on the output, RasterError if the folder cannot be written.
    """

    def __init__(self, out: Path) -> None:
        self._out, self.path = out, folder_of(out)
        self._lock = -1

    def __enter__(self) -> RunFolder:
        try:
            self._lock = self._acquire()
            if can_resume(self._out):
                self._remove(keep=lambda path: path.name in (_LOCK, _RUN) or path.match(_PARTS))
            else:
                self._clear()
        except KeyboardInterrupt:  # no `with` block is there yet to clean up
            with suppress(InputError, OSError):
                if self._lock < 0:
                    self._lock = self._acquire()
                self.__exit__(None, None, None)
            raise
        except OSError as error:
            if isinstance(error, RasterError):
                raise
            where = "" if error.filename is None else f"{error.filename}: "
            raise RasterError(f"{self._out}: cannot be written: {where}{error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if can_resume(self._out) and not is_published(self._out):
            os.close(self._lock)
            return
        self.finish()
        lock = self.path / _LOCK
        with suppress(OSError):  # while it is locked: who opens it afterwards makes a new one
            lock.unlink()
        os.close(self._lock)
        with suppress(OSError):  # another process may be in it by now
            if os.name == "nt":  # where an open file cannot be removed
                lock.unlink(missing_ok=True)
            self.path.rmdir()

    def journal(self, identity: Identity, parts: Sequence[int], *, resume: bool) -> PartFiles:
        """The journal of the run of that identity: with `resume` it goes on with what is there, else it is empty.

        `parts` says how many each level has, coarsest first. Raises InputError, naming what changed, if what is there
        is of another run.
        """
        identity = {"the run folder's format": FORMAT, **identity}
        if resume and can_resume(self._out):
            self._check(identity)
        else:
            self._clear()
            content = json.dumps({"identity": identity, "parts": list(parts)}, indent=2) + "\n"
            try:
                write_whole(self.path / _RUN, content.encode())
            except OSError as error:
                raise RasterError(f"{self._out}: cannot be written: {error.strerror or error}") from error
        return PartFiles(self.path, parts)

    def finish(self) -> None:
        """The output has its name, or there is nothing to keep: forget the run."""
        with suppress(OSError):  # what cannot be removed is hidden, and the next run on this output removes it
            self._clear()

    def _check(self, identity: Identity) -> None:
        try:
            before = json.loads((self.path / _RUN).read_text())["identity"]
            changed = changes({str(name): str(value) for name, value in before.items()}, identity)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            changed = (f"{self.path / _RUN}, which cannot be read",)
        if changed:
            raise InputError(
                f"{self._out}: cannot go on with the interrupted run; since then changed: {'; '.join(changed)}."
                " Undo that, or give --overwrite without --resume to start anew"
            )

    def _clear(self) -> None:
        """Forget the run first, so that no moment has parts under another run's identity."""
        (self.path / _RUN).unlink(missing_ok=True)
        self._remove(keep=lambda path: path.name == _LOCK)

    def _remove(self, *, keep: Callable[[Path], bool]) -> None:
        for path in self.path.iterdir():
            if not keep(path):
                path.unlink(missing_ok=True)

    def _acquire(self) -> int:
        """The locked file's descriptor. A lock that its holder has removed counts for nothing.

        Links are not followed: what they lead to is not ours to clear.
        """
        path = self.path / _LOCK
        while True:
            if self.path.is_symlink():
                raise InputError(f"{self.path}: is a link, where the unfinished {self._out.name} is kept; remove it")
            self.path.mkdir(exist_ok=True)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            except FileNotFoundError:
                if not self.path.parent.is_dir():
                    raise
                continue  # the folder was removed by whoever had it
            try:
                if not _lock(descriptor):
                    holder = os.read(descriptor, 200).decode(errors="replace").strip() if os.name != "nt" else "unknown"
                    os.close(descriptor)
                    raise InputError(f"{self._out}: another process is making it ({holder}); wait for it, or stop it")
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), path.stat()):
                        os.truncate(descriptor, 0)
                        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                        return descriptor
            except KeyboardInterrupt:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a file until it is closed or the process ends; whether that worked. Not all network file systems can: there
    nothing is locked.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
    return True

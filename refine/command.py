"""How a command of `refine` begins and ends: its arguments in, one line on stderr and an exit code where it fails."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from types import FrameType
from typing import NoReturn

import click

from refine.errors import RefineError

INTERRUPTED, TERMINATED = 130, 143  # what shells give for a program that SIGINT or SIGTERM ended


def run(command: click.Command, *, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command under `name` and leave the process: one line on stderr for whatever the user can mend.

    Without `arguments` those of the process are taken, which then ends without taking its libraries apart.
    """
    ending = _Ending()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that the terminal's encoding lacks is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    if arguments is None:
        atexit.register(ending.leave)  # the first that is registered is the last that is called
    try:
        with unwinding_on_signals():
            code = command.main(args=arguments, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        fail(context.command_path if context else name, error.format_message())
        ending.code = error.exit_code
    else:
        ending.code = code if isinstance(code, int) else 0
    sys.exit(ending.code)


class _Ending:
    """The exit code of the process, and how it leaves when Python has done all but free its libraries.

    To be freed torch's take 0.6 CPU seconds, and 114 MiB more than the run took, which no plan could count.
    """

    code = 1  # of an error that nobody caught

    def leave(self) -> None:
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:  # as it is where it was closed before the start
                    stream.flush()
        except (OSError, ValueError):  # a reader that went away: Python says so, with an exit code of its own
            return
        os._exit(self.code)


def fail(name: str, message: str) -> None:
    """Say on stderr, in one line, what went wrong in `name`."""
    click.echo(click.format_filename(f"{name}: {' '.join(message.split())}"), err=True)  # a name may be no UTF-8


class Terminated(KeyboardInterrupt):
    """SIGTERM, or a terminal that closed: as Ctrl-C it unwinds the stack, so that what is half written goes."""


@contextmanager
def unwinding_on_signals() -> Iterator[None]:
    """Raise Terminated for SIGTERM and SIGHUP inside; training, which saves its state first, has its own handler."""

    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    # What is ignored stays so: that is how nohup lets a command outlive its terminal.
    before = {n: signal.signal(n, terminate) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Refused(click.ClickException):
    """A RefineError or an interruption, with the context that knows the command's name."""

    def __init__(self, message: str, context: click.Context, exit_code: int) -> None:
        super().__init__(message)
        self.ctx = context
        vars(self)["exit_code"] = exit_code  # click declares it for the class


class Command(click.Command):
    """A command whose errors and interruptions become one line; `--image` takes several files at once."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for option, value in zip(["", *args], args, strict=False):
            name, separator, given = value.partition("=")
            if not value or (name.startswith("--") and separator and not given):  # a path of "" would be this folder
                raise click.UsageError(f"{name or option}: the value is empty", ctx)
        return super().parse_args(ctx, repeat_option(args, "--image"))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except RefineError as error:
            raise Refused(str(error), ctx, error.exit_code) from error
        except OSError as error:  # a name that is too long, a folder that may not be read: the system's own words
            place = "" if error.filename is None else f"{error.filename}: "
            raise Refused(f"{place}{error.strerror or error}", ctx, RefineError.exit_code) from error
        except Terminated as error:
            raise Refused(_how("terminated", error), ctx, TERMINATED) from error
        except KeyboardInterrupt as error:
            raise Refused(_how("interrupted", error), ctx, INTERRUPTED) from error


def _how(ended: str, error: KeyboardInterrupt) -> str:
    """With what the interrupted command had to say of it."""
    return f"{ended}; {error}" if str(error) else ended


def repeat_option(arguments: Sequence[str], option: str) -> list[str]:
    """`--image a b` as `--image a --image b`, which is what a shell makes of `--image *.tif` and click understands."""
    spelled: list[str] = []
    values = -1  # values of `option` so far; -1 outside of it
    for argument in arguments:
        if argument == option:
            values = 0
        elif argument.startswith("-") and values != 0:
            values = 1 if argument.startswith(f"{option}=") else -1
        elif values >= 0:
            if values:
                spelled.append(option)
            values += 1
        spelled.append(argument)
    return spelled

"""How the options of `refine` are read: numbers with commas, sizes with units, and the fields of Settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from refine.errors import InputError
from refine.settings import Settings, parse_size

Function = TypeVar("Function", bound=Callable[..., object])
Parser = Callable[[click.Context, click.Parameter, "str | None"], object]

FILE = click.Path(path_type=Path)


def numbers(kind: type[int] | type[float], shape: str) -> Parser:
    """Reads numbers with commas between them, such as `4,3,2`."""

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
        try:
            return None if value is None else tuple(kind(part) for part in value.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is not of the form {shape}", context, parameter) from error

    return parse


def size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Reads bytes with a unit, such as `1.5GiB`."""
    try:
        return None if value is None else parse_size(value)
    except InputError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def batch(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    """Reads `auto` or a count."""
    if value is None or value == "auto":
        return value
    try:
        return int(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither auto nor a whole number", context, parameter) from error


def setting(name: str, *, flag: str | None = None, **options: Any) -> Callable[[Function], Function]:
    """The option of one field of Settings, under its name, with its description and its default in the help."""
    field = Settings.model_fields[name]
    shown = "" if field.default is None else f"  [default: {options.pop('shown_default', field.default)}]"
    spelling = flag or f"--{name.replace('_', '-')}"
    return click.option(spelling, name, default=None, help=f"{field.description}{shown}", **options)

"""Every key of a training config with its type, default and meaning, as the models of `config.py` state them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import NoneType
from typing import Literal, get_args, get_origin

from pydantic_core import PydanticUndefined, to_jsonable_python

from refine.training.config import TrainingConfig
from refine.training.section import Section

HEAD = """# Training configs

A config is one JSON object; what it leaves out has the default below, and a key that is not here is refused. A path is
relative to where the command runs. What a key has no effect on (augmentation of windows for a network that sees whole
images, say) is refused as well. This page is what `python train.py --keys` prints.
"""


def reference() -> str:
    """The keys as Markdown: a table for the whole file and one for each section."""
    return "\n".join([HEAD, *_section("", TrainingConfig)])


def _section(place: str, section: type[Section]) -> Iterator[str]:
    inner: list[tuple[str, type[Section]]] = []
    title = (section.__doc__ or "").strip().partition("\n\n")[0].replace("\n    ", " ")
    yield f"## {f'`{place}`' if place else 'The whole file'}\n"
    if place and title and section.__doc__ is not Section.__doc__:
        yield f"{title}\n"
    yield "| key | value | default | meaning |\n|---|---|---|---|"
    for name, field in section.model_fields.items():
        path = f"{place}.{name}" if place else name
        found = _sections_in(field.annotation)
        inner += [(path + _ending(field.annotation), each) for each in found]
        default = "" if found and not field.is_required() else _default(field.get_default(call_default_factory=True))
        kind = "section" if found else _kind(field.annotation)
        yield f"| `{name}` | {kind} | {default} | {_cell(field.description or '')} |"
    yield ""
    for path, each in inner:
        yield from _section(path, each)


def _sections_in(annotation: object) -> list[type[Section]]:
    """The sections that a field is, or holds."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections_in(part)]


def _ending(annotation: object) -> str:
    """How the path of a section goes on where there are several of it."""
    endings: dict[object, str] = {list: "[]", dict: ".<output>"}
    return endings.get(get_origin(annotation), "")


def _kind(annotation: object) -> str:
    """A type as a reader of JSON knows it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is list:
        return f"list of {_kind(parts[0])}"
    if origin is tuple:
        return f"{len(parts)} numbers"
    if origin is dict:
        return "object"
    if parts:
        return _kind(next(part for part in parts if part is not NoneType))  # optional, or annotated with its bounds
    names: dict[object, str] = {str: "text", bool: "true or false", int: "whole number", float: "number"}
    return names.get(annotation, "any")


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    return f"`{json.dumps(to_jsonable_python(value))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")  # "<set>" would pass for a tag

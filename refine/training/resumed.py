"""What a run that goes on must share with the state it goes on from."""

from __future__ import annotations

import json
from pathlib import Path

from refine.errors import ConfigError
from refine.training.config import TrainingConfig, dump, parse_config
from refine.training.guidance import Guide
from refine.training.state import Progress, read_state

SHOWN = 12
"""Digits of a sha256 that are told to the user."""


def check_same_config(state: Path, config: TrainingConfig, *, may_extend: bool) -> None:
    """Compare with the config saved in the state, paths of data aside: packs may lie elsewhere on another machine.

    Raises ConfigError that names what differs.
    """
    saved_config = _with_defaults(read_state(state)[1].config, state)
    saved, wanted = _comparable(saved_config, may_extend), _comparable(dump(config), may_extend)
    differing = sorted(_differences(saved, wanted))
    if differing:
        raise ConfigError(f"{state}: was made with another config ({', '.join(differing)}); use another --run folder")


def check_same_guide(state: Path, progress: Progress, guide: Guide | None) -> None:
    """Raises ConfigError if `loss.features.encoder` is not the file that the state was made with, byte for byte.

    States of earlier versions do not say which it was.
    """
    if guide is not None and progress.guide not in ("", guide.sha256):
        raise ConfigError(
            f"loss.features.encoder: {guide.config.encoder} has changed since {state} was made with it (sha256"
            f" {progress.guide[:SHOWN]}, now {guide.sha256[:SHOWN]}); put the former file back, or start a new --run"
        )


def _with_defaults(saved: dict[str, object], state: Path) -> dict[str, object]:
    """The saved config with what this version added to the format; one that no longer parses is left as it is."""
    try:
        return dump(parse_config(saved, str(state)))
    except ConfigError:
        return saved


def _comparable(config: dict[str, object], may_extend: bool) -> dict[str, object]:
    copy = json.loads(json.dumps(config))
    for section in copy["data"]:
        section.pop("path")
    copy["validation"] = {"held_out": copy["validation"]["held_out"]}  # it says what trains; the rest only looks on
    for ignored in ("checkpoint", "about", "command", "expected"):
        copy.pop(ignored)
    for start in ("encoder_weights", "init"):  # they count at step 0 alone, and the files may have moved since
        copy["model"].pop(start)
    if may_extend:
        copy["schedule"].pop("steps")
    comparable: dict[str, object] = copy
    return comparable


def _differences(a: object, b: object, place: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = a.keys() | b.keys()
        return [d for k in keys for d in _differences(a.get(k), b.get(k), f"{place}.{k}" if place else str(k))]
    return [] if a == b else [place]

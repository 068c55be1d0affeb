"""What a run that goes on must share with the state it goes on from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from refine.errors import ConfigError
from refine.models.metadata import sha256
from refine.training import processes
from refine.training.applies import without_effect
from refine.training.config import Schedule, TrainingConfig, dump, parse_config
from refine.training.fingerprint import Prints, changes
from refine.training.guidance import Guide
from refine.training.state import Progress, read_state

ENCODER_WEIGHTS, GUIDE = "model.encoder_weights", "loss.features.encoder"
SHOWN = 12
"""Digits of a sha256 that are told to the user."""


def check_same_config(state: Path, config: TrainingConfig, *, may_extend: bool) -> None:
    """Compare with the config saved in the state, paths of data aside: packs may lie elsewhere on another machine.

    Raises ConfigError that names what differs.
    """
    saved_config = _with_defaults(read_state(state)[1].config, state)
    saved, wanted = (_comparable(c, config.schedule, may_extend) for c in (saved_config, dump(config)))
    differing = sorted(_differences(saved, wanted))
    if differing:
        raise ConfigError(f"{state}: was made with another config ({', '.join(differing)}); use another --run folder")


def check_same_guide(state: Path, saved: Progress, guide: Guide | None) -> None:
    """Raises ConfigError if `loss.features.encoder` is not the file that the state was made with, byte for byte.

    States of earlier versions do not say which it was.
    """
    former = saved.files.get(GUIDE)
    if guide is not None and former not in (None, guide.sha256):
        raise ConfigError(
            f"{GUIDE}: {guide.config.encoder} has changed since {state} was made with it (sha256 {former[:SHOWN]}, now"
            f" {guide.sha256[:SHOWN]}); put the former file back, or start a new --run"
        )


def tell_of_changed_data(state: Path, saved: Progress, prints: Prints) -> None:
    """Say on stderr what pairs were added, edited or removed since the state was made.

    It is no error, since a file that broke is to be mended; but the run is no longer the twin of one left alone. States
    of earlier versions do not know what their data was.
    """
    changed = "" if saved.data is None else changes(saved.data, prints)
    if changed and processes.rank() == 0:
        then = "training goes on with it as it is now, not to the bits of a run that was left alone"
        print(f"the data has changed since {state}: {changed}; {then}", file=sys.stderr)


def files_of(config: TrainingConfig, guide: Guide | None, saved: Progress | None) -> dict[str, str]:
    """The sha256 of the files that a run's weights come from, by their places in the config.

    That of encoder weights is a state's own: once training has begun the file may be gone.
    """
    files = {} if guide is None else {GUIDE: guide.sha256}
    weights = config.model.encoder_weights
    if saved is not None and ENCODER_WEIGHTS in saved.files:
        files[ENCODER_WEIGHTS] = saved.files[ENCODER_WEIGHTS]
    elif weights is not None and Path(weights).is_file():
        files[ENCODER_WEIGHTS] = sha256(weights)
    return files


def _with_defaults(saved: dict[str, object], state: Path) -> dict[str, object]:
    """The saved config with what this version added to the format; one that no longer parses is left as it is."""
    try:
        return dump(parse_config(_with_effect(saved), str(state)))
    except ConfigError:
        return saved


def _comparable(config: dict[str, object], schedule: Schedule, may_extend: bool) -> dict[str, Any]:
    copy = _with_effect(config)
    for section in copy["data"]:
        section.pop("path")
    if not schedule.follows_validations:
        copy["validation"] = {"held_out": copy["validation"]["held_out"]}  # it says what trains; the rest only looks on
    for ignored in ("checkpoint", "about", "command", "expected"):
        copy.pop(ignored)
    for start in ("encoder_weights", "init"):  # they count at step 0 alone, and the files may have moved since
        copy["model"].pop(start, None)
    if may_extend:
        copy["schedule"].pop("steps")
    return copy


def _with_effect(config: dict[str, object]) -> dict[str, Any]:
    """A copy without the options that change nothing for its network, which earlier versions took."""
    copy: dict[str, Any] = json.loads(json.dumps(config))
    for section, name in without_effect(copy["model"]["architecture"]):
        copy.get(section, {}).pop(name, None)
    return copy


def _differences(a: object, b: object, place: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = a.keys() | b.keys()
        return [d for k in keys for d in _differences(a.get(k), b.get(k), f"{place}.{k}" if place else str(k))]
    return [] if a == b else [place]

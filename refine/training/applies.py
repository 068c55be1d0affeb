"""Which networks an option of a training config has an effect on; asked of another network, it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from refine.models.registry import network_names

REFINERS = network_names("refiner")
WHOLE = (*network_names("coarse"), *network_names("truth"))
COMPOSITES = network_names("composite")
SHOWN = (*REFINERS, *network_names("coarse"), *COMPOSITES)
ENCODED = ("mos_h", "mos_h_lite", "mos_l", "mos_l_lite")
"""Networks that see windows, whole images, composites; a picture of any kind; those whose encoder is one of timm's."""

_WINDOWS = ("scale", "whole", "near_contour", "fringe", "lines", "roofs", "inexact_scale")
_BENT = ("rotate_degrees", "crop", "upside_down", "quarter_turns", "elastic")
_COLOURS = ("jitter", "grey", "jpeg", "clahe", "gamma", "noise")
_PATCHES = ("patches", "patch_size", "patch_share")
_DAMAGE = ("kinds", "late_kinds", "late_from", "reduce_max", "hard", "again", "where")

TAKERS: Mapping[tuple[str, str], tuple[str, ...]] = {
    **{("augment", name): REFINERS for name in _WINDOWS},
    **{("augment", name): WHOLE for name in _BENT},
    **{("augment", name): SHOWN for name in _COLOURS},
    ("augment", "composite"): (*REFINERS, *WHOLE),
    **{("augment", name): (*REFINERS, *network_names("coarse")) for name in _PATCHES},
    **{("perturb", name): REFINERS for name in _DAMAGE},
    **{("composites", name): COMPOSITES for name in ("positions", "size", "depths")},
    ("model", "encoder_weights"): ENCODED,
    ("optim", "freeze_encoder_norm"): ENCODED,
}
"""Section and option, and the networks that take it; what is not listed is for all."""


def without_effect(architecture: str) -> list[tuple[str, str]]:
    """Section and name of the options that change nothing of how a network is trained."""
    return [place for place, takers in TAKERS.items() if architecture not in takers]


def asked_in_vain(architecture: str, config: BaseModel) -> str:
    """What a config asks for that has no effect on its network, and which networks it is for; empty if there is none.

    A default asks for nothing, and neither does a zero: none of it is what the network gets.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for section, name in without_effect(architecture):
        options: BaseModel = getattr(config, section)
        value = getattr(options, name)
        if value != type(options).model_fields[name].get_default() and _is_something(value):
            found.setdefault(TAKERS[section, name], []).append(f"{section}.{name}")
    return "; ".join(
        f"{', '.join(places)}: without effect on {architecture}, meant for {', '.join(takers)}; leave out"
        for takers, places in found.items()
    )


def _is_something(value: object) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(value)
    return bool(value)

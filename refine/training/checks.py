"""What is wrong with a set of pairs: found at start, counted by kind, named, and refused above a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from refine.errors import InputError
from refine.training.config import Data

BETWEEN = (26, 229)
"""Values of a mask between a tenth and nine tenths: neither background nor foreground."""

MOST_BETWEEN = 0.05
"""A binary mask, its edges smoothed, has fewer such pixels than this share."""

PHOTOGRAPH_BETWEEN = 0.75
"""No alpha has more of them: from here on a grey mask is a photograph."""

NAMED = 3
"""Names that are given of a kind."""


def mask_problem(mask: NDArray[Any], *, binary: bool, may_be_empty: bool) -> str | None:
    """What is wrong with a decoded mask (H, W) or (H, W, 3) uint8; None if nothing is."""
    if mask.ndim == 3:
        if (mask.max(axis=2).astype(int) - mask.min(axis=2) > 16).mean() > 0.01:
            return "a colour picture is given as mask"
        mask = mask[:, :, 0]
    if mask.max() == 1:  # labels; as greys all of it is background
        return "the mask holds 0 and 1 where 0 and 255 are wanted"
    between = float(((mask > BETWEEN[0]) & (mask < BETWEEN[1])).mean())
    if between > PHOTOGRAPH_BETWEEN:
        return "a photograph is given as mask"
    if binary and between > MOST_BETWEEN:
        return "the mask is not binary"
    if not may_be_empty and not (mask >= 128).any():
        return "the mask is empty"
    return None


def judge(section: Data, problems: Mapping[str, Sequence[str]], total: int) -> str | None:
    """One line on the pairs that are left out, None if there are none; `problems` names them by kind.

    Raises InputError where they are more than `bad_share` of all.
    """
    bad = sum(len(names) for names in problems.values())
    if not bad:
        return None
    kinds = "; ".join(f"{kind}: {len(names)} ({some(names)})" for kind, names in sorted(problems.items()))
    line = f"data.{section.name}: {bad} of {total} pairs cannot be used: {kinds}"
    if bad > section.bad_share * total:
        raise InputError(f"{line}; mend them, or allow them with bad_share (now {section.bad_share:g})")
    return f"{line}; they are left out"


def some(names: Sequence[str]) -> str:
    """The first of the names."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")

"""What the data of a run was, kept in its states as two numbers a pair: a run that goes on says what has changed."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from refine.training.checks import some

Prints = Mapping[str, int]
"""A number for the content of each pair, or of each file that pairs are made of, by its name."""


def print_of(*contents: bytes) -> int:
    """64 bits of a digest; parts are told apart by their lengths."""
    digest = blake2b(digest_size=8)
    for content in contents:
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return int.from_bytes(digest.digest(), "little", signed=True)


def numbers(prints: Prints) -> Tensor:
    """(N, 2) int64, a name's and its content's: what a state keeps, 16 bytes a pair however long names are."""
    rows = [(print_of(name.encode()), content) for name, content in prints.items()]
    return torch.from_numpy(np.array(rows, dtype=np.int64).reshape(-1, 2))


def changes(saved: Tensor, prints: Prints) -> str:
    """What was added, edited and removed since `saved`, the numbers of a state; empty if nothing was."""
    before = dict(saved.tolist())
    now = dict(zip(prints, numbers(prints).tolist(), strict=True))
    added = [name for name, (number, _) in now.items() if number not in before]
    edited = [name for name, (number, content) in now.items() if before.get(number, content) != content]
    removed = len(before) + len(added) - len(now)
    said = [f"{len(names)} {how} ({some(names)})" for how, names in (("added", added), ("edited", edited)) if names]
    return ", ".join(said + ([f"{removed} removed"] if removed else []))

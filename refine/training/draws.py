"""Random numbers for a batch whose every sample has a seed of its own, so that none depends on the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Draws:
    """Numbers in 0..1 for each sample of a batch, each from a generator of its own on the CPU."""

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device) -> None:
        self.generators, self.device = generators, device

    @classmethod
    def seeded(cls, seeds: Sequence[int], device: torch.device) -> Draws:
        return cls([torch.Generator().manual_seed(seed) for seed in seeds], device)

    def of(self, rows: Sequence[int]) -> Draws:
        return Draws([self.generators[row] for row in rows], self.device)

    def unit(self, *shape: int) -> Tensor:
        """(B, *shape)."""
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators]).to(self.device)

    def between(self, low: float | Tensor, high: float | Tensor) -> Tensor:
        """(B,)."""
        return low + (high - low) * self.unit()

    def whole(self, low: int, high: int | Tensor) -> Tensor:
        """(B,) integers from `low` to one less than `high`."""
        return (low + (high - low) * self.unit()).floor().long()

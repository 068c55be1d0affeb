"""Damage that the loader leaves to the device: a batch's masks are perturbed at once, before the step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from refine.cascade import reach_of_small
from refine.training.batched_perturb import NAMES, perturb_batch
from refine.training.config import Perturb
from refine.training.draws import Draws
from refine.training.perturb import LEAST_STATED, MOST_STATED
from refine.training.ramps import ramp_of

Sample = dict[str, Tensor]


def left_to_the_device(truth: NDArray[np.float32], kind: str, rng: Generator, side: int) -> Sample:
    """What a sample of `side` holds instead of its coarse mask: the truth with a margin, the kind, and a seed."""
    return {
        "coarse": torch.zeros(side, side),
        "reach": torch.tensor(1.0),
        "factor": torch.tensor(0),
        "wide_truth": torch.from_numpy(np.ascontiguousarray(truth)),
        "kind": torch.tensor(NAMES.index(kind if kind in NAMES else "reduce")),
        "damage_seed": torch.tensor(int(rng.integers(2**62))),
    }


def nothing_left(side: int, options: Perturb) -> Sample:
    """The same entries of a sample that has its coarse mask, since a batch holds both; none if no sample has any."""
    if options.where == "loader":
        return {}
    return {"wide_truth": torch.zeros(side, side), "kind": torch.tensor(-1), "damage_seed": torch.tensor(0)}


@torch.no_grad()
def damaged(batch: Sample, options: Perturb, device: torch.device) -> Sample:
    """The batch with coarse masks and stated reaches where `WindowSamples` left them out; another batch as it is."""
    if "wide_truth" not in batch:
        return batch
    whole = {name: tensor for name, tensor in batch.items() if name not in ("wide_truth", "kind", "damage_seed")}
    rows = [row for row, kind in enumerate(batch["kind"].tolist()) if kind >= 0]
    if not rows:
        return whole
    kinds = batch["kind"][rows].tolist()
    draws = Draws.seeded(batch["damage_seed"][rows].tolist(), device)
    truth = batch["wide_truth"][rows].to(device)[:, None]
    wide, reach = perturb_batch(truth, kinds, draws, reduce_max=options.reduce_max, hard_share=options.hard)
    for i in (i for i, kind in enumerate(kinds) if NAMES[kind] == "reduce"):
        factor = float(reach[i])
        reach[i] = reach_of_small(factor, ramp_of(wide[i, 0].cpu().numpy(), factor))
    # People and plans know the reach only roughly; only a mask that is exact is ever called right to a pixel.
    stated = (reach * draws.between(0.8, 1.6)).clamp(LEAST_STATED, MOST_STATED)
    exact = torch.tensor([NAMES[kind] == "exact" for kind in kinds], device=device)
    coarse, reaches = batch["coarse"].to(device), batch["reach"].to(device)
    side = coarse.shape[-1]
    edge = (wide.shape[-1] - side) // 2
    coarse[rows] = wide[:, 0, edge : edge + side, edge : edge + side]
    reaches[rows] = torch.where(exact, 1.0, stated)
    return {**whole, "coarse": coarse.contiguous(), "reach": reaches}

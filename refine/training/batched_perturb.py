"""The damage of `perturb` for a whole batch at once, in torch, on the device that trains.

The kinds and their measures are those of the reference; tests hold the two together by their statistics. Only contours
are drawn in another way (`batched_contour`).

A sample is damaged by its own seed: it is the same in any batch, on any number of processes, before and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, log, pi

import torch
import torch.nn.functional as F
from torch import Tensor

from refine.training.batched_contour import drawn_wrongly, iou, measured_reach
from refine.training.draws import Draws
from refine.training.perturb import KINDS, MIN_IOU, TRIES
from refine.training.planes import (
    CUBIC,
    LINEAR,
    NEAREST,
    area_means,
    blur,
    dilated,
    interpolation,
    one_component,
)

NAMES = tuple(KINDS)
"""What a number in `kinds` stands for."""

MOST_CHANGED = 0.05
"""Of a plane, by kind "structure"."""

Damage = tuple[Tensor, Tensor]
"""Damaged masks (B, S, S) in 0..1, and the reach of each, (B,)."""


def perturb_batch(
    truth: Tensor, kinds: Sequence[int], draws: Draws, *, reduce_max: float = 16, hard_share: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Coarse masks (B, 1, S, S) made from `truth` (B, 1, S, S) in 0..1, and the reach of each, (B,), at least 1.

    `kinds`: one number a sample, a place in `NAMES`. As in the reference, masks whose IoU with the truth falls below
    0.6 are drawn again, five times, then reduced instead.
    """
    planes = truth[:, 0]
    coarse, reach = planes.clone(), torch.ones(len(planes), device=planes.device)
    left = [row for row, kind in enumerate(kinds) if NAMES[kind] != "exact"]
    damaged = list(left)
    for attempt in range(TRIES + 1):
        for name in NAMES:
            rows = [row for row in left if NAMES[kinds[row]] == name or attempt == TRIES]
            if rows:
                recipe = reduced if attempt == TRIES else RECIPES[name]
                coarse[rows], reach[rows] = recipe(planes[rows], draws.of(rows), reduce_max)
        if left:
            poor = iou(coarse[left] > 0.5, planes[left] > 0.5) < MIN_IOU
            left = [row for row, again in zip(left, poor.tolist(), strict=True) if again]
        if not left:
            break
    if damaged:
        coarse[damaged] = finish(coarse[damaged], reach[damaged], draws.of(damaged), hard_share)
    return coarse[:, None], reach.clamp(min=1)


# The kinds. Each takes (truth, draws, largest reduce factor) and gives (masks, reach).


def reduced(truth: Tensor, draws: Draws, reduce_max: float) -> Damage:
    """Area-reduced by a factor and enlarged again, with a random phase of the grid."""
    factor = draws.between(log(1.5), log(reduce_max)).exp()
    shifts = [draws.whole(0, factor.ceil()) for _ in range(2)]
    chance = draws.unit()
    way = torch.where(chance < 0.5, LINEAR, torch.where(chance < 0.8, CUBIC, NEAREST))
    size, most = truth.shape[-1], ceil(reduce_max)
    framed = torch.cat([truth[:, :most].flip(1), truth], dim=1)
    framed = torch.cat([framed[:, :, :most].flip(2), framed], dim=2)  # (B, S + most, S + most)
    rows, cols = (_reduction(size, most, factor, shift, way) for shift in shifts)
    return (rows @ framed @ cols.mT).clamp(0, 1), factor


def contour(truth: Tensor, draws: Draws, reduce_max: float) -> Damage:
    """CascadePSP's generator: an outline made simpler, then dilated and eroded here and there."""
    hard, extent = truth > 0.5, _whole(truth)
    damaged = drawn_wrongly(hard, draws, extent, draws.between(0.8, 1.0))
    return damaged.float(), measured_reach(damaged, hard, extent)


def morph(truth: Tensor, draws: Draws, reduce_max: float) -> Damage:
    """The whole outline too fat, too thin, or smoothed."""
    hard, way = truth > 0.5, draws.whole(0, 3)
    grows = draws.unit() < 0.5
    brush = torch.where(way == 0, draws.whole(1, 9), draws.whole(2, 7)).float()
    sigma = draws.between(1, 6)
    threshold = draws.between(0.3, 0.7)
    first = _turned(dilated(_turned(hard, grows), brush, 8), grows)
    second = _turned(dilated(_turned(first, ~grows), brush, 8), ~grows)
    smooth = blur(hard.float(), sigma, _whole(truth)) > threshold[:, None, None]
    ways = way[:, None, None]
    damaged = torch.where(ways == 0, first, torch.where(ways == 1, second, smooth))
    return damaged.float(), torch.where(way == 2, sigma, brush)


def reduced_contour(truth: Tensor, draws: Draws, reduce_max: float) -> Damage:
    """A contour drawn wrongly on a coarse grid, then enlarged."""
    size = truth.shape[-1]
    factor = draws.whole(2, 9)
    count = (size // factor).clamp(min=8)
    most = max(8, size // 2)
    step, start = size / count.float(), torch.zeros(len(truth), device=truth.device)
    means = area_means(size, count, step, start, most)
    hard = (means @ truth @ means.mT) > 0.5
    damaged = drawn_wrongly(hard, draws, count, draws.between(0.85, 1.0))
    between = interpolation(size, count, step, start, most, torch.full_like(count, LINEAR))
    reach = measured_reach(damaged, hard, count) * factor
    return (between @ damaged.float() @ between.mT).clamp(0, 1), reach


def warp(truth: Tensor, draws: Draws, reduce_max: float) -> Damage:
    """Shifted by up to 6 px and bent by a smooth field of up to 6 px."""
    size = truth.shape[-1]
    sigma, amplitude = draws.between(8, 32), draws.between(0, 6)
    coarse = max(8, size // 4)  # the field is too smooth to need more
    noise = 2 * draws.unit(2, coarse, coarse) - 1
    extent = torch.full_like(sigma, coarse)
    field = torch.stack([blur(noise[:, axis], sigma * coarse / size, extent) for axis in range(2)], dim=1)
    field = field * (amplitude / field.abs().amax(dim=(1, 2, 3)).clamp(min=1e-6))[:, None, None, None]
    bent = F.interpolate(field, size=(size, size), mode="bilinear", align_corners=False)
    angle, distance = draws.between(0, 2 * pi), draws.between(0, 6)
    shift = distance[:, None] * torch.stack([angle.sin(), angle.cos()], dim=1)  # (B, 2): rows, columns
    places = torch.arange(size, device=truth.device, dtype=torch.float32)
    rows = places[None, :, None] + bent[:, 0] + shift[:, 0, None, None]
    cols = places[None, None, :] + bent[:, 1] + shift[:, 1, None, None]
    grid = (2 * torch.stack([cols, rows], dim=-1) + 1) / size - 1
    moved = F.grid_sample(truth[:, None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved[:, 0], (distance + amplitude / 2).clamp(min=1)


def structure(truth: Tensor, draws: Draws, reduce_max: float) -> Damage:
    """A part missing, a hole filled, or a blob too many: at most 5 % of the window, reach left to chance."""
    hard = truth > 0.5
    way = draws.whole(0, 3).tolist()
    damaged = hard.clone()
    for number, change in enumerate((_without_part, _with_hole_filled, _with_blob)):
        rows = [row for row, own in enumerate(way) if own == number]
        if rows:
            damaged[rows] = change(hard[rows], draws.of(rows))
    return damaged.float(), draws.between(0, log(8)).exp()


RECIPES: dict[str, Callable[[Tensor, Draws, float], Damage]] = {
    "reduce": reduced,
    "contour": contour,
    "morph": morph,
    "reduce+contour": reduced_contour,
    "warp": warp,
    "structure": structure,
}


def finish(coarse: Tensor, reach: Tensor, draws: Draws, hard_share: float) -> Tensor:
    """Hard or soft, a little contrast, 8 bit or not: how masks are handed over."""
    chance = draws.unit(4)[..., None, None]  # (B, 4, 1, 1)
    widest = torch.minimum(reach, reach.new_tensor(8.0)).clamp(min=0.6)
    sigma = draws.between(0.5, widest)
    given = torch.where(chance[:, 0] < hard_share, (coarse > 0.5).float(), coarse)
    rows = ((chance[:, 0] >= hard_share) & (chance[:, 1] < 0.5)).flatten().nonzero()[:, 0]
    if len(rows):
        given[rows] = blur(coarse[rows], sigma[rows], _whole(coarse[rows]))
    exponent = draws.between(log(0.6), log(1.6)).exp()[:, None, None]
    given = torch.where(chance[:, 2] < 0.1, given.clamp(min=0).pow(exponent), given)
    return torch.where(chance[:, 3] < 0.5, (given * 255).round() / 255, given).clamp(0, 1)


def _reduction(size: int, most: int, factor: Tensor, shift: Tensor, way: Tensor) -> Tensor:
    """(B, size, size + most): along one axis, to a grid that begins `shift` pixels before the plane, and back."""
    length = (size + shift).float()
    count = (length / factor).round().clamp(min=1)
    step, start = length / count, (most - shift).float()
    cells = ceil((size + most) / 1.5) + 1
    means = area_means(size + most, count, step, start, cells)
    return interpolation(size + most, count, step, start, cells, way)[:, most:] @ means


def _without_part(hard: Tensor, draws: Draws) -> Tensor:
    """Without one small component, or without one thin part: what an opening removes."""
    radius = draws.whole(2, 6).float()
    thin = hard & ~dilated(~dilated(~hard, radius, 8), radius, 8)
    is_thin, most = draws.unit() < 0.5, MOST_CHANGED * hard[0].numel()
    part = one_component(_either(is_thin, thin, hard), 10, most, draws.unit())
    other = one_component(_either(is_thin, hard, thin), 10, most, draws.unit())
    return hard & ~_either(part.any(dim=2).any(dim=1), part, other)


def _with_hole_filled(hard: Tensor, draws: Draws) -> Tensor:
    return hard | one_component(~hard, 10, MOST_CHANGED * hard[0].numel(), draws.unit())


def _with_blob(hard: Tensor, draws: Draws) -> Tensor:
    """With an ellipse of 0.2 to 5 % of the plane, anywhere."""
    size = hard.shape[-1]
    radius = (draws.between(0.002, MOST_CHANGED) * size * size / pi).sqrt()
    stretch, angle = draws.between(0.5, 2.0), draws.between(0, pi)
    centre = draws.unit(2) * size
    places = torch.arange(size, device=hard.device, dtype=torch.float32)
    rows, cols = (places - centre[:, :1])[:, :, None], (places - centre[:, 1:])[:, None, :]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    long, short = (radius * stretch).clamp(min=1)[:, None, None], (radius / stretch).clamp(min=1)[:, None, None]
    return hard | (((cols * cos + rows * sin) / long).square() + ((rows * cos - cols * sin) / short).square() <= 1)


def _whole(planes: Tensor) -> Tensor:
    return torch.full((len(planes),), planes.shape[-1], device=planes.device)


def _turned(planes: Tensor, keeps: Tensor) -> Tensor:
    """Bool planes, inverted where `keeps` is false: an erosion is a dilation of what is not there."""
    return planes ^ ~keeps[:, None, None]


def _either(first: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(first[:, None, None], a, b)

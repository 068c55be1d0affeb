"""Outlines drawn wrongly, a batch at a time: the contour damage of `perturb` on a device, which has no contours.

CascadePSP's generator draws an outline anew from a tenth of its points, with one run of them cut off, and then dilates
and erodes in random boxes. Here the outline is smoothed instead, and once, near one of its sharpest turns, by as much
as that run was long; brushes come in a fixed order, so that one call serves all samples, and the boxes are drawn.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from refine.training.draws import Draws
from refine.training.planes import blur, distance_to, random_pixel, within

ROUNDS = 250
FARTHEST = 64
"""The reach is measured no farther than this, which is the largest that a network is told."""

SIMPLER, CUT_SIGMA, CUT_RADIUS = 2.5, 0.3, 0.6
"""Sigma, in pixels, of what makes an outline simpler; of what cuts a turn off it, and how far around, in its runs."""

# Heights and widths of brushes, in OpenCV's order of drawing them: squares, round ones, and those half as wide as high.
BRUSHES = (
    ((5, 5),), ((3, 9), (7, 7), (9, 3)), ((3, 1), (1, 1)), ((8, 8),), ((1, 5), (5, 3)), ((9, 1), (7, 3), (3, 3)),
    ((4, 4),), ((3, 7), (7, 3), (5, 5)), ((1, 7), (3, 5)), ((6, 6),), ((3, 5), (5, 3)), ((7, 1), (5, 3)),
    ((9, 9),), ((1, 3), (3, 1)), ((1, 9), (3, 7), (3, 3)), ((7, 7),), ((2, 4), (4, 2)), ((5, 1), (3, 3)),
)  # fmt: skip


def drawn_wrongly(hard: Tensor, draws: Draws, extent: Tensor, target: Tensor) -> Tensor:
    """`hard` made simpler, then dilated and eroded in random boxes, four at a time, until its IoU is below `target`."""
    held = within(extent, hard.shape[-1])
    damaged = _simplified(hard & held, draws, extent)
    chance = draws.unit(ROUNDS, 4, 7)
    left = torch.arange(len(hard), device=hard.device)
    current = damaged.float()
    for turn in range(ROUNDS):
        for i in range(4):
            brush = BRUSHES[(4 * turn + i) % len(BRUSHES)]
            current = _brushed(current, extent[left], chance[left, turn, i], brush)
        done = iou(current > 0.5, (hard & held)[left]) < target[left]
        if done.any():
            damaged[left[done]] = current[done] > 0.5
            left, current = left[~done], current[~done]
        if not len(left):
            break
    damaged[left] = current > 0.5
    return damaged


def _simplified(hard: Tensor, draws: Draws, extent: Tensor) -> Tensor:
    """Without what is finer than a few pixels, and without one sharp turn of a tenth of the outline's length."""
    size = hard.shape[-1]
    smooth = blur(hard.float(), torch.full_like(extent, SIMPLER, dtype=torch.float32), extent) > 0.5
    outline = hard & (distance_to(~hard & within(extent, size), 2) <= 1)
    run = 0.1 * outline.sum(dim=(1, 2)).float()
    wide = blur(hard.float(), (CUT_SIGMA * run).clamp(min=1), extent)
    sharpness = torch.where(outline, (wide - 0.5).abs(), -1.0)
    sharpest = sharpness >= 0.9 * sharpness.amax(dim=(1, 2), keepdim=True)
    middle = random_pixel(outline & sharpest, draws.unit())
    places = torch.arange(size, device=hard.device)
    rows, cols = places - (middle // size)[:, None], places - (middle % size)[:, None]
    near = rows.square()[:, :, None] + cols.square()[:, None, :] <= (CUT_RADIUS * run).square()[:, None, None]
    return torch.where(near, wide > 0.5, smooth) & within(extent, size)


def _brushed(planes: Tensor, extent: Tensor, chance: Tensor, brush: tuple[tuple[int, int], ...]) -> Tensor:
    """Each plane dilated or eroded within a random box, one pixel of which may be set or cleared before."""
    whole = torch.full_like(chance[:, 0], planes.shape[-1]).minimum(extent)
    first = (chance[:, :2] * whole[:, None]).floor()  # row, column
    length = 1 + (chance[:, 2:4] * (whole[:, None] - first)).floor()
    places = torch.arange(planes.shape[-1], device=planes.device)
    inside = [(places >= a[:, None]) & (places < (a + n)[:, None]) for a, n in zip(first.T, length.T, strict=True)]
    box = inside[0][:, :, None] & inside[1][:, None, :]
    middle = first + (length / 2).floor()
    dot = (places == middle[:, :1])[:, :, None] & (places == middle[:, 1:])[:, None, :]
    dot = dot & (chance[:, 4] < 0.25)[:, None, None]
    planes = torch.where(dot, (chance[:, 5] < 0.5).float()[:, None, None], planes)
    sign = torch.where(chance[:, 6] < 0.5, 1.0, -1.0)[:, None, None]
    seen = torch.where(box, sign * planes, -2.0)
    pooled = torch.stack([_pooled(seen, height, width) for height, width in brush]).amax(dim=0)
    return torch.where(box, sign * pooled, planes)


def _pooled(planes: Tensor, height: int, width: int) -> Tensor:
    sides = (width // 2, width - 1 - width // 2, height // 2, height - 1 - height // 2)
    framed = F.pad(planes[:, None], sides, value=-2.0)
    return F.max_pool2d(F.max_pool2d(framed, (height, 1), stride=1), (1, width), stride=1)[:, 0]


def measured_reach(damaged: Tensor, hard: Tensor, extent: Tensor) -> Tensor:
    """(B,) distance from the true outline within which 95 % of the wrong pixels lie; 1 to `FARTHEST`."""
    held = within(extent, hard.shape[-1])
    wrong = (damaged != hard) & held
    inside, outside = (distance_to(side & held, FARTHEST, wrong) for side in (~hard, hard))
    to_outline = inside + outside  # one of them is 0
    ranked = torch.where(wrong, to_outline, -1.0).flatten(1).sort(dim=1, descending=True).values
    rank = 0.05 * (wrong.sum(dim=(1, 2)) - 1).clamp(min=0)
    low, part = rank.floor().long()[:, None], rank - rank.floor()
    above, below = ranked.gather(1, low)[:, 0], ranked.gather(1, low + 1)[:, 0]
    farthest = torch.where(part > 0, above + part * (below - above), above).clamp(1, FARTHEST)
    has_outline = (hard & held).any(dim=2).any(dim=1) & (~hard & held).any(dim=2).any(dim=1)
    return torch.where(has_outline, farthest, 1.0)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """(B,) of bool planes; 1 where both are empty."""
    union = (a | b).sum(dim=(1, 2))
    return torch.where(union == 0, 1.0, (a & b).sum(dim=(1, 2)) / union.clamp(min=1))

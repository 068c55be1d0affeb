"""What OpenCV does to one mask on a CPU, for a batch of square masks on any device, each by its own measure.

Planes are (B, S, S); a measure is (B,), one number a sample. `extent` (B,) says how much of each plane there is, from
its top left; what lies beyond has no part in anything.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

KEYS = -0.75
"""The free coefficient of cubic interpolation, as in OpenCV."""

LINEAR, CUBIC, NEAREST = 0, 1, 2

ROUNDED = 0.3
"""OpenCV's disks are as much larger than round ones, since it rounds the length of every row."""

FAR = 1 << 20
"""Farther than any pixel is from another."""

COMPONENT_STEPS = 128
"""A part is followed for so many pixels; what winds on for longer counts as too large."""

PRIME = 1_000_003
"""More than the pixels of a window: multiples of one number, taken modulo this, come in an order as good as random."""


def within(extent: Tensor, size: int) -> Tensor:
    """(B, size, size) bool: what there is of each plane."""
    held = torch.arange(size, device=extent.device) < extent[:, None]
    return held[:, :, None] & held[:, None, :]


def blur(planes: Tensor, sigma: Tensor, extent: Tensor) -> Tensor:
    """Gaussian means over what there is."""
    places = torch.arange(planes.shape[-1], device=planes.device, dtype=torch.float32)
    apart = (places[:, None] - places[None, :]).square()
    weights = torch.exp(-apart / (2 * sigma.square())[:, None, None])
    weights = weights * (places < extent[:, None])[:, None, :]
    matrix = weights / weights.sum(dim=2, keepdim=True)
    return matrix @ planes @ matrix.mT


def area_means(length: int, count: Tensor, step: Tensor, start: Tensor, most: int) -> Tensor:
    """(B, most, length): the means over `count` cells, `step` long, the first from `start` on; no more than `most`."""
    cells = torch.arange(most, device=step.device, dtype=torch.float32)
    low = start[:, None] + cells * step[:, None]  # (B, most)
    pixels = torch.arange(length, device=step.device, dtype=torch.float32)
    covered = torch.minimum(low[..., None] + step[:, None, None], pixels + 1) - torch.maximum(low[..., None], pixels)
    return covered.clamp(min=0) / step[:, None, None] * (cells < count[:, None])[..., None]


def interpolation(length: int, count: Tensor, step: Tensor, start: Tensor, most: int, way: Tensor) -> Tensor:
    """(B, length, most): pixels between the middles of such cells; `way` is LINEAR, CUBIC or NEAREST."""
    pixels = torch.arange(length, device=step.device, dtype=torch.float32)
    cells = torch.arange(most, device=step.device, dtype=torch.float32)
    last = count.float()[:, None] - 1
    place = (pixels + 0.5 - start[:, None]) / step[:, None] - 0.5  # (B, length), in cells
    away = (place.clamp(min=0).minimum(last)[..., None] - cells).abs()
    linear = (1 - away).clamp(min=0)
    chosen = ((pixels - start[:, None]) / step[:, None]).floor().clamp(min=0).minimum(last)
    nearest = (chosen[..., None] == cells).float()
    held = (cells < count[:, None])[:, None, :]
    cubic = _cubic((place[..., None] - cells).abs()) * held
    # The border repeats, so its cell takes the weight of those that are not there.
    edge = torch.where(place > last / 2, last, torch.zeros_like(last))
    cubic = cubic + (1 - cubic.sum(dim=2, keepdim=True)) * (cells == edge[..., None])
    ways = way[:, None, None]
    return torch.where(ways == CUBIC, cubic, torch.where(ways == NEAREST, nearest, linear))


def _cubic(away: Tensor) -> Tensor:
    near = ((KEYS + 2) * away - (KEYS + 3)) * away * away + 1
    far = ((KEYS * away - 5 * KEYS) * away + 8 * KEYS) * away - 4 * KEYS
    return torch.where(away < 1, near, torch.where(away < 2, far, torch.zeros_like(away)))


def distance_to(chosen: Tensor, most: int, needed: Tensor | None = None) -> Tensor:
    """Distance of each pixel to the nearest of `chosen` (bool), in pixels; `most` where that is as far or farther.

    `needed` (bool): the pixels of which it will be asked; it may be too large of others.
    """
    size = chosen.shape[-1]
    places = torch.arange(size, device=chosen.device)
    before = torch.where(chosen, places, -FAR).cummax(dim=2).values
    after = torch.where(chosen, places, FAR).flip(2).cummin(dim=2).values.flip(2)
    across = torch.minimum(places - before, after - places).clamp(max=most)
    squares = (across * across).float()  # within the row
    framed = F.pad(squares, (0, 0, most, most), value=float(most * most))
    nearest = squares
    for rows in range(1, most):
        if needed is not None and rows % 8 == 0 and bool((nearest * needed).max() <= rows * rows):
            break
        for top in (most - rows, most + rows):
            nearest = torch.minimum(nearest, framed[:, top : top + size] + rows * rows)
    return nearest.sqrt().clamp(max=most)


def dilated(hard: Tensor, radius: Tensor, most: int) -> Tensor:
    """`hard` (bool) and what is within whole `radius` of it, which is at most `most`."""
    return distance_to(hard, most + 1) <= radius[:, None, None] + ROUNDED


def random_pixel(chosen: Tensor, chance: Tensor) -> Tensor:
    """(B,) the index, row-major, of one of the pixels `chosen`; 0 where there is none. `chance` (B,) is in 0..1."""
    flat = chosen.flatten(1)
    order = _order(torch.arange(1, flat.shape[1] + 1, device=flat.device), chance)
    return torch.where(flat, order, PRIME).argmin(dim=1)


def _order(numbers: Tensor, chance: Tensor) -> Tensor:
    """(B, n): a place for each number, another one with every chance."""
    return numbers * (1 + (chance * (PRIME - 2)).long())[:, None] % PRIME


def one_component(source: Tensor, least: float, most: float, chance: Tensor) -> Tensor:
    """(B, S, S) bool: one part of `source` (bool), joined over corners, of `least` to `most` pixels; nothing if none.

    Each such part is as likely as another.
    """
    size = source.shape[-1]
    count = size * size
    held = source.float()
    label = held * torch.arange(1, count + 1, device=source.device, dtype=torch.float32).view(1, size, size)
    for step in range(COMPONENT_STEPS):
        grown = _grown(label) * held
        if step % 16 == 15 and torch.equal(grown, label):
            break
        label = grown
    unsettled = _grown(label) * held != label
    names = label.long().flatten(1)  # (B, S * S); 0 is what is not in the source
    area = torch.zeros(len(source), count + 1, device=source.device)
    area.scatter_add_(1, names, torch.ones_like(names, dtype=torch.float32))
    spoilt = torch.zeros_like(area)
    for touched in (label, _grown(label) * held):
        spoilt.scatter_add_(1, touched.long().flatten(1), unsettled.float().flatten(1))
    fits = (area >= least) & (area <= most) & (spoilt == 0)
    fits[:, 0] = False
    order = _order(torch.arange(count + 1, device=source.device), chance)
    winner = torch.where(fits, order, PRIME).argmin(dim=1)
    winner = torch.where(fits.any(dim=1), winner, -1)
    return names.view_as(source) == winner[:, None, None]


def _grown(label: Tensor) -> Tensor:
    return F.max_pool2d(label[:, None], 3, stride=1, padding=1)[:, 0]

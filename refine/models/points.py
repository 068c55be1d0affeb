"""The point head only where it counts: blocks of a window that hold an uncertain pixel, on a CPU.

An outline crosses a fifth of a window's blocks; over the rest the head's change is multiplied by zero. The head is two
3x3 convolutions and a 1x1, so a block sees two pixels around it, which are zero beyond the window, as padding makes
them: before the first convolution, and before the second one again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDES = (32, 16)
"""Sides of a block, of which the first that divides the window is taken; windows are multiples of 16."""

HALO = 2
"""How far the two 3x3 convolutions see."""

BLOCKS_OF_A_CALL = (16, 8, 4, 2, 1)
"""So many blocks go through the head at once: few shapes, since kernels are made for each, that fit a core's cache."""


def change_where(points: nn.Sequential, half: Tensor, planes: Tensor, logit: Tensor, weight: Tensor) -> Tensor:
    """`weight` (B, 1, H, W) times the head's change (B, C, H, W), computed in the type of `half`.

    The head's first convolution takes `half` (B, c, H / 2, W / 2) enlarged, `planes` (B, p, H, W), and a quarter of
    `logit` (B, 1, H, W).
    """
    batch, _, height, width = weight.shape
    side = next(side for side in SIDES if height % side == 0 and width % side == 0)
    rows, cols = height // side, width // side
    last = points[-1]
    assert isinstance(last, nn.Conv2d)
    change = weight.new_zeros(batch, last.out_channels, height, width)
    places = weight.view(batch, rows, side, cols, side).amax(dim=(2, 4)).nonzero()  # (n, 3): window, row, column
    if len(places) == 0:
        return change
    changed = change.view(batch, last.out_channels, rows, side, cols, side)
    half_blocks = _blocks(_repeated(half), side // 2)
    plane_blocks, logit_blocks = (_blocks(F.pad(part, (HALO,) * 4), side) for part in (planes, logit))
    first = 0
    for count in BLOCKS_OF_A_CALL:
        while len(places) - first >= count:
            at = places[first : first + count]
            taken = tuple(at.unbind(dim=1))
            edges = _edges(at, rows, cols)
            features = F.interpolate(_last(half_blocks[taken]), scale_factor=2.0, mode="bilinear")
            features = features[..., HALO:-HALO, HALO:-HALO]  # (n, c, s + 4, s + 4)
            _empty(features, edges, HALO)
            beside = torch.cat([plane_blocks[taken], logit_blocks[taken] / 4], dim=1).to(half.dtype)
            window, row, col = taken
            changed[window, :, row, :, col] = _head(points, features, _last(beside), edges).float()
            first += count
    return weight * change


def _head(points: nn.Sequential, features: Tensor, planes: Tensor, edges: list[Tensor]) -> Tensor:
    """The head on blocks with HALO pixels around them, (n, c, s + 4, s + 4); gives (n, C, s, s)."""
    first, second = points[0], points[2]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    channels = features.shape[1]
    # In two parts: joined, the planes are no multiple of what a CPU takes at once.
    joined = F.conv2d(features, first.weight[:, :channels], first.bias)
    joined = F.relu_(joined + F.conv2d(planes, first.weight[:, channels:]))
    _empty(joined, edges, 1)
    change: Tensor = points[4](F.relu_(F.conv2d(joined, second.weight, second.bias)))
    return change


def _repeated(half: Tensor) -> Tensor:
    """Two pixels more on each side, the border's repeated: what enlarging takes the pixels beyond it for."""
    for axis in (2, 3):
        first, last = half.narrow(axis, 0, 1), half.narrow(axis, half.shape[axis] - 1, 1)
        half = torch.cat([first, first, half, last, last], dim=axis)
    return half


def _blocks(padded: Tensor, side: int) -> Tensor:
    """A view (B, rows, cols, C, side + 4, side + 4) of blocks and two pixels around them."""
    around = side + 2 * HALO
    return padded.unfold(2, around, side).unfold(3, around, side).permute(0, 2, 3, 1, 4, 5)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _edges(places: Tensor, rows: int, cols: int) -> list[Tensor]:
    """Which of the blocks touch the window's top, bottom, left and right."""
    row, col = places[:, 1], places[:, 2]
    return [found.nonzero()[:, 0] for found in (row == 0, row == rows - 1, col == 0, col == cols - 1)]


def _empty(blocks: Tensor, edges: list[Tensor], depth: int) -> None:
    """Set to zero, in place, `depth` rows or columns of what lies beyond the window."""
    top, bottom, left, right = edges
    blocks[top, :, :depth] = 0
    blocks[bottom, :, -depth:] = 0
    blocks[left, :, :, :depth] = 0
    blocks[right, :, :, -depth:] = 0

"""The levels of the cascade, from sizes and reach alone, and the part of each that a run sweeps.

Levels never depend on ROI, tile or memory. A part is a fixed number of window rows, cut by the grid: a ROI sweeps
whole parts, so that its batches are those of the whole run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from refine.geometry import Grid, Level, Window
from refine.resample import level_taps

PART_WINDOWS = 256
"""A part has at least this many windows, and at least PART_ROWS rows of them: its last batch may be partly empty."""

PART_ROWS = 4

FIRST_REACH = 6
"""The first level is the one where the mask is wrong by about this many of its pixels: whole objects fit into a window
there, and what is found is found early. On validation images masks by U2-NetP came out at 75.9 mBA, with 12 at 74.1,
with 4 at 76.3, with 8 at 75.6; MOS_L_lite's within 0.2 with 4, 6 and 12, truths at 64 px at 87.5, with 12 at 87.2."""

LEFT_ERROR = 4.0
"""A level is told that the one before left the outline wrong by this many of that one's pixels. Most of it is right to
two, but what a coarse level took wrongly has to be found again: told 2, U2-NetP's masks came out 0.3 points worse."""

AVERAGED_RAMP = 1.45
"""The sharpest ramps of an accurate mask that was averaged over its pixels are no longer: 0.85 of a hard truth, up to
1.4 of hair (training images of five sets, reduced by 4 and more). Reduced by 2, hair and blur often have longer."""

NETWORK_RAMP = 1.75
"""The sharpest ramps of a network's mask: 19 of 20 of U2-NetP's and MOS_L_lite's are longer than 1.6, half than 1.8; a
tenth and a third are longer than 2.5, for which of 433 truths at 64 px 4 are soft enough."""

RIGHT_TO = 0.5
"""An averaged mask's soft values hold the outline to this share of its pixels. On validation images truths reduced by
2, 4, 8 came out at 96.4, 88.2, 82.4 mBA when told that, and at 92.5, 86.3, 81.9 when told a whole pixel; reduced by 16
it makes no difference."""

TRUSTED_BLOCK = 2
"""A mask of the image's size that is to be trusted is agreed with over blocks of so many pixels along a side: where its
outline runs within one is for the image to say. True alphas of validation images kept 99.1 mBA, with 3 98.9."""

LEAST_OF_LARGE = 2.0
"""A mask of the image's size, hard or antialiased, is taken to be wrong by as many image pixels at least: told 1 the
network takes it as right and leaves it. On validation images below 512 px truths cut to polygons within 4 px gained 5
to 13 points of mBA with 2, moved by 2 px 12 to 25; truths themselves lost 2 to 4, for which there is --reach 1."""

SMOOTH, ROUGH = 0.75, 0.9
"""Textures (`measure_texture`) of masks whose ramps leave it open who made them. Of 855 masks by U2-NetP, MOS_L_lite
and both, of seven sets, 18 have ramps below OPEN_RAMP and a texture above SMOOTH, all but one of them wires and nets;
of 11 such truths of fur reduced by 2, 10 have. Taken for averaged four of fur reduced by 2 and 4 came out 4 to 8 points
of mBA better, a tree by both networks 8 worse."""

OPEN_RAMP = 1.7, 1.8
"""Up to the first the texture decides, beyond the second it does not count, but for masks of the image's shape."""

SHAPED_SMOOTH, SHAPED_ROUGH, SHAPED_BY = 0.95, 1.1, 3.0
"""A mask that has the image's shape and is reduced by less than SHAPED_BY is seldom a network's own map, so that a
texture as rough as this tells whatever the ramps are. Of 459 masks of validation images by U2-NetP, MOS_L_lite and
both, brought to half of the image's size, 5 are as rough, and came out 5 points of mBA worse for it; of 15 truths of
fur 2 whose ramps do not tell, 13 better."""

FREE, FURTHEST = 2.0, 3.0
"""In reaches, where one is held to: corrections are whole up to about FREE from what is not certain, and none beyond
FURTHEST."""

INSIDE_FREE, INSIDE_FURTHEST = 1.0, 1.5
"""The same of what is taken from inside of a network's first mask."""

NETWORK_PIXELS = 4.0
"""A network's mask is wrong by this many of its pixels: on validation images masks of U2-NetP and MOS_L_lite came out
better when told 4 than 2, and no better when told 6."""


@dataclass(frozen=True)
class LevelPlan:
    """How one level is swept."""

    level: Level
    tile: int
    overlap: int
    part_rows: int  # window rows of a part
    window_rows: tuple[int, int]  # first and one past the last window row that is swept: whole parts
    rows: tuple[int, int]  # rows that the output or the next level needs
    is_last: bool
    on_disk: bool  # its correction waits for the next level in a temporary file
    overview: int | None  # the overview that the level's image is read from; None: the one sweep makes it

    @cached_property
    def grid(self) -> Grid:
        return Grid(self.level.height, self.level.width, self.tile, self.overlap)

    @property
    def halo(self) -> int:
        """How far around a window the coarse mask decides whether it is run."""
        return ceil(self.level.reach) + 1

    @property
    def windows(self) -> int:
        """Windows that are swept: the most that can run."""
        return (self.window_rows[1] - self.window_rows[0]) * len(self.grid.cols.origins)

    @cached_property
    def parts(self) -> tuple[range, ...]:
        """The window rows of each part of the sweep, top to bottom."""
        first, stop = self.window_rows
        return tuple(range(row, min(row + self.part_rows, stop)) for row in range(first, stop, self.part_rows))

    @property
    def store_bytes(self) -> int:
        """What its correction takes while it waits for the next level; nothing for the last level."""
        return 0 if self.is_last else (self.rows[1] - self.rows[0]) * self.level.width * 2


def choose_reach(
    height: int, width: int, mask_height: int, mask_width: int, *, is_network_output: bool, ramp: float | None
) -> float:
    """How far a first mask may be wrong, in image pixels, at least 1.

    A network's output: four of its pixels. Another mask smaller than the image: `reach_of_small`. Else the width of its
    ramp, if that was measured, or for a hard mask 8 px, less in images below 4096 px on the long side; and at least
    LEAST_OF_LARGE. `ramp` is that of `facts_of_mask`, in pixels of the mask.
    """
    pixel = max(height / mask_height, width / mask_width)
    if is_network_output:
        return max(1.0, NETWORK_PIXELS * pixel)
    if is_smaller(height, width, mask_height, mask_width):
        return reach_of_small(pixel, ramp)
    if ramp is not None:
        return max(LEAST_OF_LARGE, ramp * pixel)
    return max(LEAST_OF_LARGE, min(8.0, max(height, width) / 512))


def reach_of_small(pixel: float, ramp: float | None) -> float:
    """How far a mask of `pixel` image pixels a pixel may be wrong, at least 1.

    A hard mask (`ramp` None): one pixel. A soft one, by its sharpest ramps in its own pixels: as far as an averaged one
    while they are no longer than those that averaging leaves, as far as a network's once they are as long as those of
    networks, in between by how far they are.
    """
    if ramp is None:
        return max(1.0, pixel)
    return max(1.0, pixel * (NETWORK_PIXELS - likely_averaged(ramp) * (NETWORK_PIXELS - RIGHT_TO)))


def likely_averaged(ramp: float | None) -> float:
    """0..1, how far the sharpest ramps of a mask, in its pixels, speak for an accurate one that was averaged."""
    if ramp is None:
        return 0.0
    return _share_of_way(ramp, NETWORK_RAMP, AVERAGED_RAMP)


def agreement_of(
    height: int,
    width: int,
    mask_height: int,
    mask_width: int,
    *,
    is_network_output: bool,
    ramp: float | None,
    given_reach: float | None,
) -> float:
    """0..1, how far a refined mask should agree with the first one where averaged over its pixels.

    A `given_reach` of one image pixel, or half of the mask's, says that the mask is to be trusted; a longer one that it
    is not.
    """
    sizes = height, width, mask_height, mask_width
    if is_network_output or (given_reach is not None and given_reach > trusted_reach(*sizes)):
        return 0.0
    if not is_smaller(*sizes):
        return 1.0 if given_reach is not None and (mask_height, mask_width) == (height, width) else 0.0
    if given_reach is not None:
        return 0.0 if ramp is None else 1.0  # the values of a hard one are no averages
    return likely_averaged(ramp)


def telling_ramp(ramp: float, texture: float | None, *, is_shaped: bool) -> float:
    """The ramp by which a small soft mask is judged: that of an averaged one, as far as its texture says so.

    `is_shaped`: as `has_image_shape` tells.
    """
    if texture is None:
        return ramp
    rough = _share_of_way(texture, SMOOTH, ROUGH) * _share_of_way(ramp, OPEN_RAMP[1], OPEN_RAMP[0])
    if is_shaped:
        rough = max(rough, _share_of_way(texture, SHAPED_SMOOTH, SHAPED_ROUGH))
    return min(ramp, NETWORK_RAMP - rough * (NETWORK_RAMP - AVERAGED_RAMP))


def has_image_shape(height: int, width: int, mask_height: int, mask_width: int) -> bool:
    """Whether a mask was made by reducing the image's height and width alike, by less than SHAPED_BY."""
    factor = max(height / mask_height, width / mask_width)
    off_by = max(abs(height / factor - mask_height), abs(width / factor - mask_width))
    return factor < SHAPED_BY and off_by <= 1


def _share_of_way(value: float, start: float, end: float) -> float:
    """0 at `start` and before it, 1 from `end` on."""
    return min(max((value - start) / (end - start), 0.0), 1.0)


def trusted_reach(height: int, width: int, mask_height: int, mask_width: int) -> float:
    """The longest reach, given by the user, that says that a mask is right as far as its pixels can tell."""
    pixel = max(height / max(1, mask_height - 1), width / max(1, mask_width - 1))  # sizes may have been rounded up
    return max(1.0, RIGHT_TO * pixel)


def make_levels(height: int, width: int, reach: float) -> tuple[Level, ...]:
    """The cascade, coarsest first, down to the image itself; a function of sizes and reach alone."""
    coarsest = max(1, round(reach / FIRST_REACH))
    count = 0
    while 4**count < coarsest:
        count += 1
    decimations = [round(coarsest ** ((count - index) / count)) for index in range(count)] + [1]
    levels: list[Level] = []
    for decimation in decimations:
        wrong_by = reach if not levels else LEFT_ERROR * levels[-1].decimation  # less than the reach: see FIRST_REACH
        rows, cols = -(-height // decimation), -(-width // decimation)
        levels.append(Level(decimation, rows, cols, max(1.0, wrong_by / decimation)))
    return tuple(levels)


def is_smaller(height: int, width: int, mask_height: int, mask_width: int) -> bool:
    """By more than a pixel, which is a matter of rounding."""
    return mask_height < height - 1 or mask_width < width - 1


def serving_overview(decimation: int, overviews: Sequence[int]) -> int | None:
    """The factor of the overview that a level is read from: it divides the decimation.

    The coarsest of which a level pixel still averages four, since many overviews are made by picking pixels; else the
    one of the decimation itself. None if there is none.
    """
    dividing = [factor for factor in overviews if factor > 1 and decimation % factor == 0]
    return max((f for f in dividing if f < decimation), default=max(dividing, default=None))


def plan_levels(
    levels: Sequence[Level], height: int, tile: int, overlap: int, roi: Window | None, overviews: Sequence[int]
) -> tuple[LevelPlan, ...]:
    """The levels' sweeps, found from the last one up: each level makes the rows that the next one reads."""
    steps: list[LevelPlan] = []
    rows = (0, height) if roi is None else (roi.row, roi.stop_row)
    for index in range(len(levels) - 1, -1, -1):
        level = levels[index]
        grid = Grid(level.height, level.width, tile, overlap)
        part_rows = max(PART_ROWS, ceil(PART_WINDOWS / len(grid.cols.origins)))
        first, last = grid.rows.touching(*rows)
        first = first // part_rows * part_rows
        last = min(ceil(last / part_rows) * part_rows, len(grid.rows.origins))
        step = LevelPlan(
            level=level,
            tile=tile,
            overlap=overlap,
            part_rows=part_rows,
            window_rows=(first, last),
            rows=rows,
            is_last=index == len(levels) - 1,
            on_disk=False,
            overview=serving_overview(level.decimation, overviews),
        )
        steps.insert(0, step)
        if index > 0:
            read = Window(grid.rows.origins[first], 0, grid.rows.origins[last - 1] + tile - grid.rows.origins[first], 1)
            read = read.grow(step.halo).clip(level.height, 1)
            # The first and the last row tell; an image may declare millions of them.
            top, bottom = (
                level_taps(row, row + 1, level.decimation, height, levels[index - 1].decimation)
                for row in (read.row, read.stop_row - 1)
            )
            rows = (max(top.start - 1, 0), min(bottom.stop + 1, levels[index - 1].height))
    return tuple(steps)

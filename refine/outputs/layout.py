"""Where the panels of a preview lie: the arrangement in which they are largest."""

from __future__ import annotations

from dataclasses import dataclass

CANVAS_WIDTH = 2400
CANVAS_HEIGHT = 1800
GAP = 12
LABEL_HEIGHT = 28

_LARGEST_SCALE = 8  # of small images, so that their pixels can be told apart
_LEAST_SIDE = 16  # of a panel, however thin the image
_LEAST_CELL = 300  # a label has room above its panel


@dataclass(frozen=True, slots=True)
class Layout:
    """`rows` x `cols` panels of equal size, each below its label."""

    rows: int
    cols: int
    panel_height: int
    panel_width: int

    @property
    def cell_width(self) -> int:
        """From one panel to the next."""
        return max(self.panel_width, _LEAST_CELL) + GAP

    @property
    def cell_height(self) -> int:
        return self.panel_height + LABEL_HEIGHT + GAP

    @property
    def height(self) -> int:
        """Of the canvas, in pixels."""
        return self.rows * self.cell_height + GAP

    @property
    def width(self) -> int:
        return self.cols * self.cell_width + GAP

    def corner(self, index: int) -> tuple[int, int]:
        """Row and column of the first pixel of a panel, counted row by row."""
        row, col = divmod(index, self.cols)
        return GAP + row * self.cell_height + LABEL_HEIGHT, GAP + col * self.cell_width


def choose_layout(height: int, width: int, panels: int) -> Layout:
    """For `panels` pictures of an image of that size, on a canvas of at most CANVAS_WIDTH x CANVAS_HEIGHT."""
    arrangements = [(-(-panels // cols), cols) for cols in range(1, min(panels, CANVAS_WIDTH // _LEAST_CELL) + 1)]
    scaled = [(_scale(height, width, rows, cols), -rows, cols) for rows, cols in arrangements]
    scale, rows, cols = max(scaled)
    most_high, most_wide = _room(-rows, cols)
    panel_height = min(max(_LEAST_SIDE, round(height * scale)), most_high)
    panel_width = min(max(_LEAST_SIDE, round(width * scale)), most_wide)
    return Layout(-rows, cols, panel_height, panel_width)


def _scale(height: int, width: int, rows: int, cols: int) -> float:
    most_high, most_wide = _room(rows, cols)
    return min(most_high / height, most_wide / width, _LARGEST_SCALE)


def _room(rows: int, cols: int) -> tuple[int, int]:
    """The largest panel's height and width."""
    return (CANVAS_HEIGHT - GAP) // rows - LABEL_HEIGHT - GAP, (CANVAS_WIDTH - GAP) // cols - GAP

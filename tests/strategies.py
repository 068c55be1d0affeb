"""What hypothesis draws: axes, images, masks and plans small enough that a law is tried on hundreds of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from refine.geometry import RGB, Axis, Mask
from refine.plan import Plan, Select, make_plan


@st.composite
def axes(draw: st.DrawFn, longest: int = 5000, largest_tile: int = 512) -> Axis:
    """Length 1..longest, tile 1..largest_tile, overlap 0..tile-1."""
    tile = draw(st.integers(1, largest_tile))
    # Short strides over long axes make thousands of windows and no new case.
    length = draw(st.integers(1, longest))
    smallest_stride = max(1, min(tile, length // 200))
    return Axis(length, tile, draw(st.integers(0, tile - smallest_stride)))


@dataclass(frozen=True, slots=True)
class Scene:
    """An image, a first mask of any size, and the options of a plan for them."""

    image: RGB
    mask: NDArray[np.uint8]
    tile: int
    overlap: int
    reach: float | None
    batch: int
    passes: int = 1

    def plan(self, *, select: Select = "boundary", **options: object) -> Plan:
        height, width = self.image.shape[:2]
        chosen: dict[str, object] = {"tile": self.tile, "overlap": self.overlap}
        chosen |= {"reach": self.reach, "batch": self.batch, "passes": self.passes}
        return make_plan(
            height,
            width,
            mask_height=self.mask.shape[0],
            mask_width=self.mask.shape[1],
            select=select,
            minimum_tile=1,
            **(chosen | options),  # type: ignore[arg-type]  # any subset of the options
        )


@st.composite
def scenes(draw: st.DrawFn, longest: int = 70) -> Scene:
    """Sizes from 1 x 1, masks from 1 x 1 to twice the image, one to five levels."""
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    equal = draw(st.booleans())
    mask_height = height if equal else draw(st.integers(1, 2 * longest))
    mask_width = width if equal else draw(st.integers(1, 2 * longest))
    tile = draw(st.integers(2, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Scene(
        image=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        mask=blobs(rng, mask_height, mask_width, soft=draw(st.booleans())),
        tile=tile,
        overlap=draw(st.integers(0, tile - 1 - tile // 8)),
        reach=draw(st.none() | st.floats(1, 240)),
        batch=draw(st.integers(1, 9)),
        passes=draw(st.integers(1, 3)),
    )


def blobs(rng: np.random.Generator, height: int, width: int, *, soft: bool) -> NDArray[np.uint8]:
    """A few discs, (height, width) of 0..255: large empty and full areas, and outlines between them."""
    rows, cols = np.mgrid[:height, :width]
    field = np.full((height, width), -1.0)
    for _ in range(3):
        radius = rng.uniform(1, max(2, max(height, width) / 3))
        distance = np.hypot(rows - rng.uniform(0, height), cols - rng.uniform(0, width))
        field = np.maximum(field, radius - distance)
    shade = np.clip(field / 3 + 0.5, 0, 1) if soft else field > 0
    return np.rint(255 * shade.astype(np.float64)).astype(np.uint8)


class Unchanging:
    """A Refiner that changes nothing."""

    stride = 1
    weight_bytes = 0

    def activation_bytes(self, batch: int, tile: int) -> int:
        return 0

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        return np.zeros_like(coarse)


class Sharpening(Unchanging):
    """A Refiner that pulls uncertain pixels to the image's brightness; each window by its own content alone.

    A window's pixel depends on its neighbours in the window and on the window's mean, as a network's does.
    """

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, image: RGB, coarse: Mask, reach: float) -> Mask:
        self.calls.append(len(image))
        bright = image.astype(np.float32).sum(axis=3) / np.float32(765)
        near = np.pad(coarse, ((0, 0), (1, 1), (1, 1)), mode="edge")
        spread = np.abs(near[:, 2:, 1:-1] - near[:, :-2, 1:-1]) + np.abs(near[:, 1:-1, 2:] - near[:, 1:-1, :-2])
        means = np.stack([np.float32(window.mean(dtype=np.float64)) for window in coarse])[:, None, None]
        pull: Mask = np.clip(spread, 0, 1) * (bright - coarse) * (np.float32(0.5) + means / 2)
        return pull

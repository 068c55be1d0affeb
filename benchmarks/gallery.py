"""Pictures of before and after: images drawn at random, each with the place where refinement changed most.

    python benchmarks/gallery.py --images "photos/*.jpg" --count 4 --seed 1 --out docs/gallery.jpg

A row is one image: the whole with the place framed, the place enlarged, its first mask, its refined mask. The first
mask is what refine makes where none is given, or the truth reduced to 64 px, if <stem>.png lies beside <stem>.jpg.
"""

from __future__ import annotations

from glob import glob
from pathlib import Path

import click
import cv2
import numpy as np
from coarse_masks import LONG_SIDE, reduce_mask
from numpy.typing import NDArray

from refine import refine_array
from refine.coarse import make_coarse
from refine.errors import RefineError
from refine.geometry import RGB, Mask
from refine.networks import choose_networks, load_coarse
from refine.settings import Settings
from refine.sources import ArrayImage

HEIGHT = 240
"""Of a row, in pixels."""

GAP = 6
FRAME = (255, 80, 0)


@click.command(help=__doc__.partition("\n")[0])
@click.option("--images", required=True, help="a pattern; several with commas")
@click.option("--count", default=4, show_default=True, help="how many are drawn")
@click.option("--seed", default=1, show_default=True)
@click.option("--detail", default=0.22, show_default=True, help="side of the place, as a share of the short side")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(images: str, count: int, seed: int, detail: float, out: Path) -> None:
    paths = sorted({Path(name) for pattern in images.split(",") for name in glob(pattern)})
    if not paths:
        raise click.UsageError(f"--images {images}: no file has such a name")
    drawn = np.random.default_rng(seed).permutation(len(paths))[:count]
    try:
        rows = [row(paths[int(index)], detail) for index in sorted(drawn)]
    except RefineError as error:
        raise click.ClickException(str(error)) from error
    width = max(picture.shape[1] for picture in rows)
    padded = [np.pad(r, ((0, GAP), (width - r.shape[1], 0), (0, 0)), constant_values=255) for r in rows]
    if not cv2.imwrite(str(out), np.concatenate(padded)[:-GAP, :, ::-1]):
        raise click.ClickException(f"{out}: cannot be written")
    click.echo(f"{out}: {', '.join(str(paths[int(index)]) for index in sorted(drawn))}")


def row(path: Path, share: float) -> RGB:
    """(HEIGHT, W, 3): the whole image and the place, its first and its refined mask."""
    image = read(path, cv2.IMREAD_COLOR)[:, :, ::-1]
    image = np.ascontiguousarray(image)
    given = reduced_truth(path)
    refined = refine_array(image, given, settings=Settings(align="stretch", device="cpu"))
    first = usual_mask(image) if given is None else given
    height, width = image.shape[:2]
    before = cv2.resize(first, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    side = max(16, round(share * min(height, width)))
    top, left = most_changed(np.abs(refined - before), side)
    place = np.s_[top : top + side, left : left + side]
    whole = image.copy()
    cv2.rectangle(whole, (left, top), (left + side, top + side), FRAME, max(2, height // 150))
    small = cv2.resize(whole, (round(width * HEIGHT / height), HEIGHT), interpolation=cv2.INTER_AREA)
    parts = [small, square(image[place]), square(shown(before[place])), square(shown(refined[place]))]
    gap = np.full((HEIGHT, GAP, 3), 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=1).astype(np.uint8)


def reduced_truth(path: Path) -> Mask | None:
    """The truth beside an image, on a grid of LONG_SIDE px; None if there is none."""
    truth = path.with_suffix(".png")
    if truth == path or not truth.exists():
        return None
    plane = read(truth, cv2.IMREAD_GRAYSCALE)
    reduced: Mask = reduce_mask(plane, max(plane.shape) / LONG_SIDE).astype(np.float32) / np.float32(255)
    return reduced


def usual_mask(image: RGB) -> Mask:
    """What refine begins with where no mask is given."""
    networks = choose_networks(Settings(device="cpu"), "cpu", needs_coarse=True)
    return make_coarse(ArrayImage(image), load_coarse(networks))


def most_changed(change: Mask, side: int) -> tuple[int, int]:
    """Top and left of the square that holds the most change."""
    sums = cv2.boxFilter(change, -1, (side, side), anchor=(0, 0), normalize=False, borderType=cv2.BORDER_CONSTANT)
    inside = sums[: change.shape[0] - side + 1, : change.shape[1] - side + 1]
    row, col = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return int(row), int(col)


def read(path: Path, flags: int) -> NDArray[np.uint8]:
    picture = cv2.imread(str(path), flags)
    if picture is None:
        raise click.ClickException(f"{path}: does not decode")
    return picture.astype(np.uint8)


def shown(mask: Mask) -> RGB:
    return np.repeat(np.round(255 * mask).astype(np.uint8)[:, :, None], 3, axis=2)


def square(part: RGB) -> RGB:
    way = cv2.INTER_CUBIC if part.shape[0] < HEIGHT else cv2.INTER_AREA
    return cv2.resize(part, (HEIGHT, HEIGHT), interpolation=way).astype(np.uint8)


if __name__ == "__main__":
    main()

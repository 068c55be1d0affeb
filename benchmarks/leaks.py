"""Proof that no test image trains: every training image is compared with every test image by content.

    python benchmarks/leaks.py --train 'DATA/train-*.tar' --test DATA/test.tar

Two images are the same if their decoded pixels hash alike, and near duplicates if their 64-bit difference hashes (9 x 8
grey, area-averaged) are at most 6 bits apart. Exit code 1 if any such pair is found.
"""

from __future__ import annotations

import hashlib
import sys

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from refine.training.config import Data
from refine.training.data import load_pairs

NEAR_BITS = 6


def difference_hash(image: NDArray[np.uint8]) -> int:
    """64 bits: whether each of 8 x 8 cells is darker than its right neighbour."""
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(int)
    return int("".join("1" if darker else "0" for darker in (grey[:, :-1] < grey[:, 1:]).ravel()), 2)


def fingerprints(path: str) -> list[tuple[str, str, int]]:
    """Name, hash of the pixels and difference hash of every image of a pack."""
    pairs = load_pairs([Data(name="pack", path=path)], frozenset()).pairs
    return [
        ("/".join(pair.key), hashlib.sha256(pair.image.tobytes()).hexdigest(), difference_hash(pair.image))
        for pair in tqdm(pairs, desc=path, disable=None)
    ]


@click.command()
@click.option("--train", required=True, help="folder, tar or pattern of tars of the training pack")
@click.option("--test", required=True, help="the same of the test pack")
def main(train: str, test: str) -> None:
    """Look for test images in a training pack."""
    trained, tested = fingerprints(train), fingerprints(test)
    found = 0
    for name, content, bits in tested:
        for other, other_content, other_bits in trained:
            apart = (bits ^ other_bits).bit_count()
            if content == other_content or apart <= NEAR_BITS:
                found += 1
                click.echo(f"{name} is in training as {other} ({apart} bits apart)")
    click.echo(f"{len(tested)} test images against {len(trained)} training images: {found} found")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

"""Store other networks' masks of training images, which the config's `predictions` feed to MOS_H as coarse masks.

    python benchmarks/predictions.py --data "data/train-*.tar" --out data/predictions/mos_l_lite
    python benchmarks/predictions.py --data "data/train-*.tar" --out data/predictions/u2netp --network u2netp
    python benchmarks/predictions.py --data "data/train-*.tar" --out data/predictions/isnet --network isnet --isnet FILE

Each <set>/<id>.png has the network's own size. What is there already is kept, so a stopped run goes on.
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np
from coarse_masks import Entry, Maker, makers
from numpy.typing import NDArray
from tqdm import tqdm

from refine.errors import RefineError
from refine.geometry import RGB
from refine.training.config import Data
from refine.training.data import load_pairs


@click.command(help=__doc__.partition("\n")[0])
@click.option("--data", required=True, help="a folder of <set>/<id>.jpg and .png, a tar of them, or a pattern")
@click.option("--sets", default="", help="only these sets, with commas")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder of <set>/<id>.png")
@click.option("--coarse-checkpoint", type=click.Path(path_type=Path), help="MOS_L  [default: the shipped one]")
@click.option("--isnet", type=click.Path(path_type=Path), help="isnet.safetensors, for --network isnet")
@click.option(
    "--network", type=click.Choice(["mos_l", "u2netp", "ensemble", "isnet"]), default="mos_l", show_default=True
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def main(
    data: str, sets: str, out: Path, coarse_checkpoint: Path | None, isnet: Path | None, network: str, device: str
) -> None:
    try:
        section = Data(name="data", path=data, sets=[name for name in sets.split(",") if name])
        (make,) = makers((network,), mos_l=coarse_checkpoint, isnet=isnet, device=device)
        for pair in tqdm(load_pairs([section], frozenset()).pairs, unit=" images", disable=None):
            store(out / pair.key[0] / f"{pair.key[1]}.png", make, pair.image, pair.mask)
    except (RefineError, OSError) as error:
        raise click.ClickException(str(error)) from error


def store(path: Path, make: Maker, image: RGB, mask: NDArray[np.uint8]) -> None:
    """Write one image's mask, unless it is there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    (coarse,) = make(Entry(path.parent, path.parent.name, path.stem, True), image, mask)
    _, packed = cv2.imencode(".png", np.round(np.asarray(coarse.mask, np.float32) * 255).astype(np.uint8))
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(packed.tobytes())
    temporary.replace(path)


if __name__ == "__main__":
    main()

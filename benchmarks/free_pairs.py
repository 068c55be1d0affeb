"""Free cut-outs laid on photographs of free wallpapers: training pairs that anyone may use.

    apt-get download tuxpaint-stamps-default lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds \
        plasma-workspace-wallpapers
    for package in *.deb; do dpkg-deb -x "$package" unpacked; done
    python benchmarks/free_pairs.py --packages unpacked --out data/freepairs

Writes `composites/<id>.jpg` with `composites/<id>.png`, the exact alpha. The stamps are GPL-2, the photographs CC BY-SA
(lomiri), GPL-2+ (mate) and LGPL-3 (plasma). Photographs behind test images (`cg` of the test pack) are not among them.
With `--cut-outs plants` they are trees, grasses and people of games (`plants.py`), whose archives are unpacked as well:

    apt-get download trigger-rally-data torcs-data flightgear-data-base flightgear-data-models 0ad-data
    for package in *.deb; do dpkg-deb -x "$package" unpacked; done
    for zip in $(find unpacked -name data.zip -o -name public.zip); do unzip -q -d "$zip.unpacked" "$zip"; done
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from plants import things
from stamps import photographs
from tqdm import tqdm

from refine.training.cutouts import CutOuts

NAMES = {"stamps": "composites", "plants": "plants"}
"""Of the sets that are written, by the cut-outs in them."""

LOMIRI = (
    "Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly", "Picture_0B_by_freespace", "Picture_1A_by_freespace",
    "Wine_by_Jakkub_Mede", "aitzgorri_by_Aitzol_Berasategi", "analogpattern_by_Peter_Nerlich", "free_by_Peter_Nerlich",
    "friends_by_Aitzol_Berasategi", "greentock_by_Peter_Nerlich", "life_by_Aitzol_Berasategi",
    "picosdeeuropa_by_Aitzol_Berasategi", "seeding_by_Clements_Engelhardt", "sunset_by_Aitzol_Berasategi",
    "Kleiber_by_Lukas_Baubkus",
)  # fmt: skip
MATE = ("Aqua", "Blinds", "RainDrops", "TwoWings", "YellowFlower")
PLASMA = (
    "BytheWater", "ColdRipple", "ColorfulCups", "FallenLeaf", "Grey", "Kite", "Volna", "summer_1am"
)  # fmt: skip
"""Photographs among the wallpapers, found by looking."""

CROPS = 6
"""Backgrounds cut out of a photograph, each at a scale of its own."""

SHARE = (0.35, 1.0)
"""Short side of a crop, as a share of the photograph's; log-uniform."""

LONG_SIDE = (560, 800)
ASPECT = (0.75, 1.5)

LEAST = 0.004
"""Composites that show less of their cut-out are left out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder that the packages are unpacked into")
    parser.add_argument("--cut-outs", choices=tuple(NAMES), default="stamps", help="[default: %(default)s]")
    parser.add_argument("--out", type=Path, required=True, help="folder of <set>/<id>.jpg and .png")
    parser.add_argument("--count", type=int, default=700, help="[default: %(default)s]")
    parser.add_argument("--seed", type=int, default=3, help="[default: %(default)s]")
    options = parser.parse_args()
    folder = options.out / NAMES[options.cut_outs]
    with tempfile.TemporaryDirectory() as name:
        fronts, grounds = Path(name) / "fronts", Path(name) / "grounds"
        cut_out(options.packages, options.cut_outs, fronts)
        cut_grounds(options.packages, grounds, np.random.default_rng(options.seed))
        pairs = CutOuts(fronts, grounds, seed=options.seed)
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [i * len(pairs) // options.count for i in range(options.count)]
        kept = sum(write(pairs, number, folder) for number in tqdm(numbers, unit=" pairs", disable=None))
    print(f"{kept} pairs in {folder}")


def cut_out(packages: Path, which: str, folder: Path) -> None:
    """The cut-outs that are photographs, with their alpha channels."""
    folder.mkdir()
    found = things(packages) if which == "plants" else photographs(packages / "usr/share/tuxpaint/stamps")
    for name, picture in found:
        cv2.imwrite(str(folder / f"{name}.png"), picture)


def cut_grounds(packages: Path, folder: Path, rng: np.random.Generator) -> None:
    """CROPS parts of every photograph."""
    folder.mkdir()
    share = packages / "usr/share"
    paths = [share / "backgrounds" / f"{name}.jpg" for name in LOMIRI]
    paths += [share / "backgrounds/mate/nature" / f"{name}.jpg" for name in MATE]
    for name in PLASMA:
        sizes = (share / "wallpapers" / name / "contents/images").glob("*x*.jpg")
        paths.append(max(sizes, key=lambda path: int(path.stem.partition("x")[0]), default=share / "wallpapers" / name))
    for number, path in enumerate(paths):
        photograph = cv2.imread(str(path))
        if photograph is None:
            raise SystemExit(f"{path}: is not there, or does not decode; unpack the packages into one folder")
        height, width = photograph.shape[:2]
        for crop in range(CROPS):
            side = np.exp(rng.uniform(*np.log(SHARE))) * min(height, width)
            tall, wide = int(side), int(min(width, side * rng.uniform(*ASPECT)))
            top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
            scale = rng.uniform(*LONG_SIDE) / max(tall, wide)
            way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            part = cv2.resize(
                photograph[top : top + tall, left : left + wide], None, fx=scale, fy=scale, interpolation=way
            )
            cv2.imwrite(str(folder / f"{number:02d}_{crop}.jpg"), part, [cv2.IMWRITE_JPEG_QUALITY, 95])


def write(pairs: CutOuts, number: int, folder: Path) -> bool:
    """Whether enough of the cut-out is in view, in which case the pair is written."""
    made = pairs[number]
    if float(np.mean(made.alpha > 0.5)) < LEAST:
        return False
    image = np.ascontiguousarray(made.image[:, :, ::-1])
    cv2.imwrite(str(folder / f"{number:07d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 94])
    cv2.imwrite(str(folder / f"{number:07d}.png"), np.round(made.alpha * 255).astype(np.uint8))
    return True


if __name__ == "__main__":
    main()

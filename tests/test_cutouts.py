"""Cut-outs on backgrounds: exact masks, the published places, the same picture for the same number."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from plants import apart

from refine.errors import InputError
from refine.synthesize import SynthesizeRequest, synthesize
from refine.training.config import Data
from refine.training.cutouts import GRID, CutOuts
from refine.training.data import load_pairs

RED, BLUE = (200, 30, 20), (10, 20, 220)  # RGB


def write_folders(root: Path) -> tuple[Path, Path]:
    """Two red cut-outs (48 x 64 with a transparent frame of 8, and 32 x 32) and three blue backgrounds of 96 x 96."""
    fronts, backs = root / "fronts", root / "backs"
    fronts.mkdir()
    backs.mkdir()
    for name, (height, width) in {"a": (48, 64), "b": (32, 32)}.items():
        picture = np.zeros((height + 16, width + 16, 4), np.uint8)
        picture[:, :, :3] = (0, 255, 0)  # what was behind must not show
        picture[8:-8, 8:-8] = (*RED[::-1], 255)
        assert cv2.imwrite(str(fronts / f"{name}.png"), picture)
    for i in range(3):
        assert cv2.imwrite(str(backs / f"{i}.png"), np.full((96, 96, 3), BLUE[::-1], np.uint8))
    return fronts, backs


def test_the_grid_is_that_of_the_recipe(tmp_path: Path) -> None:
    """96 px on 192 at x = 28 * 0..4 and y = 28 * 1..4: what hangs over is cut; every pair, mirrored or not."""
    made = CutOuts(*write_folders(tmp_path), positions="grid", side=192)
    assert len(made) == 2 * 2 * 3 * 20
    assert sorted({(round(192 * top), round(192 * left)) for top, left in GRID}) == [
        (28 * down, 28 * across) for down in range(1, 5) for across in range(5)
    ]
    parts = {(c.foreground, c.mirrored, c.background, c.top, c.left) for c in made}
    assert len(parts) == len(made)
    first = made[120]  # of the second cut-out, which is a square
    assert (first.foreground, first.top, first.left) == ("b.png", 28, 0)
    expected = np.zeros((192, 192), np.float32)
    expected[28:124, 0:96] = 1
    np.testing.assert_array_equal(first.alpha, expected)
    assert (first.image[expected > 0] == RED).all()
    assert (first.image[expected == 0] == BLUE).all()
    assert made[139].alpha.sum() == 80 * 80  # the last place: 112 + 96 is 16 more than 192


def test_random_composites_follow_from_their_number_and_hold_nothing_of_the_old_background(tmp_path: Path) -> None:
    folders = write_folders(tmp_path)
    first, second = CutOuts(*folders, seed=3), CutOuts(*folders, seed=3)
    assert [c.image.tobytes() for c in second[7:9]] == [c.image.tobytes() for c in first[7:9]]
    assert first[7].image.tobytes() != CutOuts(*folders, seed=4)[7].image.tobytes()
    sizes = set()
    for composite in first[:40]:
        inside = composite.alpha > 0.5
        assert inside.mean() > 0.02
        sizes.add(int(inside.sum()))
        assert composite.image[:, :, 1].max() <= 40  # the old background was green
        assert composite.alpha.min() >= 0
        assert composite.alpha.max() <= 1
    assert len(sizes) > 30


def test_alphas_of_their_own_are_those_of_the_channel(tmp_path: Path) -> None:
    fronts, backs = write_folders(tmp_path)
    (tmp_path / "plain").mkdir()
    (tmp_path / "alphas").mkdir()
    for path in fronts.iterdir():
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert picture is not None
        cv2.imwrite(str(tmp_path / "plain" / path.name), picture[:, :, :3])
        cv2.imwrite(str(tmp_path / "alphas" / path.name), picture[:, :, 3])
    apart = CutOuts(tmp_path / "plain", backs, alphas=tmp_path / "alphas")
    assert all(np.array_equal(a.image, b.image) for a, b in zip(apart[:6], CutOuts(fronts, backs)[:6], strict=True))
    with pytest.raises(InputError, match="no alpha channel"):
        CutOuts(tmp_path / "plain", backs)[0]
    for kind in ("plain", "alphas"):
        twice = tmp_path / kind / "a.bmp"
        cv2.imwrite(str(twice), np.zeros((8, 8), np.uint8))
        with pytest.raises(InputError, match=r"a\.png: a\.bmp has its stem, and alphas go by stems; leave"):
            CutOuts(tmp_path / "plain", backs, alphas=tmp_path / "alphas")
        twice.unlink()
    (tmp_path / "alphas" / "a.png").unlink()
    with pytest.raises(InputError, match=r"1 foregrounds have no alpha there, such as a\.png"):
        CutOuts(tmp_path / "plain", backs, alphas=tmp_path / "alphas")


def test_synthesize_writes_pairs_that_train_and_says_their_statistics(tmp_path: Path) -> None:
    fronts, backs = write_folders(tmp_path)
    out = tmp_path / "made"
    text = synthesize(SynthesizeRequest(fronts, backs, out, positions="grid", count=9))
    names = sorted(path.name for path in (out / "images").iterdir())
    assert len(names) == 9
    pixels = np.concatenate([_read(out / "images" / name).reshape(-1, 3) for name in names]) / 255
    for figure in (*pixels.mean(axis=0), *pixels.std(axis=0)):
        assert f"{figure:.6f}" in text
    rows = list(csv.DictReader((out / "sources.csv").read_text().splitlines()))
    assert [f"{row['id']}.png" for row in rows] == names
    pairs = load_pairs([Data(name="made", path=str(out), layout="folders", truth="soft")], frozenset()).pairs
    lazy = CutOuts(fronts, backs, positions="grid")
    for pair in pairs:
        composite = lazy[int(pair.key[1])]
        assert np.array_equal(pair.image, composite.image)
        assert np.array_equal(pair.mask, np.round(255 * composite.alpha).astype(np.uint8))
    with pytest.raises(InputError, match="is there already"):
        synthesize(SynthesizeRequest(fronts, backs, out))
    (fronts / "c.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"c\.png: does not decode"):
        synthesize(SynthesizeRequest(fronts, backs, tmp_path / "half" / "of" / "it"))
    assert not list(tmp_path.glob("*half*"))
    (fronts / "c.png").unlink()
    synthesize(SynthesizeRequest(fronts, backs, tmp_path / "new" / "folder", count=1))
    assert len(list((tmp_path / "new" / "folder" / "images").iterdir())) == 1


def test_training_makes_composites_when_it_draws_them(tmp_path: Path) -> None:
    fronts, backs = write_folders(tmp_path)
    (tmp_path / "set").mkdir()
    fronts.rename(tmp_path / "set" / "images")
    section = Data(name="cut", path=str(tmp_path / "set"), layout="cutouts", backgrounds=str(backs), side=64)
    pairs = load_pairs([section], frozenset())
    assert len(pairs.pairs) == 240
    made_of = {"foregrounds": tmp_path / "set" / "images", "backgrounds": backs}
    assert set(pairs.prints) == {f"cut/{kind}/{path.name}" for kind in made_of for path in made_of[kind].iterdir()}
    pair = pairs.draw(np.random.default_rng(0))
    assert pair.image.shape == (64, 64, 3)
    assert pair.is_exact
    assert len(pair.outline) > 10


def _read(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture[:, :, ::-1].astype(np.uint8)


def test_hair_beyond_what_is_surely_seen_is_kept(tmp_path: Path) -> None:
    fronts, backs = write_folders(tmp_path)
    row, col = np.mgrid[:101, :101] - 50
    soft = np.clip(40 - np.hypot(row, col), 0, 25) / 25
    for name in "ab":
        picture = np.dstack([np.full((101, 101, 3), 90), np.round(255 * soft)]).astype(np.uint8)
        cv2.imwrite(str(fronts / f"{name}.png"), picture)
    alpha = CutOuts(fronts, backs, positions="grid", side=192)[20].alpha
    seen = alpha[np.ix_((alpha > 0).any(axis=1), (alpha > 0).any(axis=0))]
    assert max(seen[0].max(), seen[-1].max(), seen[:, 0].max(), seen[:, -1].max()) < 0.1


def test_a_background_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    fronts, backs = write_folders(tmp_path)
    _, packed = cv2.imencode(".jpg", np.full((96, 96, 3), 90, np.uint8))
    (backs / "0.png").write_bytes(packed.tobytes()[:-9])  # a JPEG by its content
    with pytest.raises(InputError, match=r"0\.png: does not decode, or is cut short"):
        CutOuts(fronts, backs)[0]


def test_things_of_a_sheet_come_apart_each_with_its_own_alpha() -> None:
    rng = np.random.default_rng(0)
    disc, ring = np.zeros((2, 400, 900), np.uint8)
    cv2.circle(disc, (150, 200), 100, 255, -1)
    cv2.circle(ring, (450, 200), 90, 120, 12)
    wall, speck = np.zeros((2, 400, 900), np.uint8)
    wall[50:350, 650:850] = 255  # fills its box
    speck[380:390, 20:60] = 255
    sheet = np.dstack([rng.integers(0, 256, (400, 900, 3), dtype=np.uint8), disc | ring | wall | speck])
    found = list(apart(sheet))
    assert [int(thing[:, :, 3].sum()) for thing in found] == [int(disc.sum())]  # of the ring nothing is surely seen
    sheet[:, :, 3] |= np.where(ring, np.uint8(255), np.uint8(0))
    alphas = [int((thing[:, :, 3] > 0).sum()) for thing in apart(sheet)]
    assert alphas == [int((disc > 0).sum()), int((ring > 0).sum())]

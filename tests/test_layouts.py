"""Data as people have it on disk: every layout finds its pairs, and what cannot be used is counted and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from training_data import small_config, tiny_network, write_shard

from refine.errors import InputError
from refine.training.config import Data, parse_config
from refine.training.data import Stored, load_pairs
from refine.training.run import make_samples

SIDE = 48
Picture = NDArray[np.uint8]


def image(number: int) -> Picture:
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def mask(number: int) -> Picture:
    plane = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(plane, (20 + number, 24), 9 + number, 255, -1)
    return plane


def write(path: Path, picture: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)


def section(root: Path, **fields: object) -> Data:
    return Data.model_validate({"name": "mine", "path": str(root), **fields})


@pytest.mark.parametrize(
    ("layout", "image_path", "mask_path", "key"),
    [
        ("duts", "DUTS-TR/DUTS-TR-Image/{}.jpg", "DUTS-TR/DUTS-TR-Mask/{}.png", "mine-TR"),
        ("msra10k", "Imgs/{}.jpg", "Imgs/{}.png", "mine"),
        ("dut-omron", "DUT-OMRON-image/{}.jpg", "pixelwiseGT-new-PNG/{}.png", "mine"),
        ("ecssd", "images/{}.jpg", "ground_truth_mask/{}.png", "mine"),
        ("fss-1000", "abacus/{}.jpg", "abacus/{}.png", "abacus"),
        ("hrsod", "HRSOD_train/{}.jpg", "HRSOD_train_mask/{}.png", "mine-train"),
        ("dis5k", "DIS-TR/im/{}.jpg", "DIS-TR/gt/{}.png", "mine-TR"),
        ("thinobject", "images/{}.jpg", "masks/{}.png", "mine-train"),
        ("big", "val/{}_im.png", "val/{}_gt.png", "mine-val"),
        ("folders", "images/{}.webp", "masks/{}.tif", "mine"),
    ],
)
def test_layout_finds_its_pairs(tmp_path: Path, layout: str, image_path: str, mask_path: str, key: str) -> None:
    for i in range(3):
        write(tmp_path / image_path.format(f"a{i}"), image(i))
        write(tmp_path / mask_path.format(f"a{i}"), mask(i))
    if layout == "thinobject":
        (tmp_path / "list").mkdir()
        (tmp_path / "list" / "train.txt").write_text("a0.jpg\na2.jpg\n")
    pairs = load_pairs([section(tmp_path, layout=layout)], frozenset()).pairs
    expected = (0, 2) if layout == "thinobject" else (0, 1, 2)
    assert [pair.key for pair in pairs] == [(key, f"a{i}") for i in expected]
    assert all(np.array_equal(pair.mask, mask(i)) for pair, i in zip(pairs, expected, strict=True))
    with pytest.raises(InputError, match=r"data\.mine: .*not a folder"):
        load_pairs([section(tmp_path / "absent", layout=layout)], frozenset())


def test_suffixes_side_by_side_and_parts_by_name(tmp_path: Path) -> None:
    write(tmp_path / "1.jpg", image(1))
    write(tmp_path / "1_mask.png", mask(1))
    found = load_pairs([section(tmp_path, layout="folders", images=".", masks=".", mask_suffix="_mask")], frozenset())
    assert [pair.key for pair in found.pairs] == [("mine", "1")]
    write(tmp_path / "DUTS-TE" / "DUTS-TE-Image" / "7.jpg", image(7))
    write(tmp_path / "DUTS-TE" / "DUTS-TE-Mask" / "7.png", mask(7))
    found = load_pairs([section(tmp_path, layout="duts", parts=["TE"])], frozenset())
    assert [pair.key for pair in found.pairs] == [("mine-TE", "7")]
    with pytest.raises(InputError, match="DUTS-TR-Image; it is not there"):
        load_pairs([section(tmp_path, layout="duts")], frozenset())


def folder_in_place_of(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "an image has no mask": lambda photo, truth: truth.unlink(),
    "a mask has no image": lambda photo, truth: photo.unlink(),
    "the sizes differ": lambda photo, truth: write(truth, np.zeros((30, 40), np.uint8)),
    "the mask is not binary": lambda photo, truth: write(truth, cv2.GaussianBlur(mask(1), (0, 0), 4).astype(np.uint8)),
    "a colour picture is given as mask": lambda photo, truth: write(truth, image(1)),
    "a photograph is given as mask": lambda photo, truth: write(truth, np.full((SIDE, SIDE), 120, np.uint8)),
    "the mask is empty": lambda photo, truth: write(truth, np.zeros((SIDE, SIDE), np.uint8)),
    "the mask does not decode": lambda photo, truth: truth.write_bytes(b"nothing"),
    "the image does not decode": lambda photo, truth: photo.write_bytes(b"nothing"),
    "a file cannot be read": lambda photo, truth: folder_in_place_of(truth),
}


@pytest.mark.parametrize("twice", ["images/1.png", "masks/1.tif"])
def test_a_half_that_is_there_twice_is_no_pair(tmp_path: Path, twice: str) -> None:
    """Nobody says which of two files is meant; so far the last of them was taken."""
    for i in range(3):
        write(tmp_path / "images" / f"{i}.jpg", image(i))
        write(tmp_path / "masks" / f"{i}.png", mask(i))
    write(tmp_path / twice, image(1) if twice.startswith("images") else mask(1))
    there = " and ".join(str(path) for path in sorted((tmp_path / twice).parent.glob("1.*")))
    with pytest.raises(InputError, match=rf"1 of 3 pairs cannot be used: a half is there twice: 1 \(mine/1: {there}\)"):
        load_pairs([section(tmp_path, layout="folders")], frozenset())
    left = load_pairs([section(tmp_path, layout="folders", bad_share=0.5)], frozenset())
    assert [pair.key[1] for pair in left.pairs] == ["0", "2"]


def test_a_pair_of_sets_that_is_there_twice_is_no_pair(tmp_path: Path) -> None:
    """As .jpg and .jpeg it was drawn twice as often; of two shards the last one counted."""
    for shard in ("a", "b"):
        write(tmp_path / shard / "things" / "1.jpg", image(1))
        write(tmp_path / shard / "things" / "1.png", mask(1))
        write_shard(tmp_path / shard, tmp_path / f"{shard}.tar")
    with pytest.raises(InputError, match=r"a half is there twice: 1 \(things/1: .*a\.tar:things/1\.jpg and .*b\.tar:"):
        load_pairs([section(tmp_path / "*.tar")], frozenset())
    write(tmp_path / "a" / "things" / "1.jpeg", image(2))
    with pytest.raises(InputError, match=r"1 of 1 pairs cannot be used: .* \(things/1: .*/1\.jpeg and .*/1\.jpg\)"):
        load_pairs([section(tmp_path / "a")], frozenset())


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("kind", DAMAGE)
def test_what_cannot_be_used_is_counted_named_and_refused_above_a_limit(
    tmp_path: Path, kind: str, in_memory: bool
) -> None:
    for i in range(4):
        write(tmp_path / "images" / f"{i}.jpg", image(i))
        write(tmp_path / "masks" / f"{i}.png", mask(i))
    DAMAGE[kind](tmp_path / "images" / "1.jpg", tmp_path / "masks" / "1.png")
    allowed = section(tmp_path, layout="folders", bad_share=0.25, in_memory=in_memory)
    with pytest.raises(InputError, match=rf"1 of 4 pairs cannot be used: {kind}: 1 \(mine/1.*bad_share \(now 0\)"):
        load_pairs([allowed.model_copy(update={"bad_share": 0.0})], frozenset())
    found = load_pairs([allowed], frozenset())
    assert [pair.key[1] for pair in found.pairs] == ["0", "2", "3"]
    (note,) = found.notes
    assert f"{kind}: 1 (mine/1" in note
    assert note.endswith("they are left out")


def test_greys_are_right_where_the_truth_is_said_to_be_soft(tmp_path: Path) -> None:
    write(tmp_path / "images" / "1.jpg", image(1))
    write(tmp_path / "masks" / "1.png", cv2.GaussianBlur(mask(1), (0, 0), 4).astype(np.uint8))
    assert len(load_pairs([section(tmp_path, layout="folders", truth="soft")], frozenset()).pairs) == 1


def test_pairs_on_disk_are_those_in_memory_and_sections_mix_by_weight(tmp_path: Path) -> None:
    for name in ("x", "y"):
        for i in range(3):
            write(tmp_path / name / "images" / f"{i}.jpg", image(i))
            write(tmp_path / name / "masks" / f"{i}.png", mask(i))
    sections = [
        section(tmp_path / "x", layout="folders", in_memory=False, weights={"mine": 3.0}),
        section(tmp_path / "y", layout="folders").model_copy(update={"name": "other"}),
    ]
    pairs = load_pairs(sections, frozenset({("mine", "1")}))
    assert [pair.key for pair in pairs.pairs] == [("mine", "0"), ("mine", "2"), *(("other", str(i)) for i in range(3))]
    assert pairs.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 9, 1 / 9, 1 / 9])
    for a, b in ((0, 2), (1, 4)):
        first, second = pairs.pairs[a], pairs.pairs[b]
        assert np.array_equal(first.image, second.image)
        assert np.array_equal(first.outline, second.outline)
    assert isinstance(pairs.pairs[:1], list)
    assert len(Stored([])) == 0


def test_voc_gives_one_mask_an_object_and_shares_out_the_border(tmp_path: Path) -> None:
    labels = np.zeros((SIDE, SIDE, 3), np.uint8)
    labels[8:32, 8:24] = (192, 224, 224)  # the border of 2 px around two objects, in OpenCV's order
    labels[10:30, 10:22] = (0, 0, 128)
    labels[40:42, 40:42] = (0, 128, 0)  # too small
    write(tmp_path / "SegmentationObject" / "2007_1.png", labels)
    write(tmp_path / "JPEGImages" / "2007_1.jpg", image(1))
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_1\n")
    (pair,) = load_pairs([section(tmp_path, layout="voc")], frozenset()).pairs
    assert pair.key == ("train", "2007_1-800000")
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[9:31, 9:23] = 255
    inner = pair.mask.copy()
    for row, col in ((9, 9), (9, 22), (30, 9), (30, 22)):
        inner[row, col] = 255  # at the corners the object is as far as the background
    assert np.array_equal(inner, expected)
    assert pair.void is not None
    assert np.array_equal(pair.void == 255, (labels == (192, 224, 224)).all(axis=2))
    data = [{"name": "mine", "path": str(tmp_path), "layout": "voc"}]
    for name, augment in (
        ("mos_h_lite", {"scale": [1.0, 1.0], "whole": 1.0}),
        ("mos_l_lite", {"rotate_degrees": 20.0}),
    ):
        raw = small_config(tmp_path, model=tiny_network(name, SIDE), augment=augment)
        trusted = make_samples(parse_config({**raw, "data": data}, "voc"))[0]["trusted"]
        assert 144 <= int((~trusted).sum()) <= 300  # the border's pixels, and those that turning mixes them into
    (tmp_path / "SegmentationObject" / "2007_1.png").unlink()
    with pytest.raises(InputError, match="missing or does not decode"):
        load_pairs([section(tmp_path, layout="voc")], frozenset())


def test_coco_gives_one_mask_an_object_but_no_crowds(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    square = [8, 8, 32, 8, 32, 24, 8, 24]
    common = {"image_id": 5, "category_id": 1, "bbox": [8, 8, 24, 16]}
    found = {
        "images": [{"id": 5, "file_name": "000005.jpg", "height": SIDE, "width": SIDE}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": 11, "segmentation": [square], "area": 384, "iscrowd": 0, **common},
            {"id": 12, "segmentation": [[1, 1, 3, 1, 3, 3]], "area": 2, "iscrowd": 0, **common},
            {"id": 13, "segmentation": {"counts": [0, 9], "size": [3, 3]}, "area": 999, "iscrowd": 1, **common},
        ],
    }
    write(tmp_path / "val2017" / "000005.jpg", image(5))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(found))
    wanted = section(tmp_path, layout="coco", parts=["val2017"])
    (pair,) = load_pairs([wanted], frozenset()).pairs
    assert pair.key == ("val2017", "000005-11")
    assert pair.mask[9:23, 9:31].min() == 255
    assert pair.mask[:7].max() == pair.mask[:, 33:].max() == 0
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{}")
    with pytest.raises(InputError, match="is no annotation file"):
        load_pairs([wanted], frozenset())

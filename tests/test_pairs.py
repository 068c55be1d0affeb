"""The pairs that training draws from: where they lie, which are held out, and what is said of those that are broken."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from training_data import sections, write_pairs, write_shard

from refine.errors import InputError
from refine.training.config import Data
from refine.training.data import load_held_out, load_pairs, read_held_out
from refine.training.decoded import decoded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def test_folder_and_tar_shard_hold_the_same_pairs(folder: Path, tmp_path: Path) -> None:
    shard = write_shard(folder, tmp_path / "pairs.tar")
    a, b = (load_pairs(sections(path), frozenset()).pairs for path in (folder, shard))
    assert [p.key for p in a] == [p.key for p in b] == [("shapes", f"{i:02d}") for i in range(4)]
    assert all(np.array_equal(x.image, y.image) and np.array_equal(x.mask, y.mask) for x, y in zip(a, b, strict=True))


def test_a_shard_that_is_cut_short_is_refused(folder: Path, tmp_path: Path) -> None:
    shard = write_shard(folder, tmp_path / "pairs.tar")
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(InputError, match="cut short"):
        load_pairs(sections(shard), frozenset())


def test_held_out_pairs_never_train(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "held.csv"
    listed.write_text("set,id\nshapes,01\nshapes,03\n")
    held_out = read_held_out(listed)
    assert [p.key[1] for p in load_pairs(sections(folder), held_out).pairs] == ["00", "02"]
    assert [p.key[1] for p in load_held_out(sections(folder), held_out)] == ["01", "03"]


def test_a_held_out_list_may_begin_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    (tmp_path / "held.csv").write_bytes("\ufeffset,id\nshapes,01\n".encode())
    assert read_held_out(tmp_path / "held.csv") == {("shapes", "01")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"set,id\nshapes,\xe4\n", "is no CSV in UTF-8"),
        ("set,id\nshapes,01\n".encode("utf-16"), "is no CSV in UTF-8"),
        (b'set,id\n"shapes,01\n', "is no CSV in UTF-8"),
        (b"set,id\nshapes,01\nshapes\n", "row 2 of the list of held-out images lacks its set or its id"),
        (b"set,id\n,01\n", "row 1 of the list"),
        (b"set,name\nshapes,01\n", "has no column 'id'"),
    ],
)
def test_a_held_out_list_that_is_not_whole_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "held.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_held_out(tmp_path / "held.csv")


@pytest.mark.parametrize(
    "damage", ["missing mask", "other size", "no image", "empty", "cut", "photograph cut", "no folder"]
)
def test_broken_pair_is_named(tmp_path: Path, damage: str) -> None:
    folder = write_pairs(tmp_path / "pairs")
    mask = folder / "shapes" / "02.png"
    if damage == "missing mask":
        mask.unlink()
    elif damage == "other size":
        cv2.imwrite(str(mask), np.zeros((5, 5), np.uint8))
    elif damage == "no image":
        mask.write_bytes(b"no picture")
    elif damage == "empty":
        mask.write_bytes(b"")
    elif damage == "photograph cut":  # which OpenCV would show with grey in place of its end
        photograph = folder / "shapes" / "02.jpg"
        photograph.write_bytes(photograph.read_bytes()[:-20])
    elif damage == "cut":
        mask.write_bytes(mask.read_bytes()[:-20])
    else:
        folder = tmp_path / "absent"
    with pytest.raises(InputError, match=r"02|absent"):
        load_pairs(sections(folder), frozenset())


def test_what_comes_after_a_photograph_or_inside_it_does_not_cut_it() -> None:
    _, packed = cv2.imencode(".jpg", np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    photograph = packed.tobytes()
    film = b"\xff\xda after a photograph in motion"
    inside = photograph[:2] + b"\xff\xe1" + (len(photograph) + 2).to_bytes(2, "big") + photograph + photograph[2:]
    for content in (photograph, photograph + film, inside):
        assert decoded(content, cv2.IMREAD_COLOR) is not None
    for content in (photograph[:-2], inside[:-2], photograph[:20], photograph[:2], b"\xff\xd8\xff"):
        assert decoded(content, cv2.IMREAD_COLOR) is None


def test_prediction_that_is_no_picture_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "01.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a stored prediction does not decode: 1 \(shapes/01\)"):
        load_pairs(sections(folder, predictions=tmp_path), frozenset())


@pytest.mark.parametrize("damage", ["a stored prediction does not decode", "a file cannot be read"])
def test_predictions_that_cannot_be_used_count_in_bad_share(folder: Path, tmp_path: Path, damage: str) -> None:
    (tmp_path / "shapes").mkdir()
    stored = tmp_path / "shapes" / "01.png"
    if damage == "a file cannot be read":
        stored.symlink_to(tmp_path / "gone.png")
    else:
        stored.write_bytes(b"no picture")
    (section,) = sections(folder, predictions=tmp_path)
    pairs = load_pairs([section.model_copy(update={"bad_share": 0.25})], frozenset())
    assert [pair.key[1] for pair in pairs.pairs] == ["00", "02", "03"]
    assert pairs.notes[0].startswith(f"data.shapes: 1 of 4 pairs cannot be used: {damage}: 1 (shapes/01")
    if damage == "a file cannot be read":  # found without reading it, too
        later = section.model_copy(update={"bad_share": 0.25, "in_memory": False})
        assert load_pairs([later], frozenset()).notes == pairs.notes


def test_a_mistyped_set_is_asked_about_and_one_that_is_not_there_is_no_mistake(folder: Path) -> None:
    section = Data(name="pack", path=str(folder), weights={"shaeps": 2.0, "horses": 2.0}, exact=["shape", "buildings"])
    assert load_pairs([section], frozenset()).notes == [
        "data.pack.weights: no set shaeps; is shapes meant?",
        "data.pack.exact: no set shape; is shapes meant?",
    ]

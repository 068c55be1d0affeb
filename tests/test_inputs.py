"""Which images are refined, with which masks, and what results are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine.errors import InputError
from refine.inputs import Job, find_images, make_jobs, match_masks


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def jobs_of(*given: Path | str, mask: Path | None = None, out: str | None = None) -> tuple[Job, ...]:
    return make_jobs([str(path) for path in given], mask=mask, out=out, suffix_of=lambda _: ".png")


def test_a_folder_gives_its_images_and_nothing_else(tmp_path: Path) -> None:
    folder = touch(tmp_path, "b.JPG", "a.tif", "notes.txt", ".hidden.png", "c.png.aux.xml")
    touch(tmp_path / "deeper", "d.png")
    assert [path.name for path in find_images([str(folder)])] == ["a.tif", "b.JPG"]


def test_links_that_lead_nowhere_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a.png")
    (folder / "gone.png").symlink_to("nothing.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "linked.png").symlink_to("a.png")
    (folder / "folder.png").symlink_to(".")
    (folder / "a_mask.tif").symlink_to("nothing.tif")  # an earlier result
    assert [path.name for path in find_images([str(folder)])] == ["a.png", "gone.png", "linked.png", "loop.png"]


def test_earlier_results_are_no_images_in_folders_and_patterns_but_are_when_named(tmp_path: Path) -> None:
    touch(tmp_path, "cat.jpg", "cat_mask.png", "cat_preview.png", "gas_mask.png", "his_preview.png")
    assert [path.name for path in find_images([str(tmp_path)])] == ["cat.jpg", "gas_mask.png", "his_preview.png"]
    assert [path.name for path in find_images([str(tmp_path / "*.png")])] == ["gas_mask.png", "his_preview.png"]
    assert [path.name for path in find_images([str(tmp_path / "cat_mask.png")])] == ["cat_mask.png"]


def test_an_image_given_twice_is_refined_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    assert len(find_images([str(tmp_path / "a.png"), str(tmp_path / "*.png"), str(tmp_path)])) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.jpg", "does not exist"), ("*.jpg", "no image matches"), ("", "no image in this folder")],
)
def test_nothing_found_is_said(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_images([str(tmp_path / name)])


def test_masks_match_by_stem_whatever_their_suffix(tmp_path: Path) -> None:
    images = touch(tmp_path / "images", "a.jpg", "b.tif")
    masks = touch(tmp_path / "masks", "a.npy", "b.png", "c.png")
    found = match_masks(find_images([str(images)]), masks)
    assert [path.name for path in found if path] == ["a.npy", "b.png"]


def test_a_mask_may_be_called_as_results_are_unless_one_has_the_very_stem(tmp_path: Path) -> None:
    images = touch(tmp_path / "images", "a.jpg", "b.tif")
    masks = touch(tmp_path / "masks", "a_mask.png", "b_mask.png", "b.png")
    found = match_masks(find_images([str(images)]), masks)
    assert [path.name for path in found if path] == ["a_mask.png", "b.png"]


def test_images_and_masks_may_share_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.png")
    (job,) = jobs_of(tmp_path / "*.jpg", mask=tmp_path, out=f"{tmp_path}/results/")
    assert job.mask == tmp_path / "a.png"


def test_a_missing_and_an_ambiguous_mask_are_refused(tmp_path: Path) -> None:
    images = touch(tmp_path / "images", "a.jpg")
    empty, double = touch(tmp_path / "empty"), touch(tmp_path / "double", "a.png", "a.tif")
    with pytest.raises(InputError, match=r"no mask of the stem 'a'"):
        jobs_of(images, mask=empty)
    with pytest.raises(InputError, match=r"a\.png and a\.tif"):
        jobs_of(images, mask=double)


def test_one_mask_file_does_not_serve_two_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    mask = touch(tmp_path / "masks", "m.png") / "m.png"
    with pytest.raises(InputError, match="one file for 2 images"):
        jobs_of(tmp_path, mask=mask)


def test_one_mask_of_a_folder_does_not_serve_two_images_of_its_stem(tmp_path: Path) -> None:
    """Each has a result of its own, beside it; but at least one of them has the wrong mask."""
    touch(tmp_path / "north", "B4.tif")
    touch(tmp_path / "south", "B4.tif")
    masks = touch(tmp_path / "masks", "B4.png")
    with pytest.raises(InputError, match=r"B4\.png: would be the mask of .*north.* and of .*south"):
        jobs_of(f"{tmp_path}/*h/B4.tif", mask=masks)
    assert len(jobs_of(f"{tmp_path}/*h/B4.tif")) == 2


def test_results_lie_beside_the_images_with_mask_appended(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    for out in (None, f"{tmp_path}/"):
        assert [job.out for job in jobs_of(tmp_path, out=out)] == [tmp_path / "a_mask.png", tmp_path / "b_mask.png"]


def test_results_in_another_folder_have_the_images_stems(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", "b.jpg")
    assert [job.out.name for job in jobs_of(tmp_path / "in", out=str(tmp_path / "new"))] == ["a.png", "b.png"]


def test_out_is_a_folder_if_it_is_one_or_ends_in_a_slash_or_serves_several(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg")
    there = touch(tmp_path / "there")
    image = tmp_path / "in" / "a.jpg"
    assert jobs_of(image, out=str(there))[0].out == there / "a.png"
    assert jobs_of(image, out=f"{tmp_path}/new/")[0].out == tmp_path / "new" / "a.png"
    assert jobs_of(image, out=str(tmp_path / "new.tif"))[0].out == tmp_path / "new.tif"
    assert jobs_of(tmp_path / "in", out=str(tmp_path / "new"))[0].out == tmp_path / "new" / "a.png"


def test_a_file_for_several_results_and_an_unknown_suffix_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "result.png")
    with pytest.raises(InputError, match="3 images need a folder"):
        jobs_of(tmp_path, out=str(tmp_path / "result.png"))
    with pytest.raises(InputError, match=r"end it in \.tif, \.tiff or \.png"):
        jobs_of(tmp_path / "a.jpg", out=str(tmp_path / "result.jpg"))


def test_a_folder_is_not_made_under_the_name_of_a_picture(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    both = (tmp_path / "a.jpg", tmp_path / "b.jpg")
    with pytest.raises(InputError, match=r"two\.png: several images need a folder"):
        jobs_of(*both, out=f"{tmp_path}/two.png")
    assert jobs_of(*both, out=f"{tmp_path}/two.png/")[0].out == tmp_path / "two.png" / "a.png"


def test_two_images_that_would_share_a_result_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "one", "a.jpg")
    touch(tmp_path / "two", "a.jpg", "b.png", "B.tif")
    with pytest.raises(InputError, match="have the same stem"):
        jobs_of(tmp_path / "one" / "a.jpg", tmp_path / "two" / "a.jpg", out=str(tmp_path / "new"))
    with pytest.raises(InputError, match="have the same stem"):
        jobs_of(tmp_path / "two")
    assert len(jobs_of(tmp_path / "one" / "a.jpg", tmp_path / "two" / "a.jpg")) == 2


def test_a_result_never_replaces_an_image_or_a_mask(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "m.png")
    for out in ("a.png", "m.png"):
        with pytest.raises(InputError, match="would be replaced"):
            jobs_of(tmp_path / "a.png", mask=tmp_path / "m.png", out=str(tmp_path / out))

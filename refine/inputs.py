"""What to refine and where it goes: images from files, folders and patterns, their masks by stem, their results' names.

Only names are looked at here, and whether they are taken; no file is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from refine.errors import InputError
from refine.remote import RemotePath, as_path, check_local

IMAGE_SUFFIXES = frozenset({".bmp", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".vrt", ".webp"})
MASK_SUFFIXES = IMAGE_SUFFIXES | {".npy"}
RESULT_SUFFIXES = frozenset({".png", ".tif", ".tiff"})
_RESULT = "_mask"
PREVIEW = "_preview"
"""What is added to an image's stem for its picture of before and after."""


@dataclass(frozen=True, slots=True)
class Job:
    """One image to refine: its first mask, or None for one by a network, and where the result goes."""

    image: Path
    mask: Path | None
    out: Path


@dataclass(frozen=True, slots=True)
class Destination:
    """Where results go: one file, one folder, or (neither) beside each image."""

    file: Path | None = None
    folder: Path | None = None


def find_images(given: Sequence[str]) -> tuple[Path, ...]:
    """Images named by files, addresses, folders (not searched deeper) and patterns, in that order, each once.

    A file named outright is taken as it is. In folders and patterns hidden files and files that are no images by their
    suffix are passed over, and so are earlier results, `<stem>_mask.*` and `<stem>_preview.*` beside an image
    `<stem>.*`. Raises InputError where nothing is found.
    """
    images: dict[Path, None] = {}
    for name in given:
        images.update(dict.fromkeys(_find(name)))
    return tuple(images)


def match_masks(images: Sequence[Path], mask: Path | None) -> tuple[Path | None, ...]:
    """The first mask of every image: the file, for one image, or in the folder the one of its stem, or `<stem>_mask`.

    Raises InputError where there is none, or more than one, or one for two images.
    """
    if mask is None:
        return (None,) * len(images)
    if isinstance(as_path(mask), RemotePath):
        mask = as_path(mask)
    elif not mask.exists():
        raise InputError(f"--mask {mask} does not exist")
    if not mask.is_dir():
        if len(images) > 1:
            raise InputError(f"--mask {mask}: one file for {len(images)} images; give a folder of masks by stem")
        return (mask,)
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(mask.iterdir()):
        if path.suffix.lower() in MASK_SUFFIXES and not path.name.startswith("."):
            by_stem.setdefault(path.stem, []).append(path)
    found = tuple(_mask_of(image, mask, by_stem) for image in images)
    first: dict[Path, Path] = {}
    for image, path in zip(images, found, strict=True):
        if first.setdefault(path, image) != image:  # of equal stems in different folders
            raise InputError(f"{path}: would be the mask of {first[path]} and of {image}; refine them apart")
    return found


def read_destination(out: str | None, *, given: Sequence[str], images: Sequence[Path]) -> Destination:
    """Whether `--out` is a file or a folder: a folder if it is one, ends in `/`, or there are several images."""
    if out is None:
        return Destination()
    check_local("--out", out)
    path = Path(out)
    ends_in_separator = out.endswith(("/", os.sep))
    # One image that a folder happened to hold: `--out results` means a folder then, too.
    from_folder = any(Path(name).is_dir() for name in given) and path.suffix.lower() not in RESULT_SUFFIXES
    if path.is_dir() or ends_in_separator or len(images) > 1 or from_folder:
        if path.exists() and not path.is_dir():
            needed = f"{len(images)} images need a folder" if len(images) > 1 else "a folder is asked for"
            raise InputError(f"--out {out} is a file, but {needed}")
        check_folder_name("--out", out, path)
        return Destination(folder=path)
    if path.suffix.lower() not in RESULT_SUFFIXES:
        raise InputError(f"--out {out}: end it in .tif, .tiff or .png, or in / for a folder")
    return Destination(file=path)


def check_folder_name(option: str, given: str, path: Path) -> None:
    """Raises InputError for a folder that is to be made under the name of a picture."""
    if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir() and not given.endswith(("/", os.sep)):
        raise InputError(f"{option} {given}: several images need a folder; give one, or end this name in /")


def name_result(image: Path, destination: Destination, suffix: str) -> Path:
    """Where the result of `image` goes: by its stem, with `_mask` where it lies beside the image, or where it would.

    If nothing is said of an image on a network, that is the current folder.
    """
    if destination.file is not None:
        return destination.file
    folder = home_of(image) if destination.folder is None else destination.folder
    shares = destination.folder is None or real_path(folder) == real_path(image.parent)
    return folder / f"{image.stem}{_RESULT if shares else ''}{suffix}"


def make_jobs(
    given: Sequence[str], *, mask: Path | None, out: str | None, suffix_of: Callable[[Path], str]
) -> tuple[Job, ...]:
    """All that is to be done; `suffix_of` gives the suffix of an image's result.

    Raises InputError where two images would share a result, or a result would replace an image or a mask.
    """
    images = find_images(given)
    masks = match_masks(images, mask)
    destination = read_destination(out, given=given, images=images)
    if destination.file is None:
        _refuse_equal_stems(images, destination)
    jobs = tuple(
        Job(image, first, name_result(image, destination, suffix_of(image)))
        for image, first in zip(images, masks, strict=True)
    )
    sources = {real_path(path) for job in jobs for path in (job.image, job.mask) if path is not None}
    for job in jobs:
        if real_path(job.out) in sources:
            raise InputError(f"{job.out} is an image or mask of this run and would be replaced; give another --out")
    return jobs


def check_new_file(option: str, path: Path, *, overwrite: bool) -> None:
    """Raises InputError if the file that `option` names cannot be written, or would replace another one unasked."""
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; give a file")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{option} {path}: is a link, a pipe or a device, and would be replaced; give another name")
    if path.exists() and not overwrite:
        raise InputError(f"{option} {path}: exists already; give --overwrite or another name")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: the folder {path.parent} does not exist")


def check_extra(option: str, path: Path, taken: AbstractSet[Path], *, overwrite: bool) -> None:
    """The same of what is written beside results; `taken` are the real paths of what the run reads and writes."""
    if real_path(path) in taken:
        raise InputError(f"{option} {path}: is an image, mask, result or preview of this run; give another name")
    check_new_file(option, path, overwrite=overwrite)


def real_path(path: Path) -> Path:
    """Where `path` leads. Of a link that leads to itself, the link: Path.resolve raises there before Python 3.13."""
    return Path(os.path.realpath(path))


def home_of(image: Path) -> Path:
    """The folder of an image; of one on a network the current folder."""
    return Path() if isinstance(image, RemotePath) else image.parent


def _find(name: str) -> tuple[Path, ...]:
    path = as_path(name)
    if isinstance(path, RemotePath):
        return (path,)
    if path.is_dir():
        found = tuple(sorted(entry for entry in path.iterdir() if _is_fresh_image(entry)))
        if not found:
            raise InputError(f"--image {name}: no image in this folder")
        return found
    if path.exists():
        return (path,)
    if has_magic(name):
        found = tuple(sorted(entry for entry in map(Path, glob(name, recursive=True)) if _is_fresh_image(entry)))
        if not found:
            raise InputError(f"--image {name}: no image matches this pattern")
        return found
    raise InputError(f"--image {name} does not exist")


def _is_fresh_image(path: Path) -> bool:
    if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
        return False
    leads_nowhere = path.is_symlink() and not path.exists()  # that is said when its turn comes
    if not (path.is_file() or leads_nowhere):
        return False
    sources = {path.stem.removesuffix(ending) for ending in (_RESULT, PREVIEW)} - {path.stem}
    return not any(
        path.with_name(source + suffix).exists() for source in sources for suffix in _suffixes_in_both_cases()
    )


def _suffixes_in_both_cases() -> tuple[str, ...]:
    return tuple(sorted(IMAGE_SUFFIXES | {suffix.upper() for suffix in IMAGE_SUFFIXES}))


def _mask_of(image: Path, folder: Path, by_stem: Mapping[str, Sequence[Path]]) -> Path:
    # Images and masks may share a folder, as photo.jpg and photo.png.
    others = [path for path in by_stem.get(image.stem, ()) if real_path(path) != real_path(image)]
    others = others or list(by_stem.get(image.stem + _RESULT, ()))
    if not others:
        raise InputError(f"{image}: no mask of the stem {image.stem!r} in {folder}, nor {image.stem + _RESULT!r}")
    if len(others) > 1:
        raise InputError(f"{image}: {folder} holds {others[0].name} and {others[1].name}; keep one of them")
    return others[0]


def _refuse_equal_stems(images: Sequence[Path], destination: Destination) -> None:
    first: dict[tuple[Path, str], Path] = {}
    for image in images:
        folder = home_of(image) if destination.folder is None else destination.folder
        # Case is folded, because some file systems do.
        other = first.setdefault((real_path(folder), image.stem.casefold()), image)
        if other is not image:
            raise InputError(
                f"{other} and {image} have the same stem and would share one result; refine them apart, or, if one is"
                f" the other's mask, name the images alone, such as --image '{other.parent}/*{other.suffix}'"
            )

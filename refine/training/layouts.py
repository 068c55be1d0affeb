"""Where the sets that people have on disk keep their images and masks.

A layout gives entries: an image file, and where its mask is. Nothing is decoded here.
"""

from __future__ import annotations

import glob
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from refine.errors import InputError
from refine.training.config import Data
from refine.training.instances import Mask, coco_instances, voc_instances

Key = tuple[str, str]
"""A pair's set and id."""

PHOTOGRAPHS = (".jpg", ".jpeg", ".bmp", ".webp")
PICTURES = (*PHOTOGRAPHS, ".png", ".tif", ".tiff")
_TAR_BLOCK = 512


@dataclass(frozen=True, slots=True)
class File:
    """A file of a folder, or a stretch of a tar shard, which is read in place and never unpacked."""

    path: Path
    offset: int = 0
    length: int = -1
    member: str = ""  # its name in the shard

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.offset)
                return stream.read(self.length)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class Entry:
    """A pair that should be there; a missing half is None. `mask` is a file, or makes an (H, W) uint8 mask; `void`
    makes one of the pixels whose truth nobody knows. `rivals` are files that each could be the same half."""

    key: Key
    image: File | None
    mask: File | Callable[[], Mask] | None
    void: Callable[[], Mask] | None = None
    rivals: tuple[File, ...] = ()


@dataclass(frozen=True, slots=True)
class Folders:
    """Two folders below the set's root, which may be one; `{part}` stands for train, test or the like.

    A folder that ends in `*` is every folder there, each a set of its own. Stems end in the suffixes, which are not
    part of the id. Where images and masks share folder and suffix, masks are the PNG files.
    """

    images: str
    masks: str
    parts: tuple[str, ...] = ("",)
    image_suffix: str = ""
    mask_suffix: str = ""
    listed: str = ""  # a file below the root that names the images of a part


FOLDERS = {
    "duts": Folders("DUTS-{part}/DUTS-{part}-Image", "DUTS-{part}/DUTS-{part}-Mask", ("TR",)),
    "msra10k": Folders("Imgs", "Imgs"),
    "dut-omron": Folders("DUT-OMRON-image", "pixelwiseGT-new-PNG"),
    "ecssd": Folders("images", "ground_truth_mask"),
    "fss-1000": Folders("*", "*"),
    "hrsod": Folders("HRSOD_{part}", "HRSOD_{part}_mask", ("train",)),
    "dis5k": Folders("DIS-{part}/im", "DIS-{part}/gt", ("TR",)),
    "thinobject": Folders("images", "masks", ("train",), listed="list/{part}.txt"),
    "big": Folders("{part}", "{part}", ("val",), image_suffix="_im", mask_suffix="_gt"),
}
"""As the sets are published; further parts (`TE`, `VD`, `test`) are named in the config."""


def find_entries(section: Data) -> list[Entry]:
    """All entries of a data section in a fixed order, those without their other half included.

    Raises InputError where the folder is not laid out as the section says, or lacks one of its `sets`.
    """
    entries = _sets(section) if section.layout == "sets" else _of_layout(section)
    there = sorted({entry.key[0] for entry in entries})
    missing = sorted(set(section.sets) - set(there))
    if missing:
        known = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "") or "nothing"
        wrong = f"there is no {' and no '.join(missing)} in {section.path}"
        raise InputError(f"data.{section.name}.sets: {wrong}; it holds {known}")
    return [entry for entry in entries if not section.sets or entry.key[0] in section.sets]


def _of_layout(section: Data) -> list[Entry]:
    root = Path(section.path)
    if not root.is_dir():
        raise InputError(f"data.{section.name}: {root} is not a folder; see --data NAME=PATH")
    entries: list[Entry] = []
    if section.layout == "coco":
        for part in section.parts or ["train2017"]:
            for name, image, mask in coco_instances(root, part, section):
                entries.append(Entry((part, name), File(image), mask))
    elif section.layout == "voc":
        for part in section.parts or ["train"]:
            for (name, image, mask), void in voc_instances(root, part, section):
                entries.append(Entry((part, name), File(image), mask, void))
    else:
        own = Folders(section.images, section.masks, ("",), section.image_suffix, section.mask_suffix)
        folders = FOLDERS.get(section.layout, own)
        for part in section.parts or folders.parts:
            entries += _part(section, root, folders, part)
    return entries


def _part(section: Data, root: Path, folders: Folders, part: str) -> Iterator[Entry]:
    name = f"{section.name}-{part}" if part else section.name
    listed = _listed(section, root / folders.listed.format(part=part)) if folders.listed else None
    if folders.images == "*":
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            yield from _paired(folder.name, folder, folder, folders, None)
        return
    images, masks = root / folders.images.format(part=part), root / folders.masks.format(part=part)
    for folder in (images, masks):
        if not folder.is_dir():
            raise InputError(f"data.{section.name}: layout {section.layout} needs the folder {folder}; it is not there")
    yield from _paired(name, images, masks, folders, listed)


def _paired(
    name: str, image_folder: Path, mask_folder: Path, folders: Folders, listed: frozenset[str] | None
) -> Iterator[Entry]:
    beside = image_folder == mask_folder
    told_by_type = beside and folders.image_suffix == folders.mask_suffix
    images = _by_id(image_folder, folders.image_suffix, PHOTOGRAPHS if told_by_type else PICTURES)
    masks = _by_id(mask_folder, folders.mask_suffix, (".png",) if told_by_type else PICTURES)
    if beside and not told_by_type:  # the empty suffix is the end of every stem
        if not folders.image_suffix:
            images = {key: files for key, files in images.items() if not key.endswith(folders.mask_suffix)}
        if not folders.mask_suffix:
            masks = {key: files for key, files in masks.items() if not key.endswith(folders.image_suffix)}
    for key in sorted(images.keys() | masks.keys()):
        if listed is None or key in listed:
            yield _entry((name, key), images.get(key, []), masks.get(key, []))


def _by_id(folder: Path, suffix: str, types: Sequence[str]) -> dict[str, list[File]]:
    found: dict[str, list[File]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in types and path.stem.endswith(suffix):
            found.setdefault(path.stem.removesuffix(suffix), []).append(File(path))
    return found


def _entry(key: Key, images: Sequence[File], masks: Sequence[File]) -> Entry:
    """The pair of an id, of whose files there should be one each."""
    rivals = next((tuple(files) for files in (images, masks) if len(files) > 1), ())
    return Entry(key, images[0] if images else None, masks[0] if masks else None, rivals=rivals)


def _listed(section: Data, path: Path) -> frozenset[str]:
    try:
        return frozenset(Path(line).stem for line in path.read_text(encoding="utf-8").split())
    except OSError:
        raise InputError(
            f"data.{section.name}: layout {section.layout} needs the list {path}; it is not there"
        ) from None


def _sets(section: Data) -> list[Entry]:
    """`<set>/<id>.jpg` + `.png` in a folder or in tar shards; masks without an image are none of ours."""
    images: dict[Key, list[File]] = {}
    masks: dict[Key, list[File]] = {}
    for (folder, name), file in _files(section):
        path = PurePosixPath(name)
        if path.suffix.lower() in (".jpg", ".jpeg"):
            images.setdefault((folder, path.stem), []).append(file)
        elif path.suffix == ".png":
            masks.setdefault((folder, path.stem), []).append(file)
    return [_entry(key, images[key], masks.get(key, [])) for key in sorted(images)]


def _files(section: Data) -> Iterator[tuple[Key, File]]:
    paths = [Path(p) for p in sorted(glob.glob(section.path))] or [Path(section.path)]
    for path in paths:
        if path.is_dir():
            for file in sorted(path.glob("*/*")):
                yield (file.parent.name, file.name), File(file)
        elif path.is_file():
            yield from _tar_files(path, section)
        else:
            raise InputError(f"data.{section.name}: {path} is neither a folder nor a tar file; see --data NAME=PATH")


def _tar_files(path: Path, section: Data) -> Iterator[tuple[Key, File]]:
    try:
        with tarfile.open(path, "r:") as shard:
            if any(File(path, max(0, path.stat().st_size - _TAR_BLOCK)).read()):  # tarfile passes over a cut end
                raise InputError(f"data.{section.name}: {path} is cut short: it does not end in a block of zeros")
            members: dict[Key, File] = {}  # of a name that comes twice in a tar the later one counts
            for member in shard:
                parts = PurePosixPath(member.name).parts
                if member.isfile() and len(parts) >= 2:
                    key = (parts[-2], parts[-1])
                    members[key] = File(path, member.offset_data, member.size, "/".join(key))
            yield from members.items()
    except tarfile.TarError as error:
        raise InputError(f"data.{section.name}: {path} is not an uncompressed tar file: {error}") from None

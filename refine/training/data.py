"""Pairs of image and mask from folders and tar shards, held decoded in memory, drawn by weight."""

from __future__ import annotations

import csv
import glob
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.training.config import Data

IMAGE_SUFFIXES = (".jpg", ".jpeg")
MASK_SUFFIX = ".png"
_PNG_START, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"
_TAR_BLOCK = 512
PREDICTION_MARK = ".pred-"
CONTOUR_POINTS = 4096
"""Points of an outline that are remembered to centre windows on."""

Key = tuple[str, str]
"""A pair's set and id."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A decoded training pair: `image` (H, W, 3) uint8 RGB, `mask` (H, W) uint8, `outline` (N, 2) rows and columns."""

    key: Key
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    outline: NDArray[np.int32]
    is_exact: bool
    predictions: tuple[NDArray[np.uint8], ...] = ()  # coarse masks by other networks, at any size


@dataclass(frozen=True)
class Pairs:
    """All pairs of a run, and how often each is drawn."""

    pairs: Sequence[Pair]
    weights: NDArray[np.float64]  # sums to one

    def draw(self, rng: np.random.Generator) -> Pair:
        return self.pairs[int(rng.choice(len(self.pairs), p=self.weights))]


def load_pairs(sections: Sequence[Data], held_out: frozenset[Key]) -> Pairs:
    """Decode every pair of `sections` whose key is not in `held_out`.

    Raises InputError where a section has no pairs, an image has no mask, sizes differ, or a file does not decode.
    """
    pairs: list[Pair] = []
    weights: list[float] = []
    for section in sections:
        found = _decoded(section, lambda key: key not in held_out)
        pairs += found
        weights += [section.weights.get(pair.key[0], 1.0) for pair in found]
        if not found:
            raise InputError(f"data.{section.name}: {section.path} holds no pair <set>/<id>.jpg + .png to use")
    share = np.array(weights, dtype=np.float64)
    if not share.sum() > 0:
        raise InputError("data: every weight is zero; nothing would be drawn")
    return Pairs(pairs, share / share.sum())


def load_held_out(sections: Sequence[Data], keys: frozenset[Key]) -> list[Pair]:
    """Decode the pairs of `keys`, whichever sections hold them; what no section holds is left out.

    Raises InputError where none is held, and as `load_pairs` for what cannot be read.
    """
    pairs = [pair for section in sections for pair in _decoded(section, lambda key: key in keys)]
    if not pairs:
        raise InputError("validation.held_out: the data holds none of these images; give a list of some that it has")
    return pairs


def _decoded(section: Data, is_wanted: Callable[[Key], bool]) -> list[Pair]:
    return [
        _decode(key, image_bytes, mask_bytes, predictions, key[0] in section.exact)
        for key, image_bytes, mask_bytes, predictions in _members(section)
        if is_wanted(key)
    ]


def read_held_out(path: Path | None) -> frozenset[Key]:
    """Keys of a csv with the columns `set` and `id`: pairs that never train."""
    if path is None:
        return frozenset()
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            return frozenset((row["set"], row["id"]) for row in csv.DictReader(lines))
    except FileNotFoundError:
        raise InputError(f"{path}: the list of held-out images is missing") from None
    except KeyError as error:
        raise InputError(f"{path}: the list of held-out images has no column {error}") from None


def _members(section: Data) -> Iterator[tuple[Key, bytes, bytes, list[bytes]]]:
    """Key, image file, mask file, and stored predictions of every pair, in a fixed order."""
    files = dict(_files(section))
    predictions = _predictions(section)
    for (folder, name), image in sorted(files.items()):
        path = PurePosixPath(name)
        if path.suffix.lower() not in IMAGE_SUFFIXES or (section.sets and folder not in section.sets):
            continue
        mask = files.get((folder, path.stem + MASK_SUFFIX))
        if mask is None:
            raise InputError(f"data.{section.name}: {folder}/{name} has no mask {path.stem}{MASK_SUFFIX} beside it")
        stored = predictions.get((folder, path.stem), [])
        yield (folder, path.stem), image.read(), mask.read(), [file.read_bytes() for file in stored]


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a folder, or a stretch of a tar shard, which is read in place and never unpacked."""

    path: Path
    offset: int = 0
    length: int = -1

    def read(self) -> bytes:
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.length)


def _files(section: Data) -> Iterator[tuple[Key, _File]]:
    paths = [Path(p) for p in sorted(glob.glob(section.path))] or [Path(section.path)]
    for path in paths:
        if path.is_dir():
            for file in sorted(path.glob("*/*")):
                yield (file.parent.name, file.name), _File(file)
        elif path.is_file():
            yield from _tar_files(path, section)
        else:
            raise InputError(f"data.{section.name}: {path} is neither a folder nor a tar file; see --data NAME=PATH")


def _tar_files(path: Path, section: Data) -> Iterator[tuple[Key, _File]]:
    try:
        with tarfile.open(path, "r:") as shard:
            if any(_File(path, max(0, path.stat().st_size - _TAR_BLOCK)).read()):  # tarfile passes over a cut end
                raise InputError(f"data.{section.name}: {path} is cut short: it does not end in a block of zeros")
            for member in shard:
                parts = PurePosixPath(member.name).parts
                if member.isfile() and len(parts) >= 2:
                    yield (parts[-2], parts[-1]), _File(path, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise InputError(f"data.{section.name}: {path} is not an uncompressed tar file: {error}") from None


def _predictions(section: Data) -> dict[Key, list[Path]]:
    found: dict[Key, list[Path]] = {}
    for folder in map(Path, section.predictions):
        if not folder.is_dir():
            raise InputError(f"data.{section.name}.predictions: {folder} is not a folder")
        for file in folder.glob("*/*.png"):
            found.setdefault((file.parent.name, file.stem), []).append(file)
    return found


def _decode(key: Key, image_bytes: bytes, mask_bytes: bytes, predictions: list[bytes], is_exact: bool) -> Pair:
    where = "/".join(key)
    image, mask = _decoded_picture(image_bytes, cv2.IMREAD_COLOR), _decoded_picture(mask_bytes, cv2.IMREAD_GRAYSCALE)
    if image is None or mask is None:
        raise InputError(f"{where}: {'image' if image is None else 'mask'} does not decode")
    if image.shape[:2] != mask.shape:
        raise InputError(f"{where}: image is {image.shape[:2]} but mask is {mask.shape} (height, width)")
    coarse = [_decoded_picture(prediction, cv2.IMREAD_GRAYSCALE) for prediction in predictions]
    if any(plane is None for plane in coarse):
        raise InputError(f"{where}: a stored prediction does not decode")
    rgb = np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)
    grey = mask.astype(np.uint8)
    planes = tuple(plane.astype(np.uint8) for plane in coarse if plane is not None)
    return Pair(key, rgb, grey, outline_points(grey), is_exact, planes)


def _decoded_picture(content: bytes, flags: int) -> NDArray[Any] | None:
    """The picture, None if it does not decode. OpenCV raises for an empty file, and prints of a PNG that is cut."""
    is_cut = content.startswith(_PNG_START) and _PNG_END not in content
    return None if is_cut or not content else cv2.imdecode(np.frombuffer(content, np.uint8), flags)


def outline_points(mask: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(N, 2) rows and columns on the outline at 128, every one or evenly thinned to `CONTOUR_POINTS`."""
    contours, _ = cv2.findContours((mask >= 128).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return np.empty((0, 2), np.int32)
    points = np.concatenate([c[:, 0, ::-1] for c in contours])
    step = max(1, len(points) // CONTOUR_POINTS)
    return np.ascontiguousarray(points[::step], dtype=np.int32)

"""Pairs of image and mask, checked at start, held decoded in memory or decoded when drawn, drawn by weight."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.training.checks import judge, mask_problem
from refine.training.config import Data, meant
from refine.training.cutouts import CutOuts
from refine.training.decoded import decoded
from refine.training.fingerprint import Prints, print_of
from refine.training.layouts import Entry, File, Key, find_entries
from refine.training.on_demand import OnDemand

CONTOUR_POINTS = 4096
"""Points of an outline that are remembered to centre windows on."""

SHRUNK = 8
"""Images that stay on disk are checked at this share of their size, which JPEG decodes many times faster."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A decoded training pair: `image` (H, W, 3) uint8 RGB, `mask` (H, W) uint8, `outline` (N, 2) rows and columns.

    `void` (H, W) uint8 is 255 where the mask is a guess that no loss may count; None: nowhere.
    """

    key: Key
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    outline: NDArray[np.int32]
    is_exact: bool
    predictions: tuple[NDArray[np.uint8], ...] = ()  # coarse masks by other networks, at any size
    void: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Pairs:
    """All pairs of a run, how often each is drawn, a line on each section's pairs that were left out, and the prints by
    which a later run knows them."""

    pairs: Sequence[Pair]
    weights: NDArray[np.float64]  # sums to one
    notes: Sequence[str] = field(default=())
    prints: Prints = field(default_factory=dict)

    def draw(self, rng: np.random.Generator) -> Pair:
        return self.pairs[int(rng.choice(len(self.pairs), p=self.weights))]


@dataclass(frozen=True, slots=True)
class StoredPair:
    """A pair on disk; `decode` reads it."""

    entry: Entry
    predictions: tuple[File, ...]
    is_exact: bool

    def decode(self) -> Pair:
        """Raises _Unusable, an InputError, where a half is missing or does not decode, or the sizes differ."""
        image, mask = self.image(cv2.IMREAD_COLOR), self.mask()
        if mask.ndim == 3:
            mask = cv2.cvtColor(mask, cv2.COLOR_BGR2GRAY)
        if image.shape[:2] != mask.shape:
            sizes = f"image is {image.shape[:2]} but mask is {mask.shape} (height, width)"
            raise _Unusable(self.entry.key, "the sizes differ", sizes)
        coarse = [decoded(self._content(file), cv2.IMREAD_GRAYSCALE) for file in self.predictions]
        if any(plane is None for plane in coarse):
            raise _Unusable(self.entry.key, "a stored prediction does not decode")
        rgb = np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)
        grey = mask.astype(np.uint8)
        planes = tuple(plane.astype(np.uint8) for plane in coarse if plane is not None)
        void = None if self.entry.void is None else self.entry.void()
        return Pair(self.entry.key, rgb, grey, outline_points(grey), self.is_exact, planes, void)

    def print_of(self, mask: NDArray[Any]) -> int:
        """A number for all that the pair is made of, its decoded mask included; of predictions for their sizes alone,
        since those that stay on disk are not read at start."""
        assert self.entry.image is not None
        try:
            sizes = [file.path.stat().st_size for file in self.predictions]
        except OSError as error:
            raise _unreadable(self.entry.key, f"{error.filename}: cannot be read: {error.strerror}") from None
        return print_of(self._content(self.entry.image), mask.tobytes(), repr((mask.shape, sizes)).encode())

    def check(self) -> None:
        """What `decode` finds wrong, to `SHRUNK` pixels of the size, in a fraction of its time."""
        image, mask = self.image(cv2.IMREAD_REDUCED_GRAYSCALE_8), self.mask()
        if max(abs(SHRUNK * a - b) for a, b in zip(image.shape, mask.shape, strict=False)) >= SHRUNK:
            sizes = f"image is about {tuple(SHRUNK * a for a in image.shape)} but mask is {mask.shape[:2]}"
            raise _Unusable(self.entry.key, "the sizes differ", sizes)

    def image(self, flags: int) -> NDArray[Any]:
        if self.entry.rivals:
            rivals = " and ".join(map(str, self.entry.rivals))
            raise _Unusable(self.entry.key, "a half is there twice", rivals)
        if self.entry.image is None:
            raise _Unusable(self.entry.key, "a mask has no image")
        image = decoded(self._content(self.entry.image), flags)
        if image is None:
            raise _Unusable(self.entry.key, "the image does not decode")
        return image

    def mask(self) -> NDArray[Any]:
        """(H, W), or (H, W, 3) in OpenCV's order where the file has colours."""
        source = self.entry.mask
        if source is None:
            raise _Unusable(self.entry.key, "an image has no mask")
        if not isinstance(source, File):
            return source()
        mask = decoded(self._content(source), cv2.IMREAD_ANYCOLOR)
        if mask is None:
            raise _Unusable(self.entry.key, "the mask does not decode")
        return mask

    def _content(self, file: File) -> bytes:
        try:
            return file.read()
        except InputError as error:
            raise _unreadable(self.entry.key, str(error)) from None


class Stored(OnDemand[Pair]):
    """Pairs that stay on disk and are decoded each time they are drawn: for sets that memory does not hold."""

    def __init__(self, pairs: Sequence[StoredPair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def make(self, number: int) -> Pair:
        try:
            return self.pairs[number].decode()
        except _Unusable as error:
            raise InputError(str(error)) from None  # a class that the loader's workers can hand on


class CutOutPairs(OnDemand[Pair]):
    """Composites as pairs, made when they are drawn; their masks are exact."""

    def __init__(self, section: Data) -> None:
        root = Path(section.path)
        alphas = root / section.masks
        self.name = section.name
        self.composites = CutOuts(
            root / section.images,
            Path(section.backgrounds),
            alphas=alphas if alphas.is_dir() else None,
            positions=section.positions,
            side=section.side,
        )

    def __len__(self) -> int:
        return len(self.composites)

    def prints(self) -> Prints:
        """Of the files, their sizes: they are not read at start."""
        made = self.composites
        alphas = [] if made.alphas is None else list(made.alphas.values())
        files = {"foregrounds": made.foregrounds, "alphas": alphas, "backgrounds": made.backgrounds}
        return {f"{self.name}/{kind}/{path.name}": path.stat().st_size for kind in files for path in files[kind]}

    def make(self, number: int) -> Pair:
        made = self.composites[number]
        mask = np.round(made.alpha * 255).astype(np.uint8)
        return Pair((self.name, f"{number:07d}"), made.image, mask, outline_points(mask), True)


class Joined(OnDemand[Pair]):
    """The pairs of several sections, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Pair]]) -> None:
        self.places = [(part, i) for part in parts for i in range(len(part))]

    def __len__(self) -> int:
        return len(self.places)

    def make(self, number: int) -> Pair:
        part, i = self.places[number]
        return part[i]


class _Unusable(InputError):
    """A pair that cannot be used: `kind` is what is counted at start."""

    def __init__(self, key: Key, kind: str, detail: str = "") -> None:
        super().__init__(f"{'/'.join(key)}: {detail or kind}")
        self.key, self.kind = key, kind
        self.name = "/".join(key) + (f": {detail}" if detail else "")


def _unreadable(key: Key, why: str) -> _Unusable:
    """Of a dangling link, a folder of a picture's name, a file that may not be read."""
    return _Unusable(key, "a file cannot be read", why)


def load_pairs(sections: Sequence[Data], held_out: frozenset[Key]) -> Pairs:
    """Check every pair of `sections` whose key is not in `held_out`, and decode those of sections held in memory.

    Raises InputError where a section has no pairs, or more that cannot be used than its `bad_share`.
    """
    parts: list[Sequence[Pair]] = []
    weights: list[float] = []
    notes: list[str] = []
    prints: dict[str, int] = {}
    for section in sections:
        found = _usable(section, lambda key: key not in held_out)
        if not found.keys:
            raise InputError(f"data.{section.name}: {section.path} holds no pair {_expected(section)} to use")
        parts.append(found.pairs)
        weights += [section.weights.get(key[0], 1.0) for key in found.keys]
        notes += [*([found.note] if found.note else []), *_mistyped(section, found.sets)]
        prints |= found.prints
    share = np.array(weights, dtype=np.float64)
    if not share.sum() > 0:
        raise InputError("data: every weight is zero; nothing would be drawn")
    return Pairs(Joined(parts), share / share.sum(), notes, prints)


def load_held_out(sections: Sequence[Data], keys: frozenset[Key]) -> list[Pair]:
    """Decode the pairs of `keys`, whichever sections hold them; what no section holds is left out.

    Raises InputError where none is held, and as `load_pairs` for what cannot be read.
    """
    kept = [section for section in sections if section.layout != "cutouts"]  # these have no end, and nobody lists them
    pairs = [pair for section in kept for pair in _usable(section, lambda key: key in keys).pairs]
    if not pairs:
        raise InputError("validation.held_out: the data holds none of these images; give a list of some that it has")
    return pairs


class _Found(NamedTuple):
    """The pairs of a section that nothing is wrong with, their keys, a line on the others, prints, and the names of all
    its sets."""

    pairs: Sequence[Pair]
    keys: list[Key]
    note: str | None
    prints: Prints
    sets: frozenset[str]


def _mistyped(section: Data, sets: frozenset[str]) -> list[str]:
    """A question for each name that no set has and that is like one's; a set that a user lacks is no mistake."""
    asked = {"weights": section.weights, "exact": section.exact}
    unknown = [(option, name) for option, names in asked.items() for name in names if name not in sets]
    like = [(f"data.{section.name}.{option}: no set {name}", meant(name, sets)) for option, name in unknown]
    return [said + question for said, question in like if question]


def _usable(section: Data, is_wanted: Callable[[Key], bool]) -> _Found:
    if section.layout == "cutouts":
        made = CutOutPairs(section)
        keys = [(section.name, f"{i:07d}") for i in range(len(made))]
        return _Found(made, keys, None, made.prints(), frozenset([section.name]))
    predictions = _predictions(section)
    there = find_entries(section)
    entries = [entry for entry in there if is_wanted(entry.key)]
    stored = [StoredPair(e, tuple(predictions.get(e.key, ())), e.key[0] in section.exact) for e in entries]
    as_before = section.layout == "sets" and section.truth is None  # packs of ours may hold images of nothing
    binary = not as_before and section.truth != "soft"
    problems: dict[str, list[str]] = {}
    held: list[Pair] = []
    kept: list[StoredPair] = []
    prints: dict[str, int] = {}
    for pair in stored:
        try:
            if section.in_memory:
                loaded = pair.decode()
            else:
                pair.check()
            mask = pair.mask()
            problem = mask_problem(mask, binary=binary, may_be_empty=as_before)
            if problem is not None:
                raise _Unusable(pair.entry.key, problem)
            number = pair.print_of(mask)
        except _Unusable as error:
            problems.setdefault(error.kind, []).append(error.name)
            continue
        kept.append(pair)
        held += [loaded] if section.in_memory else []
        prints["/".join((section.name, *pair.entry.key))] = number
    note = judge(section, problems, len(stored))
    sets = frozenset(entry.key[0] for entry in there)
    return _Found(held if section.in_memory else Stored(kept), [pair.entry.key for pair in kept], note, prints, sets)


def _expected(section: Data) -> str:
    return "<set>/<id>.jpg + .png" if section.layout == "sets" else f"of layout {section.layout}"


def read_held_out(path: Path | None) -> frozenset[Key]:
    """Keys of a csv with the columns `set` and `id`: pairs that never train.

    Raises InputError for a list that is not whole: what it failed to name would train.
    """
    if path is None:
        return frozenset()
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            keys = [(row["set"], row["id"]) for row in csv.DictReader(lines, strict=True)]
    except FileNotFoundError:
        raise InputError(f"{path}: the list of held-out images is missing") from None
    except KeyError as error:
        raise InputError(f"{path}: the list of held-out images has no column {error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: the list of held-out images is no CSV in UTF-8: {error}") from None
    for number, (set_name, name) in enumerate(keys, start=1):
        if not set_name or not name:
            raise InputError(f"{path}: row {number} of the list of held-out images lacks its set or its id")
    return frozenset(keys)


def _predictions(section: Data) -> dict[Key, list[File]]:
    found: dict[Key, list[File]] = {}
    for folder in map(Path, section.predictions):
        if not folder.is_dir():
            raise InputError(f"data.{section.name}.predictions: {folder} is not a folder")
        for file in folder.glob("*/*.png"):
            found.setdefault((file.parent.name, file.stem), []).append(File(file))
    return found


def outline_points(mask: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(N, 2) rows and columns on the outline at 128, every one or evenly thinned to `CONTOUR_POINTS`."""
    contours, _ = cv2.findContours((mask >= 128).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return np.empty((0, 2), np.int32)
    points = np.concatenate([c[:, 0, ::-1] for c in contours])
    step = max(1, len(points) // CONTOUR_POINTS)
    return np.ascontiguousarray(points[::step], dtype=np.int32)

"""The options of `refine infer` as one frozen value, checked where it is made; the command and Python share it."""

from __future__ import annotations

import re
from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from refine.errors import InputError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?i?)b?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes in a size such as `2GiB`, `1.5 GB`, `512MiB` or `800000000`; rounded down to whole bytes.

    Units are powers of 1000 (kB, MB, GB, TB) or of 1024 (KiB, MiB, GiB, TiB), in any case. Raises InputError.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None or not isfinite(float(match[1]) * unit):
        raise InputError(f"{text!r} is not a size in bytes; write it like 2GiB, 1.5GiB or 512MiB")
    return int(float(match[1]) * unit)


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) else value


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Size = Annotated[int, BeforeValidator(_size)]
FilePath = Annotated[Path, BeforeValidator(_path)]


Backend = Literal["torch", "onnxruntime"]
CoarseKind = Literal["ensemble", "mos_l", "u2netp", "u2net", "basnet", "isnet"]
"""Networks that make a first mask from an image; "ensemble" is the mean of the two that come with refine."""
Weights = Literal["best", "free"]


class Settings(BaseModel):
    """How to refine: the options of `refine infer` under their names, without the paths of one run.

    Equal settings give the command's bytes, but where `refine_array` takes percentiles of a large image (16 bit, float
    or `percentiles`): it samples pixels all over the array and the command blocks of the file, so that black and white
    may differ a little; `range` fixes both. Lengths are pixels of the image. Raises InputError, naming the option as it
    is typed, for a value out of its range; sizes may be written as the command takes them (`max_memory="1.5GiB"`).
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    align: Literal["fit", "stretch"] = Field(
        "fit", description="fit: the mask covers the image at one scale; stretch: it may be stretched to it"
    )
    reach: float | None = Field(
        None,
        ge=1,
        le=100_000,
        description="how far the mask may be wrong, in the image's pixels; below 9, nothing changes beyond three times"
        " that from where the mask is neither below 5 % nor above 95 %, if --overlap is six times it or more; found"
        " from the mask if not given, and so is whether the result is to agree with it on average",
    )
    coarse: CoarseKind | None = Field(
        None,
        description="network that makes the first mask where none is given; if not said ensemble, the mean of u2netp's"
        " and mos_l's, but with --weights free u2netp, and with --coarse-checkpoint mos_l",
    )
    coarse_checkpoint: FilePath | None = Field(
        None, description="weights of the coarse network; the shipped ones if not given"
    )
    checkpoint: FilePath | None = Field(
        None, description="weights of the refining network; the shipped ones if not given"
    )
    weights: Weights = Field(
        "best",
        description="which of the weights that come with refine are used where no file is given; best: for research"
        " only; free: from ImageNet weights (Apache-2.0) and data that anyone may use, less accurate, after first masks"
        " by u2netp",
    )
    tile: int = Field(224, ge=96, description="side of a window; a multiple of the network's stride")
    overlap: int | None = Field(
        None, ge=0, description="pixels that neighbouring windows share; 64, or 32 where no mask is given"
    )
    select: Literal["boundary", "all"] = Field("boundary", description="run the windows along the outline, or all")
    bands: Annotated[tuple[int, ...], BeforeValidator(_tuple)] | None = Field(
        None, description="bands of the raster taken as RGB, counted from 1: one or three"
    )
    percentiles: Annotated[tuple[float, ...], BeforeValidator(_tuple)] | None = Field(
        None, description="percentiles of the image's values taken as black and white, such as 2,98; instead of --range"
    )
    range: Annotated[tuple[float, ...], BeforeValidator(_tuple)] | None = Field(
        None, description="values taken as black and white; percentiles 0.5 and 99.5 if not given, and 8 bit as it is"
    )
    max_pixels: int = Field(10**11, gt=0, description="larger images and masks are refused, as damaged or hostile")
    max_memory: Size = Field(4 * 2**30, gt=0, description="bytes that the whole process may take")
    batch: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description="windows per network call")
    passes: Literal[1, 2, 3, 4] = Field(
        2, description="times that each window is refined, each time from the result of the last"
    )
    flips: Literal[1, 2, 4] = Field(
        1, description="mirrored and turned views of each window that the network is asked about, and averaged"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    backend: Backend = Field(
        "torch", description="what runs the refining network; onnxruntime: on the CPU, as refine export wrote it"
    )
    binary: bool = Field(False, description="write 0 and 255 instead of a soft 8-bit mask")
    threshold: float | None = Field(
        None, gt=0, lt=1, description="with binary masks: foreground is what lies above it; 0.5 if not given"
    )
    overviews: bool = Field(False, description="put overviews into the GeoTIFF, for programs that zoom")
    cog: bool = Field(False, description="write a cloud-optimised GeoTIFF, with overviews")
    roi: Annotated[tuple[int, ...], BeforeValidator(_tuple)] | None = Field(
        None, description="row, col, height, width: write this part only"
    )
    overwrite: bool = Field(False, description="replace an existing output")
    resume: bool = Field(False, description="go on with what an interrupted run of the same command left")

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(_all_problems(error)) from error

    @property
    def cut(self) -> float:
        """Of a binary mask, what lies above it is foreground."""
        return 0.5 if self.threshold is None else self.threshold

    @property
    def needs_geotiff(self) -> bool:
        """The result has what only a GeoTIFF can hold."""
        return self.overviews or self.cog

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        if self.overlap is not None and self.overlap >= self.tile:
            raise ValueError(
                f"--overlap {self.overlap} is not smaller than --tile {self.tile}; try --overlap {self.tile // 4}"
            )
        if self.coarse == "ensemble" and self.coarse_checkpoint is not None:
            raise ValueError(
                "--coarse ensemble is of networks that come with refine; with --coarse-checkpoint give --coarse"
                " with its network's name"
            )
        if self.weights == "free" and self.checkpoint is not None:
            raise ValueError("--weights free and --checkpoint both say what refines; leave one of them out")
        if self.weights == "free" and self.coarse in ("ensemble", "mos_l") and self.coarse_checkpoint is None:
            raise ValueError(
                f"--weights free: the weights of --coarse {self.coarse} are for research only; leave --coarse out,"
                " which takes u2netp, or give --coarse-checkpoint FILE"
            )
        if self.bands is not None and (len(self.bands) not in (1, 3) or min(self.bands) < 1):
            raise ValueError(f"--bands {_listed(self.bands)}: give one band or three, counted from 1")
        if self.range is not None and (
            len(self.range) != 2 or not self.range[0] < self.range[1] or not all(map(isfinite, self.range))
        ):
            raise ValueError(f"--range {_listed(self.range)}: give two finite numbers, the first below the second")
        if self.percentiles is not None:
            if len(self.percentiles) != 2 or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
                raise ValueError(f"--percentiles {_listed(self.percentiles)}: give two from 0 to 100, the lower first")
            if self.range is not None:
                raise ValueError("--percentiles and --range both say what is black and white; leave one of them out")
        if self.backend == "onnxruntime" and self.device == "cuda":
            raise ValueError("--backend onnxruntime runs on the CPU; leave --device cuda out, or take --backend torch")
        if self.threshold is not None and not self.binary:
            raise ValueError(f"--threshold {self.threshold:g} cuts a binary mask; add --binary, or leave it out")
        if self.roi is not None and (len(self.roi) != 4 or min(self.roi[:2]) < 0 or min(self.roi[2:]) < 1):
            raise ValueError(f"--roi {_listed(self.roi)}: give row,col,height,width, a part inside the image")
        return self


def _all_problems(error: ValidationError) -> str:
    """Every problem in one line, each with its option as the command names it."""
    by_option: dict[tuple[str, str], list[str]] = {}  # a field of two types has a message for each of them
    for entry in error.errors(include_url=False):
        name = str(entry["loc"][0]) if entry["loc"] else ""
        by_option.setdefault((name, repr(entry["input"])), []).append(entry["msg"].removeprefix("Value error, "))
    return "; ".join(_problem(name, messages, value) for (name, value), messages in by_option.items())


def _problem(name: str, messages: list[str], value: object) -> str:
    if not name:
        return "; ".join(messages)
    first, *others = (f"{message[:1].lower()}{message[1:]}" for message in messages)
    either = " or ".join([first, *(other.removeprefix("input should be ") for other in others)])
    return f"--{name.replace('_', '-')}: {either}, got {value}"


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)

"""The JSON config of a training run: a frozen model per section, unknown keys refused, all problems named at once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from refine.errors import ConfigError
from refine.training.applies import asked_in_vain
from refine.training.loss_config import MASK_TERMS, Loss
from refine.training.section import Decay, NotNegative, Section, Share

Kind = Literal["exact", "reduce", "contour", "morph", "reduce+contour", "warp", "structure", "model", "cascade"]
Architecture = Literal[
    "mos_l", "mos_h", "mos_l_lite", "mos_h_lite", "isnet", "u2netp", "u2net", "basnet", "gt_encoder",
    "gt_encoder_enlarged", "unet6",
]  # fmt: skip
Layout = Literal[
    "sets", "folders", "duts", "msra10k", "dut-omron", "ecssd", "fss-1000", "hrsod", "dis5k", "thinobject", "big",
    "coco", "voc", "cutouts",
]  # fmt: skip


class Data(Section):
    """One source of image/mask pairs, checked when a run starts."""

    name: str = Field(pattern=r"^[\w.-]+$", description="for `--data NAME=PATH` and for messages")
    path: str = Field(description="the set's folder; of layout sets also a .tar, or a pattern like train-*.tar")
    layout: Layout = Field("sets", description="sets: <set>/<id>.jpg + .png; the others as they are published")
    parts: list[str] = Field(default=[], description="splits such as TR, VD, train2017; empty: the one for training")
    images: str = Field("images", description="layout folders: where the images are, below `path`")
    masks: str = Field("masks", description="layout folders: where the masks are; may be the same folder")
    image_suffix: str = Field("", description="layout folders: end of an image's stem that is not part of its id")
    mask_suffix: str = Field("", description="layout folders: end of a mask's stem, such as _gt")
    backgrounds: str = Field("", description="layout cutouts: a folder; cut-outs are in `path`/images, `path`/masks")
    positions: Literal["random", "grid"] = Field("random", description="layout cutouts: grid: 20 places, half the size")
    side: int = Field(0, ge=0, description="layout cutouts: backgrounds become squares of this side; 0: as they are")
    truth: Literal["soft", "binary"] | None = Field(
        None, description="binary: greys are wrong; none: layout sets takes all"
    )
    least_share: Share = Field(0.01, description="layouts coco and voc: smaller objects are passed over")
    bad_share: Share = Field(0.0, description="share of pairs that may be unusable and are left out; more is an error")
    in_memory: bool = Field(True, description="false: pairs are decoded when drawn, for sets that memory cannot hold")
    sets: list[str] = Field(default=[], description="only these first-level folders; empty: all")
    exact: list[str] = Field(default=[], description="sets whose masks are exact to a part of a pixel")
    weights: dict[str, Annotated[float, Field(ge=0, le=1e9)]] = Field(  # far from where their sum overflows
        default={}, description="how often each image of a set is drawn; else 1"
    )
    predictions: list[str] = Field(default=[], description="folders of <set>/<id>.png: coarse masks for kind 'model'")


class Perturb(Section):
    """How the truth becomes a coarse mask, for networks that refine one."""

    kinds: dict[Kind, float] = Field(default={
        "exact": 0.10, "reduce": 0.20, "contour": 0.25, "morph": 0.15, "reduce+contour": 0.10,
        "warp": 0.10, "structure": 0.05, "model": 0.05, "cascade": 0.0,
    }, description="shares of the kinds of damage; they are normalised to sum to one")  # fmt: skip
    late_kinds: dict[Kind, float] = Field(default={}, description="shares from `late_from` on; empty: no change")
    late_from: float = Field(0.3, ge=0, le=1, description="share of the schedule after which `late_kinds` count")
    reduce_max: float = Field(16, gt=1.5, le=64, description="largest factor of kind 'reduce'")
    hard: float = Field(0.5, ge=0, le=1, description="share of perturbed masks that are cut at 0.5")
    again: Share = Field(0.0, description="share of masks that the network has refined once when it is to refine them")
    where: Literal["loader", "device"] = Field(
        "loader", description="device: a batch at a time where the network trains, for loaders that limit a GPU"
    )

    @model_validator(mode="after")
    def _some_kind(self) -> Perturb:
        for name in ("kinds", "late_kinds"):
            shares = getattr(self, name)
            is_left_out = name == "late_kinds" and not shares
            if any(v < 0 for v in shares.values()) or (sum(shares.values()) <= 0 and not is_left_out):
                raise ValueError(f"{name}: shares must not be negative and need a positive sum")
        return self


class Augment(Section):
    """What is done to image and truth together, and to the image alone."""

    scale: tuple[float, float] = Field((0.25, 4.0), description="log-uniform scale of a window's source")
    whole: float = Field(0.15, ge=0, le=1, description="share of windows that hold the whole image")
    near_contour: float = Field(0.85, ge=0, le=1, description="share of windows centred within 64 px of an outline")
    composite: Share = Field(
        0.0, description="share of windows or whole images that are made of a cut-out on another photograph"
    )
    fringe: Share = Field(0.0, description="share of windows' composites, but for exact soft truths, with drawn fur")
    lines: Share = Field(0.0, description="share of windows with thin structures drawn over a photograph")
    roofs: Share = Field(0.0, description="share of windows with drawn roofs seen from above")
    inexact_scale: float = Field(
        4.0, gt=0, description="windows of sets that are not exact are enlarged no further; composites take the place"
    )
    jitter: tuple[Share, Share, Share, Share] = Field(
        (0.2, 0.2, 0.2, 0.05), description="brightness, contrast, saturation, hue: changed by up to this"
    )
    grey: float = Field(0.05, ge=0, le=1, description="share of images without colour")
    jpeg: float = Field(0.5, ge=0, le=1, description="share of images compressed again, quality 40 to 95")
    rotate_degrees: float = Field(0.0, ge=0, le=180, description="whole images are turned by up to this much")
    crop: float = Field(1.0, gt=0, le=1, description="whole images are cut to this share of their sides, anywhere")
    upside_down: Share = Field(0.0, description="share of whole images that are turned upside down")
    quarter_turns: Share = Field(0.0, description="share of whole images that are turned by 90, 180 or 270 degrees")
    elastic: NotNegative = Field(
        0.0, description="strength of the bending of whole images, at 1024 px; 50 is published"
    )
    clahe: Share = Field(0.0, description="share of images whose contrast is equalised locally")
    gamma: NotNegative = Field(0.0, description="exponents between exp(-gamma) and exp(gamma)")
    noise: NotNegative = Field(0.0, description="largest standard deviation of noise, of 255")
    patches: int = Field(0, ge=0, description="squares blurred along the largest object's outline, in `patch_share`")
    patch_size: float = Field(20.0, gt=0, description="half a square's side is drawn from half of this to this, in px")
    patch_share: Share = Field(0.5, description="share of images with such squares, if there are any")

    @model_validator(mode="after")
    def _ordered(self) -> Augment:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale: must be 0 < low <= high, got {list(self.scale)}")
        if self.lines + self.roofs > 1:
            raise ValueError(f"lines: {self.lines:g} and roofs {self.roofs:g} are shares of one whole; lower them to 1")
        return self


class Composites(Section):
    """Samples of unet6: the foreground of one pair, made smaller, on the picture of another."""

    positions: Literal["random", "grid"] = Field("random", description="grid: the 20 places of the published recipe")
    size: tuple[float, float] = Field((0.3, 0.6), description="long side of a foreground, as a share of the picture's")
    depths: str | None = Field(None, description="folder of depth maps <set>/<id>.png, of any size")

    @model_validator(mode="after")
    def _ordered(self) -> Composites:
        if not 0 < self.size[0] <= self.size[1] <= 1:
            raise ValueError(f"size: must be 0 < low <= high <= 1, got {list(self.size)}")
        return self


class Model(Section):
    """The network, and what it starts from."""

    architecture: Architecture
    size: int = Field(ge=32, description="side of a training input: 224 windows for MOS_H, 336 whole images for MOS_L")
    options: dict[str, object] = Field(default={}, description="fields of the network's own config")
    encoder_weights: str | None = Field(None, description="safetensors or .pth file in timm's names; none: random")
    init: str | None = Field(None, description="checkpoint of the same architecture to start from")

    @property
    def takes_mask(self) -> bool:
        return self.architecture.startswith("mos_h")


class Schedule(Section):
    """How long, and how the learning rate goes."""

    steps: int = Field(gt=0, description="optimizer steps, not epochs")
    batch: int = Field(gt=0, description="samples an optimizer step")
    accumulate: int = Field(1, ge=1, description="parts a batch is cut into, for small devices")
    warmup_steps: int = Field(1000, ge=0, description="steps in which the rate rises from zero to its peak")
    final_share: float = Field(0.01, ge=0, le=1, description="the rate never falls below this share of its peak")
    decay: Literal["cosine", "step", "plateau", "constant"] = Field("cosine", description="how the rate falls")
    drops: list[Share] = Field(default=[0.6, 0.85], description="step: shares of the schedule at which the rate drops")
    drop_factor: float = Field(0.1, gt=0, lt=1, description="step and plateau: what a drop multiplies the rate by")
    patience: int = Field(3, ge=0, description="plateau: validations without a gain before the rate drops")
    min_gain: float = Field(1e-4, ge=0, description="what counts as a gain of the score, in its points of 100")
    stop_at: float = Field(0, ge=0, le=100, description="score of a validation at which training ends; 0: none")
    early_stop: int = Field(0, ge=0, description="validations without a gain after which training ends; 0: never")

    @property
    def follows_validations(self) -> bool:
        return self.decay == "plateau" or self.early_stop > 0 or self.stop_at > 0

    @model_validator(mode="after")
    def _divides(self) -> Schedule:
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} does not divide batch {self.batch}")
        return self


class Optim(Section):
    """AdamW, and the mean of the weights that is kept."""

    rate: float = Field(3e-4, gt=0, description="peak learning rate of the decoder")
    encoder_rate: float = Field(1e-4, ge=0, description="peak learning rate of the encoder")
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="decay of the means of gradients and of their squares")
    weight_decay: float = Field(1e-4, ge=0, description="of convolutions' weights")
    clip_norm: float = Field(1.0, gt=0, description="longer gradients are shortened to this norm")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the mean of the weights; 0: the last ones")
    freeze_encoder_norm: bool = Field(False, description="encoder BatchNorm stays as loaded: for small batches")


class Validation(Section):
    """Images that never train, and what is measured on them."""

    held_out: str | None = Field(None, description="csv of set,id that never train")
    every: int = Field(0, ge=0, description="steps between validations; 0: never")
    images: int = Field(24, ge=1, description="at most this many, spread over the held-out list")


class Checkpointing(Section):
    """What is written, and when."""

    every: int = Field(500, ge=1, description="steps between states; the newest two are kept")
    keep_every: int = Field(0, ge=0, description="steps between averaged weights that are kept for good; 0: none")
    log_every: int = Field(50, ge=1, description="steps between lines of log.jsonl")
    licence: str = Field("unstated", description="what may be done with the weights; their header says it")


class TrainingConfig(Section):
    """The whole file."""

    about: str = Field("", description="what the run is for, and where it differs from what was published")
    command: str = Field("", description="what trains it; for its reader")
    expected: str = Field("", description="what it should reach; for its reader")
    seed: int = Field(0, ge=0, lt=2**32, description="of all that is drawn")
    data: list[Data] = Field(min_length=1)
    perturb: Perturb = Perturb()
    augment: Augment = Augment()
    composites: Composites = Composites()
    model: Model
    loss: Loss
    schedule: Schedule
    optim: Optim = Optim()
    validation: Validation = Validation()
    checkpoint: Checkpointing = Checkpointing()
    overfit: int = Field(0, ge=0, description="only the first samples, this many, again and again; 0: all")

    @model_validator(mode="after")
    def _validations_decide(self) -> TrainingConfig:
        if self.schedule.follows_validations and not self.validation.every:
            raise ValueError("schedule: plateau, early_stop and stop_at follow the validations; set validation.every")
        return self

    @model_validator(mode="after")
    def _losses_fit(self) -> TrainingConfig:
        name = self.model.architecture
        if self.loss.features is not None and name != "isnet":
            raise ValueError(f"loss.features: {name} has no features to synchronise; isnet has")
        for term in ("identity", "relative"):
            if getattr(self.loss, term) and not self.model.takes_mask:
                raise ValueError(f"loss.{term}: {name} takes no coarse mask to compare with; leave it out")
        return self

    @model_validator(mode="after")
    def _depth_fits(self) -> TrainingConfig:
        has_depth = self.model.architecture == "unet6" and self.model.options.get("depth", True) is True
        terms = self.loss.terms_of("depth").weighted() if has_depth or "depth" in self.loss.outputs else []
        is_learnt = bool(self.loss.depth or terms)
        if has_depth != is_learnt or has_depth != (self.composites.depths is not None):
            raise ValueError(
                "loss.depth: goes, as loss.outputs.depth does, with the depth output of unet6 and with"
                " composites.depths; give all three, or none and model.options.depth false"
            )
        if wrong := sorted(MASK_TERMS & set(terms)):
            raise ValueError(f"loss.outputs: {', '.join(wrong)} compare masks; give depth terms of its own without it")
        return self

    @model_validator(mode="after")
    def _has_an_effect(self) -> TrainingConfig:
        if in_vain := asked_in_vain(self.model.architecture, self):
            raise ValueError(in_vain)
        if self.augment.fringe and not self.augment.composite:
            raise ValueError(f"augment.fringe: {self.augment.fringe:g}, but no window is a composite; set composite")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> TrainingConfig:
        names = [data.name for data in self.data]
        if len(set(names)) < len(names):
            raise ValueError(f"data: names must differ, got {names}")
        return self

    @model_validator(mode="after")
    def _size_fits(self) -> TrainingConfig:
        stride = 16 if self.model.architecture.endswith(("_lite", "unet6")) else 8
        if self.model.size % stride:
            raise ValueError(f"model.size: must be a multiple of {stride}, got {self.model.size}")
        return self


def load_config(path: Path, data_paths: dict[str, str] | None = None) -> TrainingConfig:
    """The config in `path`; `data_paths` replaces the paths of named data sections.

    Raises ConfigError that lists every problem of the file, each with its place, on one line.
    """
    try:
        raw: object = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=partial(_once_each, path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    return parse_config(raw, str(path), data_paths)


def parse_config(raw: object, where: str, data_paths: dict[str, str] | None = None) -> TrainingConfig:
    try:
        config = TrainingConfig.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        problems = "; ".join(_problem(detail) for detail in error.errors())
        raise ConfigError(f"{where}: {problems}") from None
    known = {data.name for data in config.data}
    unknown = sorted(set(data_paths or {}) - known)
    if unknown:
        raise ConfigError(f"--data {unknown[0]}: the config has no data of that name; it has {sorted(known)}")
    data = [d.model_copy(update={"path": (data_paths or {}).get(d.name, d.path)}) for d in config.data]
    return config.model_copy(update={"data": data})


def dump(config: TrainingConfig) -> dict[str, object]:
    """As JSON has it, defaults included."""
    plain: dict[str, object] = config.model_dump(mode="json")
    return plain


def _problem(detail: object) -> str:
    assert isinstance(detail, dict)
    place = ".".join(str(part) for part in detail["loc"]) or "config"
    if detail["type"] == "extra_forbidden":
        return f"{place}: unknown key{_meant(detail['loc'])}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    given = detail.get("input")
    shown = f", got {given!r}" if isinstance(given, str | int | float | bool) else ""
    return f"{place}: {message}{shown}"


def _once_each(path: Path, pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of the file. JSON lets a key come twice, and the last one count."""
    keys = [key for key, _ in pairs]
    if twice := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise ConfigError(f"{path}: {', '.join(twice)}: given twice in one section; leave one of them out")
    return dict(pairs)


def _meant(place: tuple[str | int, ...]) -> str:
    """A question after a key that is like the last of `place`, for the end of a message."""
    section: type[Section] = TrainingConfig
    for part in place[:-1]:
        field = section.model_fields.get(str(part))  # none: an item of a list, or of a mapping
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), section)
    return meant(str(place[-1]), section.model_fields)


def meant(name: str, known: Iterable[str]) -> str:
    """A question after a name that is like a known one, for the end of a message."""
    like = get_close_matches(name, known, n=1)
    return f"; is {like[0]} meant?" if like else ""

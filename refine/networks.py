"""Which networks a run uses, from its settings alone; checkpoints are checked by their headers.

Torch is imported to load networks, to ask for the device (`resolve_device`, `describe_device`), and to measure what a
network takes that is larger than the one of its name that was measured; by nothing else here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, prod
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import JsonValue

from refine import backends
from refine.backends.onnx_file import about_exported, exported_path
from refine.coarse import CoarseNetwork, Ensemble, coarse_decimation, coarse_size
from refine.errors import CheckpointError, InputError
from refine.memory import (
    BASELINE_BYTES,
    COARSE_COSTS,
    LITE_COST,
    MIB,
    ONNX_BASELINE_BYTES,
    ONNX_LITE_COST,
    CoarseCost,
    MeasuredCost,
)
from refine.models.metadata import Metadata, has_metadata, read_header, read_metadata, sha256
from refine.models.registry import NETWORKS
from refine.plan import Device, check_stride
from refine.settings import Backend, CoarseKind, Settings, Weights
from refine.shipped import default_checkpoint, shipped_names
from refine.sources import Refiner

STRIDES: Mapping[str, int] = MappingProxyType({"mos_h": 8, "mos_h_lite": 16})
"""A tile must be a multiple of this; the networks say the same of themselves."""

FULL_PIXEL_BYTES = 3300.0
"""Activations of one call of MOS_H for each pixel of its windows, in float32."""

FULL_CALL_BYTES = 14 * MIB

_FULL: Mapping[str, JsonValue] = {"encoder": "resnet50", "width": 256, "points": "soft", "pooling": "reduced"}
_LITE: Mapping[str, JsonValue] = {"encoder": "tf_efficientnet_lite0", "widths": [128, 96, 48, 32], "deep": True}

REFERENCE: Mapping[str, Mapping[str, JsonValue]] = MappingProxyType(
    {
        "mos_h": _FULL,
        "mos_l": _FULL,
        "mos_h_lite": {**_LITE, "point_width": 32},
        "mos_l_lite": {**_LITE, "point_width": 16},
    }
)
"""What of a config decides how much a network takes. One that is nowhere larger is planned for as if it were as large;
any other is loaded and measured."""

_MEASURED_TILE = 224


USUAL_COARSE: Mapping[Weights, CoarseKind] = MappingProxyType({"best": "ensemble", "free": "u2netp"})
"""Makes the first mask where nothing else is said."""

FREE = "_free"
"""How the name of a network ends whose weights are free; of U2-NetP's there are no others."""

ENSEMBLE: tuple[CoarseKind, ...] = ("u2netp", "mos_l")
"""Of whose masks `--coarse ensemble` is the mean: they miss different objects (checkpoints/README.md)."""


@dataclass(frozen=True, slots=True)
class CoarseMember:
    """A network that makes a first mask, by itself or with others."""

    kind: CoarseKind
    checkpoint: Path
    architecture: str
    side: int  # height and width of what it is shown
    cost: CoarseCost


@dataclass(frozen=True, slots=True)
class Networks:
    """The refining network of a run, and what makes the first mask where it needs one."""

    device: Device
    checkpoint: Path
    metadata: Metadata
    coarse: CoarseKind | None = None
    coarse_members: tuple[CoarseMember, ...] = ()
    backend: Backend = "torch"  # of the refining network

    @property
    def baseline_bytes(self) -> int:
        """The process with its libraries; a coarse network brings torch in."""
        if self.backend == "onnxruntime" and self.coarse is None:
            return ONNX_BASELINE_BYTES
        return BASELINE_BYTES[self.device]

    @property
    def stride(self) -> int:
        return STRIDES[self.metadata.architecture]

    @property
    def cost(self) -> MeasuredCost:
        """What the refining network takes: known of the usual ones, else measured, which loads it."""
        name, config = self.metadata.architecture, self.metadata.config
        if self.backend == "onnxruntime":
            return ONNX_LITE_COST
        if not _is_known(name, config):
            return _measured_cost(self.checkpoint, self.checkpoint.stat().st_mtime_ns)
        if name == "mos_h_lite":
            return LITE_COST
        return MeasuredCost(float32_bytes(self.checkpoint), FULL_PIXEL_BYTES, FULL_CALL_BYTES)

    @property
    def spared_by(self) -> str:
        """The options that do with less memory than the coarse networks take."""
        return "--mask or --coarse mos_l" if self.coarse == "ensemble" else "--mask"

    @property
    def coarse_side(self) -> int:
        """Height and width of what the coarse networks see."""
        return max((member.side for member in self.coarse_members), default=0)

    @property
    def coarse_bytes(self) -> int:
        """Main memory that the coarse networks take at most."""
        beside = (self.coarse_held_bytes - member.cost.kept_bytes for member in self.coarse_members)
        peaks = (member.cost.peak_bytes(member.side) for member in self.coarse_members)
        return max(map(sum, zip(peaks, beside, strict=True)), default=0)

    @property
    def coarse_held_bytes(self) -> int:
        """Of it, what they take as long as they stay loaded."""
        return sum(member.cost.kept_bytes for member in self.coarse_members)

    def coarse_map_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the first mask that the coarse network makes of an image."""
        return coarse_size(height, width, self.coarse_side, self.coarse_side)

    def coarse_pixels(self, height: int, width: int) -> int:
        """Pixels of the decimated image that the coarse network is shown."""
        decimation = coarse_decimation(height, width, self.coarse_side, self.coarse_side)
        return ceil(height / decimation) * ceil(width / decimation)


def choose_networks(settings: Settings, device: Device, *, needs_coarse: bool) -> Networks:
    """The networks of `settings`: their checkpoints or the shipped ones, lite ones on a CPU.

    Raises CheckpointError if a file is missing, broken, or another network's; InputError if none can be chosen.
    """
    checkpoint = settings.checkpoint or _shipped("mos_h", device, settings.weights)
    metadata = _read(checkpoint, option="--checkpoint", role="refiner")
    check_stride(settings.tile, STRIDES[metadata.architecture])
    if settings.backend == "onnxruntime":
        _check_exported(checkpoint, metadata, settings.tile)
    if not needs_coarse:
        return Networks(device, checkpoint, metadata, backend=settings.backend)
    usual = USUAL_COARSE[settings.weights] if settings.coarse_checkpoint is None else "mos_l"
    kind: CoarseKind = settings.coarse or usual
    members = _coarse_members(kind, settings.coarse_checkpoint, device)
    return Networks(device, checkpoint, metadata, kind, members, backend=settings.backend)


def load_refiner(networks: Networks) -> Refiner:
    """The refining network, on its device."""
    if networks.backend == "onnxruntime":
        return backends.load_exported(networks.checkpoint)
    return backends.load_refiner(networks.checkpoint, device=networks.device)


def load_coarse(networks: Networks) -> CoarseNetwork:
    """The coarse network, or all of an ensemble, on its device."""
    members = [
        backends.load_coarse(member.checkpoint, kind=member.kind, device=networks.device)
        for member in networks.coarse_members
    ]
    return members[0] if len(members) == 1 else Ensemble(members)


def resolve_device(settings: Settings) -> Device:
    """The device of a run, as torch sees it. Raises InputError if it is not there."""
    if settings.backend == "onnxruntime":
        return "cpu"
    from refine.models.device import choose_device

    return "cuda" if choose_device(settings.device).type == "cuda" else "cpu"


def describe_device(networks: Networks) -> str:
    """What computes, as far as the bytes of a result depend on it."""
    if networks.backend == "onnxruntime":
        return backends.describe_exported(networks.checkpoint)
    from refine.models import device

    return device.describe_device(networks.device)


def likely_device(settings: Settings) -> Device:
    """The device that a run would use, told without torch: where NVIDIA's driver is, CUDA is taken to be."""
    if settings.backend == "onnxruntime":
        return "cpu"
    if settings.device != "auto":
        return settings.device
    return "cuda" if Path("/proc/driver/nvidia/version").exists() else "cpu"


def _is_known(name: str, config: Mapping[str, JsonValue]) -> bool:
    """Whether a network is as large as the one of its name that was measured, or smaller."""
    # Headers of before `deep` lack it.
    return all(_is_no_larger(config.get(key, False), most) for key, most in REFERENCE.get(name, {}).items())


def _is_no_larger(own: JsonValue, most: JsonValue) -> bool:
    if isinstance(own, list) and isinstance(most, list):
        return len(own) == len(most) and all(map(_is_no_larger, own, most))
    if isinstance(own, int) and isinstance(most, int):
        return own <= most
    return own == most


def float32_bytes(checkpoint: Path) -> int:
    """What the weights take in memory, where they are float32 whatever the file holds."""
    entries = (entry for name, entry in read_header(checkpoint).items() if name != "__metadata__")
    return MIB + sum(4 * prod(entry["shape"]) for entry in entries if isinstance(entry, dict))


def _check_exported(checkpoint: Path, metadata: Metadata, tile: int) -> None:
    """Raise InputError or CheckpointError if ONNX Runtime cannot take the refiner's place."""
    if metadata.architecture != "mos_h_lite" or not _is_known("mos_h_lite", metadata.config):
        raise InputError(
            f"--backend onnxruntime: what {checkpoint} takes of memory there is known of MOS_H_lite only, up to the"
            " shipped size; use --backend torch"
        )
    path = exported_path(checkpoint)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: does not exist; make it with refine export --checkpoint {checkpoint} --image PHOTOGRAPH"
        )
    exported = about_exported(path, sha256=sha256(checkpoint))
    if exported.tile != tile:
        raise InputError(
            f"--tile {tile}: {path} was exported for --tile {exported.tile}; give that, or export it again with"
            f" --tile {tile}"
        )


@lru_cache(maxsize=8)
def _measured_cost(checkpoint: Path, _changed: int) -> MeasuredCost:
    """Of a network of any config, from two of its calls; the file's time tells one checkpoint from its successor."""
    refiner = backends.load_refiner(checkpoint, device="cpu")
    one, two = (refiner.activation_bytes(batch, _MEASURED_TILE) for batch in (1, 2))
    pixel_bytes = (two - one) / _MEASURED_TILE**2
    call_bytes = max(0, ceil(one - pixel_bytes * _MEASURED_TILE**2))
    # The figures have their own margin.
    return MeasuredCost(refiner.weight_bytes, pixel_bytes, call_bytes, margin=1.0)


@lru_cache(maxsize=8)
def _measured_coarse_cost(checkpoint: Path, side: int, _changed: int) -> CoarseCost:
    """Of a coarse network of any config: its weights thrice while they are loaded, then twice, and a call."""
    weights, activations = backends.coarse_footprint(checkpoint)
    # The figures have their own margin.
    return CoarseCost(3 * weights, 2 * weights, activations / side**2, call_bytes=0, margin=1.0)


def _shipped(name: str, device: Device, weights: Weights = "best") -> Path:
    """On a GPU the full network if it is there, else the lite one."""
    if weights == "free":
        return default_checkpoint(f"{name}_lite{FREE}")
    if f"{name}_lite" not in NETWORKS or (device == "cuda" and name in shipped_names()):
        return default_checkpoint(name)
    return default_checkpoint(f"{name}_lite")


def _coarse_members(kind: CoarseKind, checkpoint: Path | None, device: Device) -> tuple[CoarseMember, ...]:
    if kind == "ensemble":
        try:
            members = [_coarse_member(each, _shipped(each, device)) for each in ENSEMBLE]
        except CheckpointError as error:
            raise CheckpointError(f"{error}; or give --coarse with the name of one network") from error
        side = max(member.side for member in members)
        return tuple(replace(member, side=side) for member in members)
    if checkpoint is None and NETWORKS[kind].published and kind not in shipped_names():
        raise InputError(
            f"--coarse {kind}: no weights of it come with refine; get {NETWORKS[kind].published} and give"
            " --coarse-checkpoint FILE"
        )
    return (_coarse_member(kind, checkpoint or _shipped(kind, device)),)


def _coarse_member(kind: CoarseKind, checkpoint: Path) -> CoarseMember:
    if NETWORKS[kind].published and not _has_metadata(checkpoint):
        return CoarseMember(kind, checkpoint, kind, NETWORKS[kind].side, COARSE_COSTS[kind])
    metadata = _read(checkpoint, option="--coarse-checkpoint", role="coarse")
    if metadata.architecture not in (kind, f"{kind}_lite"):
        raise CheckpointError(f"{checkpoint}: holds {metadata.architecture}, not {kind}; give --coarse with its name")
    name = metadata.architecture
    side = metadata.preprocessing.height or NETWORKS[name].side
    if _is_known(name, metadata.config):
        return CoarseMember(kind, checkpoint, name, side, COARSE_COSTS[name])
    measured = _measured_coarse_cost(checkpoint, side, checkpoint.stat().st_mtime_ns)
    return CoarseMember(kind, checkpoint, name, side, measured)


def _has_metadata(checkpoint: Path) -> bool:
    if not checkpoint.is_file():
        what = "is a folder" if checkpoint.is_dir() else "does not exist"
        raise CheckpointError(f"{checkpoint}: {what}; give --coarse-checkpoint FILE")
    return has_metadata(checkpoint)


def _read(checkpoint: Path, *, option: str, role: Literal["coarse", "refiner"]) -> Metadata:
    if checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint}: is a folder; give {option} FILE")
    metadata = read_metadata(checkpoint)
    network = NETWORKS.get(metadata.architecture)
    if network is not None and network.role == "composite":
        raise CheckpointError(
            f"{checkpoint}: holds {metadata.architecture}, which finds what was laid over a background and has to be"
            f" shown that background too; an image alone has none, so {option} cannot take it"
        )
    if network is None or network.role != role:
        wanted = " or ".join(name for name, other in NETWORKS.items() if other.role == role)
        raise CheckpointError(f"{checkpoint}: holds {metadata.architecture}, but {option} needs {wanted}")
    return metadata

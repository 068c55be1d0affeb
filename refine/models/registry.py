"""Which networks there are: name, code, role, and what their name fixes of their config."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from pydantic import BaseModel, ValidationError

from refine.errors import ConfigError
from refine.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from refine.models.encoder import Encoder

Role = Literal["coarse", "refiner", "truth", "composite"]
"""What a network is given: a whole image, windows and a mask, the true mask, or a composite and its background."""


@dataclass(frozen=True, slots=True)
class Network:
    """Where a network's code is, and what its name says about it."""

    module: str
    class_name: str
    config_name: str
    role: Role
    side: int  # height and width of what one forward pass sees, as published
    preset: Mapping[str, object] = field(default_factory=dict)
    published: str = ""  # the weights that others published, and where


_COARSE: Mapping[str, object] = {"takes_mask": False, "reach_input": False, "output": "direct"}

NETWORKS: Mapping[str, Network] = {
    "mos_l": Network("meticulousnet", "MeticulousNet", "MeticulousConfig", "coarse", 336, _COARSE),
    "mos_h": Network("meticulousnet", "MeticulousNet", "MeticulousConfig", "refiner", 224),
    "mos_l_lite": Network("lite", "LiteNet", "LiteConfig", "coarse", 336, _COARSE),
    "mos_h_lite": Network("lite", "LiteNet", "LiteConfig", "refiner", 224),
    "isnet": Network(
        "isnet", "ISNet", "ISNetConfig", "coarse", 1024, published="isnet-general-use.pth of the project xuebinqin/DIS"
    ),
    "u2netp": Network(
        "u2net", "U2Net", "U2NetConfig", "coarse", 320, {"small": True}, "u2netp.pth of the project xuebinqin/U-2-Net"
    ),
    "u2net": Network(
        "u2net", "U2Net", "U2NetConfig", "coarse", 320, {"small": False}, "u2net.pth of the project xuebinqin/U-2-Net"
    ),
    "basnet": Network(
        "basnet", "BASNet", "BASNetConfig", "coarse", 256, published="basnet.pth of the project xuebinqin/BASNet"
    ),
    "gt_encoder": Network("gt_encoder", "GTEncoder", "GTEncoderConfig", "truth", 1024, {"enlarged": False}),
    "gt_encoder_enlarged": Network("gt_encoder", "GTEncoder", "GTEncoderConfig", "truth", 1024, {"enlarged": True}),
    "unet6": Network("unet6", "UNet6", "UNet6Config", "composite", 192),
}


def network_names(role: Role | None = None) -> tuple[str, ...]:
    """Names that `build_model` knows, or those of one role."""
    return tuple(name for name, network in NETWORKS.items() if role in (None, network.role))


def find_network(name: str) -> Network:
    """What is known of a network; raises ConfigError, with all names, if there is none of this name."""
    if name not in NETWORKS:
        raise ConfigError(f"model: there is no network {name!r}; choose from {', '.join(NETWORKS)}")
    return NETWORKS[name]


def full_config(name: str, config: Mapping[str, object] | None = None) -> BaseModel:
    """The network's complete config: its defaults, what its name fixes, then `config`.

    Raises ConfigError naming every unknown key and every value that does not fit.
    """
    network = find_network(name)
    for key, fixed in network.preset.items():
        if config is not None and key in config and config[key] != fixed:
            raise ConfigError(f"{name}: model.{key}: is {json.dumps(fixed)} in {name}; leave the key out")
    schema: type[BaseModel] = getattr(_code_of(network), network.config_name)
    # Through JSON, so that a tuple of Python and a list of a file are the same thing to the strict model.
    text = json.dumps({**network.preset, **(config or {})})
    try:
        chosen = schema.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(
            f"model.{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in error.errors()
        )
        raise ConfigError(f"{name}: {problems}") from error
    if getattr(chosen, "takes_mask", False) != (network.role == "refiner"):
        raise ConfigError(f"{name}: model.takes_mask: {name} takes a mask; leave the key out")
    return chosen


def build_model(name: str, config: Mapping[str, object] | None = None, *, is_loaded: bool = False) -> nn.Module:
    """A new network with random weights, on the CPU, in training mode. Nothing is downloaded.

    With `is_loaded` all its weights are about to be loaded: the lite networks then do without timm.

    Raises ConfigError for an unknown name, an unknown key, or a value that does not fit.
    """
    network = find_network(name)
    build: type[nn.Module] = getattr(_code_of(network), network.class_name)
    options = {"is_loaded": True} if is_loaded and network.module == "lite" else {}
    return build(full_config(name, config), **options)


def published_preprocessing(name: str) -> Preprocessing:
    """What weights that others published for the network `name` expect, which may differ from what new ones learn."""
    code = _code_of(find_network(name))
    fixed = getattr(code, "PUBLISHED_PREPROCESSING", getattr(code, "PREPROCESSING", None))
    if not isinstance(fixed, Preprocessing):
        raise ConfigError(f"{name}: nobody published weights of it; give a checkpoint made by refine")
    return fixed


def default_preprocessing(name: str, model: nn.Module) -> Preprocessing:
    """What a network built by `name` expects when trained from its usual start: its encoder's mean and std."""
    network = find_network(name)
    fixed = getattr(_code_of(network), "PREPROCESSING", None)
    if isinstance(fixed, Preprocessing):
        return fixed
    side = network.side if network.role == "coarse" else None
    encoder = cast("Encoder", model.get_submodule("encoder"))
    return Preprocessing.model_validate({"height": side, "width": side, "mean": encoder.mean, "std": encoder.std})


def _code_of(network: Network) -> object:
    """The module that holds a network; imported here, since it brings torch and timm with it."""
    return importlib.import_module(f"refine.models.{network.module}")

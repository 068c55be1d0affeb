"""Importing timm and torchvision, with one clear line where the installed torch and torchvision do not fit together."""

from __future__ import annotations

import importlib
from importlib import metadata
from types import ModuleType

from refine.errors import InstallationError


def import_timm() -> ModuleType:
    """The `timm` module.

    timm imports torchvision. A CPU-only torch beside torchvision's default wheel breaks that import: the
    wheel's compiled part wants CUDA libraries, does not load, and leaves its operators unregistered.

    Raises InstallationError for that pair, and where a package is missing.
    """
    import_torchvision()
    return _import("timm")


def import_torchvision() -> ModuleType:
    """The `torchvision` module; raises InstallationError as `import_timm` does."""
    return _import("torchvision")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InstallationError(f"{name} cannot be imported: {_first_line(error)}; pip install {name}") from error
    except RuntimeError as error:
        # What torch raises is a plain RuntimeError: the operator's name is all that tells this case apart.
        if "operator torchvision::" not in str(error):
            raise
        raise InstallationError(
            f"torch {_version('torch')} and torchvision {_version('torchvision')} do not fit together (import of"
            f" torchvision: {_first_line(error)}); install both from the same source: pip install --force-reinstall"
            " torch torchvision, a CPU-only pair from PyTorch's own CPU index, see pytorch.org/get-started"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(unknown version)"

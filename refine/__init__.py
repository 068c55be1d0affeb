"""refine: rough masks into accurate ones, at the image's own resolution, whatever its size."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what __getattr__ gives, for type checkers and editors
    from refine.api import Report, Settings, refine_array, refine_raster

try:
    __version__ = version("refine")
except PackageNotFoundError:  # a source tree on the path, never installed
    __version__ = "0+unknown"

__all__ = ["Report", "Settings", "__version__", "refine_array", "refine_raster"]


def __getattr__(name: str) -> Any:
    """The names of `refine.api`, imported when they are first asked for: training and tools need none of it."""
    if name in __all__:
        return getattr(import_module("refine.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""What can go wrong, and the exit code it has.

    RefineError                         exit code 2, one line, shown as it is
    ├── InputError          ValueError  an image, mask or option does not make sense
    ├── ConfigError         ValueError  a JSON config does not make sense
    ├── RasterError         OSError     a raster cannot be read or written
    ├── CheckpointError     ValueError  a checkpoint cannot be used
    ├── MemoryBudgetError   MemoryError the memory budget cannot be met
    │   └── DeviceMemoryError           a device has no room for a network or a call of it
    └── InstallationError   ImportError a dependency is missing or does not fit another

Each also is the builtin that callers already catch. The library raises; only the command catches, prints the message
after its own name and leaves with `exit_code`. So a message is one line that says what is wrong, where, and what to do.
"""

from __future__ import annotations


class RefineError(Exception):
    """The root of all errors that are the caller's to mend."""

    exit_code = 2


class InputError(RefineError, ValueError):
    """An image, mask or option that cannot be worked with."""


class ConfigError(RefineError, ValueError):
    """A config with unknown keys, wrong types or impossible values."""


class RasterError(RefineError, OSError):
    """A raster that cannot be opened, read, written or finished."""


class CheckpointError(RefineError, ValueError):
    """A checkpoint that is missing, damaged, or holds another network than the one asked for."""


class MemoryBudgetError(RefineError, MemoryError):
    """A memory budget below the smallest that works; the message names that figure."""


class DeviceMemoryError(MemoryBudgetError):
    """A device that had no room for a network or for one call of it; the engine halves a batch that was its choice."""


class InstallationError(RefineError, ImportError):
    """A dependency that is missing, or two that do not fit each other."""

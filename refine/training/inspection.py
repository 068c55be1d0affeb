"""A batch whose loss or gradient was not finite, kept for whoever looks into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from refine.training import processes
from refine.training.state import last_state


def keep_batch(batch: Mapping[str, Tensor], folder: Path, step: int, size: int) -> str:
    """Write this process's share of the batch of `size` samples as bad-batch-<step>; gives the words that say where."""
    own = "" if processes.count() == 1 else f"-{processes.rank()}"
    path = folder / f"bad-batch-{step + 1:08d}{own}.safetensors"
    first = step * size
    about = {"step": str(step + 1), "samples": f"{first + processes.rank()} to {first + size - 1}"}
    try:
        save_file({name: tensor.contiguous() for name, tensor in batch.items()}, path, metadata=about)
    except (OSError, SafetensorError) as error:
        path.unlink(missing_ok=True)
        return f"its batch could not be saved ({error}){last_state(folder)}"
    return f"its batch (samples {about['samples']}) is in {path}{last_state(folder)}"

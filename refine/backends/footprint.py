"""How much memory a network needs while it runs: tensors counted as torch makes and drops them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(int(tensor.nbytes) for tensor in (*model.parameters(), *model.buffers()))


def peak_tensor_bytes(run: Callable[[], object]) -> int:
    """The most bytes that tensors made during `run` occupied at one time; what a kernel borrows inside is not seen."""
    with _LiveTensors() as live:
        run()
    peak: int = live.peak
    return peak


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its base untyped
    """Adds a storage's bytes when an operation returns it, and takes them off when it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its base untyped
        self.bytes = 0
        self.peak = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled under this mode; to keep a compiler off it, torch would import that: 1.3 s, 170 MB."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for value in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return

        def freed(_: object) -> None:
            self.bytes -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, freed)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

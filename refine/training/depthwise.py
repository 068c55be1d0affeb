"""Keep the depthwise convolutions whose bfloat16 backward pass is slow on a CPU in float32.

oneDNN has no fast bfloat16 gradient for strided or 5 x 5 depthwise convolutions: it takes four to twelve times as long
as the float32 one. They hold a hundredth of an encoder's arithmetic and took two fifths of a training step.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn


def keep_in_float32(model: nn.Module) -> list[str]:
    """Make the slow convolutions of `model` leave autocast for their own duration; gives their names.

    Their inputs and outputs keep the dtype that they would have had. The tensors of the model do not change.
    """
    slow = [(name, module) for name, module in model.named_modules() if is_slow(module)]
    for _, module in slow:
        aside = _Aside()
        module.register_forward_pre_hook(aside.enter)
        module.register_forward_hook(aside.leave, always_call=True)
    return [name for name, _ in slow]


def is_slow(module: nn.Module) -> bool:
    """Depthwise, and strided or larger than 3 x 3."""
    if not isinstance(module, nn.Conv2d) or module.groups == 1 or module.groups < module.in_channels:
        return False
    return max(module.stride) > 1 or max(module.kernel_size) > 3


class _Aside:
    """Autocast switched off while one module runs."""

    def __init__(self) -> None:
        self._off: AbstractContextManager[object] = torch.autocast("cpu", enabled=False)
        self._dtype = torch.float32

    def enter(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
        self._dtype = inputs[0].dtype
        self._off.__enter__()
        return (inputs[0].float(), *inputs[1:])

    def leave(self, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
        self._off.__exit__(None, None, None)
        return output.to(self._dtype) if isinstance(output, Tensor) else output

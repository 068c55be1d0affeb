"""Several processes that train one network, as torchrun starts them: who takes part, and what they tell each other.

Every function here is the identity where there is one process only, so the loop reads the same for one and for many.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from refine.errors import InputError
from refine.installation import import_timm

T = TypeVar("T")

LONGEST_WAIT = timedelta(hours=6)
"""How long the others wait for the first process, which alone validates and saves."""


def rank() -> int:
    """0 is the first, which alone writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def joined() -> Iterator[None]:
    """Meet the other processes of torchrun for as long as this lasts; without torchrun nothing happens.

    Raises InputError if another process ended while this one waited for it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=LONGEST_WAIT)
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        lost = isinstance(error, dist.DistError) or "Connection closed by peer" in str(error)
        if not lost and "gloo" not in str(error).lower():
            raise
        raise InputError(f"process {rank()}: another process of the run has ended; its message says why") from None
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The CUDA device of this process on its machine; any other device as it is."""
    if count() == 1 or device.type != "cuda":
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(own)
    return own


def mean(value: Tensor) -> Tensor:
    """The mean over processes of a tensor that needs no gradient."""
    if count() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / count()


def any_of(flag: bool) -> bool:
    """Whether some process says so: all leave the loop at the same step."""
    if count() == 1:
        return flag
    flags = torch.tensor(float(flag))
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags)


def from_first(value: T) -> T:
    """What the first process has."""
    if count() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with gradients and BatchNorm statistics shared by all processes; with one process the model itself.

    The modules of `model` are changed where they stand; names and tensors of its state stay what they are.
    """
    if count() == 1:
        return model
    if device.type == "cuda":
        # timm's knows its norms that hold an activation, which torch's own drops.
        import_timm().layers.convert_sync_batchnorm(model)
    else:
        _share_statistics(model)
    # An output that the config gives no loss leaves its head without a gradient.
    return nn.parallel.DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=True,
    )


def _share_statistics(model: nn.Module) -> None:
    """What SyncBatchNorm does, which torch has for accelerators only."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            setattr(module, "forward", partial(_shared_norm, module))  # noqa: B010  # mypy takes no assignment here


def _shared_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """BatchNorm over the batches of all processes, gradients included, then timm's activation where it has one."""
    if not norm.training:
        return type(norm).forward(norm, x)
    add_up: Callable[[Tensor], Tensor] = _Sum.apply
    values = x.float()
    number = values.numel() // values.shape[1] * count()
    middle = add_up(values.sum(dim=(0, 2, 3))) / number  # (C,)
    centred = values - middle[:, None, None]
    variance = add_up(centred.square().sum(dim=(0, 2, 3))) / number
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(middle.detach(), momentum)
        norm.running_var.lerp_(variance.detach() * number / max(1, number - 1), momentum)
    normalised = centred * (variance + norm.eps).rsqrt()[:, None, None]
    if norm.affine:
        normalised = normalised * norm.weight[:, None, None] + norm.bias[:, None, None]
    result: Tensor = normalised.to(x.dtype)
    for name in ("drop", "act"):  # timm's BatchNormAct2d
        then = getattr(norm, name, None)
        result = then(result) if isinstance(then, nn.Module) else result
    return result


class _Sum(torch.autograd.Function):
    """The sum over processes; each of its terms counts in every process, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradients[0])

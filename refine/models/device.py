"""Which device computes, and in which number type it is fast; inference and training ask here alike."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from refine.errors import InputError

Precision = Literal["auto", "fp32", "bf16"]

_CPU_INFO = Path("/proc/cpuinfo")


def choose_device(name: str) -> torch.device:
    """The device of a name: "auto" is CUDA where there is one.

    Raises InputError if torch does not know the name, or sees no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: torch knows no such device; use auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: use auto, cpu or cuda")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"--device {name}: torch {torch.__version__} sees no such device; use --device cpu")
    return device


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """float32, or bfloat16 where asked for; "auto" takes bfloat16 where the device multiplies it natively."""
    if precision == "auto":
        return torch.bfloat16 if multiplies_bf16(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def describe_device(name: str, precision: Precision = "auto") -> str:
    """What computes: where two of these are equal, and so are torch and the batches, results are equal to the bit."""
    device = choose_device(name)
    dtype = str(choose_dtype(precision, device)).removeprefix("torch.")
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}, {dtype}"
    return f"cpu, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, {dtype}"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32: CUDA from Ampere on, CPUs with AVX512-BF16 or AMX.

    On other CPUs it is emulated, and several times slower. The CPU's flags are known on Linux only; torch says them
    in later versions than the oldest that refine runs with.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


def cpu_flags() -> frozenset[str]:
    """Flags of the first CPU as Linux lists them; empty elsewhere."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())

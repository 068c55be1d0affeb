"""The encoder that refine builds itself is timm's, and what runs saved weights imports nothing of timm."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from refine.models.encoder import Encoder
from refine.shipped import default_checkpoint


@pytest.mark.parametrize("taps", [(2, 4, 8, 16), (2, 4, 8, 16, 32)])
@pytest.mark.parametrize("training", [False, True])
def test_it_is_timms_to_the_bit(taps: tuple[int, ...], training: bool) -> None:
    torch.manual_seed(0)
    of_timm = Encoder("tf_efficientnet_lite0", in_channels=5, output_stride=32, taps=taps).train(training)
    own = Encoder("tf_efficientnet_lite0", in_channels=5, output_stride=32, taps=taps, is_loaded=True).train(training)
    assert list(own.state_dict()) == list(of_timm.state_dict())
    assert (own.channels, own.strides, own.mean, own.std) == (
        of_timm.channels,
        of_timm.strides,
        of_timm.mean,
        of_timm.std,
    )
    own.load_state_dict(of_timm.state_dict())
    x = torch.randn(2, 5, 48, 80)
    for given, expected in zip(own(x), of_timm(x), strict=True):
        assert torch.equal(given, expected)
    assert all(map(torch.equal, own.state_dict().values(), of_timm.state_dict().values()))  # running statistics


def test_running_a_checkpoint_imports_torch_alone() -> None:
    code = f"""
import sys
import numpy as np
from refine.backends import load_refiner
refiner = load_refiner({str(default_checkpoint("mos_h_lite"))!r}, device="cpu")
refiner(np.zeros((1, 64, 64, 3), np.uint8), np.full((1, 64, 64), 0.5, np.float32), 2.0)
refiner.activation_bytes(1, 64)
print([name for name in ("timm", "torchvision", "torch._dynamo") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

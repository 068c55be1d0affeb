"""Networks as the engine runs them: folding, batches, types, memory figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from refine.backends import load_coarse, load_refiner
from refine.backends.fold import PARITY, fold_batch_norms
from refine.backends.footprint import peak_tensor_bytes, weight_bytes
from refine.backends.torch_backend import KERNEL_BYTES, TorchCoarse, TorchRefiner
from refine.errors import CheckpointError, DeviceMemoryError, InputError
from refine.geometry import RGB, Mask
from refine.models import build_model, network_names
from refine.models.checkpoint import Metadata, save_checkpoint
from refine.models.device import choose_device, choose_dtype
from refine.models.preprocessing import Preprocessing
from refine.models.registry import default_preprocessing, full_config
from refine.run import Calls

SIDE = 96
WINDOWS = Preprocessing(height=None, width=None)  # no size of its own: windows of the image as they are


def as_if_trained(name: str) -> nn.Module:
    """A network whose BatchNorms and last layers do something: at the start they are the identity and zero."""
    torch.manual_seed(3)
    model = build_model(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, 0, 0.05)
    return model


def windows(count: int, seed: int = 0) -> tuple[RGB, Mask]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8), random.random((count, SIDE, SIDE), np.float32)


def runner(model: nn.Module) -> Callable[[], Tensor]:
    """The network's probability, or its correction, on one fixed window."""
    generator = torch.Generator().manual_seed(1)
    image, coarse = (
        torch.randn(1, 3, SIDE, SIDE, generator=generator),
        torch.rand(1, 1, SIDE, SIDE, generator=generator),
    )

    def run() -> Tensor:
        with torch.no_grad():
            if model.takes_mask:
                correction: Tensor = model.correction(image, coarse, torch.ones(1))  # type: ignore[operator]
                return correction
            return torch.sigmoid(model(image)["final"])

    return run


@pytest.fixture(scope="module")
def refiner_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("mos_h_lite", tmp_path_factory.mktemp("refiner"))


@pytest.fixture(scope="module")
def coarse_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("mos_l_lite", tmp_path_factory.mktemp("coarse"))


def saved(name: str, folder: Path) -> Path:
    model = as_if_trained(name)
    metadata = Metadata(
        refine_version="0.1.0",
        architecture=name,
        config=full_config(name).model_dump(mode="json"),
        preprocessing=default_preprocessing(name, model),
        licence="Apache-2.0",
    )
    save_checkpoint(folder / f"{name}.safetensors", model.state_dict(), metadata)
    return folder / f"{name}.safetensors"


# U2-Net is built as U2-NetP is.
@pytest.mark.parametrize("name", sorted({*network_names("coarse"), *network_names("refiner")} - {"u2net"}))
def test_folding_takes_every_batch_norm_and_changes_nothing(name: str) -> None:
    model = as_if_trained(name)
    run = runner(model)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    before = run()
    assert before.std() > 1e-3
    assert len(fold_batch_norms(model, run)) == norms > 40
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert (run() - before).abs().max() <= PARITY


class Shared(nn.Module):
    """One convolution before two norms, one norm after two convolutions, and one pair that is a pair."""

    takes_mask = False

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norm, self.other, self.both, self.own = (nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.first(image)
        x = self.norm(x) * self.other(x)
        x = self.both(self.second(x)) + self.both(x)
        return {"final": self.own(self.third(x))}


def test_only_pairs_are_folded() -> None:
    torch.manual_seed(0)
    model = Shared().eval()
    for norm in (model.norm, model.other, model.both, model.own):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    run = runner(model)
    before = run()
    assert fold_batch_norms(model, run) == [("third", "own")]
    assert isinstance(model.own, nn.Identity)
    torch.testing.assert_close(run(), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["mos_h_lite", "mos_h"])
def test_a_window_is_refined_alike_alone_and_among_eight(name: str) -> None:
    network = TorchRefiner(as_if_trained(name), WINDOWS, device="cpu", precision="fp32")
    image, coarse = windows(8)
    together = network(image, coarse, 2.0)
    assert together.shape == (8, SIDE, SIDE)
    assert together.dtype == np.float32
    assert together.std() > 1e-3
    for index in (0, 5):
        alone = network(image[index : index + 1], coarse[index : index + 1], 2.0)
        np.testing.assert_allclose(alone[0], together[index], rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_equal_batches_give_equal_bytes(refiner_file: Path, precision: str) -> None:
    first, second = (load_refiner(refiner_file, device="cpu", precision=precision) for _ in range(2))  # type: ignore[arg-type]
    image, coarse = windows(3)
    result = first(image, coarse, 3.0)
    assert result.tobytes() == first(image, coarse, 3.0).tobytes() == second(image, coarse, 3.0).tobytes()


def test_bfloat16_stays_near_float32(refiner_file: Path) -> None:
    image, coarse = windows(2)
    full, half = (load_refiner(refiner_file, device="cpu", precision=p)(image, coarse, 3.0) for p in ("fp32", "bf16"))
    assert 0 < np.abs(full - half).mean() < 0.01 < full.std()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["mos_h_lite", "mos_h"])
def test_an_untrained_network_corrects_nothing(name: str, precision: str) -> None:
    torch.manual_seed(0)
    network = TorchRefiner(build_model(name), WINDOWS, device="cpu", precision=precision)  # type: ignore[arg-type]
    image, coarse = windows(2)
    assert not network(image, (coarse > 0.5).astype(np.float32), 2.0).any()
    assert not network(image, coarse, 2.0).any()


def test_read_only_arrays_are_fine_and_inputs_stay_as_they_were(refiner_file: Path) -> None:
    network = load_refiner(refiner_file, device="cpu")
    image, coarse = windows(1)
    copies = image.copy(), coarse.copy()
    image.flags.writeable = coarse.flags.writeable = False
    network(image, coarse, 1.0)
    assert np.array_equal(image, copies[0])
    assert np.array_equal(coarse, copies[1])


def test_folding_is_what_the_refiner_computes(refiner_file: Path) -> None:
    model = as_if_trained("mos_h_lite")
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data = parameter.half().float()  # as the file holds them
    image, coarse = windows(1)
    with torch.no_grad():
        pixels = WINDOWS.normalise(torch.from_numpy(image))
        expected = model.correction(pixels, torch.from_numpy(coarse)[:, None], torch.full((1,), 4.0))  # type: ignore[operator]
    result = load_refiner(refiner_file, device="cpu", precision="fp32")(image, coarse, 4.0)
    np.testing.assert_allclose(result, expected[:, 0].numpy(), rtol=0, atol=PARITY)


def test_memory_figures_grow_with_the_batch_and_hold_the_run(refiner_file: Path) -> None:
    network = TorchRefiner.load(refiner_file, device="cpu", precision="fp32")
    assert 1e6 < network.weight_bytes < 20e6
    one, four = network.activation_bytes(1, 224), network.activation_bytes(4, 224)
    assert 2 * (one - KERNEL_BYTES) < four - KERNEL_BYTES <= 4 * (one - KERNEL_BYTES)
    image, coarse = (np.repeat(np.repeat(part, 2, 1), 2, 2) for part in windows(2))
    counted = peak_tensor_bytes(lambda: network(image, coarse, 1.0))
    assert counted <= network.activation_bytes(2, 2 * SIDE) - KERNEL_BYTES < 1.5 * counted


def test_live_tensors_are_counted_once_and_let_go() -> None:
    def run() -> None:
        a = torch.zeros(1000)
        b = a.view(10, 100) + 1
        del a
        c = b * 2
        assert c.sum() == 2000

    # a and b, then b and c: never all three; the sum's one float comes on top.
    assert 8000 <= peak_tensor_bytes(run) < 8100
    assert weight_bytes(nn.Linear(3, 2)) == 4 * (6 + 2)


def test_files_are_refused_for_what_they_are_not(refiner_file: Path, coarse_file: Path) -> None:
    with pytest.raises(CheckpointError, match="holds mos_l_lite, a coarse network; a refiner is wanted here"):
        load_refiner(coarse_file)
    with pytest.raises(CheckpointError, match="holds mos_h_lite, a refiner; a coarse network is wanted here"):
        load_coarse(refiner_file)
    with pytest.raises(CheckpointError, match="holds mos_l_lite, not isnet; give --coarse mos_l"):
        load_coarse(coarse_file, kind="isnet")


def test_the_coarse_network_gives_its_probability(coarse_file: Path) -> None:
    network = load_coarse(coarse_file, kind="mos_l", device="cpu")
    assert (network.input_height, network.input_width) == (336, 336)
    image = np.random.default_rng(0).integers(0, 256, (336, 336, 3), np.uint8)
    mask = network(image)
    assert mask.shape == (336, 336)
    assert mask.dtype == np.float32
    assert 0 <= mask.min() < mask.max() <= 1


def test_published_isnet_files_load_with_its_own_preprocessing(tmp_path: Path) -> None:
    model = as_if_trained("isnet")
    path = tmp_path / "isnet.pth"
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in model.state_dict().items()}}, path)
    network = load_coarse(path, kind="isnet", device="cpu")
    assert isinstance(network, TorchCoarse)
    assert (network.input_height, network.preprocessing.std) == (1024, (1.0, 1.0, 1.0))
    image = windows(1)[0][0]
    with torch.no_grad():
        expected = torch.sigmoid(model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255 - 0.5)["final"])[0, 0]
    np.testing.assert_allclose(network(image), expected.numpy(), rtol=0, atol=PARITY)


def test_devices_that_are_not_there_are_named() -> None:
    for name in ("tpu9", "meta", "cuda:64"):
        with pytest.raises(InputError, match=f"--device {name}: "):
            choose_device(name)
    cpu = choose_device("cpu")
    assert choose_dtype("fp32", cpu) == torch.float32
    assert choose_dtype("bf16", cpu) == torch.bfloat16


def test_threads_are_set_as_asked(coarse_file: Path) -> None:
    before = torch.get_num_threads()
    try:
        load_coarse(coarse_file, device="cpu", threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_training_goes_on_after_a_run(refiner_file: Path) -> None:
    side = 112  # no other test's: networks keep the constants of a size
    image, coarse = np.zeros((1, side, side, 3), np.uint8), np.zeros((1, side, side), np.float32)
    load_refiner(refiner_file, device="cpu")(image, coarse, 1.0)
    model = build_model("mos_h_lite")
    logits = model(torch.zeros(2, 3, side, side), torch.rand(2, 1, side, side), torch.ones(2))
    logits["final"].square().mean().backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_is_halved(
    refiner_file: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    image, coarse = windows(5)
    refiner = TorchRefiner.load(refiner_file, device="cpu", precision="fp32")
    expected, whole, room, seen = refiner(image, coarse, 2.0), refiner._correction, 2, []

    def correction(pixels: Tensor, masks: Tensor, reach: Tensor) -> Tensor:
        if len(pixels) > room:
            raise error
        seen.append(len(pixels))
        return whole(pixels, masks, reach)

    monkeypatch.setattr(refiner, "_correction", correction)
    calls = Calls(refiner, 5, is_given=False)
    np.testing.assert_allclose(calls(image, coarse, 2.0), expected, rtol=0, atol=1e-5)
    assert seen == [2, 2, 1]
    assert calls.most == 2
    with pytest.raises(DeviceMemoryError, match="no room for 5 windows of 96 px; give a smaller --batch than 5"):
        Calls(refiner, 5, is_given=True)(image, coarse, 2.0)
    room = 0
    with pytest.raises(DeviceMemoryError, match="no room for 1 windows of 96 px; give --device cpu"):
        calls(image, coarse, 2.0)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_coarse_network_without_room_names_what_needs_less(
    coarse_file: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def full(*_: object) -> Tensor:
        raise error

    network = load_coarse(coarse_file, device="cpu")
    assert isinstance(network, TorchCoarse)
    monkeypatch.setattr(network, "_model", full)
    rgb = np.zeros((network.input_height, network.input_width, 3), np.uint8)
    with pytest.raises(DeviceMemoryError, match=r"cpu has no room for the coarse network at .*; give --device cpu"):
        network(rgb)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_device_without_room_for_the_weights_is_told_of(
    refiner_file: Path, coarse_file: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def full(*_: object, **__: object) -> nn.Module:
        raise error

    monkeypatch.setattr(nn.Module, "to", full)
    for load in (partial(load_refiner, refiner_file), partial(load_coarse, coarse_file)):
        with pytest.raises(DeviceMemoryError, match="cpu has no room for a network's weights; give --device cpu"):
            load(device="cpu")


def test_other_errors_of_torch_are_not_taken_for_a_lack_of_memory(
    refiner_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refiner = TorchRefiner.load(refiner_file, device="cpu", precision="fp32")

    def broken(*_: Tensor) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(refiner, "_correction", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Calls(refiner, 5, is_given=False)(*windows(5), 2.0)

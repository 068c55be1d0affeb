"""Checkpoints: what is written comes back, and whatever is not right is refused in one line."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from refine.errors import CheckpointError, ConfigError
from refine.models import NETWORKS, build_model, network_names
from refine.models.checkpoint import (
    Metadata,
    check_role,
    load_model,
    load_published,
    read_encoder_weights,
    read_metadata,
    save_checkpoint,
    sha256,
)
from refine.models.registry import Role, default_preprocessing, full_config


def metadata_of(name: str, model: nn.Module, **changes: object) -> Metadata:
    values: dict[str, object] = {
        "refine_version": "0.1.0",
        "architecture": name,
        "config": full_config(name).model_dump(mode="json"),
        "preprocessing": default_preprocessing(name, model),
        "training": {"data": ["synth"], "seconds": 12.5},
        "metrics": {"mba": 0.75},
        "licence": "Apache-2.0",
        "step": 7,
    }
    return Metadata.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def refiner() -> nn.Module:
    torch.manual_seed(5)
    model = build_model("mos_h_lite")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.fill_(1e-6)  # below float16's smallest normal number
    return model


@pytest.fixture(scope="module")
def saved(refiner: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "mos_h_lite.safetensors"
    save_checkpoint(path, refiner.state_dict(), metadata_of("mos_h_lite", refiner))
    return path


def test_what_was_saved_comes_back(refiner: nn.Module, saved: Path) -> None:
    model, metadata = load_model(saved, expect="refiner")
    assert metadata == metadata_of("mos_h_lite", refiner) == read_metadata(saved)
    assert not model.training
    state = model.state_dict()
    for key, tensor in refiner.state_dict().items():
        expected = tensor.half().float() if tensor.ndim >= 2 else tensor
        assert torch.equal(state[key], expected), key


def test_only_weights_of_convolutions_are_stored_in_half_precision(saved: Path) -> None:
    for key, tensor in load_file(saved).items():
        assert key.startswith("model.")
        if tensor.is_floating_point():
            assert tensor.dtype == (torch.float16 if tensor.ndim >= 2 else torch.float32), key


def test_full_precision_comes_back_to_the_bit(refiner: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "full.safetensors"
    save_checkpoint(path, refiner.state_dict(), metadata_of("mos_h_lite", refiner), half=False)
    state = load_model(path)[0].state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in refiner.state_dict().items())


def test_the_same_weights_give_the_same_file_and_nothing_else_in_the_folder(refiner: nn.Module, saved: Path) -> None:
    again = saved.with_name("again.safetensors")
    save_checkpoint(again, refiner.state_dict(), metadata_of("mos_h_lite", refiner))
    assert sha256(again) == sha256(saved) == hashlib.sha256(saved.read_bytes()).hexdigest()
    again.unlink()
    assert list(saved.parent.iterdir()) == [saved]


def test_weights_that_half_precision_cannot_hold_are_not_written(refiner: nn.Module, tmp_path: Path) -> None:
    state = {**refiner.state_dict(), "encoder.net.conv_stem.weight": torch.full((32, 5, 3, 3), 70_000.0)}
    with pytest.raises(CheckpointError, match=r"conv_stem.weight would not be finite"):
        save_checkpoint(tmp_path / "a.safetensors", state, metadata_of("mos_h_lite", refiner))
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_leaves_nothing(refiner: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "taken", refiner.state_dict(), metadata_of("mos_h_lite", refiner))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def rewritten(
    saved: Path, to: Path, tensors: Mapping[str, Tensor] | None = None, header: Mapping[str, str | None] | None = None
) -> Path:
    """A copy of a checkpoint with other tensors or other entries of its header; None takes an entry out."""
    length = struct.unpack("<Q", saved.read_bytes()[:8])[0]
    entries = json.loads(saved.read_bytes()[8 : 8 + length])["__metadata__"]
    merged = {key: value for key, value in {**entries, **(header or {})}.items() if value is not None}
    save_file(dict(tensors or load_file(saved)), to, metadata=merged)
    return to


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": "2"}, "format '2' is unknown"),
        ({"format": None}, "not refine's metadata"),
        ({"architecture": "mos_x"}, "holds a network 'mos_x' that this version does not have; it has mos_l, mos_h"),
        ({"architecture": "mos_l_lite"}, "holds mos_l_lite, a coarse network; a refiner is wanted here"),
        ({"config": '{"widths": [1]}'}, "cannot build its network: mos_h_lite: model.widths"),
        ({"config": '{"width": 1}'}, "model.width: Extra inputs are not permitted"),
        ({"config": "{"}, "metadata is not JSON"),
        ({"preprocessing": '{"mean": [0, 0]}'}, "metadata: preprocessing.mean"),
        ({"licence": None}, "metadata: licence: Field required"),
        ({"step": "-1"}, "metadata: step"),
        ({"surprise": "1"}, "metadata: surprise: Extra inputs"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(
    saved: Path, tmp_path: Path, header: dict[str, str | None], message: str
) -> None:
    path = rewritten(saved, tmp_path / "changed.safetensors", header=header)
    refused(path, message)


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_model(path, expect="refiner")
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert message in line
    assert "\n" not in line


def test_tensors_that_do_not_fit_are_refused(saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved)
    key = "model.heads.s2.weight"
    path = tmp_path / "a.safetensors"
    refused(
        rewritten(saved, path, {**tensors, key: torch.zeros(1, 8, 1, 1)}), "heads.s2.weight is (1, 8, 1, 1), expected"
    )
    refused(rewritten(saved, path, {**tensors, "model.more": torch.zeros(1)}), "it has more too many")
    refused(rewritten(saved, path, {k: v for k, v in tensors.items() if k != key}), "it lacks heads.s2.weight")
    refused(rewritten(saved, path, {**tensors, "optim.m.0": torch.zeros(1)}), "holds training state")


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=25, deadline=None)
def test_a_truncated_file_is_refused(saved: Path, tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = tmp_path_factory.mktemp("cut") / "cut.safetensors"
    content = saved.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"cut off|fetch the file again|cannot be read|makes no sense"):
        load_model(path)


@given(content=st.binary(max_size=300), claimed=st.integers(0, 2**64 - 1) | st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_garbage_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, claimed: int) -> None:
    path = tmp_path_factory.mktemp("garbage") / "garbage"
    for suffix, data in ((".safetensors", struct.pack("<Q", claimed) + content), (".pth", content)):
        file = path.with_suffix(suffix)
        file.write_bytes(data)
        with pytest.raises(CheckpointError) as caught:
            read_encoder_weights(file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "header",
    ["[]", "77", '{"a": 1}', '{"a": {"data_offsets": [0]}}', '{"a": {"data_offsets": [0, 1e999]}}', "[" * 9000],
)
def test_headers_that_are_json_but_make_no_sense_are_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    refused(path, "its header makes no sense")


def test_an_oversized_header_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**30))
        file.truncate(2**30 + 8)  # sparse
    refused(path, "its header claims 1073741824 bytes")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "cannot be read: No such file")
    refused(tmp_path, "cannot be read")
    with pytest.raises(CheckpointError, match=r"none.pth: cannot be read"):
        load_published(nn.Linear(1, 1), tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="none: cannot be read"):
        sha256(tmp_path / "none")


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 2, 3)
        self.b = nn.BatchNorm2d(2)


@pytest.mark.parametrize("prefix", ["", "module.", "net.", "module.net."])
@pytest.mark.parametrize(
    ("suffix", "wrapper"), [(".pth", None), (".pth", "state_dict"), (".pth", "model"), (".safetensors", None)]
)
def test_published_files_load_whatever_is_around_them(
    tmp_path: Path, prefix: str, suffix: str, wrapper: str | None
) -> None:
    torch.manual_seed(1)
    source, target = TwoLayers(), TwoLayers()
    state = {prefix + key: tensor for key, tensor in source.state_dict().items()}
    path = tmp_path / f"published{suffix}"
    if suffix == ".pth":
        torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    else:
        save_file(state, path)
    load_published(target, path)
    assert all(torch.equal(target.state_dict()[key], tensor) for key, tensor in source.state_dict().items())


def test_published_files_of_old_torch_count_no_batches(tmp_path: Path) -> None:
    source, target = TwoLayers(), TwoLayers()
    state = {key: tensor for key, tensor in source.state_dict().items() if key != "b.num_batches_tracked"}
    torch.save(state, tmp_path / "old.pth")
    load_published(target, tmp_path / "old.pth")
    assert all(torch.equal(target.state_dict()[key], tensor) for key, tensor in source.state_dict().items())


def test_published_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "published.pth"
    state = TwoLayers().state_dict()
    for content, message in (
        ({key: value for key, value in state.items() if key != "a.bias"}, "it lacks a.bias"),
        ({**state, "c": torch.zeros(1)}, "it has c too many"),
        ({**state, "a.bias": torch.zeros(3)}, r"a.bias is \(3,\), expected \(2,\)"),
        ({"state_dict": 3}, "holds no state dict"),
        ([1, 2], "holds no state dict"),
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=message):
            load_published(TwoLayers(), path)


class Trap:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def test_nothing_in_a_published_file_is_run(tmp_path: Path) -> None:
    path, touched = tmp_path / "trap.pth", tmp_path / "touched"
    path.write_bytes(pickle.dumps({"a.weight": Trap(touched)}))
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        load_published(TwoLayers(), path)
    torch.save({"a.weight": Trap(touched)}, path)
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        load_published(TwoLayers(), path)
    assert not touched.exists()


def test_encoder_weights_come_as_float32_under_their_names(tmp_path: Path) -> None:
    encoder = build_model("mos_l_lite").get_submodule("encoder")
    state = encoder.get_submodule("net").state_dict()
    path = tmp_path / "encoder.safetensors"
    save_file({key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}, path)
    read = read_encoder_weights(path)
    assert {key: tensor.dtype for key, tensor in read.items()} == {key: tensor.dtype for key, tensor in state.items()}
    np.testing.assert_allclose(
        read["conv_stem.weight"].numpy(), state["conv_stem.weight"].numpy(), rtol=1e-3, atol=1e-6
    )


def test_unknown_networks_and_keys_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no network 'mos'; choose from mos_l, mos_h, mos_l_lite, mos_h_lite, isnet"):
        build_model("mos")
    with pytest.raises(ConfigError, match=r"model.output: Input should be.*; model.colour: Extra inputs") as caught:
        build_model("mos_h_lite", {"colour": 1, "output": "both"})
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="takes_mask: is false in mos_l_lite; leave the key out"):
        build_model("mos_l_lite", {"takes_mask": True})


@pytest.mark.parametrize("name", NETWORKS)
def test_a_name_gives_a_network_of_its_role(name: str) -> None:
    with torch.device("meta"):  # no time is spent on random weights
        model = build_model(name)
    assert bool(model.takes_mask) == (name in network_names("refiner"))
    preprocessing = default_preprocessing(name, model)
    assert (preprocessing.height, preprocessing.width) == ((None, None) if "_h" in name else (NETWORKS[name].side,) * 2)


def test_importing_the_package_and_reading_metadata_bring_no_torch(saved: Path) -> None:
    code = (
        "import sys, refine.models, refine.backends, refine.coarse\n"
        "from refine.models.metadata import read_metadata\n"
        f"print(read_metadata({str(saved)!r}).architecture, 'torch' in sys.modules, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mos_h_lite", "False", "False"]


def test_building_networks_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: object) -> None:
        raise AssertionError("a network was reached for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with torch.device("meta"):
        for name in NETWORKS:
            build_model(name)


@pytest.mark.parametrize("name", ["mos_h_lite", "mos_l_lite", "gt_encoder", "unet6"])
def test_a_network_of_another_role_is_named_whatever_it_is(refiner: nn.Module, name: str) -> None:
    role, metadata = NETWORKS[name].role, metadata_of("mos_h_lite", refiner, architecture=name)
    for wanted in get_args(Role):
        if wanted == role:
            check_role("w.safetensors", metadata, wanted)
        else:
            with pytest.raises(CheckpointError, match=rf"w\.safetensors: holds {name}, a .*; a .* is wanted here"):
                check_role("w.safetensors", metadata, wanted)

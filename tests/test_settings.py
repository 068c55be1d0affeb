"""The options: their ranges, how sizes are written, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from refine.errors import InputError
from refine.settings import Settings, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30),
        ("1.5GiB", 3 << 29),
        (".5 gib", 1 << 29),
        ("512MiB", 512 << 20),
        ("1.5GB", 1_500_000_000),
        ("700k", 700_000),
        ("800000000", 800_000_000),
    ],
)
def test_sizes_take_units_and_decimals(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert Settings(max_memory=text).max_memory == size


@pytest.mark.parametrize("text", ["", "GiB", "2XiB", "-1GiB", "1,5GiB", "2 i", "1e9", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write it like 2GiB"):
        parse_size(text)


@given(st.integers(0, 2**50))
def test_a_whole_number_is_that_many_bytes(size: int) -> None:
    assert parse_size(f"{size}B") == parse_size(str(size)) == size


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tile": 224, "overlap": 224}, "--overlap 224 is not smaller than --tile 224; try --overlap 56"),
        ({"tile": 80}, "--tile: input should be greater than or equal to 96, got 80"),
        ({"reach": 0.5}, "--reach: input should be greater than or equal to 1, got 0.5"),
        ({"threshold": 1.0}, "--threshold: input should be less than 1, got 1.0"),
        ({"bands": (1, 2)}, "--bands 1,2: give one band or three"),
        ({"bands": (0,)}, "--bands 0: give one band or three, counted from 1"),
        ({"range": (5.0, 5.0)}, "--range 5,5: give two finite numbers"),
        ({"range": (0.0, float("inf"))}, "--range 0,inf: give two finite numbers"),
        ({"roi": (0, 0, 10)}, "--roi 0,0,10: give row,col,height,width"),
        ({"roi": (0, 0, 0, 5)}, "--roi 0,0,0,5: give row,col,height,width"),
        ({"batch": 0}, "--batch"),
        ({"device": "tpu"}, "--device: input should be 'auto', 'cpu' or 'cuda', got 'tpu'"),
        ({"overlp": 3}, "--overlp: extra inputs are not permitted, got 3"),
        ({"tile": "224"}, "--tile: input should be a valid integer, got '224'"),
    ],
)
def test_a_wrong_value_is_named_as_it_is_typed(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Settings(**values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_problem_is_named() -> None:
    with pytest.raises(InputError, match=r"--reach: .*; --tile: "):
        Settings(reach=0.0, tile=1)


def test_settings_are_frozen_and_take_paths_as_text() -> None:
    settings = Settings(checkpoint="a.safetensors", bands=[3, 2, 1])
    assert settings.checkpoint == Path("a.safetensors")
    assert settings.bands == (3, 2, 1)
    with pytest.raises(ValidationError, match="frozen"):
        settings.tile = 96  # type: ignore[misc]  # that is what is tested


def test_a_threshold_without_a_binary_mask_is_said_to_do_nothing() -> None:
    with pytest.raises(InputError, match=r"--threshold 0\.3 cuts a binary mask; add --binary"):
        Settings(threshold=0.3)
    assert Settings(threshold=0.3, binary=True).cut == 0.3
    assert Settings(binary=True).cut == 0.5

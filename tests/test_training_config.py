"""Configs: the shipped ones are valid, and a wrong one is refused with every problem named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_data import small_config, write_pairs

from refine.errors import ConfigError
from refine.models.registry import full_config
from refine.training.config import TrainingConfig, load_config, parse_config
from refine.training.reference import reference
from refine.training.run import make_samples

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.json"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_is_valid_and_builds_its_networks_config(path: Path) -> None:
    config = load_config(path)
    assert config.model.architecture == path.stem.lower()
    full_config(config.model.architecture, config.model.options)
    assert parse_config(json.loads(config.model_dump_json()), "resolved") == config


def test_the_papers_schedule_is_the_papers() -> None:
    schedules = {path.stem: load_config(path).schedule for path in CONFIGS}
    assert [(s.steps, s.batch) for s in (schedules["MOS_L"], schedules["MOS_H"])] == [(60000, 20), (60000, 24)]


def test_every_problem_is_named_in_one_message(tmp_path: Path) -> None:
    raw = small_config(tmp_path, typo=1)
    raw["schedule"] = {"steps": 0, "batch": 2.5, "warm": 1}
    raw["model"] = {"architecture": "mos_x", "size": 64}
    with pytest.raises(ConfigError) as error:
        parse_config(raw, "here.json")
    message = str(error.value)
    assert "\n" not in message
    places = (
        "typo: unknown key",
        "schedule.steps",
        "schedule.batch",
        "schedule.warm: unknown key",
        "model.architecture",
    )
    for place in places:
        assert place in message


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        ("model", {"architecture": "mos_h_lite", "size": 100}, "multiple of 16, got 100"),
        ("schedule", {"steps": 4, "batch": 6, "accumulate": 4}, "4 does not divide batch 6"),
        ("perturb", {"kinds": {"exact": 0.0}}, "positive sum"),
        ("perturb", {"kinds": {}}, "positive sum"),
        ("augment", {"scale": [2.0, 1.0]}, "low <= high"),
        ("augment", {"jitter": [-0.1, 0, 0, 0]}, r"augment\.jitter\.0: .*, got -0\.1"),
        ("optim", {"betas": [0.9, 1.0]}, r"optim\.betas\.1: .*less than 1, got 1\.0"),
        ("optim", {"rate": float("inf")}, r"optim\.rate: .*finite"),
        ("loss", {"outputs": {"final": {"edge_map": "canny"}}}, r"loss: outputs: no term has a weight"),
        ("loss", {}, r"loss: outputs: no term has a weight"),
        (
            "loss",
            {"outputs": {"final": {"bce": 1.0}, "depth": {"rms": 1.0}}},
            r"loss\.depth: goes, as loss\.outputs\.d",
        ),
        ("data", [{"name": "a", "path": "a", "weights": {"b": -1}}], r"data\.0\.weights\.b: .*, got -1"),
        ("data", [{"name": "a", "path": "a", "weights": {"b": 1e308}}], r"data\.0\.weights\.b: .*, got 1e\+308"),
        ("augment", {"lines": 0.6, "roofs": 0.6}, r"augment: lines: 0\.6 and roofs 0\.6 are shares of one whole"),
        ("augment", {"fringe": 0.5}, r"augment\.fringe: 0\.5, but no window is a composite"),
        ("seed", 2**32, "seed: .*less than 4294967296, got 4294967296"),
    ],
)
def test_impossible_values_are_refused(tmp_path: Path, section: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({**small_config(tmp_path), section: value}, "here.json")


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        ("schedule", {"step": 4, "batch": 2}, r"schedule\.step: unknown key; is steps meant\?"),
        ("data", [{"name": "a", "path": "a", "layuot": "big"}], r"data\.0\.layuot: unknown key; is layout meant\?"),
        ("loss", {"outputs": {"final": {"bec": 1.0}}}, r"loss\.outputs\.final\.bec: unknown key; is bce meant\?"),
        ("loss", {"outputs": {}, "depth": {"wieght": 1.0}}, r"loss\.depth\.wieght: unknown key; is weight meant\?"),
        ("optim", {"qqq": 1.0}, r"optim\.qqq: unknown key$"),
    ],
)
def test_a_mistyped_key_is_told_with_the_one_that_is_like_it(
    tmp_path: Path, section: str, value: object, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({**small_config(tmp_path), section: value}, "here.json")


ELSEWHERE: dict[str, dict[str, object]] = {
    "augment": {
        "scale": (1.5, 2.0), "whole": 1.0, "near_contour": 0.1, "composite": 1.0, "fringe": 1.0, "lines": 1.0,
        "roofs": 1.0, "inexact_scale": 0.3, "jitter": (0.5, 0.0, 0.0, 0.0), "grey": 1.0, "jpeg": 1.0,
        "rotate_degrees": 90.0, "crop": 0.5, "upside_down": 1.0, "quarter_turns": 1.0, "elastic": 500.0,
        "clahe": 1.0, "gamma": 1.0, "noise": 20.0, "patches": 9, "patch_size": 10.0, "patch_share": 1.0,
    },
    "perturb": {
        "kinds": {"exact": 1.0}, "late_kinds": {"reduce": 1.0}, "late_from": 0.9, "reduce_max": 4.0, "hard": 0.9,
        "again": 1.0, "where": "device",
    },
    "composites": {"positions": "grid", "size": (0.1, 0.2)},
}  # fmt: skip
"""For every option of what a sample is made of a value that is not its default."""


@pytest.mark.parametrize("name", ["mos_h_lite", "u2netp", "gt_encoder", "unet6"])
def test_an_option_changes_what_a_network_is_shown_or_is_refused(tmp_path: Path, name: str) -> None:
    raw = small_config(
        write_pairs(tmp_path),
        model={"architecture": name, "size": 48, "options": {"depth": False} if name == "unet6" else {}},
        loss={"outputs": {"final": {"bce": 1.0}}},
        schedule={"steps": 4, "batch": 2, "warmup_steps": 0},
        augment=({"patches": 3} if name in ("mos_h_lite", "u2netp") else {})
        | ({"composite": 0.5} if name == "mos_h_lite" else {}),
        perturb={"late_kinds": {"warp": 1.0}} if name == "mos_h_lite" else {},
    )
    config = parse_config(raw, "test")

    def shown(config: TrainingConfig) -> Iterator[dict[str, bytes]]:
        samples = make_samples(config)
        for i in range(8):
            yield {key: v.numpy().tobytes() for key, v in samples[i].items() if name != "gt_encoder" or key == "truth"}

    plain, wrong = list(shown(config)), []
    for section, options in ELSEWHERE.items():
        assert set(options) == set(type(getattr(config, section)).model_fields) - {"depths"}
        for option, value in options.items():
            part = getattr(config, section).model_copy(update={option: value})
            changed = shown(config.model_copy(update={section: part}))
            has_effect = any(one != other for one, other in zip(changed, plain, strict=True))
            try:
                parse_config({**raw, section: json.loads(part.model_dump_json())}, "test")
            except ConfigError as error:
                is_refused = f"{section}.{option}" in str(error) and f"effect on {name}, meant for" in str(error)
            else:
                is_refused = False
            if has_effect == is_refused:
                wrong.append((section, option))
    assert wrong == []


def test_an_encoder_is_asked_for_only_of_networks_that_have_one(tmp_path: Path) -> None:
    model = {"architecture": "u2netp", "size": 64}
    for changes in ({"model": {**model, "encoder_weights": "weights.pth"}}, {"optim": {"freeze_encoder_norm": True}}):
        raw = {**small_config(tmp_path, model=model), **changes}
        with pytest.raises(ConfigError, match=r"(weights|norm): without effect on u2netp, meant for mos_h, mos"):
            parse_config(raw, "test")


def test_what_asks_for_nothing_may_stay(tmp_path: Path) -> None:
    """The resolved config of a run has every default, and a truth encoder has no colours to change."""
    model = {"architecture": "gt_encoder", "size": 64}
    augment = {"jitter": [0.0] * 4, "grey": 0.0, "jpeg": 0.0}
    config = parse_config(small_config(tmp_path, model=model, augment=augment), "test")
    assert parse_config(json.loads(config.model_dump_json()), "resolved") == config


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    """JSON's readers let the last one count."""
    text = json.dumps(small_config(tmp_path))
    path = tmp_path / "twice.json"
    path.write_text(text.replace('"steps": 8', '"steps": 8, "batch": 4, "steps": 800'))
    with pytest.raises(ConfigError, match=r"twice\.json: steps, batch: given twice in one section"):
        load_config(path)
    path.write_text(text)
    load_config(path)


def test_paths_of_data_are_replaced_by_name(tmp_path: Path) -> None:
    raw = small_config(tmp_path)
    assert parse_config(raw, "here", {"shapes": "elsewhere"}).data[0].path == "elsewhere"
    with pytest.raises(ConfigError, match="--data other"):
        parse_config(raw, "here", {"other": "elsewhere"})


def test_file_that_is_no_config_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_config(broken)
    with pytest.raises(ConfigError, match="no such config"):
        load_config(tmp_path / "missing.json")
    broken.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="not JSON"):
        load_config(broken)


def test_the_page_of_config_keys_is_what_the_command_prints() -> None:
    assert (CONFIGS[0].parent / "README.md").read_text(encoding="utf-8") == reference()


def test_every_key_of_a_config_has_its_meaning() -> None:
    rows = [line.split(" | ") for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    untold = [row[0] for row in rows if row[1] != "section" and row[3].removesuffix(" |").strip() == ""]
    assert untold == ["| `architecture`"]  # its values say it

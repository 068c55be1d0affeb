"""A larger lite network that computes what a smaller one does, to be trained on from there.

    python benchmarks/widen.py checkpoints/mos_h_lite.safetensors --widths 128,96,48,32 --point-width 32 --deep \
        --encoder-weights weights/tf_efficientnet_lite0.safetensors --out runs/wider.safetensors

New channels start at random and what reads them at zero, so that the mask is the same until training moves them
(Chen et al. 2016, Net2Net, section 2, with zeros instead of copies). Stages of the encoder that the smaller one lacks
come from `--encoder-weights`.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor

from refine.errors import ConfigError, RefineError
from refine.models.checkpoint import load_model, read_encoder_weights, save_checkpoint
from refine.models.lite import LiteConfig, LiteNet
from refine.models.registry import full_config

JOINED = {"recover16.merge.0": 0, "recover8.merge.0": 1, "recover4.merge.0": 2, "points.0": 3}
"""Convolutions of two things side by side, and which of the widths the first of them has."""


def widen(source: LiteNet, target: LiteNet) -> None:
    """Give `target`, of the same parts or more and nowhere narrower, the function of `source`.

    Raises ConfigError where it cannot hold that.
    """
    small, large = source.config, target.config
    before, after = (*small.widths, small.point_width), (*large.widths, large.point_width)
    if any(own < given for own, given in zip(after, before, strict=True)):
        raise ConfigError(f"widths {large.widths} are narrower than {small.widths}, or the point head is")
    if small.deep and not large.deep:
        raise ConfigError("the encoder goes on to stride 32; give --deep")
    grown = target.state_dict()
    for name, given in source.state_dict().items():
        layer = name.rpartition(".")[0]
        columns = None
        if layer in JOINED and given.dim() == 4:
            narrow, wide = (net.config.widths[JOINED[layer]] for net in (source, target))
            columns = torch.arange(given.shape[1])
            columns[narrow:] += wide - narrow
        grown[name] = enlarged(given, grown[name], columns)
    target.load_state_dict(grown)


def enlarged(given: Tensor, start: Tensor, columns: Tensor | None) -> Tensor:
    """`start` with `given` as its first rows, in these of its columns; what else those rows read counts for nothing."""
    if given.dim() == 0:
        return given
    rows = start.clone()
    if given.dim() == 1:
        rows[: len(given)] = given
        return rows
    rows[: len(given)] = 0
    rows[: len(given), torch.arange(given.shape[1]) if columns is None else columns] = given
    return rows


def four_widths(_context: click.Context, _option: click.Parameter, text: str) -> list[int]:
    parts = text.split(",")
    if len(parts) != len(JOINED) or not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{text}: give four whole numbers with commas, such as 128,96,48,32")
    return [int(part) for part in parts]


@click.command(help=__doc__.partition("\n")[0])
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--widths", required=True, callback=four_widths, help="of the decoder at strides 16, 8, 4, 2, with commas"
)
@click.option("--point-width", type=int, required=True)
@click.option("--deep", is_flag=True, help="the encoder goes on to stride 32")
@click.option("--encoder-weights", type=click.Path(path_type=Path), required=True)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    source: Path, widths: list[int], point_width: int, deep: bool, encoder_weights: Path, seed: int, out: Path
) -> None:
    try:
        small, about = load_model(source)
        if not isinstance(small, LiteNet):
            raise click.UsageError(f"{source} holds {about.architecture}, not a lite network")
        torch.manual_seed(seed)
        wanted = {"widths": widths, "point_width": point_width, "deep": deep}
        config = full_config(about.architecture, {**about.config, **wanted})
        assert isinstance(config, LiteConfig)
        large = LiteNet(config)
        large.encoder.load_rgb_weights(read_encoder_weights(encoder_weights))
        widen(small, large)
        grown = about.model_copy(update={"config": config.model_dump(mode="json")})
        save_checkpoint(out, large.state_dict(), grown, half=False)
    except RefineError as error:
        raise click.UsageError(str(error)) from error


if __name__ == "__main__":
    main()

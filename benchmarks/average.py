"""The weighted mean of two checkpoints of one network, one of which was trained on from the other.

    python benchmarks/average.py before.safetensors after.safetensors --share 0.75 --out mean.safetensors

What a network forgot of one kind of mask while it learnt another it often keeps in the mean (Wortsman et al. 2022,
Robust fine-tuning of zero-shot models, section 3). The header is that of the second file, and holds what both say of
their training, but no scores, which are not its own; `--licence` replaces its terms, where the first saw sets that the
second did not.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch

from refine.errors import RefineError
from refine.models.checkpoint import load_model, save_checkpoint
from refine.models.metadata import Metadata


@click.command(help=__doc__.partition("\n")[0])
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--share", type=click.FloatRange(0, 1), required=True, help="of the second")
@click.option("--licence", help="terms of the mean  [default: the second's]")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(before: Path, after: Path, share: float, licence: str | None, out: Path) -> None:
    try:
        (first, about_first), (second, about) = load_model(before), load_model(after)
        alike = ("architecture", "config", "preprocessing")
        if any(getattr(about_first, name) != getattr(about, name) for name in alike):
            raise click.ClickException(f"{before} and {after} are not of one network, or are shown images differently")
        if out.exists():
            raise click.ClickException(f"--out {out}: is there already; give a new name")
        own, mean = first.state_dict(), second.state_dict()
        for name, tensor in mean.items():
            if tensor.is_floating_point():
                mean[name] = torch.lerp(own[name], tensor, share)
        parts = [
            {"share": part, "step": one.step, "licence": one.licence, "training": one.training}
            for part, one in ((round(1 - share, 6), about_first), (share, about))
        ]
        told = {"training": {"mean_of": parts}, "licence": licence or about.licence, "metrics": {}}
        save_checkpoint(out, mean, Metadata.model_validate({**about.model_dump(), **told}))
    except RefineError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()

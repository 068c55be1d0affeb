"""The `refine` command: its subcommands with their options, each one call of what does the work.

Nothing heavy is imported before the arguments make sense; each command imports what it calls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NoReturn, get_args

import click

from refine import __version__
from refine.command import Command, run
from refine.errors import InputError
from refine.options import FILE, batch, numbers, setting, size
from refine.settings import Backend, CoarseKind, Settings, Weights

NEWEST = "newest"  # what a bare --resume stands for
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
_IMAGE = "an image file, several, a folder, a pattern, or an address (https://..., s3://...)"
_MASK = (
    "first mask: a file, an address, or a folder of <stem> or <stem>_mask of each image; without it, --coarse makes one"
)


def main() -> NoReturn:
    """The console script `refine`."""
    run(refine, name="refine")


@click.group(context_settings=_CONTEXT, invoke_without_command=True, subcommand_metavar="COMMAND [ARGS]...")
@click.version_option(__version__, prog_name="refine")
@click.pass_context
def refine(context: click.Context) -> None:
    """Turn rough masks of images into accurate ones, at the images' own resolution, whatever their size."""
    if context.invoked_subcommand is None:
        raise click.UsageError(f"give a command: {', '.join(refine.commands)}; --help says what each does", context)


@refine.command(cls=Command, context_settings=_CONTEXT)
@click.option("--image", "images", multiple=True, required=True, metavar="FILE...", help=_IMAGE)
@click.option("--mask", type=FILE, help=_MASK)
@click.option("--out", metavar="PATH", help="result (.tif, .png) or folder  [default: <stem>_mask beside the image]")
@setting("align", type=click.Choice(["fit", "stretch"]))
@setting("reach", type=float, metavar="PX")
@setting("coarse", type=click.Choice(get_args(CoarseKind)))
@setting("coarse_checkpoint", type=FILE)
@setting("checkpoint", type=FILE)
@setting("weights", type=click.Choice(get_args(Weights)))
@setting("tile", type=int, metavar="PX")
@setting("overlap", type=int, metavar="PX")
@setting("select", type=click.Choice(["boundary", "all"]))
@setting("bands", callback=numbers(int, "R,G,B"), metavar="R,G,B")
@setting("percentiles", callback=numbers(float, "LOW,HIGH"), metavar="LOW,HIGH")
@setting("range", callback=numbers(float, "LOW,HIGH"), metavar="LOW,HIGH")
@setting("max_pixels", type=int, metavar="N")
@setting("max_memory", callback=size, metavar="SIZE", shown_default="4GiB")
@setting("batch", callback=batch, metavar="auto|N")
@setting("passes", type=int, metavar="1|2|3|4")
@setting("flips", type=int, metavar="1|2|4")
@setting("device", type=click.Choice(["auto", "cpu", "cuda"]))
@setting("backend", type=click.Choice(get_args(Backend)))
@setting("binary", flag="--binary/--soft", is_flag=True, shown_default="soft")
@setting("threshold", type=float)
@setting("overviews", is_flag=True, shown_default="no")
@setting("cog", is_flag=True, shown_default="no")
@setting("roi", callback=numbers(int, "ROW,COL,HEIGHT,WIDTH"), metavar="ROW,COL,HEIGHT,WIDTH")
@setting("overwrite", is_flag=True, shown_default="no")
@setting("resume", is_flag=True, shown_default="no")
@click.option("--preview", metavar="PATH", help="also draw before and after: a file, or a folder for several images")
@click.option("--report", type=FILE, help="also write what was done, as JSON")
@click.option("--plan", is_flag=True, help="print what would be done, and stop before a pixel is read")
@click.pass_context
def infer(
    context: click.Context,
    /,
    images: tuple[str, ...],
    mask: Path | None,
    out: str | None,
    preview: str | None,
    report: Path | None,
    plan: bool,
    **values: object,
) -> int:
    """Refine the masks of images."""
    settings = Settings(**{name: value for name, value in values.items() if value is not None})
    if mask is not None and (settings.coarse or settings.coarse_checkpoint):
        option = "--coarse" if settings.coarse else "--coarse-checkpoint"
        raise click.UsageError(f"{option} makes the first mask, but --mask gives it; leave one of them out", context)
    if plan and (preview or report):
        option = "--preview" if preview else "--report"
        raise click.UsageError(f"{option} is of a run, but --plan stops before it; leave one of them out", context)

    from refine.infer import Request, print_plans, refine_images

    request = Request(images, mask, out, preview, report, settings)
    return (print_plans if plan else refine_images)(request, name=context.command_path)


def _print_keys(context: click.Context, parameter: click.Parameter, is_asked: bool) -> None:
    if not is_asked or context.resilient_parsing:
        return
    from refine.training.reference import reference

    click.echo(reference(), nl=False)
    context.exit()


@refine.command(cls=Command, context_settings=_CONTEXT)
@click.option("--config", type=FILE, required=True, help="JSON config of the run, such as configs/MOS_H_lite.json")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True)
@click.option("--workers", type=click.IntRange(min=0), default=1, show_default=True, help="processes that make samples")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of torch")
@click.option("--run", "folder", type=FILE, help="folder of the run  [default: runs/<config's stem>]")
@click.option("--data", "data", multiple=True, metavar="NAME=PATH", help="another path for a part of the config's data")
@click.option(
    "--resume",
    is_flag=False,
    flag_value=NEWEST,
    metavar="[PATH]",
    help="go on from the newest readable state of the run, or from PATH",
)
@click.option("--extend", type=click.IntRange(min=1), metavar="STEPS", help="with --resume: a longer schedule")
@click.option("--stop-after", type=click.FloatRange(min=0, min_open=True), metavar="MINUTES", help="save, and leave")
@click.option("--dry-run", is_flag=True, help="take two steps and say sizes, memory, samples/s and what limits them")
@click.option(
    "--overfit", type=click.IntRange(min=1), metavar="N", help="learn the first N samples by heart, and say the IoU"
)
@click.option(
    "--keys",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_keys,
    help="print every key of a config with its default and meaning, and leave",
)
def train(
    config: Path,
    device: Literal["auto", "cpu", "cuda"],
    precision: Literal["auto", "fp32", "bf16", "fp16"],
    workers: int,
    threads: int | None,
    folder: Path | None,
    data: tuple[str, ...],
    resume: str | None,
    extend: int | None,
    stop_after: float | None,
    dry_run: bool,
    overfit: int | None,
) -> int:
    """Train a network from a JSON config, or go on with it."""
    if extend is not None and resume is None:
        raise InputError("--extend goes on with a run; add --resume")
    of_a_run: dict[str, object] = {"--run": folder, "--resume": resume, "--extend": extend, "--stop-after": stop_after}
    if dry_run and (idle := [option for option, value in of_a_run.items() if value is not None]):
        raise InputError(f"--dry-run begins no run and keeps nothing; leave {' and '.join(idle)} out")
    named = [_name_and_path(entry) for entry in data]
    paths = dict(named)
    if len(paths) < len(named):
        raise InputError(f"--data {' '.join(data)}: a section has one path; give each name once")

    from refine.train import TrainRequest, train_network

    request = TrainRequest(
        config=config,
        folder=folder,
        data=paths,
        device=device,
        precision=precision,
        workers=workers,
        threads=threads,
        resume=resume is not None,
        resume_from=None if resume in (None, NEWEST) else Path(resume),
        extend=extend,
        stop_after_minutes=stop_after,
        dry_run=dry_run,
        overfit=overfit,
    )
    if text := train_network(request):
        click.echo(text)
    return 0


def _name_and_path(entry: str) -> tuple[str, str]:
    name, separator, path = entry.partition("=")
    if not name or not separator or not path:
        raise InputError(f"--data {entry}: write NAME=PATH")
    return name, path


@refine.command(cls=Command, context_settings=_CONTEXT, short_help="Export a refining network for ONNX Runtime.")
@click.option("--checkpoint", type=FILE, help="refining network  [default: the shipped one]")
@click.option("--image", type=FILE, required=True, help="photograph on whose windows the result is compared with torch")
@click.option("--out", type=FILE, help="result (.onnx)  [default: beside the checkpoint, where infer looks for it]")
@click.option("--tile", type=click.IntRange(min=96), default=224, show_default=True, help="side of the windows")
@click.option("--overwrite", is_flag=True, help="replace an existing file")
def export(checkpoint: Path | None, image: Path, out: Path | None, tile: int, overwrite: bool) -> int:
    """Export a refining network for --backend onnxruntime, if it then says what torch says."""
    from refine.export import export_network
    from refine.shipped import default_checkpoint

    checkpoint = checkpoint or default_checkpoint("mos_h_lite")
    return export_network(checkpoint, image, out=out, tile=tile, overwrite=overwrite)


@refine.command(cls=Command, context_settings=_CONTEXT, short_help="Lay cut-outs on backgrounds, to train on.")
@click.option("--foregrounds", type=FILE, required=True, help="folder of cut-outs: pictures with an alpha channel")
@click.option("--alphas", type=FILE, help="folder of the cut-outs' masks, of the same stems, where they have no alpha")
@click.option("--backgrounds", type=FILE, required=True, help="folder of pictures to lay them on")
@click.option("--out", type=FILE, required=True, help="new folder for images/, masks/ and sources.csv")
@click.option(
    "--positions",
    type=click.Choice(["random", "grid"]),
    default="random",
    show_default=True,
    help="random: size, place, edge and colours are drawn; grid: 20 places, half the background's size",
)
@click.option("--side", type=click.IntRange(min=16), metavar="PX", help="backgrounds become squares of this side")
@click.option(
    "--count", type=click.IntRange(min=1), help="how many, evenly spread  [default: cut-outs x 2 x 20 x backgrounds]"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def synthesize(
    foregrounds: Path,
    alphas: Path | None,
    backgrounds: Path,
    out: Path,
    positions: Literal["random", "grid"],
    side: int | None,
    count: int | None,
    seed: int,
) -> int:
    """Lay cut-outs on backgrounds: images and exact masks to train on (data.layout "folders", truth "soft")."""
    from refine.synthesize import SynthesizeRequest
    from refine.synthesize import synthesize as make

    click.echo(make(SynthesizeRequest(foregrounds, backgrounds, out, alphas, positions, side or 0, count, seed)))
    return 0


@refine.command(cls=Command, context_settings=_CONTEXT, short_help="Score masks against the truth.")
@click.option("--pred", "prediction", type=FILE, required=True, help="folder of masks to score")
@click.option("--truth", type=FILE, required=True, help="folder of true masks with the same stems")
@click.option("--before", type=FILE, help="folder of masks that --pred was refined from, to score the difference")
@click.option("--json", "json_path", type=FILE, help="also write the figures of every image, as fractions")
@click.option("--overwrite", is_flag=True, help="replace an existing file of --json")
@click.option(
    "--also",
    "further",
    multiple=True,
    type=click.Choice(["contour", "salient", "fixation"]),
    help="further measures, once for each: precision, recall and F of contour pixels; F, weighted F, S, E and HCE of"
    " salient objects; AUC, CC, NSS, SIM, KLD and EMD of fixations",
)
@click.option("--stretch", is_flag=True, help="with --also salient: predictions stretched to 0..1, as many tables do")
@click.option(
    "--align",
    type=click.Choice(["fit", "stretch"]),
    default="fit",
    show_default=True,
    help="masks of another shape than the truth: refuse, or stretch, as for networks that see squares",
)
def evaluate(
    prediction: Path,
    truth: Path,
    before: Path | None,
    json_path: Path | None,
    overwrite: bool,
    further: tuple[Literal["contour", "salient", "fixation"], ...],
    stretch: bool,
    align: Literal["fit", "stretch"],
) -> int:
    """Score masks against the truth: IoU, mean boundary accuracy, Boundary IoU, mean absolute error."""
    if stretch and "salient" not in further:
        raise InputError("--stretch is for salient objects; add --also salient, or leave it out")

    from refine.evaluate import evaluate_folders

    return evaluate_folders(
        prediction,
        truth,
        before=before,
        json_path=json_path,
        overwrite=overwrite,
        further=further,
        stretch=stretch,
        align=align,
    )

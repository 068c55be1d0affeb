"""`refine infer` behind its arguments: which images, where to, a bar on the terminal, one line for each result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal

import click
import numpy as np
from tqdm import tqdm

from refine.allocation import collect_seldom, keep_freed_memory, wait_without_spinning
from refine.api import check_preview, plan_raster, refine_raster
from refine.errors import InputError, RasterError, RefineError
from refine.identity import last_change
from refine.inputs import PREVIEW, Job, check_extra, check_folder_name, make_jobs, real_path
from refine.loaded import LoadedNetworks
from refine.networks import choose_networks, likely_device
from refine.plan_table import plan_table
from refine.raster import (
    DEFAULT_CACHE_BYTES,
    check_output,
    default_output,
    gdal_environment,
    is_whole_mask,
    open_stored,
    read_header,
)
from refine.records import Records
from refine.remote import check_local
from refine.run_folder import can_resume, check_left_over, forget, is_published
from refine.settings import Settings

SIDE_FILES = {".ovr", ".msk", ".aux"}
"""Endings of what is made of an image after it, which makes no result outdated."""

FORESEEN = (RefineError, OSError, MemoryError)
"""What is the user's to mend, or the machine's; anything else is a bug, whose traceback tells where."""

_Found = Literal["unfinished", "outdated", "finished"]


@dataclass(frozen=True, slots=True)
class Request:
    """What was typed."""

    images: tuple[str, ...]
    mask: Path | None
    out: str | None
    preview: str | None
    report: Path | None
    settings: Settings


def refine_images(request: Request, *, name: str) -> int:
    """Refine all images; the exit code, 0 if nothing failed.

    What concerns the whole run is checked first, and raises RefineError before anything is written. An image that fails
    says so on stderr in one line that begins with `name`; the others go on, whatever it failed of. An error that nobody
    foresaw keeps its traceback where there is a single image.
    """
    jobs, previews = _prepare(request)
    keep_freed_memory()
    collect_seldom()
    wait_without_spinning()
    found = {job: _found(job, request.settings) for job in jobs}
    _check_places(request, jobs, previews, found)
    exit_code = 0
    loaded = LoadedNetworks() if len(jobs) > 1 else None
    with Records(request.report, jobs, goes_on=request.settings.resume) as records:
        for job in jobs:
            if found[job] != "unfinished":  # before any of the others, which may be interrupted
                records.keep(job)
        for number, (job, preview) in enumerate(zip(jobs, previews, strict=True)):
            if found[job] != "unfinished":
                exit_code = max(exit_code, _leave(job, preview, name=name, is_outdated=found[job] == "outdated"))
                continue
            try:
                with Bar(job.image.name) as bar:
                    report = refine_raster(
                        job.image,
                        job.out,
                        job.mask,
                        settings=request.settings,
                        preview=preview,
                        progress=bar,
                        loaded=loaded,
                    )
            except KeyboardInterrupt as error:
                if how := _how_to_go_on(job, is_first=number == 0, overwrite=request.settings.overwrite):
                    error.args = (how,)
                raise
            except Exception as error:
                if len(jobs) == 1 and not isinstance(error, FORESEEN):
                    raise
                message = _what_failed(error, job.image)
                if len(jobs) > 1:
                    records.add(job, {"image": str(job.image), "error": message})
                if can_resume(job.out) and "--resume" not in message:
                    message += "; what is finished is kept: --resume goes on with it"
                _say(f"{name}: {message}", err=True)
                exit_code = RefineError.exit_code
                continue
            records.add(job, report.model_dump(mode="json"))
            _say(report.summary())
            for note in report.notes:
                click.echo(f"  {note}")
    return exit_code


def _leave(job: Job, preview: Path | None, *, name: str, is_outdated: bool) -> int:
    """Say that a result was finished before; the exit code, which minds one that is outdated or without its preview."""
    forget(job.out)
    if is_outdated:
        problem = "but the image or its mask has changed since; --overwrite makes it anew"
    elif preview is not None and not preview.exists():
        problem = f"but {preview} is not there; --overwrite makes both anew"
    else:
        _say(f"{job.out}: finished before, left as it is; --overwrite would make it anew")
        return 0
    _say(f"{name}: {job.out}: finished before, {problem}", err=True)
    return InputError.exit_code


def _how_to_go_on(job: Job, *, is_first: bool, overwrite: bool) -> str:
    """What `--resume` would do after an interruption at `job`; empty if it would begin again."""
    if overwrite and not is_first:  # whose results could be those that were to be replaced
        return f"--resume goes on with {job.image}, but makes those before it anew" if can_resume(job.out) else ""
    return "the same command with --resume goes on from here" if can_resume(job.out) or not is_first else ""


def _what_failed(error: Exception, image: Path) -> str:
    """What to tell of an image that failed, whatever it failed of."""
    if isinstance(error, RefineError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{image}: the machine has no memory left; give a smaller --max-memory"
    if isinstance(error, OSError):
        place = image if error.filename is None else error.filename
        return f"{place}: {error.strerror or error}"
    return f"{image}: refine failed: {type(error).__name__}: {error}; give it alone to see where"


def _say(text: str, *, err: bool = False) -> None:
    """In one line, though names of files may have line breaks, and be no UTF-8."""
    click.echo(click.format_filename(" ".join(text.splitlines())), err=err)


def print_plans(request: Request, *, name: str) -> int:
    """Print what would be done with each image, without reading a pixel; the exit code.

    As in a run, an image that fails says so on stderr, in one line that begins with `name`, and the others go on.
    """
    jobs, _ = _prepare(request)
    exit_code = 0
    for job in jobs:
        try:
            plan = plan_raster(job.image, job.mask, settings=request.settings, of_several=len(jobs) > 1)
        except Exception as error:
            if len(jobs) == 1 and not isinstance(error, FORESEEN):
                raise
            _say(f"{name}: {_what_failed(error, job.image)}", err=True)
            exit_code = RefineError.exit_code
            continue
        _say(f"{job.image} -> {job.out}")
        click.echo(plan_table(plan))
    return exit_code


class Bar:
    """A Progress on the terminal: what is done a second and the time left, step by step; nothing elsewhere."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: tqdm | None = None
        self._preparing = ""
        self._run = 0

    def prepare(self, what: str, share: float) -> None:
        if what != self._preparing:
            self._close()
            if share == 1:  # of one step, which is done
                return
            self._preparing = what
            self._bar = tqdm(total=100, desc=f"{self._title} {what}", unit=" %", disable=None, leave=False)
        if self._bar is not None:
            self._bar.update(int(100 * share) - self._bar.n)

    def begin(self, level: int, levels: int, window_rows: int, windows: int) -> None:
        self._close()
        title = self._title if levels == 1 else f"{self._title} {level + 1}/{levels}"
        self._bar = tqdm(total=windows, desc=title, unit=" windows", disable=None, leave=False)
        self._run = 0

    def advance(self, window_rows: int, run: int, skipped: int) -> None:
        if self._bar is not None:
            self._run += run
            self._bar.set_postfix(run=self._run, refresh=False)
            self._bar.update(run + skipped)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._preparing = ""


def _prepare(request: Request) -> tuple[tuple[Job, ...], tuple[Path | None, ...]]:
    """The jobs and their previews; the checkpoints are checked by their headers."""
    suffix_of = partial(_suffix_of, settings=request.settings)
    jobs = make_jobs(request.images, mask=request.mask, out=request.out, suffix_of=suffix_of)
    choose_networks(request.settings, likely_device(request.settings), needs_coarse=request.mask is None)
    return jobs, _previews(request.preview, jobs)


def _suffix_of(image: Path, *, settings: Settings) -> str:
    if settings.needs_geotiff:
        return ".tif"
    try:
        return default_output(read_header(image, max_pixels=settings.max_pixels)).suffix
    except Exception:
        return ".tif"  # it is said when the image's turn comes, so that it stops no other


def _found(job: Job, settings: Settings) -> _Found:
    """What `--resume` finds in the result's place: "outdated" is a whole one that the image or its mask is newer than.

    With `--overwrite` it could be the one that is to be replaced.
    """
    if not settings.resume or settings.overwrite or not job.out.is_file():
        return "unfinished"
    try:
        header = read_header(job.image, max_pixels=settings.max_pixels)
        _, _, height, width = settings.roi or (0, 0, header.height, header.width)
        is_whole = is_whole_mask(job.out, height, width, overviews=settings.overviews, cog=settings.cog)
        if not is_whole or (settings.binary and not _is_binary(job.out, settings.max_pixels)):
            return "unfinished"
    except Exception:
        return "unfinished"  # it is said when the image's turn comes
    if can_resume(job.out) and not is_published(job.out):
        return "unfinished"
    sources = [file for file in header.files if file.suffix.lower() not in SIDE_FILES]
    is_outdated = last_change((*sources, *(() if job.mask is None else (job.mask,)))) > last_change((job.out,))
    return "outdated" if is_outdated else "finished"


def _is_binary(path: Path, max_pixels: int) -> bool:
    with gdal_environment(DEFAULT_CACHE_BYTES), open_stored(path, max_pixels=max_pixels) as mask:
        return all(np.isin(values, (0, 255)).all() for _, values in mask.strips())


def _previews(preview: str | None, jobs: Sequence[Job]) -> tuple[Path | None, ...]:
    """A picture for each job: the file, for one image, or `<stem>_preview.png` in the folder."""
    if preview is None:
        return (None,) * len(jobs)
    check_local("--preview", preview)
    path = Path(preview)
    if path.is_dir() or preview.endswith("/") or len(jobs) > 1:
        if any(real_path(path) == real_path(job.out.parent) for job in jobs) and len(jobs) > 1:
            raise InputError(f"--preview {preview}: is the folder of the results; give another one")
        check_folder_name("--preview", preview, path)
        return tuple(path / f"{job.image.stem}{PREVIEW}.png" for job in jobs)
    return (path,)


def _check_places(
    request: Request, jobs: Sequence[Job], previews: Sequence[Path | None], found: Mapping[Job, _Found]
) -> None:
    """Makes the folders that were asked for, and takes them away again where a file in them is refused."""
    folders = {job.out.parent for job in jobs if request.out is not None and Path(request.out) == job.out.parent}
    folders |= {path.parent for path in previews if path is not None and Path(request.preview or "") == path.parent}
    made: list[Path] = []
    try:
        for folder in folders:
            made[:0] = [place for place in (folder, *folder.parents) if not place.exists()]
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RasterError(f"{folder}: cannot be made: {error.strerror}") from error
        _check_files(request, jobs, previews, found)
    except RefineError:
        for place in made:
            with suppress(OSError):
                place.rmdir()
        raise


def _check_files(
    request: Request, jobs: Sequence[Job], previews: Sequence[Path | None], found: Mapping[Job, _Found]
) -> None:
    """Everything that is written has a place, and nothing is replaced unasked."""
    overwrite, overviews, cog = request.settings.overwrite, request.settings.overviews, request.settings.cog
    taken = {real_path(path) for job in jobs for path in (job.image, job.mask, job.out) if path is not None}
    for job, preview in zip(jobs, previews, strict=True):
        is_there = request.settings.resume and job.out.is_file()
        if found[job] != "unfinished" or (is_there and len(jobs) > 1):
            continue  # what is not whole is said when the image's turn comes, so that it stops no other
        check_output(job.out, job.image, overwrite=overwrite, overviews=overviews, cog=cog)
        if not (overwrite or request.settings.resume):
            check_left_over(job.out)
        if preview is not None:
            check_preview(preview, taken, overwrite=overwrite)
            taken.add(real_path(preview))
    if request.report is not None:
        # A resumed run's report replaces that of the run it goes on with.
        check_extra("--report", request.report, taken, overwrite=overwrite or request.settings.resume)

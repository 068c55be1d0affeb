"""Refine one image from Python: an array, or a raster on disk; what the command calls for each image.

    from refine import Settings, refine_array, refine_raster

Networks are loaded where they run, the second when the first is gone; several images may share them, and then both stay
where the budget has room. Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from refine.arrays import array_image
from refine.engine import refine_mask
from refine.errors import InputError, RasterError, RefineError
from refine.first_mask import MaskFacts, facts_by_network, facts_of_file, facts_of_mask, mask_by_network, notes_of
from refine.flips import flipped
from refine.geometry import Mask, Window
from refine.identity import Identity, Unchanged, checksum, fingerprint, plan_identity
from refine.inputs import check_extra, real_path
from refine.loaded import LoadedNetworks
from refine.masks import check_place, fits, open_mask
from refine.memory import NetworkCost
from refine.models.metadata import sha256
from refine.networks import Networks, choose_networks, describe_device, likely_device, load_refiner, resolve_device
from refine.outputs import PREVIEW_SUFFIXES, draw_preview
from refine.plan import Plan
from refine.planning import cost_of, plan_for_array, plan_for_raster
from refine.raster import (
    Header,
    check_apart,
    check_layout,
    check_output,
    create_mask,
    foreground_from,
    open_image,
    read_header,
    remote_fingerprint,
)
from refine.remote import RemotePath, as_path
from refine.report import NetworkEntry, Report, level_entries, peak_memory_bytes, versions
from refine.run_folder import RunFolder, check_left_over
from refine.settings import Settings
from refine.sources import ArrayImage, ArrayMask, ArraySink, MaskSource, Progress, Refiner

__all__ = ["Report", "Settings", "plan_raster", "refine_array", "refine_raster", "refine_with"]


def refine_array(
    image: NDArray[np.generic],
    mask: NDArray[np.generic] | None = None,
    *,
    checkpoint: Path | str | None = None,
    settings: Settings | None = None,
) -> Mask:
    """The refined mask, (H, W) float32 in 0..1; of `settings.roi`, if there is one. The inputs are left as they are.

    `image` is (H, W, 3) RGB or (H, W), uint8, uint16 or float (shown from percentile 0.5 to 99.5 if nothing is set).
    `mask` is (h, w) of any size over the image's extent, bool, uint8, uint16 or float in 0..1; without it the coarse
    network makes one. `checkpoint` is that of the refining network. Pixels that are NaN in the image become 0.

    Raises RefineError for what does not fit together; see `refine.errors`.
    """
    settings = settings or Settings()
    if checkpoint is not None:
        settings = settings.model_copy(update={"checkpoint": Path(checkpoint)})
    source = array_image(image, bands=settings.bands, value_range=settings.range, percentiles=settings.percentiles)
    device = resolve_device(settings)
    networks = choose_networks(settings, device, needs_coarse=mask is None)
    if mask is None:
        facts = facts_by_network(networks, (source.height, source.width))
        plan = plan_for_array(source, facts, settings, device, networks.stride, cost_of(networks, settings))
        first = mask_by_network(source, networks, plan.decimations, settings.max_memory, LoadedNetworks())
    else:
        first, facts = _given(mask, source, settings)
    refiner = flipped(load_refiner(networks), settings.flips)
    return _refined(source, first, facts, refiner, cost_of(networks, settings), settings)


def refine_with(
    refiner: Refiner, image: NDArray[np.generic], mask: NDArray[np.generic], *, settings: Settings | None = None
) -> Mask:
    """As `refine_array`, with a network that `refine.backends.load_refiner` loaded before: for many images in turn."""
    settings = settings or Settings()
    source = array_image(image, bands=settings.bands, value_range=settings.range, percentiles=settings.percentiles)
    first, facts = _given(mask, source, settings)
    refiner = flipped(refiner, settings.flips)
    return _refined(source, first, facts, refiner, refiner, settings)


def refine_raster(
    image: Path | str,
    out: Path | str,
    mask: Path | str | None = None,
    *,
    settings: Settings | None = None,
    preview: Path | str | None = None,
    progress: Progress | None = None,
    loaded: LoadedNetworks | None = None,
) -> Report:
    """Refine the mask of a raster into `out` (.tif, .tiff, .png), which appears when it is whole; gives what was done.

    `mask` is a file of any size over the image's extent; without it the coarse network makes one. `preview` is where a
    picture of before and after goes; as `out`, it replaces another file with `settings.overwrite` alone. Large images
    leave finished parts in a hidden folder beside `out` if the run is interrupted; `settings.resume` goes on with them,
    to the same bytes. Networks are taken from `loaded` and stay there for the next image, both if `settings.max_memory`
    allows it. Raises RefineError; then `out` is as it was, unless the message says that only the preview failed.
    """
    settings = settings or Settings()
    of_several, loaded = loaded is not None, loaded or LoadedNetworks()
    clock = _Clock()
    image, out, mask = as_path(image), Path(out), None if mask is None else as_path(mask)
    header = read_header(image, max_pixels=settings.max_pixels)
    check_output(out, image, overwrite=settings.overwrite, overviews=settings.overviews, cog=settings.cog)
    mask_files = _files_of_mask(mask, settings)
    check_apart(out, (*header.files, *mask_files))
    if preview is not None:
        taken = set(map(real_path, (out, *header.files, *mask_files)))
        check_preview(Path(preview), taken, overwrite=settings.overwrite)
    unchanged, mask_unchanged = Unchanged(header.files), Unchanged(mask_files)
    if not (settings.resume or settings.overwrite):
        check_left_over(out)
    networks = choose_networks(settings, resolve_device(settings), needs_coarse=mask is None)
    facts = _facts(header, mask, networks, settings)
    plan = plan_for_raster(header, facts, networks, settings, of_several=of_several)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(out))
        source = stack.enter_context(
            open_image(
                image,
                bands=settings.bands,
                value_range=_pair(settings.range),
                percentiles=_pair(settings.percentiles),
                max_pixels=settings.max_pixels,
                cache_bytes=plan.cache_bytes,
                directory=out.parent,  # temporary pixels lie where there is room for the output, not in /tmp, often RAM
            )
        )
        notes = source.notes
        clock.lap("open")
        coarse_entries = _coarse_entries(networks)
        if mask is None:
            if not plan.networks_stay:
                loaded.drop_refiner()
            first = mask_by_network(source, networks, plan.decimations, settings.max_memory, loaded, progress)
            notes += notes_of(first, networks.coarse or "the network")
        else:
            size = (source.height, source.width)
            opened = stack.enter_context(
                open_mask(mask, size, align=settings.align, max_pixels=settings.max_pixels, directory=out.parent)
            )
            mask_unchanged.check()  # all of it is read now, and kept
            first, notes = opened, notes + opened.notes
            facts = replace(facts_of_mask(opened, size), kept_bytes=facts.kept_bytes, reading_bytes=facts.reading_bytes)
        if not plan.networks_stay:
            loaded.drop_coarse()
        clock.lap("first mask")
        plan = plan_for_raster(header, facts, networks, settings, of_several=of_several)
        network_entry = _network(networks.checkpoint, networks.metadata.architecture)  # its file may change or go later
        refiner = flipped(loaded.refiner(networks), settings.flips)
        clock.lap("load network")
        journal = None
        if plan.is_journalled:
            identity = _identity(header, mask, first, plan, networks, settings)
            counts = [len(step.parts) for step in plan.levels]
            journal = folder.journal(identity, counts, resume=settings.resume)
        with create_mask(
            out,
            source,
            roi=plan.roi,
            overwrite=settings.overwrite,
            binary=settings.binary,
            threshold=settings.cut,
            overviews=settings.overviews,
            cog=settings.cog,
            hidden_in=folder.path,
        ) as sink:
            run = refine_mask(source, first, refiner, plan, sink, progress, folder=out.parent, journal=journal)
            try:
                unchanged.check()
            except RasterError:
                folder.finish()  # its parts are of two pictures as well
                raise
        folder.finish()
        notes = (*notes, *sink.notes)
        if run.resumed:
            notes = (*notes, f"resumed: {run.resumed} of {run.parts} parts had been finished before")
        if not (run.run or run.resumed):
            certain = f"below {plan.low:g} or above {plan.high:g} around every window, and stands as it is"
            notes = (*notes, f"no window was run: the first mask is {certain}")
        if run.not_finite:
            notes = (*notes, f"the network gave NaN in {run.not_finite} windows, which changed nothing; is it damaged?")
        if run.batch < plan.batch:
            notes = (*notes, f"the device ran out of memory; batches were cut to {run.batch}, which rounds some pixels")
        clock.lap("refine")
        if preview is not None:
            try:
                draw_preview(Path(preview), source, first, out, run, roi=plan.roi)
            except RefineError as error:
                raise type(error)(f"{out} is whole, but its preview failed: {error}") from error
            clock.lap("preview")
    return Report(
        image=str(image),
        mask=None if mask is None else str(mask),
        out=str(out),
        height=plan.height,
        width=plan.width,
        roi=settings.roi,
        mask_height=first.height,
        mask_width=first.width,
        shown_values=source.value_limits,
        reach=plan.reach,
        agreement=plan.agreement,
        levels=level_entries(run),
        windows_run=run.run,
        windows_skipped=run.skipped,
        seconds=clock.seconds(),
        peak_memory_bytes=peak_memory_bytes(),
        planned_peak_bytes=plan.planned_peak,
        device=plan.device,
        batch=run.batch,
        network=network_entry,
        coarse=coarse_entries,
        settings=settings.model_dump(mode="json"),
        versions=versions(),
        notes=(*notes, *plan.notes),
    )


def plan_raster(
    image: Path | str, mask: Path | str | None = None, *, settings: Settings | None = None, of_several: bool = False
) -> Plan:
    """What `refine_raster` would do, from headers alone: no pixel is read.

    Torch is imported only where a checkpoint's network is larger than those that were measured: it is loaded and
    measured. What only pixels tell is assumed, and noted in the plan: that a mask is hard. With `of_several` networks
    stay loaded for the next image.
    """
    settings = settings or Settings()
    header = read_header(as_path(image), max_pixels=settings.max_pixels)
    check_layout(header.path, settings.bands)
    networks = choose_networks(settings, likely_device(settings), needs_coarse=mask is None)
    facts = _facts(header, None if mask is None else as_path(mask), networks, settings)
    return plan_for_raster(header, facts, networks, settings, of_several=of_several)


def check_preview(preview: Path, taken: AbstractSet[Path], *, overwrite: bool) -> None:
    """Raises InputError if no picture may be written there; `taken` are the real paths that a run reads and writes."""
    if preview.suffix.lower() not in PREVIEW_SUFFIXES:
        raise InputError(f"--preview {preview}: end it in {' or '.join(PREVIEW_SUFFIXES)}, or in / for a folder")
    check_extra("--preview", preview, taken, overwrite=overwrite)


class _Clock:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self._begun = self._last = perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = perf_counter()
        self._laps[name], self._last = now - self._last, now

    def seconds(self) -> dict[str, float]:
        laps = self._laps | {"total": perf_counter() - self._begun}
        return {name: round(spent, 4) for name, spent in laps.items()}


def _facts(header: Header, mask: Path | None, networks: Networks, settings: Settings) -> MaskFacts:
    size = (header.height, header.width)
    if mask is None:
        return facts_by_network(networks, size)
    facts = facts_of_file(mask, size, settings.align, max_pixels=settings.max_pixels)
    if settings.align == "fit" and mask.suffix.lower() != ".npy":
        check_place(read_header(mask, max_pixels=settings.max_pixels), header)
    return facts


def _identity(
    header: Header, mask: Path | None, first: MaskSource, plan: Plan, networks: Networks, settings: Settings
) -> Identity:
    """All that the bytes of a run's parts depend on. What is made of them in the output's file is not among it."""
    libraries = versions()
    del libraries["python"]
    identity = {
        "the image": _fingerprint(header),
        "its nodata": str(header.nodata),
        "--flips": str(settings.flips),
    } | plan_identity(plan)
    if isinstance(mask, RemotePath):
        identity["--mask"] = remote_fingerprint(mask)
    elif mask is not None:
        identity["--mask"] = fingerprint(_files_of_mask(mask, settings))
    elif networks.coarse is not None:
        identity["--coarse"] = networks.coarse
        identity["--coarse-checkpoint"] = " ".join(sha256(member.checkpoint) for member in networks.coarse_members)
        identity["the mask of --coarse"] = checksum(first.read(Window(0, 0, first.height, first.width)))
    return identity | {
        "--checkpoint": sha256(networks.checkpoint),
        "--bands": str(settings.bands),
        "--range": str(settings.range),
        "--percentiles": str(settings.percentiles),
        "--device": describe_device(networks),
        **{f"the version of {name}": number for name, number in libraries.items()},
    }


def _files_of_mask(mask: Path | None, settings: Settings) -> tuple[Path, ...]:
    if mask is None or isinstance(mask, RemotePath):
        return ()
    if mask.suffix.lower() == ".npy":
        return (mask,)
    return read_header(mask, max_pixels=settings.max_pixels).files


def _fingerprint(header: Header) -> str:
    return remote_fingerprint(header.path) if isinstance(header.path, RemotePath) else fingerprint(header.files)


def _given(mask: NDArray[np.generic], image: ArrayImage, settings: Settings) -> tuple[ArrayMask, MaskFacts]:
    first, size = ArrayMask(np.asarray(mask)), (image.height, image.width)
    if settings.align == "fit" and not fits((first.height, first.width), size):
        raise InputError(
            f"the mask is {first.width} x {first.height} (width x height) but the image is {size[1]} x {size[0]};"
            ' give a mask of the same extent, or align="stretch" to stretch it'
        )
    return first, facts_of_mask(first, size)


def _refined(
    source: ArrayImage, first: MaskSource, facts: MaskFacts, refiner: Refiner, cost: NetworkCost, settings: Settings
) -> Mask:
    plan = plan_for_array(source, facts, settings, resolve_device(settings), refiner.stride, cost)
    sink = ArraySink(plan.output.height, plan.output.width, np.float32)
    refine_mask(source, first, refiner, plan, sink, as_float=True)
    refined = sink.rows.astype(np.float32, copy=False)
    if settings.binary:
        shown = np.floor(refined * np.float32(255) + np.float32(0.5))  # cut where the command's 8-bit mask is cut
        refined = np.asarray(shown >= foreground_from(settings.cut), np.float32)
    return refined


def _pair(values: tuple[float, ...] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])


def _network(checkpoint: Path, architecture: str) -> NetworkEntry:
    return NetworkEntry(architecture=architecture, checkpoint=str(checkpoint), sha256=sha256(checkpoint))


def _coarse_entries(networks: Networks) -> tuple[NetworkEntry, ...]:
    return tuple(_network(member.checkpoint, member.architecture) for member in networks.coarse_members)

"""From settings, header, first mask and network to the plan's numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypedDict

import numpy as np

from refine.errors import MemoryBudgetError
from refine.first_mask import MaskFacts
from refine.flips import TURNED_PIXEL_BYTES
from refine.geometry import Window
from refine.masks import MASK_BYTES
from refine.memory import COARSE_IMAGE_PIXEL_BYTES, MIB, MeasuredCost, NetworkCost, size_text
from refine.networks import Networks
from refine.plan import Device, Plan, Select, make_plan
from refine.raster import LEVEL_BYTES, Header, finished_bytes, sweep_bytes
from refine.settings import Settings
from refine.sources import ArrayImage

JOURNALLED_PIXELS = 1 << 24
"""From this size on, finished parts are kept on disk; below, to start anew costs seconds."""

OVERLAP, OWN_OVERLAP = 64, 32
"""Pixels that neighbouring windows share, and where a network of the run makes the first mask. On 27 validation images
such masks came out as good with 32 px (77.76 mBA, with 64 77.73) in three quarters of the time, enlarged to 4096 px
too; truths at 64 px lost 0.1 points, enlarged 0.7."""


def cost_of(networks: Networks, settings: Settings) -> MeasuredCost:
    """What the refining network takes, asked as often as `settings` say."""
    cost = networks.cost
    return cost if settings.flips == 1 else replace(cost, pixel_bytes=cost.pixel_bytes + TURNED_PIXEL_BYTES)


def plan_for_raster(
    header: Header, facts: MaskFacts, networks: Networks, settings: Settings, *, of_several: bool = False
) -> Plan:
    """The plan for a raster; what reading it takes beside the sweep is counted with the libraries.

    If it is one `of_several`, both networks stay loaded for the next image, where there is room for that as well.
    """
    pixels = header.height * header.width
    is_mask_on_disk = facts.kept_bytes > MASK_BYTES and not facts.is_network_output
    mask_bytes = 0 if is_mask_on_disk else facts.kept_bytes
    # The mask is read before the image's levels are made.
    strips = max(sweep_bytes(header), facts.reading_bytes)
    beside = header.decoder_bytes + strips + min(LEVEL_BYTES, 4 * pixels) + mask_bytes
    plan = _with_first_mask(
        partial(
            make_plan,
            header.height,
            header.width,
            cost=cost_of(networks, settings),
            baseline_bytes=networks.baseline_bytes + beside,
            block_height=header.block_height,
            bands=min(header.bands, 4),
            sample_bytes=np.dtype(header.dtype).itemsize,
            overviews=header.overviews,
            has_invalid=header.has_invalid,
            journalled_pixels=JOURNALLED_PIXELS,
        ),
        _common(facts, settings, networks.device, networks.stride),
        networks,
    )
    if of_several and networks.coarse is not None:
        plan = _with_both_kept(plan, networks)
    waiting = {"first mask": facts.kept_bytes} if is_mask_on_disk else {}
    upright = pixels * (4 if header.has_invalid else 3)
    if header.orientation != 1 and upright > LEVEL_BYTES:
        waiting["image, turned upright"] = upright
    plan = replace(plan, temporary={**plan.temporary, **waiting})
    if not settings.cog:
        return plan
    part = plan.output
    copied = finished_bytes(part.height, part.width, has_invalid=header.has_invalid)
    return replace(plan, temporary={**plan.temporary, "mask before its copy, at most": copied})


def plan_for_array(
    source: ArrayImage, facts: MaskFacts, settings: Settings, device: Device, stride: int, cost: NetworkCost
) -> Plan:
    """The plan for an array; the user's own arrays are not counted against the budget."""
    common = _common(facts, settings, device, stride)
    return make_plan(source.height, source.width, **common, cost=cost, has_invalid=source.has_invalid)


def _with_first_mask(make: Callable[..., Plan], common: _Common, networks: Networks) -> Plan:
    """The plan, with what a coarse network takes before the sweep.

    Raises MemoryBudgetError, with the smallest budget that works for both.
    """
    if networks.coarse is None:
        return make(**common)
    budget = common["budget_bytes"]
    # What the libraries and the raster take is the same for any budget.
    plan = make(**{**common, "budget_bytes": None})
    kept = ("interpreter and libraries", "raster cache")
    image = COARSE_IMAGE_PIXEL_BYTES * networks.coarse_pixels(plan.height, plan.width)
    takes = {"coarse network": networks.coarse_bytes, "image as it sees it": image}
    first = {name: plan.memory[name] for name in kept} | takes
    smallest = -(-sum(first.values()) // MIB) * MIB
    if budget < smallest:
        try:
            make(**{**common, "budget_bytes": smallest})
        except MemoryBudgetError:
            make(**common)  # the sweep needs more than the network, and says so of the budget that was given
        raise MemoryBudgetError(
            f"--max-memory {size_text(budget)} is too small for --coarse {networks.coarse}, which takes more"
            f" than {networks.spared_by}; the smallest that works is --max-memory {smallest // MIB}MiB"
        )
    return replace(make(**common), first_mask=first)


def _with_both_kept(plan: Plan, networks: Networks) -> Plan:
    """The plan with each network loaded while the other one runs; the plan as it is if that would break the budget."""
    refining = networks.cost.weight_bytes + networks.cost.activation_bytes(1, plan.tile)
    first_mask = {**plan.first_mask, "refining network, kept": refining}
    memory = {**plan.memory, "coarse network, kept": networks.coarse_held_bytes}
    kept = replace(plan, first_mask=first_mask, memory=memory, networks_stay=True)
    if plan.budget_bytes is not None and kept.planned_peak > plan.budget_bytes:
        return plan
    if not plan.device_memory:
        return kept
    return replace(kept, device_memory={**plan.device_memory, "coarse network, kept": networks.coarse_held_bytes})


def choose_overlap(facts: MaskFacts, settings: Settings) -> int:
    """What was given, else OVERLAP, or OWN_OVERLAP where a network of this run makes the first mask.

    A reach that was given is kept to within OVERLAP.
    """
    if settings.overlap is not None:
        return settings.overlap
    return OWN_OVERLAP if facts.is_network_output and settings.reach is None else OVERLAP


class _Common(TypedDict):
    mask_height: int
    mask_width: int
    mask_is_network_output: bool
    mask_ramp: float | None
    is_hard: bool | None
    tile: int
    overlap: int
    reach: float | None
    select: Select
    passes: int
    batch: int | None
    budget_bytes: int
    device: Device
    roi: Window | None
    stride: int


def _common(facts: MaskFacts, settings: Settings, device: Device, stride: int) -> _Common:
    return {
        "mask_height": facts.height,
        "mask_width": facts.width,
        "mask_is_network_output": facts.is_network_output,
        "mask_ramp": facts.ramp,
        "is_hard": facts.is_hard,
        "tile": settings.tile,
        "overlap": choose_overlap(facts, settings),
        "reach": settings.reach,
        "select": settings.select,
        "passes": settings.passes,
        "batch": None if settings.batch == "auto" else settings.batch,
        "budget_bytes": settings.max_memory,
        "device": device,
        "roi": None if settings.roi is None else Window(*settings.roi),
        "stride": stride,
    }

"""What a run writes down: one JSON line per entry, and TensorBoard events where that package is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from refine.models.preprocessing import Preprocessing
from refine.training.shown import network_input
from refine.whole_file import write_whole

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PICTURES = 8


class SilentLog:
    """What the other processes of a run write down: nothing."""

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        pass

    def pictures(self, batch: Mapping[str, Tensor], ema: nn.Module, preprocessing: Preprocessing, step: int) -> None:
        pass


class Log:
    """Scalars and sample pictures of a run, in `folder`; what is there of steps after `step` will be said again."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        path = folder / "log.jsonl"
        _cut_back(path, step)
        self._lines = path.open("a", encoding="utf-8")
        self._events = _event_writer(folder / "events")

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        self._lines.write(json.dumps({"group": group, "step": step, **values}) + "\n")
        self._lines.flush()
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(f"{group}/{name}", value, step)

    @torch.no_grad()
    def pictures(self, batch: Mapping[str, Tensor], ema: nn.Module, preprocessing: Preprocessing, step: int) -> None:
        """Image, coarse mask, result and truth of the batch's first samples that have a coarse mask, side by side."""
        if not self._events:
            return
        device = next(ema.parameters()).device
        there = batch["factor"] == 0 if "factor" in batch else ...  # others start from a result of the network's own
        few = {name: tensor[there][:PICTURES].to(device) for name, tensor in batch.items()}
        if not len(few["image"]):
            return
        coarse = few["coarse"][:, None] if "coarse" in few else None
        logit = ema(network_input(ema, few, preprocessing), coarse, few.get("reach"))["final"]
        masks = [coarse] if coarse is not None else []
        masks += [torch.sigmoid(logit), few["truth"][:, None]]
        columns = [few["image"].permute(0, 3, 1, 2) / 255, *(mask.expand(-1, 3, -1, -1) for mask in masks)]
        sheet = torch.cat(columns, dim=3).flatten(0, 0)  # (B, 3, H, n W)
        sheet = torch.nan_to_num(torch.cat(list(sheet), dim=1))  # of a network that has lost its way
        self._events.add_image("samples", sheet.cpu(), step)

    def close(self) -> None:
        self._lines.close()
        if self._events:
            self._events.close()


def _cut_back(path: Path, step: int) -> None:
    """Leave the whole lines up to `step`: a full disk or a kill may have cut the last one, and a state be older."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    kept = [line for line in lines if _is_of(line, step)]
    if kept != lines:
        write_whole(path, b"".join(kept))


def _is_of(line: bytes, step: int) -> bool:
    try:
        return line.endswith(b"\n") and int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False


def _event_writer(folder: Path) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))

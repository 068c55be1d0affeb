"""Networks that stay loaded from one image to the next, so that a folder pays once for what each image needs."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from refine.coarse import CoarseNetwork
from refine.networks import Networks, load_coarse, load_refiner
from refine.sources import Refiner

_File: TypeAlias = tuple[str, int]
"""A checkpoint and when it was changed: one that is replaced on the way is loaded anew."""


def _file(path: Path) -> _File:
    return str(path), path.stat().st_mtime_ns


class LoadedNetworks:
    """The networks of a run of several images, each loaded when it is first asked for and kept until it is dropped."""

    def __init__(self) -> None:
        self._refiner: tuple[tuple[_File, str, str], Refiner] | None = None
        self._coarse: tuple[tuple[tuple[_File, ...], str | None, str], CoarseNetwork] | None = None

    def refiner(self, networks: Networks) -> Refiner:
        """The refining network of a run, on its device."""
        wanted = (_file(networks.checkpoint), networks.device, networks.backend)
        if self._refiner is None or self._refiner[0] != wanted:
            self._refiner = None  # before another one is loaded
            self._refiner = (wanted, load_refiner(networks))
        return self._refiner[1]

    def coarse(self, networks: Networks) -> CoarseNetwork:
        """The coarse network of a run, on its device."""
        files = tuple(_file(member.checkpoint) for member in networks.coarse_members)
        wanted = (files, networks.coarse, networks.device)
        if self._coarse is None or self._coarse[0] != wanted:
            self._coarse = None
            self._coarse = (wanted, load_coarse(networks))
        return self._coarse[1]

    def drop_refiner(self) -> None:
        """Before the coarse network is loaded, where there is no room for both."""
        self._refiner = None

    def drop_coarse(self) -> None:
        """Before the refining network is loaded, where there is no room for both."""
        self._coarse = None

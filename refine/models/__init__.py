"""Networks by name. Importing this package imports no torch; `build_model` does."""

from __future__ import annotations

from refine.models.registry import NETWORKS, build_model, network_names

__all__ = ["NETWORKS", "build_model", "network_names"]

"""What a run can give beside the mask."""

from refine.outputs.preview import PREVIEW_SUFFIXES, draw_preview

__all__ = ["PREVIEW_SUFFIXES", "draw_preview"]

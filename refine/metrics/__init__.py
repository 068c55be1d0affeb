"""Measures of a mask against the truth; every one takes prediction, then truth, both (H, W) on one grid."""

from refine.metrics.boundary import (
    ContourScore,
    boundary_accuracies,
    boundary_bands,
    boundary_f,
    boundary_iou,
    inner_boundary,
    mean_boundary_accuracy,
)
from refine.metrics.region import foreground, intersection_and_union, iou, mean_absolute_error

__all__ = [
    "ContourScore",
    "boundary_accuracies",
    "boundary_bands",
    "boundary_f",
    "boundary_iou",
    "foreground",
    "inner_boundary",
    "intersection_and_union",
    "iou",
    "mean_absolute_error",
    "mean_boundary_accuracy",
]

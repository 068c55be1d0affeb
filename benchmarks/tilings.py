"""How others run a network over a large image: the whole at once, MONAI's sliding window, pytorch-toolbelt's tiles.

Each takes image (H, W, 3) uint8, coarse mask (H, W) float32 of the image's size, and `correct`, which maps windows
(B, T, T, 3) and masks (B, T, T), as tensors, to corrections (B, T, T). Each gives the refined mask (H, W) float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from refine.geometry import RGB, Mask

Correct = Callable[[Tensor, Tensor], Tensor]
Tiling = Callable[[RGB, Mask, Correct, int, int], Mask]

BATCH = 8
STRIDE = 16

Item = TypeVar("Item")


def whole_image(image: RGB, coarse: Mask, correct: Correct, tile: int, overlap: int) -> Mask:
    """One call on the whole image, mirrored to a multiple of the network's stride."""
    height, width = coarse.shape
    rows, cols = ((0, -length % STRIDE) for length in (height, width))
    windows = torch.from_numpy(np.pad(image, (rows, cols, (0, 0)), mode="reflect"))[None]
    masks = torch.from_numpy(np.pad(coarse, (rows, cols), mode="reflect"))[None]
    return _refined(coarse, correct(windows, masks)[0, :height, :width].numpy())


def monai(image: RGB, coarse: Mask, correct: Correct, tile: int, overlap: int) -> Mask:
    """`sliding_window_inference` over RGB and mask as one tensor, in its default mode "constant"."""
    from monai.inferers import sliding_window_inference

    planes = torch.empty(1, 4, *coarse.shape)
    planes[0, :3] = torch.from_numpy(image).permute(2, 0, 1)
    planes[0, 3] = torch.from_numpy(coarse)

    def predict(windows: Tensor) -> Tensor:
        return correct(windows[:, :3].permute(0, 2, 3, 1), windows[:, 3])[:, None]

    correction = sliding_window_inference(planes, (tile, tile), BATCH, predict, overlap=overlap / tile)
    return _refined(coarse, correction[0, 0].numpy())


def toolbelt(image: RGB, coarse: Mask, correct: Correct, tile: int, overlap: int) -> Mask:
    """`ImageSlicer` and `TileMerger` with pyramid weights, tiles cut as they are needed, as in its documentation."""
    from pytorch_toolbelt.inference.tiles import ImageSlicer, TileMerger

    slicer = ImageSlicer(image.shape, tile_size=tile, tile_step=tile - overlap, weight="pyramid")
    merger = TileMerger(slicer.target_shape, 1, slicer.weight)
    pairs = zip(slicer.iter_split(image), slicer.iter_split(coarse), strict=True)
    for batch in _batches(pairs):
        windows = torch.from_numpy(np.stack([pixels for (pixels, _), _ in batch]))
        masks = torch.from_numpy(np.stack([mask.reshape(tile, tile) for _, (mask, _) in batch]))
        merger.integrate_batch(correct(windows, masks)[:, None], [place for (_, place), _ in batch])
    merged = merger.merge().permute(1, 2, 0).numpy()
    return _refined(coarse, slicer.crop_to_orignal_size(merged)[..., 0])


TILINGS: dict[str, Tiling] = {"whole": whole_image, "monai": monai, "toolbelt": toolbelt}


def enlarge(mask: Mask, height: int, width: int) -> Mask:
    """Bilinear."""
    enlarged = F.interpolate(torch.from_numpy(mask)[None, None], size=(height, width), mode="bilinear")
    return np.asarray(enlarged[0, 0].numpy(), np.float32)


def _refined(coarse: Mask, correction: Mask) -> Mask:
    return np.asarray(np.clip(coarse + correction, 0, 1), np.float32)


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch

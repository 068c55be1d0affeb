"""What tells a raster on a network from another: there is no time of change that every server tells."""

from __future__ import annotations

import hashlib

import numpy as np
from rasterio.windows import Window as RasterWindow

from refine.raster.gdal import open_dataset, translated
from refine.remote import RemotePath

_PLACES = 16  # per axis, of the blocks whose places in the file are looked at


def remote_fingerprint(path: RemotePath) -> str:
    """Of size and kind, of where blocks lie in the file (which follows from how all before them compress), and of the
    pixels of the first, the middle and the last block.

    Its name is not in it: a signed address changes from day to day. Raises RasterError if it cannot be read.
    """
    with open_dataset(path) as dataset, translated(path, "cannot be read"):
        height, width = dataset.block_shapes[0]
        rows, cols = -(-dataset.height // height), -(-dataset.width // width)
        digest = hashlib.sha256(repr((dataset.shape, dataset.dtypes, dataset.block_shapes)).encode())
        for row in np.unique(np.linspace(0, rows - 1, _PLACES).astype(int)):
            for col in np.unique(np.linspace(0, cols - 1, _PLACES).astype(int)):
                place = dataset.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=1)
                digest.update(f"{place} ".encode())
        for row, col in ((0, 0), (rows // 2, cols // 2), (rows - 1, cols - 1)):
            top, left = row * height, col * width
            place = RasterWindow(left, top, min(width, dataset.width - left), min(height, dataset.height - top))
            digest.update(dataset.read(1, window=place).tobytes())
    return digest.hexdigest()

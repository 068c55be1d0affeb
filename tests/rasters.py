"""Makers of small raster files for tests."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from refine.geometry import Window
from refine.raster import create_mask, open_image, read_header
from refine.sources import ImageSource

NORTH_UP = rasterio.Affine(0.5, 0, 399_000, 0, -0.5, 5_820_000)
"""Half a metre a pixel, somewhere in UTM zone 33."""


def picture(height: int, width: int, seed: int = 0, channels: int = 3) -> NDArray[np.uint8]:
    """(H, W, C) of smooth colours with some noise; no two rows or columns are alike."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (7, 9, channels), dtype=np.uint8)
    smooth = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)
    noise = rng.integers(-8, 9, (height, width, channels))
    noisy: NDArray[np.uint8] = np.clip(smooth.astype(np.int64) + noise, 0, 255).astype(np.uint8)
    return noisy


def write_tif(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """A GeoTIFF of (H, W) or (H, W, bands) with the options of `rasterio.open`; `mask_band` is (H, W) bool."""
    bands = pixels[:, :, None] if pixels.ndim == 2 else pixels
    mask_band, tags = options.pop("mask_band", None), options.pop("tags", {})
    overviews = options.pop("overviews", ())
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        height, width, count = bands.shape
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=count, dtype=bands.dtype, **options
        ) as dataset:
            dataset.update_tags(**tags)
            dataset.write(bands.transpose(2, 0, 1))
            if mask_band is not None:
                dataset.write_mask(mask_band)
            if overviews:
                dataset.build_overviews(list(overviews), rasterio.enums.Resampling.average)
    return path


def write_picture(path: Path, pixels: NDArray[Any], *parameters: int) -> Path:
    """A PNG, JPEG, WebP or BMP of RGB, grey or RGBA pixels, through OpenCV, which wants BGR."""
    if pixels.ndim == 3:
        order = [2, 1, 0, 3][: pixels.shape[2]] if pixels.shape[2] > 2 else [0, 1]
        pixels = pixels[:, :, order]
    assert cv2.imwrite(str(path), np.ascontiguousarray(pixels), list(parameters))
    return path


def write_png(path: Path, stored: NDArray[np.uint8], kind: int, bits: int = 8, chunks: tuple[bytes, ...] = ()) -> Path:
    """A PNG of colour type `kind` (0 grey, 2 RGB, 3 palette, 4 grey and alpha): OpenCV writes no palettes."""
    height, width = stored.shape[:2]
    rows = stored.reshape(height, -1)
    if bits < 8:
        rows = np.packbits(((rows[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(height, -1), axis=1)
    lines = b"".join(b"\0" + bytes(row) for row in rows)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )
    return path


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def exif(orientation: int, order: str = "<") -> bytes:
    """EXIF data that holds nothing but an orientation."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)


def write_turned_jpeg(path: Path, pixels: NDArray[np.uint8], orientation: int) -> Path:
    """A JPEG of the pixels as stored, with an EXIF orientation."""
    write_picture(path, pixels, cv2.IMWRITE_JPEG_QUALITY, 100)
    data = path.read_bytes()
    body = b"Exif\0\0" + exif(orientation, ">")
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:])
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    """The file without its end."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def whole(image: ImageSource, decimation: int = 1) -> NDArray[np.uint8]:
    """All pixels of a level."""
    return image.read(Window(0, 0, -(-image.height // decimation), -(-image.width // decimation)), decimation)[0]


def shown(path: Path, **options: Any) -> NDArray[np.uint8]:
    """All pixels of a file, as the networks see them; with the options of `open_image`."""
    with open_image(path, **options) as image:
        return whole(image)


def write_mask(out: Path, image: Path, mask: NDArray[np.uint8], **options: Any) -> Path:
    """All of a mask into a file, with the options of `create_mask`."""
    with create_mask(out, read_header(image), **options) as file:
        file.write(0, mask)
    return out


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A mask file as another program reads it."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return np.asarray(pixels, np.uint8)


def blobs(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A soft mask with empty and full parts."""
    smooth = cv2.resize(np.random.default_rng(seed).normal(size=(5, 6)), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(smooth.reshape(height, width) * 200 + 128, 0, 255), np.uint8)

"""Rasters on disk: every read and write of an image. The only package that imports rasterio.

`read_header` tells what a file is, `open_image` gives it to the engine window by window, `create_mask` takes the
result.
"""

from refine.raster.fingerprint import remote_fingerprint
from refine.raster.finish import finished_bytes
from refine.raster.gdal import DEFAULT_CACHE_BYTES, gdal_environment, open_dataset
from refine.raster.georeference import Georeference
from refine.raster.header import MAX_PIXELS, Header, default_output, read_header
from refine.raster.output import check_apart, check_output, is_whole_mask
from refine.raster.pixels import strip_rows
from refine.raster.reader import LEVEL_BYTES, RasterImage, check_layout, open_image, sweep_bytes
from refine.raster.stored import StoredRaster, open_stored
from refine.raster.writer import MaskFile, create_mask, foreground_from

__all__ = [
    "DEFAULT_CACHE_BYTES",
    "LEVEL_BYTES",
    "MAX_PIXELS",
    "Georeference",
    "Header",
    "MaskFile",
    "RasterImage",
    "StoredRaster",
    "check_apart",
    "check_layout",
    "check_output",
    "create_mask",
    "default_output",
    "finished_bytes",
    "foreground_from",
    "gdal_environment",
    "is_whole_mask",
    "open_dataset",
    "open_image",
    "open_stored",
    "read_header",
    "remote_fingerprint",
    "strip_rows",
    "sweep_bytes",
]

"""What ties a raster to the ground, kept by an explicit list: CRS, transform, GCPs and their CRS, RPCs, AREA_OR_POINT.

Never through `dataset.profile`: that carries neither GCPs nor RPCs, but a compression that a mask may not be able to
have.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import lru_cache

import rasterio
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader, MemoryFile
from rasterio.rpc import RPC

from refine.geometry import Window


@dataclass(frozen=True, slots=True)
class Georeference:
    """Where a raster lies. `crs` is that of the GCPs where there are any, else that of the transform."""

    crs: CRS | None = None
    transform: Affine | None = None  # None: not told; a raster with GCPs has none of its own
    gcps: tuple[GroundControlPoint, ...] = ()
    rpcs: RPC | None = None
    area_or_point: str | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing ties the raster to the ground."""
        return self.crs is None and self.transform is None and not self.gcps and self.rpcs is None

    def of_part(self, roi: Window) -> Georeference:
        """Where a part of the raster lies, given as a window of its pixels."""
        return replace(
            self,
            transform=None if self.transform is None else _moved_transform(self.transform, roi),
            gcps=tuple(_shifted(point, -roi.row, -roi.col) for point in self.gcps),
            rpcs=None if self.rpcs is None else _moved_rpcs(self.rpcs, roi),
        )

    def corners(self, height: int, width: int) -> tuple[tuple[float, float], ...] | None:
        """Easting and northing of three corners: top left, top right, bottom left; None where no transform tells."""
        if self.crs is None or self.transform is None:
            return None
        a, b, c, d, e, f = self.transform[:6]
        return tuple((a * x + b * y + c, d * x + e * y + f) for x, y in ((0, 0), (width, 0), (0, height)))

    def creation_options(self) -> dict[str, object]:
        """Keywords of `rasterio.open(..., "w")` that write it; the tag AREA_OR_POINT is to be set afterwards."""
        options: dict[str, object] = {}
        if self.crs is not None:
            options["crs"] = self.crs
        if self.gcps:
            shift = points_shift() if self.area_or_point == "Point" else 0.0
            options["gcps"] = [_shifted(point, -shift, -shift) for point in self.gcps]
            options.setdefault("crs", CRS())  # rasterio writes no GCPs without one; an empty one says nothing
        elif self.transform is not None:
            options["transform"] = self.transform
        if self.rpcs is not None:
            options["rpcs"] = self.rpcs
        return options


def read_georeference(dataset: DatasetReader) -> Georeference:
    """What the dataset says of its place, all of it or nothing."""
    gcps, gcps_crs = dataset.gcps
    transform = None if dataset.transform.is_identity else dataset.transform
    return Georeference(
        crs=gcps_crs if gcps else dataset.crs,
        transform=None if gcps else transform,
        gcps=tuple(gcps),
        rpcs=dataset.rpcs,
        area_or_point=dataset.tags().get("AREA_OR_POINT"),
    )


def _moved_transform(transform: Affine, roi: Window) -> Affine:
    # Written out: affine 3 deprecates the product that affine 2 has.
    a, b, c, d, e, f = transform[:6]
    return Affine(a, b, c + a * roi.col + b * roi.row, d, e, f + d * roi.col + e * roi.row)


def _shifted(point: GroundControlPoint, rows: float, cols: float) -> GroundControlPoint:
    return GroundControlPoint(
        row=point.row + rows, col=point.col + cols, x=point.x, y=point.y, z=point.z, id=point.id, info=point.info
    )


@lru_cache(maxsize=1)
def points_shift() -> float:
    """By how many pixels this GDAL moves the GCPs of a GeoTIFF that is written as AREA_OR_POINT=Point.

    Read back they should be where they were; GDAL 3.10 moves them by one, because a file that is not a copy gets half a
    pixel with the wrong sign. Tried on a file in memory, so that a GDAL without the fault is not corrected.
    """
    corners = [GroundControlPoint(row=row, col=col, x=col, y=-row) for row, col in ((0, 0), (0, 8), (8, 0), (8, 8))]
    with warnings.catch_warnings(), MemoryFile() as file:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with file.open(
            driver="GTiff", height=8, width=8, count=1, dtype="uint8", gcps=corners, crs="EPSG:4326"
        ) as dataset:
            dataset.update_tags(AREA_OR_POINT="Point")
        with rasterio.open(file.name) as dataset:
            return float(dataset.gcps[0][0].row)


def _moved_rpcs(rpcs: RPC, roi: Window) -> RPC:
    values = rpcs.to_dict()
    return RPC(**{**values, "line_off": values["line_off"] - roi.row, "samp_off": values["samp_off"] - roi.col})

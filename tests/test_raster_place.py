"""Where a mask lies, read back by rasterio and by GDAL's own arithmetic, and what else it says of its image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import GCPTransformer, xy
from rasters import NORTH_UP, blobs, picture, write_mask, write_tif, write_turned_jpeg

from refine.geometry import Window
from refine.raster import open_dataset

HUNDREDTH = 0.01
"""Of a pixel."""

SIZE = (60, 50)

transforms = st.builds(
    lambda pixel, aspect, turn, shear, east, north: (
        rasterio.Affine.translation(east, north)
        @ rasterio.Affine.rotation(turn)
        @ rasterio.Affine.shear(shear)
        @ rasterio.Affine.scale(pixel, -pixel * aspect)
    ),
    pixel=st.floats(1e-3, 1e3),
    aspect=st.floats(0.2, 5),
    turn=st.sampled_from([0.0, 0.0, 90.0, 180.0]) | st.floats(-180, 180),
    shear=st.sampled_from([0.0, 0.0]) | st.floats(-30, 30),
    east=st.floats(-5e6, 5e6),
    north=st.floats(-1e7, 1e7),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    transform=transforms,
    kind=st.sampled_from(["Area", "Point"]),
    cog=st.booleans(),
    part=st.sampled_from([None, Window(7, 11, 40, 30)]),
)
def test_every_pixel_lies_where_it_lay(
    tmp_path: Path, transform: rasterio.Affine, kind: str, cog: bool, part: Window | None
) -> None:
    image = write_tif(
        tmp_path / "a.tif", picture(*SIZE), transform=transform, crs="EPSG:25833", tags={"AREA_OR_POINT": kind}
    )
    window = part or Window(0, 0, *SIZE)
    mask = blobs(window.height, window.width)
    out = write_mask(tmp_path / "mask.tif", image, mask, roi=part, cog=cog, overwrite=True)
    rows, cols = np.mgrid[0 : window.height : 7, 0 : window.width : 7]
    with rasterio.open(image) as like, rasterio.open(out) as dataset:
        ground = xy(dataset.transform, rows.ravel(), cols.ravel())
        back = [~like.transform @ (x, y) for x, y in zip(*ground, strict=True)]
        assert (dataset.crs, dataset.tags()["AREA_OR_POINT"]) == (like.crs, kind)
    found = np.array(back) - 0.5  # `xy` gives centres
    expected = np.stack([cols.ravel() + window.col, rows.ravel() + window.row], axis=1)
    assert np.abs(found - expected).max() < HUNDREDTH


@pytest.mark.parametrize("crs", [CRS.from_epsg(25833), CRS()])  # scans are placed without one at times
@pytest.mark.parametrize("cog", [False, True])
@pytest.mark.parametrize("kind", ["Area", "Point"])
def test_gcps_put_every_pixel_where_they_put_it_in_the_image(tmp_path: Path, kind: str, cog: bool, crs: CRS) -> None:
    rng = np.random.default_rng(4)
    points = [
        GroundControlPoint(
            row=row, col=col, x=399_000 + col * 0.5 + rng.normal(), y=5_820_000 - row * 0.5 + row * col / 900
        )
        for row in (0, 20.5, 60)
        for col in (0, 17.25, 50)
    ]
    image = write_tif(tmp_path / "a.tif", picture(*SIZE), gcps=points, crs=crs, tags={"AREA_OR_POINT": kind})
    part = Window(7, 11, 40, 30)
    out = write_mask(tmp_path / "mask.tif", image, blobs(40, 30), roi=part, cog=cog)
    with rasterio.open(image) as like, rasterio.open(out) as mask:
        (before, crs_before), (after, crs_after) = like.gcps, mask.gcps
    assert crs_before == crs_after
    rows, cols = np.meshgrid(np.arange(0.0, 40, 3), np.arange(0.0, 30, 3))
    with GCPTransformer(before) as of_image, GCPTransformer(after) as of_mask:
        expected = of_image.xy(rows.ravel() + part.row, cols.ravel() + part.col)
        found = of_mask.xy(rows.ravel(), cols.ravel())
    assert np.abs(np.array(found) - expected).max() < HUNDREDTH * 0.5  # metres a pixel


def test_tags_and_units_are_kept_but_not_statistics_of_the_image(tmp_path: Path) -> None:
    tags = {
        "AREA_OR_POINT": "Point", "TIFFTAG_DATETIME": "2024:05:06 07:08:09", "TIFFTAG_XRESOLUTION": "300",
        "TIFFTAG_YRESOLUTION": "300", "TIFFTAG_RESOLUTIONUNIT": "2 (pixels/inch)", "TIFFTAG_COPYRIGHT": "the mappers",
        "FLIGHT": "17", "STATISTICS_MEAN": "71.3",
    }  # fmt: skip
    image = write_tif(tmp_path / "a.tif", picture(*SIZE), transform=NORTH_UP, crs="EPSG:32633+5773", tags=tags)
    for out in (
        write_mask(tmp_path / "mask.tif", image, blobs(*SIZE)),
        write_mask(tmp_path / "cog.tif", image, blobs(*SIZE), cog=True),
    ):
        with rasterio.open(image) as like, rasterio.open(out) as mask:
            kept = mask.tags()
            assert {name: kept.get(name) for name in tags} == {**tags, "STATISTICS_MEAN": None}
            assert mask.crs == like.crs  # metres of a height as well
            assert mask.crs.linear_units == "metre"
            assert mask.colorinterp == (ColorInterp.gray,)


@pytest.mark.parametrize(
    ("description", "is_kept"),
    [
        ("A valley in spring", True),
        ('<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME"/>', False),
        ("ImageJ=1.53t\nimages=3\nchannels=3\n", False),
        ('{"shape": [60, 50, 3]}', False),
    ],
)
def test_a_description_of_how_the_image_lies_in_its_file_is_not_said_of_the_mask(
    tmp_path: Path, description: str, is_kept: bool
) -> None:
    tags = {"TIFFTAG_IMAGEDESCRIPTION": description, "TIFFTAG_ARTIST": "the mappers"}
    image = write_tif(tmp_path / "a.tif", picture(*SIZE), tags=tags)
    with open_dataset(write_mask(tmp_path / "mask.tif", image, blobs(*SIZE))) as dataset:
        kept = dataset.tags()
    assert kept.get("TIFFTAG_IMAGEDESCRIPTION") == (description if is_kept else None)
    assert kept["TIFFTAG_ARTIST"] == "the mappers"


def test_a_tiff_of_a_photograph_does_not_say_how_the_picture_was_turned(tmp_path: Path) -> None:
    photograph = write_turned_jpeg(tmp_path / "photo.jpg", picture(*SIZE), 6)
    out = write_mask(tmp_path / "mask.tif", photograph, blobs(SIZE[1], SIZE[0]))
    with open_dataset(photograph) as dataset:
        assert dataset.tags()["EXIF_Orientation"] == "6"
    with open_dataset(out) as dataset:
        assert not [name for name in dataset.tags() if name.startswith("EXIF")]

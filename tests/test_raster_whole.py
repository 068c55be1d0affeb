"""No file stands under an output's name that is not whole, and nothing is replaced that may not be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasters import NORTH_UP, blobs, picture, read_mask, write_mask, write_tif

import refine
from refine.errors import InputError, RasterError
from refine.raster import MaskFile, create_mask, read_header


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_tif(tmp_path / "image.tif", picture(700, 600), transform=NORTH_UP, crs="EPSG:25833")


def test_what_may_not_be_replaced_is_refused(tmp_path: Path, image: Path) -> None:
    header = read_header(image)
    before = image.read_bytes()
    (tmp_path / "link.tif").symlink_to(tmp_path / "elsewhere.tif")
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "there.tif").write_bytes(b"a mask of last week")
    (tmp_path / "hard.tif").hardlink_to(image)
    cases = {
        "image.tif": "the image itself",
        "hard.tif": "the image itself",
        "link.tif": "symbolic link",
        "folder.tif": "is a folder",
        "mask.jpg": ".tif, .tiff or .png",
        "mask": ".tif, .tiff or .png",
        "none/mask.tif": "does not exist",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            create_mask(tmp_path / name, header, overwrite=True)
    with pytest.raises(InputError, match="--overwrite"):
        create_mask(tmp_path / "there.tif", header)
    assert image.read_bytes() == before
    assert (tmp_path / "there.tif").read_bytes() == b"a mask of last week"
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_an_output_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path, image: Path) -> None:
    out = tmp_path / "mask.tif"
    out.write_bytes(b"a mask of last week")
    with suppress(KeyboardInterrupt), create_mask(out, read_header(image), overwrite=True) as file:
        file.write(0, np.ones((600, 600), np.uint8))
        raise KeyboardInterrupt
    assert out.read_bytes() == b"a mask of last week"
    write_mask(out, image, blobs(700, 600), overwrite=True)
    np.testing.assert_array_equal(read_mask(out), blobs(700, 600))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.tif", "mask.tif"]


def test_overviews_and_mask_band_beside_an_earlier_mask_go_with_it(tmp_path: Path, image: Path) -> None:
    out = write_mask(tmp_path / "mask.tif", image, np.full((700, 600), 7, np.uint8))
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(out, "r+") as dataset:
        dataset.build_overviews([2])
    write_tif(tmp_path / "mask.tif.msk", np.zeros((700, 600), np.uint8), tags={"INTERNAL_MASK_FLAGS_1": "2"})
    with rasterio.open(out) as dataset:
        assert (dataset.overviews(1), dataset.read_masks(1).max()) == ([2], 0)
    with suppress(KeyboardInterrupt), create_mask(out, read_header(image), overwrite=True):
        raise KeyboardInterrupt
    assert (tmp_path / "mask.tif.ovr").exists()
    write_mask(out, image, blobs(700, 600), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.tif", "mask.tif"]


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path, image: Path) -> None:
    out = tmp_path / "mask.tif"
    file = create_mask(out, read_header(image))
    file.write(0, blobs(700, 600))
    out.write_bytes(b"of another run")
    with pytest.raises(InputError, match="exists already"):
        file.commit()
    assert out.read_bytes() == b"of another run"


def test_missing_rows_are_our_own_mistake_and_leave_nothing(tmp_path: Path, image: Path) -> None:
    file = create_mask(tmp_path / "mask.tif", read_header(image))
    file.write(0, np.ones((600, 600), np.uint8))
    with pytest.raises(ValueError, match="600 of 700 rows"):
        file.commit()
    assert list(tmp_path.iterdir()) == [image]


def test_rows_out_of_order_are_our_own_mistake(tmp_path: Path, image: Path) -> None:
    with (
        pytest.raises(ValueError, match="expected rows from 0"),
        create_mask(tmp_path / "mask.tif", read_header(image)) as file,
    ):
        file.write(10, np.ones((5, 600), np.uint8))
    assert list(tmp_path.iterdir()) == [image]


def test_what_does_not_read_back_is_not_given_its_name(tmp_path: Path, image: Path) -> None:
    file = create_mask(tmp_path / "mask.tif", read_header(image), compress="none")
    file.write(0, picture(700, 600)[:, :, 0])
    file._close()
    (hidden,) = tmp_path.glob(".mask.tif.*")
    data = bytearray(hidden.read_bytes())
    data[len(data) // 4] ^= 1
    hidden.write_bytes(data)
    with pytest.raises(RasterError, match="does not read back"):
        file.commit()
    assert list(tmp_path.iterdir()) == [image]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_folder_is_one_line(tmp_path: Path, image: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(RasterError, match="cannot be written"):
        create_mask(folder / "mask.tif", read_header(image))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write")
def test_a_folder_that_nobody_can_write_is_one_line(image: Path) -> None:
    with pytest.raises(RasterError, match=r"/proc/mask.tif: cannot be written") as caught:
        create_mask(Path("/proc/mask.tif"), read_header(image))
    assert "\n" not in str(caught.value)


# Killed and full


def start_of(out: Path, image: Path) -> MaskFile:
    """A mask of which one block row of noise is written; run in processes of their own."""
    file = create_mask(out, read_header(image))
    file.write(0, picture(600, 600)[:, :, 0])
    return file


def run_alone(body: str, folder: Path) -> subprocess.CompletedProcess[str]:
    places = [str(Path(__file__).parent), str(Path(refine.__file__).parent.parent)]
    program = (
        f"import sys\nsys.path[:0] = {places}\nfrom test_raster_whole import *\nfolder = Path({str(folder)!r})\n{body}"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_killed_writer_leaves_no_file_under_the_output_name(tmp_path: Path, image: Path) -> None:
    ended = run_alone(
        "file = start_of(folder / 'mask.tif', folder / 'image.tif')\nos.kill(os.getpid(), signal.SIGKILL)", tmp_path
    )
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "mask.tif").exists()
    assert all(path == image or path.name.startswith(".") for path in tmp_path.iterdir())
    write_mask(tmp_path / "mask.tif", image, blobs(700, 600))  # what it left does not stand in the way
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif"), blobs(700, 600))


@pytest.mark.parametrize("limit", [1, 100_000, 250_000])
@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, image: Path, limit: int, suffix: str) -> None:
    ended = run_alone(
        f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))  # a file cannot grow beyond, as on a full disk
try:
    with start_of(folder / 'mask.{suffix}', folder / 'image.tif') as file:
        file.write(600, picture(100, 600)[:, :, 0])
except RasterError as error:
    print(error)
""",
        tmp_path,
    )
    assert ended.stderr == ""
    assert ended.stdout.count("\n") == 1
    assert f"{tmp_path}/mask.{suffix}" in ended.stdout
    assert list(tmp_path.iterdir()) == [image]


@pytest.mark.parametrize("missing", [1, 13, 2000])
def test_a_png_of_which_the_disk_does_not_take_the_end_is_not_given_its_name(
    tmp_path: Path, image: Path, missing: int
) -> None:
    """GDAL says nothing of it, and reads it without an error."""
    whole = write_mask(tmp_path / "mask.png", image, picture(700, 600)[:, :, 0])
    limit = whole.stat().st_size - missing
    whole.unlink()
    ended = run_alone(
        f"""
import resource
file = create_mask(folder / 'mask.png', read_header(folder / 'image.tif'))
file.write(0, picture(700, 600)[:, :, 0])
file._close()
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    file.commit()
except RasterError as error:
    print(error)
""",
        tmp_path,
    )
    assert ended.stderr == ""
    assert ended.stdout.startswith(f"{tmp_path}/mask.png: ")
    assert list(tmp_path.iterdir()) == [image]

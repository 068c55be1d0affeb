"""What is not read: files of other kinds, damaged ones, bombs, VRTs that reach further; each in one line."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from rasters import NORTH_UP, chunk, cut, picture, shown, whole, write_picture, write_png, write_tif

from refine.errors import InputError, RasterError
from refine.geometry import Window
from refine.raster import open_image, open_stored, read_header


def refused(path: Path) -> str:
    """The one line that is said of a file."""
    with pytest.raises((InputError, RasterError)) as caught, open_image(path) as image:
        whole(image)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_what_is_no_image_is_said_in_one_line(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.tif")
    assert "folder" in refused(tmp_path)
    (tmp_path / "a.tif").write_text("hello, this is a text")
    assert "not an image" in refused(tmp_path / "a.tif")
    (tmp_path / "b.png").touch()
    assert "empty" in refused(tmp_path / "b.png")
    (tmp_path / "c.tif").write_bytes(b"II*\0" + b"\xff" * 100)
    assert "cannot be opened" in refused(tmp_path / "c.tif")


@pytest.mark.parametrize("name", ["a.png", "a16.png", "a.jpg", "a.webp", "a.bmp", "a.tif", "tiled.tif"])
def test_a_truncated_file_is_an_error_whatever_its_kind(tmp_path: Path, name: str) -> None:
    pixels = picture(300, 200)
    path = tmp_path / name
    if name.endswith("tif"):
        write_tif(path, pixels, compress="deflate", tiled=name.startswith("tiled"))
    else:
        write_picture(path, pixels if name != "a16.png" else pixels.astype(np.uint16) * 257)
    refused(cut(path))


@pytest.mark.parametrize(
    "layout",
    [{}, {"tiled": True, "blockxsize": 64, "blockysize": 64}, {"interleave": "band"}, {"interleave": "pixel"}],
)
def test_damaged_deflate_blocks_are_told_by_their_sums(tmp_path: Path, layout: dict[str, object]) -> None:
    """GDAL reads most of them as another picture."""
    path = write_tif(tmp_path / "a.tif", picture(300, 200), compress="deflate", **layout)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    assert shown(path).shape == (300, 200, 3)
    told = 0
    for _ in range(20):
        place, length = int(rng.integers(3000, len(data) - 3000)), int(rng.integers(1, 100))
        changed = bytes(byte ^ 0x5A for byte in data[place : place + length])
        path.write_bytes(data[:place] + changed + data[place + length :])
        told += "cannot be read at row" in refused(path)
    assert told == 20


def test_a_damaged_mask_is_told_by_its_sums(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", picture(300, 200)[:, :, 0], compress="deflate")
    data = path.read_bytes()
    place = len(data) // 2
    path.write_bytes(data[:place] + bytes(byte ^ 0x5A for byte in data[place : place + 50]) + data[place + 50 :])
    with pytest.raises(RasterError, match="a block is damaged"), open_stored(path) as raster:
        list(raster.strips())


def test_a_bmp_that_declares_more_rows_than_it_holds_is_refused_at_once(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.bmp", picture(70, 90))
    data = path.read_bytes()
    assert shown(path).shape == (70, 90, 3)
    path.write_bytes(data[:22] + (16_777_286).to_bytes(4, "little") + data[26:])
    with pytest.raises(RasterError, match=r"a\.bmp: the file is cut short"):
        read_header(path)


def test_damage_inside_is_told_with_its_place(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", picture(300, 200), compress="deflate")
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 28, 7):
        data[place] ^= 0x5A
    path.write_bytes(data)
    assert "cannot be read at row" in refused(path)


def test_a_bomb_is_refused_by_its_declared_size(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=200_000, width=300_000, count=1, dtype="uint8", tiled=True, blockxsize=4096,
        blockysize=4096, sparse_ok=True, compress="deflate", transform=rasterio.Affine(2, 0, 10, 0, -2, 20),
    ):  # fmt: skip
        pass
    assert read_header(path).width == 300_000
    with pytest.raises(InputError, match="300000 x 200000"):
        read_header(path, max_pixels=10**9)


def with_tag(path: Path, tag: int, kind: int, value: int) -> Path:
    """The little-endian TIFF with one more tag in its first directory, which moves to the end."""
    data = path.read_bytes()
    (start,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[start : start + 2])
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    entries = [entry for entry in entries if struct.unpack("<H", entry[:2]) != (tag,)]
    entries = sorted([*entries, struct.pack("<HHII", tag, kind, 1, value)], key=lambda entry: entry[1::-1])
    place = len(data) + len(data) % 2
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(data[:4] + struct.pack("<I", place) + data[8:].ljust(place - 8, b"\0") + directory)
    return path


@pytest.mark.parametrize("kind", [3, 4])
def test_the_preview_of_a_camera_raw_file_is_not_taken_for_the_photograph(tmp_path: Path, kind: int) -> None:
    path = with_tag(write_tif(tmp_path / "a.nef", picture(20, 30)), 254, kind, 1)
    assert shown(path).shape == (20, 30, 3)  # a smaller version of nothing, as some scanners say
    assert "is a camera's raw file" in refused(with_tag(path, 330, 4, 8))


def test_a_dng_that_was_developed_is_read(tmp_path: Path) -> None:
    path = with_tag(write_tif(tmp_path / "a.tif", picture(20, 30)), 50706, 1, 0x0401)
    assert shown(path).shape == (20, 30, 3)


def test_the_small_picture_of_a_canon_raw_file_is_not_taken_for_the_photograph(tmp_path: Path) -> None:
    path = with_tag(write_tif(tmp_path / "a.cr2", picture(20, 30)), 270, 2, 0)  # the directory is at the end
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"CR\2\0" + data[12:])
    assert "is a camera's raw file" in refused(path)


def test_tiffs_with_overviews_pages_and_masks_are_no_previews(tmp_path: Path) -> None:
    for name, options in (("a.tif", {}), ("b.tif", {"bigtiff": "yes"}), ("c.tif", {"endianness": "big"})):
        mask_band = np.eye(400, dtype=np.bool_)
        path = write_tif(tmp_path / name, picture(400, 400), overviews=[2, 4], mask_band=mask_band, **options)
        assert read_header(path).overviews == (2, 4)


VRT = """<VRTDataset rasterXSize="30" rasterYSize="20"><VRTRasterBand dataType="Byte" band="1"{band}>
<SimpleSource><SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""


def test_a_vrt_in_disguise_is_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "secret.png", picture(20, 30))
    disguised = tmp_path / "photo.png"
    disguised.write_text(VRT.format(band="", relative=1, source="secret.png"))
    assert "not an image" in refused(disguised)


def test_a_vrt_may_begin_with_a_comment_and_a_tile_may_be_damaged(tmp_path: Path) -> None:
    write_tif(tmp_path / "part.tif", picture(20, 30))
    (tmp_path / "part.tif").write_bytes((tmp_path / "part.tif").read_bytes()[:200])
    vrt = tmp_path / "mosaic.vrt"
    vrt.write_text("<!-- made by hand -->\n" + VRT.format(band="", relative=1, source="part.tif"))
    assert read_header(vrt).width == 30


def test_a_vrt_of_local_files_is_read(tmp_path: Path) -> None:
    pixels = picture(20, 30)
    write_picture(tmp_path / "part.png", pixels)
    vrt = tmp_path / "mosaic.vrt"
    vrt.write_text(VRT.format(band="", relative=1, source="part.png"))
    np.testing.assert_array_equal(shown(vrt), pixels[:, :, [0, 0, 0]])


@pytest.mark.parametrize(
    ("band", "relative", "source"),
    [
        ("", 0, "/vsicurl/http://localhost/a.tif"),
        ("", 0, "http://localhost/a.tif"),
        ("", 1, "missing.tif"),
        ("", 1, "inner.vrt"),
        (' subClass="VRTRawRasterBand"', 1, "part.png"),
        (' subClass="VRTDerivedRasterBand"', 1, "part.png"),
    ],
)
def test_a_vrt_that_reaches_further_is_refused(tmp_path: Path, band: str, relative: int, source: str) -> None:
    write_picture(tmp_path / "part.png", picture(20, 30))
    (tmp_path / "inner.vrt").write_text(VRT.format(band="", relative=1, source="part.png"))
    vrt = tmp_path / "mosaic.vrt"
    vrt.write_text(VRT.format(band=band, relative=relative, source=source))
    refused(vrt)


def mosaic_of(tmp_path: Path, change: tuple[str, str], source: str = "part.png") -> Path:
    """A VRT of one picture, in which a text is exchanged."""
    write_picture(tmp_path / "part.png", picture(20, 30))
    text = VRT.format(band="", relative=1, source=source)
    assert change[0] in text
    vrt = tmp_path / "mosaic.vrt"
    vrt.write_text(text.replace(*change))
    return vrt


@pytest.mark.parametrize(
    "change",
    [
        ("SourceFilename", "sourcefilename"),
        ("<SourceFilename", '<SourceFilename xmlns="a"'),
    ],
)
def test_a_source_is_looked_at_however_its_name_is_written(tmp_path: Path, change: tuple[str, str]) -> None:
    assert "is not a local file" in refused(mosaic_of(tmp_path, change, "/vsicurl/http://localhost/a.tif"))


@pytest.mark.parametrize(
    "change",
    [
        ('band="1"', 'band="1" subclass="VRTRawRasterBand"'),
        ('band="1"', 'band="1" SUBCLASS="vrtderivedrasterband"'),
        ('band="1">', 'band="1"><subClass>VRTDerivedRasterBand</subClass>'),
        ("<SourceBand>", "<pixelfunctiontype>mul</pixelfunctiontype><SourceBand>"),
        ("<SourceBand>", "<OpenOptions><OOI key='OPEN_REMOTE_GML'>YES</OOI></OpenOptions><SourceBand>"),
        ("<SimpleSource>", '<SimpleSource SourceFilename="secret.tif">'),
        ("</SimpleSource>", '<SOURCEFILENAME relativeToVRT="1">secret.tif</SOURCEFILENAME></SimpleSource>'),
        ("part.png", "part.png<a/>"),
        ("part.png", "part<!-- -->.png"),
        ('relativeToVRT="1"', 'relativeToVRT="01"'),
        ('relativeToVRT="1"', 'relativeToVRT="1" RelativeToVRT="0"'),
        ("part.png", "part.png\n"),
    ],
)
def test_a_vrt_that_gdal_may_understand_otherwise_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    refused(mosaic_of(tmp_path, change))


@pytest.mark.parametrize("start", [b"BM", b"\xff\x4f\xff\x51", b"\x89PNG\r\n\x1a\n"])
def test_a_source_that_is_a_vrt_behind_its_first_bytes_is_refused(tmp_path: Path, start: bytes) -> None:
    """GDAL opens it as one."""
    vrt = mosaic_of(tmp_path, ("part.png", "inner.bin"))
    (tmp_path / "inner.bin").write_bytes(start + VRT.format(band="", relative=1, source="part.png").encode())
    with pytest.raises(InputError, match=r"inner\.bin: not an image: a VRT hides"):
        read_header(vrt)


# What lies beside a file


INNER = VRT.format(band="", relative=1, source="secret.png").replace(
    "<VRTRasterBand", '<Metadata><MDI key="INTERNAL_MASK_FLAGS_1">2</MDI></Metadata><VRTRasterBand'
)
ELSEWHERE = "<PAMDataset><Metadata domain='overviews'><MDI key='Overview_File'>{}</MDI></Metadata></PAMDataset>"


@pytest.mark.parametrize("side", ["a.tif.msk", "a.tif.ovr", "A.TIF.Ovr", "a.tif.ovr.msk", "a.aux", "a.tif.Aux"])
@pytest.mark.parametrize("is_source", [False, True])
def test_a_vrt_beside_a_file_is_refused(tmp_path: Path, side: str, is_source: bool) -> None:
    """GDAL would open it with the file."""
    path = write_tif(tmp_path / "a.tif", picture(20, 30))
    write_picture(tmp_path / "secret.png", picture(20, 30))
    write_tif(tmp_path / "a.tif.ovr", picture(10, 15))
    assert shown(path).shape == (20, 30, 3)
    (tmp_path / side).write_text(("EHFA_HEADER_TAG " if side.lower().endswith("aux") else "") + INNER)
    if is_source:
        path = mosaic_of(tmp_path, ("part.png", "a.tif"))
    with pytest.raises(InputError, match=rf"{side} beside it is no (TIFF|Erdas Imagine file)"):
        read_header(path)


def test_what_lies_beside_overviews_in_a_aux_is_looked_at_and_files_of_others_are_not(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", picture(20, 30), transform=NORTH_UP)
    (tmp_path / "a.aux").write_text("\\relax, says LaTeX")
    assert shown(path).shape == (20, 30, 3)
    with rasterio.open(
        tmp_path / "a.aux", "w", driver="HFA", height=20, width=30, count=1, dtype="uint8", transform=NORTH_UP
    ) as dataset:
        dataset.write(picture(20, 30)[:, :, 0], 1)
    assert shown(path).shape == (20, 30, 3)
    (tmp_path / "a.aux.ovr").write_text(INNER)
    with pytest.raises(InputError, match=r"a\.aux\.ovr beside it is no TIFF"):
        read_header(path)


def test_a_vrt_beside_a_file_is_found_in_a_large_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refine.raster.side_files._LISTED", 1)
    path = write_tif(tmp_path / "a.tif", picture(20, 30))
    (tmp_path / "a.tif.MSK").write_text(INNER)
    assert "no TIFF" in refused(path)


@pytest.mark.parametrize("beside", ["a.tif.aux.xml", "a.tif.ovr.aux.xml"])
@pytest.mark.parametrize("name", ["/vsicurl/http://localhost/a.tif", ":::BASE:::inner.vrt", "inner.vrt"])
def test_overviews_that_metadata_put_elsewhere_are_refused(tmp_path: Path, beside: str, name: str) -> None:
    path = write_tif(tmp_path / "a.tif", picture(20, 30))
    write_tif(tmp_path / "a.tif.ovr", picture(10, 15))
    (tmp_path / "inner.vrt").write_text(INNER)
    (tmp_path / beside).write_text(ELSEWHERE.format(name))
    with pytest.raises(InputError, match=rf"{beside}\) say that its overviews are '{name}'"):
        read_header(path)


def test_overviews_that_a_tiff_itself_puts_elsewhere_are_refused(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", picture(20, 30), transform=NORTH_UP)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE="inner.vrt")
    assert "say that its overviews are 'inner.vrt'" in refused(path)


def test_overviews_and_mask_band_beside_a_file_are_read(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", picture(200, 300), transform=NORTH_UP)
    with rasterio.Env(TIFF_USE_OVR=True, GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.arange(300) < np.full((200, 1), 100))
        dataset.build_overviews([2])
    (tmp_path / "a.tif.aux.xml").write_text(ELSEWHERE.format(":::BASE:::a.tif.ovr"))
    header = read_header(path)
    assert (header.overviews, header.has_invalid) == ((2,), True)
    assert {"a.tif.ovr", "a.tif.msk"} <= {file.name for file in header.files}


def test_warnings_of_a_reading_thread_do_not_reach_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_picture(tmp_path / "a.jpg", picture(300, 200), cv2.IMWRITE_JPEG_RST_INTERVAL, 4)
    data = path.read_bytes()
    place = data.index(b"\xff\xd3")  # "extraneous bytes before marker", says libjpeg
    path.write_bytes(data[:place] + b"xyz" + data[place:])
    with open_image(path) as image, ThreadPoolExecutor(1) as pool:
        pool.submit(image.read, Window(0, 0, 300, 200)).result()
    assert capfd.readouterr() == ("", "")


def test_a_progressive_jpeg_is_counted_with_its_coefficients(tmp_path: Path) -> None:
    plain = write_picture(tmp_path / "a.jpg", picture(300, 200))
    progressive = write_picture(tmp_path / "b.jpg", picture(300, 200), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert read_header(plain).decoder_bytes == 0
    assert read_header(progressive).decoder_bytes == 300 * 200 * 7


def test_a_mosaic_is_counted_with_the_decoders_of_its_sources(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write_picture(tmp_path / name, picture(300, 200), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    write_picture(tmp_path / "c.webp", picture(40, 30))
    source = '<SourceFilename relativeToVRT="1">{}</SourceFilename><SourceBand>1</SourceBand>'
    names = ("a.jpg", "b.jpg", "c.webp")
    sources = "".join(f"<SimpleSource>{source.format(name)}</SimpleSource>" for name in names)
    mosaic = tmp_path / "mosaic.vrt"
    mosaic.write_text(
        f'<VRTDataset rasterXSize="200" rasterYSize="300"><VRTRasterBand dataType="Byte" band="1">{sources}'
        "</VRTRasterBand></VRTDataset>"
    )
    assert read_header(mosaic).decoder_bytes == 2 * 300 * 200 * 7 + 40 * 30 * 3


def test_an_interlaced_png_is_counted_with_the_rows_of_a_pass(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", picture(30, 20), 2)
    assert read_header(path).decoder_bytes == 0
    data = path.read_bytes()
    body = data[16:28] + b"\1"
    path.write_bytes(data[:8] + chunk(b"IHDR", body) + data[33:])
    assert read_header(path).decoder_bytes == 30 * 20 * 3


def test_nothing_of_gdal_reaches_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused(cut(write_tif(tmp_path / "a.tif", picture(300, 200), compress="deflate")))
    refused(cut(write_picture(tmp_path / "a.jpg", picture(300, 200))))
    assert capfd.readouterr() == ("", "")

"""What the container of an image says that GDAL does not: EXIF orientation, progressive coding, a PNG cut short, a
camera's raw file.

GDAL gives EXIF tags of JPEG only, and an 8-bit PNG that ends too early reads as noise without an error (GDAL 3.10).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_ORIENTATION_TAG = 274
_SUBFILE_TYPE_TAG = 254  # its lowest bit: a smaller version of another picture of the file
_PHOTOMETRIC_TAG = 262
_SUB_DIRECTORIES_TAG = 330  # of pictures that the first one is a smaller version of
_SENSOR = {32803, 34892}  # photometric: a colour filter array, and a raw picture whose colours were told apart
_CR2 = b"CR\2\0"  # after the header, where others may have anything
_SHORT, _LONG = 3, 4
_PNG_INTERLACE = 28  # place of the byte that is 1 where pixels come in seven passes
_MOST_TAGS = 4096  # of the first directory; real ones have some dozens


@dataclass(frozen=True, slots=True)
class Container:
    """Facts of one file."""

    orientation: int = 1  # EXIF, 1..8; 1 is upright
    is_progressive: bool = False  # a JPEG whose decoder holds all coefficients
    is_interlaced: bool = False  # a PNG of which many rows are decoded at once
    is_camera_raw: bool = False  # a TIFF whose first picture is a preview of the sensor's, or the sensor's
    is_cut: bool = False  # a PNG that ends before its end mark, a BMP with fewer rows than it declares


def read_container(path: Path, driver: str) -> Container:
    """Facts of the file that `driver` reads; what is missing or malformed counts as absent."""
    # Unbuffered: of a PNG a few bytes are read every 8 kB, and a buffer would read all of it.
    with path.open("rb", buffering=0) as file:
        try:
            match driver:
                case "JPEG":
                    return _read_jpeg(file)
                case "PNG":
                    return _read_png(file)
                case "WEBP":
                    return _read_webp(file)
                case "BMP":
                    return Container(is_cut=_is_short_bmp(file))
                case "GTiff":
                    return _read_tiff(file)
        except struct.error:  # a field beyond the end of the file
            pass
    return Container()


def _read_jpeg(file: BinaryIO) -> Container:
    orientation, is_progressive = 1, False
    for marker, start, _ in _jpeg_segments(file):
        if marker == 0xE1 and file.read(6) == b"Exif\0\0":
            orientation = _tiff_orientation(file, start + 6)
        if marker in (0xC2, 0xC6, 0xCA, 0xCE):
            is_progressive = True
    return Container(orientation, is_progressive)


def _jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Marker, first byte and length of each segment before the pixels; the file stands at the first byte."""
    position = 2
    while True:
        file.seek(position)
        lead, marker, length = struct.unpack(">BBH", file.read(4))
        if lead != 0xFF or marker == 0xDA:  # start of scan
            return
        if marker == 0xFF:  # a filling byte
            position += 1
            continue
        yield marker, position + 4, length - 2
        position += 2 + length


def _read_png(file: BinaryIO) -> Container:
    size = file.seek(0, 2)
    file.seek(_PNG_INTERLACE)
    is_interlaced = file.read(1) == b"\1"
    orientation, position = 1, 8
    while position + 12 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"eXIf":
            orientation = _tiff_orientation(file, position + 8)
        position += 12 + length
        if kind == b"IEND":
            return Container(orientation, is_interlaced=is_interlaced, is_cut=position > size)
    return Container(orientation, is_cut=True)


def _is_short_bmp(file: BinaryIO) -> bool:
    """Whether uncompressed rows go beyond the end of the file: 20 kB may declare 16 million of them."""
    size = file.seek(0, 2)
    file.seek(10)
    offset, header_size, width, height, _, bits, compression = struct.unpack("<IIiiHHI", file.read(24))
    row_bytes = (abs(width) * bits + 31) // 32 * 4
    return bool(header_size >= 40 and compression == 0 and offset + row_bytes * abs(height) > size)


def _read_webp(file: BinaryIO) -> Container:
    size = file.seek(0, 2)
    position = 12
    while position + 8 <= size:
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind == b"EXIF":
            start = position + 8
            return Container(_tiff_orientation(file, start + 6 if file.read(6) == b"Exif\0\0" else start))
        position += 8 + length + length % 2
    return Container()


def _read_tiff(file: BinaryIO) -> Container:
    file.seek(8)
    is_raw = file.read(4) == _CR2
    is_smaller = has_others = False
    orientation = 1
    for tag, kind, value, order in _tiff_tags(file, 0):
        if tag == _ORIENTATION_TAG:
            orientation = _orientation(kind, value, order)
        elif tag in (_SUBFILE_TYPE_TAG, _PHOTOMETRIC_TAG) and kind in (_SHORT, _LONG):
            (number,) = struct.unpack(order + ("H" if kind == _SHORT else "I"), value[: 2 if kind == _SHORT else 4])
            is_smaller |= tag == _SUBFILE_TYPE_TAG and bool(number & 1)
            is_raw |= tag == _PHOTOMETRIC_TAG and number in _SENSOR
        has_others |= tag == _SUB_DIRECTORIES_TAG
    return Container(orientation, is_camera_raw=is_raw or (is_smaller and has_others))


def _tiff_orientation(file: BinaryIO, base: int) -> int:
    """Tag 274 of the first directory of the TIFF that begins at `base`, which EXIF data is as well; 1 if not told."""
    for tag, kind, value, order in _tiff_tags(file, base):
        if tag == _ORIENTATION_TAG:
            return _orientation(kind, value, order)
    return 1


def _orientation(kind: int, value: bytes, order: str) -> int:
    (orientation,) = struct.unpack(order + "H", value[:2])
    return int(orientation) if kind == _SHORT and 1 <= orientation <= 8 else 1


def _tiff_tags(file: BinaryIO, base: int) -> Iterator[tuple[int, int, bytes, str]]:
    """Of the first directory: tag, type, the bytes of its value or of where that lies, and struct's byte order."""
    file.seek(base)
    start = file.read(4)
    order = "<" if start[:2] == b"II" else ">"
    (version,) = struct.unpack(order + "H", start[2:4])
    is_big = version == 43
    if is_big:
        _, directory = struct.unpack(order + "IQ", file.read(12))
    else:
        (directory,) = struct.unpack(order + "I", file.read(4))
    file.seek(base + directory)
    count_format, entry_format = ("Q", "HHQ8s") if is_big else ("H", "HHI4s")
    (count,) = struct.unpack(order + count_format, file.read(struct.calcsize("=" + count_format)))
    for _ in range(min(count, _MOST_TAGS)):
        tag, kind, _, value = struct.unpack(order + entry_format, file.read(struct.calcsize("=" + entry_format)))
        yield tag, kind, value, order

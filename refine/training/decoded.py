"""Pictures that are whole: OpenCV fills what a file lacks at its end with grey, which would be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_PNG, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"
_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8\xff", 0xDA, b"\xff\xd9"
_ALONE = (0x01, *range(0xD0, 0xD9))  # marks of a JPEG that no length follows


def decoded(content: bytes, flags: int) -> NDArray[Any] | None:
    """The picture as `cv2.imdecode` gives it with these flags; None if it does not decode, or is cut short."""
    # OpenCV raises for an empty file.
    return None if not content or _is_cut(content) else cv2.imdecode(np.frombuffer(content, np.uint8), flags)


def read_picture(path: Path, flags: int) -> NDArray[Any] | None:
    """As `decoded`, of a file; None as well if it cannot be read."""
    try:
        return decoded(path.read_bytes(), flags)
    except OSError:
        return None


def _is_cut(content: bytes) -> bool:
    if content.startswith(_JPEG):
        return content.find(_JPEG_END, _first_scan(content)) < 0
    return content.startswith(_PNG) and _PNG_END not in content


def _first_scan(content: bytes) -> int:
    """Where a JPEG's pixels begin, past any smaller picture it carries; its length if it does not come that far.

    After that place the end mark does not occur inside the picture, whatever comes after it.
    """
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        mark = content[place + 1]
        if mark == _JPEG_SCAN:
            return place
        if mark == 0xFF:  # filling
            place += 1
        elif mark in _ALONE:
            place += 2
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return len(content)

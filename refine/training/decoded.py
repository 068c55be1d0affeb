"""Pictures that are whole: OpenCV fills what a file lacks at its end with grey, which would be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_PNG, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"
_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"


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
    """Neither mark of a JPEG occurs inside a scan; a small picture that it carries has both, before or after."""
    if content.startswith(_JPEG):
        return content.rfind(_JPEG_END) < content.rfind(_JPEG_SCAN)
    return content.startswith(_PNG) and _PNG_END not in content

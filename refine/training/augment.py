"""Changes to a training image: those that the mask follows, and those that it does not notice."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from refine.training.config import Augment
from refine.training.distort import recolour

RGB = NDArray[np.uint8]
Number = TypeVar("Number", bound=np.generic)


def flip_and_turn(plane: NDArray[Number], orientation: int) -> NDArray[Number]:
    """One of the eight symmetries of the square: `orientation` % 4 quarter turns, mirrored from 4 on."""
    turned: NDArray[Number] = np.rot90(plane, orientation % 4)
    return np.ascontiguousarray(turned[:, ::-1] if orientation >= 4 else turned)


def turn(
    image: RGB, truth: NDArray[np.float32], most_degrees: float, rng: Generator
) -> tuple[RGB, NDArray[np.float32]]:
    """Image and truth turned about their middle by up to `most_degrees`, mirrored at the border."""
    if most_degrees == 0:
        return image, truth
    height, width = truth.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.uniform(-most_degrees, most_degrees)), 1.0)
    way, border = cv2.INTER_LINEAR, cv2.BORDER_REFLECT
    turned = cv2.warpAffine(image, matrix, (width, height), flags=way, borderMode=border)
    moved = cv2.warpAffine(truth, matrix, (width, height), flags=way, borderMode=border)
    return turned.astype(np.uint8), moved.astype(np.float32)


def soften_as_enlarged(image: RGB, scale: float, rng: Generator) -> RGB:
    """Blur and fresh grain for an enlarged window: the soft edges of a 4K photograph, which small ones lack."""
    sigma = rng.uniform(0, 0.4 * scale)
    if sigma > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), sigma).astype(np.uint8)
    grain = rng.normal(0, rng.uniform(0, 4), image.shape[:2]).astype(np.float32)
    grained: NDArray[np.float32] = image + grain[:, :, None]
    return np.clip(grained, 0, 255).astype(np.uint8)


def photometric(image: RGB, config: Augment, rng: Generator) -> RGB:
    """Colour jitter, sometimes grey, sometimes compressed again."""
    image = jitter(image, config.jitter, rng)
    if rng.random() < config.grey:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.uint8)
    if rng.random() < config.jpeg:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, packed = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))])
        unpacked = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        assert unpacked is not None  # it was packed on the line above
        image = cv2.cvtColor(unpacked, cv2.COLOR_BGR2RGB).astype(np.uint8)
    return recolour(image, config, rng)


def jitter(image: RGB, amounts: tuple[float, float, float, float], rng: Generator) -> RGB:
    """Brightness, contrast, saturation (factors 1 +- amount) and hue (turns of +- amount), named as in torchvision."""
    brightness, contrast, saturation = (1 + rng.uniform(-a, a) for a in amounts[:3])
    hue = rng.uniform(-amounts[3], amounts[3])
    pixels: NDArray[np.float32] = image.astype(np.float32) * np.float32(brightness)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    pixels = (pixels - grey.mean()) * np.float32(contrast) + grey.mean()
    pixels = grey[:, :, None] + (pixels - grey[:, :, None]) * np.float32(saturation)
    if abs(hue) > 1e-3:
        pixels = pixels @ _hue_rotation(2 * np.pi * hue)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def _hue_rotation(angle: float) -> NDArray[np.float32]:
    """Rotation of RGB about the grey axis: a hue shift without a trip through HSV and its rounding."""
    cos, sin = np.cos(angle), np.sin(angle) / np.sqrt(3)
    third = (1 - cos) / 3
    return np.array(
        [
            [cos + third, third + sin, third - sin],
            [third - sin, cos + third, third + sin],
            [third + sin, third - sin, cos + third],
        ],
        dtype=np.float32,
    )

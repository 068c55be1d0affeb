"""`refine export`: a refining network for ONNX Runtime, written if it says what torch says on windows of an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np

from refine.backends.onnx_backend import OnnxRefiner, open_session
from refine.backends.onnx_export import export_refiner, reference
from refine.backends.onnx_file import exported_path
from refine.errors import CheckpointError, InputError, RasterError
from refine.geometry import RGB, Mask, Window, mirror
from refine.inputs import check_new_file
from refine.raster import open_image, read_header
from refine.read import read_window
from refine.whole_file import write_whole

TOLERANCE = 1e-3
"""How far a correction may lie from torch's, a quarter of a step of an 8-bit mask; measured is 1e-6."""

LEAST_CORRECTION = 1e-4
"""Corrections as small on average as these, of an empty sky, compare nothing; those of a photograph are 0.01."""

WINDOWS = 16
REACHES = (1.0, 4.0, 16.0)


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the exported network's corrections lie from torch's."""

    windows: int
    largest: float
    mean: float
    mean_correction: float  # what the corrections themselves are, without sign

    def __str__(self) -> str:
        return (
            f"on {self.windows} windows corrections of {self.mean_correction:.2g} on average lie"
            f" {self.mean:.1e} from torch's, {self.largest:.1e} at most"
        )


def export_network(checkpoint: Path, image: Path, *, out: Path | None, tile: int, overwrite: bool) -> int:
    """Export the network of `checkpoint` for windows of `tile` px, and say how near it is to torch; the exit code.

    Raises RefineError, and then nothing is written.
    """
    out = exported_path(checkpoint) if out is None else out
    if out.suffix != ".onnx":
        raise InputError(f"--out {out}: end it in .onnx")
    check_new_file("--out", out, overwrite=overwrite)
    read_header(image)  # what is no image is said at once, not after the export
    content, about = export_refiner(checkpoint, tile)
    refiner = OnnxRefiner(open_session(content, out), about)
    parity = measure_parity(refiner, checkpoint, image, tile)
    if not parity.largest <= TOLERANCE:  # NaN is no parity either
        raise CheckpointError(f"{checkpoint}: not exported: {parity}; at most {TOLERANCE:g} is allowed")
    if not parity.mean_correction >= LEAST_CORRECTION:
        raise InputError(
            f"{checkpoint} corrects nothing on --image {image}, so nothing was compared; give a photograph, and"
            " a network that was trained"
        )
    try:
        write_whole(out, content)
    except OSError as error:
        raise RasterError(f"{out}: cannot be written: {error.strerror or error}") from error
    click.echo(f"{out}: {len(content) / 2**20:.1f} MiB, windows of {tile} px; {parity}")
    return 0


def measure_parity(refiner: OnnxRefiner, checkpoint: Path, image: Path, tile: int) -> Parity:
    """Corrections of the exported network beside those of torch, on seeded windows of an image."""
    torch_refiner = reference(checkpoint)
    largest, differences, corrections = 0.0, [], []
    windows = list(_windows(image, tile))
    if not windows:  # all of them are nodata
        return Parity(0, 0.0, 0.0, 0.0)
    for index, (pixels, coarse) in enumerate(windows):
        reach = REACHES[index % len(REACHES)]
        expected = torch_refiner(pixels[None], coarse[None], reach)
        difference = np.abs(refiner(pixels[None], coarse[None], reach) - expected)
        largest = max(largest, float(difference.max())) if np.isfinite(difference).all() else float("nan")
        differences.append(float(difference.mean()))
        corrections.append(float(np.abs(expected).mean()))
    return Parity(len(windows), largest, float(np.mean(differences)), float(np.mean(corrections)))


def _windows(image: Path, tile: int) -> Iterator[tuple[RGB, Mask]]:
    """Windows at seeded places, each with its brighter half, blurred, as the coarse mask."""
    rng = np.random.default_rng(0)
    with open_image(image) as source:
        for index in range(WINDOWS):
            row, col = (int(rng.integers(max(1, length - tile + 1))) for length in (source.height, source.width))
            read = read_window(source, Window(row, col, tile, tile), 1)
            if read is None:
                continue
            pixels = np.ascontiguousarray(mirror(read, tile, tile))
            grey = cv2.GaussianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (0, 0), 8)
            bright = (grey > np.median(grey)).astype(np.float32)
            yield pixels, np.asarray(cv2.GaussianBlur(bright, (0, 0), 1 + index % 5), np.float32)

"""Small valid files of every kind that refine opens, and ways to damage them, drawn from a number."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray

Damage = Callable[[random.Random, bytes], bytes]


def whole_files(folder: Path) -> dict[str, bytes]:
    """A small valid file of every kind, by name; the first part of the name says what it is."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    rgb = np.asarray(cv2.resize(small, (90, 70), interpolation=cv2.INTER_CUBIC), np.uint8)
    rough = np.asarray(rgb[::4, ::4, 0] > 128, np.uint8) * 255
    found: dict[str, bytes] = {}
    pictures: tuple[tuple[str, list[int]], ...] = (
        (".png", []),
        (".jpg", []),
        (".webp", []),
        (".bmp", []),
        (".jpg", _PROGRESSIVE),
    )
    for suffix, options in pictures:
        kind = "progressive" if options else "plain"
        found[f"image-{kind}{suffix}"] = cv2.imencode(suffix, rgb, options)[1].tobytes()
    for name, layout in _TIFFS.items():
        found[f"image-{name}.tif"] = _tiff(folder / "made.tif", rgb, dict(layout))
    (folder / "made.tif").unlink()
    found["image-mosaic.vrt"] = _VRT.encode()
    found["mask-grey.png"] = cv2.imencode(".png", rough)[1].tobytes()
    found["mask-alpha.png"] = cv2.imencode(".png", np.dstack([rough] * 4))[1].tobytes()
    for name, array in (("bytes", rough), ("floats", np.asfortranarray(rough / np.float32(255)))):
        stream = io.BytesIO()
        np.save(stream, array)
        found[f"mask-{name}.npy"] = stream.getvalue()
    return found | _checkpoints(folder) | _configs()


_PROGRESSIVE = [int(cv2.IMWRITE_JPEG_PROGRESSIVE), 1]
_TIFFS: dict[str, dict[str, object]] = {
    "deflate": {"compress": "deflate", "predictor": 2},
    "tiled": {"compress": "lzw", "tiled": True, "blockxsize": 32, "blockysize": 32, "interleave": "pixel"},
    "jpeg": {"compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel"},
    "floats": {"dtype": "float32", "nodata": -1},
    "four": {"dtype": "uint16", "count": 4, "compress": "zstd", "bigtiff": "yes"},
    "overviews": {"compress": "deflate", "overviews": [2, 4]},
}
_VRT = """<VRTDataset rasterXSize="90" rasterYSize="70"><GeoTransform>0, 1, 0, 0, 0, -1</GeoTransform>
<VRTRasterBand dataType="Byte" band="1"><NoDataValue>0</NoDataValue><SimpleSource>
<SourceFilename relativeToVRT="1">part.png</SourceFilename><SourceBand>1</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="90" ySize="70"/><DstRect xOff="0" yOff="0" xSize="90" ySize="70"/>
</SimpleSource></VRTRasterBand></VRTDataset>"""


def _tiff(path: Path, rgb: NDArray[np.uint8], options: dict[str, object]) -> bytes:
    overviews = options.pop("overviews", None)
    layout: dict[str, object] = {"driver": "GTiff", "height": 70, "width": 90, "count": 3, "dtype": "uint8"}
    layout |= {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 399_000, 0, -0.5, 5_820_000)}
    layout |= options
    bands = rgb[:, :, [0, 1, 2, 0][: int(str(layout["count"]))]].transpose(2, 0, 1).astype(str(layout["dtype"]))
    with rasterio.open(path, "w", **layout) as dataset:
        dataset.write(bands)
        if overviews:
            dataset.build_overviews(overviews, rasterio.enums.Resampling.average)
    return path.read_bytes()


def _checkpoints(folder: Path) -> dict[str, bytes]:
    """The shipped network, and the state dict of a small one as torch saves it."""
    import torch

    from refine.shipped import default_checkpoint

    torch.save({"layer.weight": torch.ones(3, 4), "layer.bias": torch.zeros(3)}, folder / "made.pth")
    pickled = (folder / "made.pth").read_bytes()
    (folder / "made.pth").unlink()
    shipped = default_checkpoint("mos_h_lite").read_bytes()
    return {"checkpoint-shipped.safetensors": shipped, "weights-small.pth": pickled}


def _configs() -> dict[str, bytes]:
    root = Path(__file__).parent.parent / "configs"
    return {f"config-{path.name}": path.read_bytes() for path in sorted(root.glob("MOS_*.json"))}


def flipped(rng: random.Random, data: bytes) -> bytes:
    """Some bits turned, more of them near the start, where the headers are."""
    changed = bytearray(data)
    reach = len(data) if rng.random() < 0.5 else min(len(data), 256)
    for _ in range(rng.choice((1, 2, 8, 64))):
        changed[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def extreme(rng: random.Random, data: bytes) -> bytes:
    """A field near the start, or anywhere, with a number that is likely to be too much."""
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice((0, 1, (1 << (8 * width)) - 1, 1 << (8 * width - 1), (1 << (8 * width - 1)) - 1))
    place = rng.randrange(min(len(data), 400) if rng.random() < 0.7 else len(data))
    return data[:place] + number.to_bytes(width, rng.choice(("little", "big"))) + data[place + width :]


def blank(rng: random.Random, data: bytes) -> bytes:
    first = rng.randrange(len(data))
    length = rng.randint(1, len(data) - first)
    return data[:first] + bytes([rng.choice((0, 255))]) * length + data[first + length :]


def doubled(rng: random.Random, data: bytes) -> bytes:
    first = rng.randrange(len(data))
    piece = data[first : first + rng.randint(1, 200)]
    return data[:first] + piece * rng.randint(2, 5) + data[first + len(piece) :]


def retold(rng: random.Random, data: bytes) -> bytes:
    """A text with one of its words or numbers replaced, as in JSON and XML."""
    text = data.decode(errors="surrogateescape")
    words = [word for word in _words(text) if len(word) < 60]
    if not words:
        return flipped(rng, data)
    new = rng.choice(("", "-1", "0", "1e999", "99999999999999999999", "null", "[]", "{}", "true", '"x"', "NaN", "../x"))
    return text.replace(rng.choice(words), new, 1).encode(errors="surrogateescape")


def _words(text: str) -> list[str]:
    return [word for word in text[:20_000].replace("<", " ").replace(">", " ").replace(",", " ").split() if word]


DAMAGES: tuple[Damage, ...] = (flipped, flipped, cut, extreme, extreme, blank, doubled)


def damaged(number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """Input `number`: the name of the file that it was, and its bytes."""
    rng = random.Random(number)
    name = rng.choice(sorted(files))
    data = files[name]
    ways: tuple[Damage, ...] = (*DAMAGES, retold, retold, retold) if name.endswith((".json", ".vrt")) else DAMAGES
    if name.endswith(".safetensors") and rng.random() < 0.7:  # nearly all of it is numbers, any of which is as good
        head = 8 + int.from_bytes(data[:8], "little")
        return name, rng.choice((*DAMAGES, retold))(rng, data[:head]) + data[head:]
    for _ in range(rng.choice((1, 1, 2))):
        data = rng.choice(ways)(rng, data) if data else data
    return name, data

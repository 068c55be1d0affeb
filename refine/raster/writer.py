"""The mask on its way to disk: rows in, one whole file out, or nothing.

Rows are collected to whole block rows and written once, to a tiled GeoTIFF under a hidden name beside the output. It is
then closed, opened again, compared with what was written, flushed to the disk and renamed; a PNG or a COG is a copy
made from it. So whatever kills the process, no file stands under the output's name that is not whole: a GeoTIFF whose
writer was killed opens without an error and is empty.

Pixels where the image is nodata are 0, and masked by a mask band inside the file, if there are any: all values 0..255
are mask values, so none is free to be a nodata value. A PNG has no mask band; there they are 0.
"""

from __future__ import annotations

import os
import secrets
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.io import DatasetWriter
from rasterio.windows import Window as RasterWindow

from refine.errors import InputError, RasterError
from refine.geometry import BoolArray, Mask, Window
from refine.raster.finish import (
    BLOCK,
    Compression,
    Format,
    Written,
    add_overviews,
    check,
    copy_as_cog,
    copy_as_png,
)
from refine.raster.gdal import translated, without_georeference_warning
from refine.raster.georeference import Georeference
from refine.raster.header import Header
from refine.raster.output import check_output
from refine.raster.reader import RasterImage
from refine.whole_file import publish

SPARSE_PIXELS = 1 << 28
"""Masks above this leave empty blocks out. GDAL reads those as 0, but OpenCV and Pillow refuse such a file, so below,
where these may be used, an empty block is written, for 0.3 kB.
"""

_OVERVIEWS_BESIDE = (".ovr", ".msk", ".ovr.msk", ".msk.ovr")
"""Overviews and mask band of a file, and theirs, as `gdaladdo -ro` and others write them beside it."""

_STDERR_LOCK = threading.RLock()  # two that exchange it at once would lose it


def create_mask(
    out: Path,
    like: Header | RasterImage,
    *,
    roi: Window | None = None,
    compress: Compression = "deflate",
    overviews: bool = False,
    cog: bool = False,
    overwrite: bool = False,
    binary: bool = False,
    threshold: float = 0.5,
    hidden_in: Path | None = None,
) -> MaskFile:
    """A file for the mask of an image, or of its part `roi`; use it in a `with` block, which commits at its end.

    `binary` writes 0 and 255: 255 for what lies above `threshold`. `overviews` go into a GeoTIFF, and `cog` makes it a
    cloud-optimised one, which has overviews. Until then it lies under a hidden name in `hidden_in`, a folder on the
    same file system, or beside `out`.
    Raises InputError if `out` exists (without `overwrite`), is the image itself, a link or a folder, or has another
    suffix than .tif, .tiff or, without `overviews` and `cog`, .png; RasterError if its folder cannot be written.
    """
    header = like.header if isinstance(like, RasterImage) else like
    check_output(out, header.path, overwrite=overwrite, overviews=overviews, cog=cog)
    part = roi or Window(0, 0, header.height, header.width)
    georeference = header.georeference if roi is None else header.georeference.of_part(roi)
    form = Format(compress, overviews, cog, foreground_from(threshold) if binary else None)
    hidden = _hidden_name(out if hidden_in is None else hidden_in / out.name, ".tif")
    return MaskFile(
        out, hidden, part.height, part.width, georeference, header.tags, header.has_invalid, form, overwrite
    )


def foreground_from(threshold: float) -> int:
    """The lowest 8-bit value that lies above a threshold of 0..1: 128 for 0.5."""
    return int(np.floor(255 * threshold + 1))


class MaskFile:
    """A MaskSink into a file; made by `create_mask`. Nothing stands under the output's name before `commit`."""

    def __init__(
        self,
        out: Path,
        hidden: Path,
        height: int,
        width: int,
        georeference: Georeference,
        tags: Mapping[str, str],
        has_invalid: bool,
        form: Format,
        overwrite: bool,
    ) -> None:
        self.out, self.height, self.width = out, height, width
        self._georeference, self._tags = georeference, tags
        self._form = form
        self._overwrite = overwrite
        self._is_png = out.suffix.lower() == ".png"
        # Empty blocks of a COG cost what they cost elsewhere, and it is read by GDAL and its like.
        self._is_sparse = height * width > SPARSE_PIXELS
        self._may_have_invalid = has_invalid and not self._is_png
        self._has_mask_band = False  # before the first invalid pixel there is none
        self._has_holes = False  # some pixel is invalid
        self._next_row = 0
        self._values = np.zeros((BLOCK, width), np.uint8)
        self._valid = np.zeros((BLOCK, width), np.bool_)
        self._checksums: list[tuple[int, int]] = []  # of the values and of the valid pixels, by block row
        self._hidden = hidden
        self._dataset: DatasetWriter | None = self._create()

    def write(self, row: int, mask: NDArray[np.uint8] | Mask, valid: BoolArray | None = None) -> None:
        """The next rows, (n, width): 0..255, or 0..1 as float32, rounded half up. The arrays may be reused afterwards.

        `valid` is (n, width), None where all are. Rows come from the top, each once. Raises RasterError.
        """
        if row != self._next_row or row + len(mask) > self.height or mask.shape[1] != self.width:
            raise ValueError(f"expected rows from {self._next_row} on, {self.width} wide, got {mask.shape} at {row}")
        done = 0
        while done < len(mask):
            start = self._next_row % BLOCK
            count = min(BLOCK - start, len(mask) - done)
            rows = slice(start, start + count)
            values = self._bytes(mask[done : done + count])
            valid_rows = None if valid is None else valid[done : done + count]
            self._has_holes = self._has_holes or (valid_rows is not None and not valid_rows.all())
            self._values[rows] = values if valid_rows is None else np.where(valid_rows, values, 0)
            self._valid[rows] = True if valid_rows is None else valid_rows
            done += count
            self._next_row += count
            if start + count == BLOCK or self._next_row == self.height:
                self._write_block_row(self._next_row - start - count, start + count)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the file cannot hold of the rows written so far, and of the image's place, in one line."""
        lost = [
            *(["where the image lies"] if not self._georeference.is_empty else []),
            *(["which pixels are no image (they are 0)"] if self._has_holes else []),
        ]
        if not self._is_png or not lost:
            return ()
        return (f"a PNG does not hold {' and '.join(lost)}; end --out in .tif to keep that",)

    def commit(self) -> None:
        """Finish the file and give it its name. Raises RasterError, and leaves nothing, if it is not whole."""
        try:
            if self._next_row != self.height:
                raise ValueError(f"{self._next_row} of {self.height} rows were written")
            self._close()
            self._publish(self._finish())
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop what is not finished. Does nothing after `commit`."""
        with suppress(RasterError):  # it is thrown away: what was wrong with it has been said, or does not matter
            self._close()
        with suppress(FileNotFoundError):  # the folder went after `commit`
            for path in self._hidden.parent.iterdir():  # its copies, side files, and what GDAL had begun beside them
                if path.name.startswith(self._hidden.stem):
                    path.unlink(missing_ok=True)

    def __enter__(self) -> MaskFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()

    def _create(self) -> DatasetWriter:
        options: dict[str, object] = {
            "driver": "GTiff",
            "height": self.height,
            "width": self.width,
            "count": 1,
            "dtype": "uint8",
            "tiled": True,
            "blockxsize": BLOCK,
            "blockysize": BLOCK,
            "sparse_ok": self._is_sparse,
            # With compression GDAL cannot foresee 4 GiB; beyond them rows are lost, without an error if it has threads.
            "bigtiff": "IF_SAFER",
        }
        options |= self._form.compression()
        if not self._is_png:
            options |= self._georeference.creation_options()
        try:
            self._hidden.touch(exist_ok=False)
        except OSError as error:
            raise RasterError(f"{self.out}: cannot be written: {error.strerror}") from error
        with ExitStack() as on_error:
            on_error.callback(self._hidden.unlink, missing_ok=True)
            with self._writing():
                dataset = rasterio.open(self._hidden, "w", **options)
                if self._tags and not self._is_png:
                    dataset.update_tags(**self._tags)
            on_error.pop_all()
        return dataset

    def _bytes(self, mask: NDArray[np.uint8] | Mask) -> NDArray[np.uint8]:
        if mask.dtype != np.uint8:
            mask = np.floor(mask * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        if self._form.lowest_foreground is not None:
            mask = np.where(mask >= self._form.lowest_foreground, 255, 0)
        values: NDArray[np.uint8] = mask.astype(np.uint8, copy=False)
        return values

    def _write_block_row(self, row: int, count: int) -> None:
        values, valid = self._values[:count], self._valid[:count]
        place = RasterWindow(0, row, self.width, count)
        assert self._dataset is not None
        with ExitStack() as on_error, self._writing():
            on_error.callback(self.abort)
            if self._may_have_invalid and (self._has_mask_band or not valid.all()):
                self._begin_mask_band(row)
                self._dataset.write_mask(valid, window=place)
            if values.any():  # GDAL fills in what was not written, or leaves it out
                self._dataset.write(values, 1, window=place)
            on_error.pop_all()
        self._checksums.append((zlib.crc32(values.data), zlib.crc32(valid.data)))

    def _begin_mask_band(self, row: int) -> None:
        """Make the rows before `row` valid, if there is no mask band yet."""
        if not self._has_mask_band:
            self._has_mask_band = True
            assert self._dataset is not None
            for above in range(0, row, BLOCK):
                self._dataset.write_mask(True, window=RasterWindow(0, above, self.width, BLOCK))

    def _close(self) -> None:
        if self._dataset is not None:
            dataset, self._dataset = self._dataset, None
            with self._writing():
                dataset.close()

    def _finish(self) -> Path:
        """The file to publish, made from the closed one and compared with what was written."""
        written = Written(self.height, self.width, self._checksums, self._has_mask_band)
        check(self._hidden, written, self.out)
        if not (self._is_png or self._form.overviews or self._form.cog):
            return self._hidden
        with self._writing():
            if self._is_png:
                finished = copy_as_png(self._hidden)
            else:
                add_overviews(self._hidden, self._form, sparse=self._is_sparse)
                cog = self._form.cog
                finished = copy_as_cog(self._hidden, self._form, sparse=self._is_sparse) if cog else self._hidden
        check(finished, written, self.out)
        return finished

    def _publish(self, finished: Path) -> None:
        try:
            if self.out.exists() and not self._overwrite:
                raise InputError(f"{self.out}: exists already; it was made while this mask was")
            if _side_file(finished).exists():
                _side_file(finished).replace(_side_file(self.out))
            else:  # one of an earlier file would speak of this one
                _side_file(self.out).unlink(missing_ok=True)
            for suffix in _OVERVIEWS_BESIDE:  # GDAL would read the earlier mask from them
                self.out.with_name(self.out.name + suffix).unlink(missing_ok=True)
            publish(finished, self.out)
        except OSError as error:
            if isinstance(error, RasterError):
                raise
            raise RasterError(f"{self.out}: cannot be written: {error.strerror}") from error

    def _writing(self) -> ExitStack:
        """What GDAL complains of names the output. Only a TIFF may get a side file, for a CRS that it cannot hold."""
        stack = ExitStack()
        stack.enter_context(translated(self.out, "cannot be written"))
        stack.enter_context(_without_stderr())
        stack.enter_context(rasterio.Env(GDAL_PAM_ENABLED=not self._is_png, GDAL_TIFF_INTERNAL_MASK=True))
        stack.enter_context(without_georeference_warning())
        return stack


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Nothing reaches the process's stderr, for all threads, so only around short calls.

    libtiff prints what it says of a failed write there, past every handler of GDAL (3.10), before GDAL raises.
    """
    with _STDERR_LOCK:
        try:
            kept = os.dup(2)
        except OSError:  # there is none
            yield
            return
        try:
            with Path(os.devnull).open("wb") as nothing:
                os.dup2(nothing.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _hidden_name(out: Path, suffix: str) -> Path:
    """Beside `out`, with as much of its name as file systems have room for, which count bytes."""
    begin = os.fsencode(out.name)[:200].decode(errors="ignore")
    return out.with_name(f".{begin}.{secrets.token_hex(4)}{suffix}")


def _side_file(path: Path) -> Path:
    """Where GDAL keeps what a file's format has no room for."""
    return path.with_name(f"{path.name}.aux.xml")

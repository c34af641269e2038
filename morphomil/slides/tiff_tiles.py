"""TIFF pages -> pixels, tile by tile, where OpenSlide or Pillow would read them wrong.

A tile is decoded by Pillow (JPEG, JPEG 2000, WebP, LZW, ZSTD), by tifffile (uncompressed, Deflate,
PackBits, LZMA), else by imagecodecs, which the extra `codecs` brings.
"""

from __future__ import annotations

import importlib.util
import io
import struct
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.errors import SlideError
from morphomil.slides.color import to_rgb8
from morphomil.slides.levels import CELL_PX, Level, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

CACHED_TILES = 48
"""This many decoded tiles are kept, for those that lie across two cells."""
MAX_TILE_PX = 2**26
"""A tile may have this many pixels."""
TABLES_JPEG, JPEG, LZW, ZSTD, WEBP = 6, 7, 5, 50000, 50001
JPEG_2000 = (33003, 33004, 33005, 34712)
"""Aperio's two kinds, Leica's, and the registered one."""
APERIO_YCBCR = 33003
BY_TIFFFILE = (1, 8, 32773, 32946, 34925)
"""tifffile decodes these compressions without further packages."""
BY_PILLOW = (JPEG, LZW, ZSTD, WEBP, *JPEG_2000)


def has_imagecodecs() -> bool:
    """Whether the extra `codecs` is installed."""
    return importlib.util.find_spec("imagecodecs") is not None


def check_compression(path: Path, page: Any) -> None:
    """Raise SlideError for a page whose tiles no installed decoder reads."""
    compression, bits = int(page.compression), page.bitspersample
    pillow = compression in BY_PILLOW and (bits == 8 or compression in (LZW, ZSTD))
    pillow &= bits in (8, 16) and page.predictor in (1, 2)
    known = pillow or (compression in BY_TIFFFILE and bits in (8, 16))
    if known or has_imagecodecs():
        return
    name = getattr(page.compression, "name", str(compression))
    raise SlideError(
        f"slide {path}: its tiles are compressed as {name} with {bits} bits per sample, which "
        "needs a further package; install it with: pip install 'morphomil[codecs]'"
    )


class TiffPixels:
    """Pages of a TIFF as the levels of a pyramid, finest first; the file stays open."""

    def __init__(
        self, path: Path, levels: Sequence[Sequence[Any]], *, alpha: tuple[int, bool] | None
    ) -> None:
        """Every level is one page with all samples, or three pages, a sample each."""
        first = levels[0][0]
        self.levels = tuple(
            Level(first.imagewidth / page.imagewidth, page.imagewidth, page.imagelength)
            for (page, *_) in levels
        )
        self.bits = int(first.bitspersample)
        self._path, self._pages, self._alpha = path, levels, alpha
        self._stream, self._lock = path.open("rb"), Lock()
        self._tile = lru_cache(CACHED_TILES)(self._decode_tile)

    def cell(self, level: int, column: int, row: int) -> NDArray[np.uint8]:
        """RGB of a cell, cut at the right and bottom edge."""
        return to_rgb8(
            self.samples(level, column, row),
            bits=self.bits,
            alpha=self._alpha,
            fits=self._too_bright,
        )

    def samples(self, level: int, column: int, row: int) -> NDArray[Any]:
        """The samples of a cell as they are stored (height, width, samples)."""
        with reading(self._path):
            return self._joined(level, column, row)

    def _joined(self, level: int, column: int, row: int) -> NDArray[Any]:
        """A cell's part of the tiles that it lies in."""
        _, width, height = self.levels[level]
        left, top = column * CELL_PX, row * CELL_PX
        right, bottom = min(left + CELL_PX, width), min(top + CELL_PX, height)
        tile_height, tile_width = tile_shape(self._pages[level][0])
        parts = [
            [self._tile(level, y, x) for x in range(left // tile_width, -(-right // tile_width))]
            for y in range(top // tile_height, -(-bottom // tile_height))
        ]
        joined = np.concatenate([np.concatenate(line, axis=1) for line in parts])
        y, x = top // tile_height * tile_height, left // tile_width * tile_width
        return joined[top - y : bottom - y, left - x : right - x]

    def peak(self, cells: int = 64) -> int:
        """The largest color sample in some cells, evenly over the coarsest and the finest level."""
        largest = 0
        for level in {0, len(self.levels) - 1}:
            _, width, height = self.levels[level]
            columns = -(-width // CELL_PX)
            count = columns * -(-height // CELL_PX)
            for cell in np.unique(np.linspace(0, count - 1, cells).astype(int)):
                row, column = divmod(int(cell), columns)
                largest = max(largest, int(self.samples(level, column, row)[..., :3].max()))
        return largest

    def close(self) -> None:
        """Release the file."""
        self._tile.cache_clear()
        self._stream.close()

    def _too_bright(self) -> SlideError:
        return SlideError(
            f"slide {self._path}: it seemed to have {self.bits} significant bits per sample, but "
            "holds larger values; save it as 8-bit RGB"
        )

    def _decode_tile(self, level: int, y: int, x: int) -> NDArray[Any]:
        """A whole tile; parts beyond the image hold anything."""
        return np.concatenate(
            [part for page in self._pages[level] for part in self._parts(page, y, x)], axis=2
        )

    def _parts(self, page: Any, y: int, x: int) -> list[NDArray[Any]]:
        """A tile of a page: all samples, or, where they lie apart, one after another."""
        height, width = tile_shape(page)
        down, across = -(-page.imagelength // height), -(-page.imagewidth // width)
        apart = page.planarconfig == 2
        rows = height if page.is_tiled else min(height, page.imagelength - y * height)
        parts = []
        for plane in range(page.samplesperpixel if apart else 1):
            number = (plane * down + y) * across + x
            shape = (rows, width, 1 if apart else page.samplesperpixel)
            with self._lock:
                self._stream.seek(page.dataoffsets[number])
                data = self._stream.read(page.databytecounts[number])
            if page.databytecounts[number] == 0:  # a sparse file leaves out empty tiles
                parts.append(np.full(shape, 2**self.bits - 1, page.dtype))
                continue
            if len(data) < page.databytecounts[number]:
                raise ValueError(f"tile {number} is cut short")
            part = decode_tile(page, data, number, shape)
            if part.shape != shape:
                raise ValueError(f"tile {number} is of shape {part.shape}, not {shape}")
            parts.append(part)
        return parts


def tile_shape(page: Any) -> tuple[int, int]:
    """Height and width of a page's tiles; its strips count as tiles.

    Raises:
        ValueError: no tile can be so.
    """
    height, width = (
        (page.tilelength, page.tilewidth)
        if page.is_tiled
        else (min(page.rowsperstrip, page.imagelength), page.imagewidth)
    )
    if height < 1 or width < 1 or (page.is_tiled and height * width > MAX_TILE_PX):
        raise ValueError(f"it says its tiles have {width} x {height} pixels")
    return height, width


def decode_tile(page: Any, data: bytes, number: int, shape: tuple[int, int, int]) -> NDArray[Any]:
    """The samples (height, width, samples) of one compressed tile or strip of a page."""
    compression = int(page.compression)
    if page.bitspersample == 8 and compression == JPEG:
        return _by_pillow("JPEG", _whole_jpeg(page, data), shape)
    if page.bitspersample == 8 and compression in JPEG_2000:
        turned = compression == APERIO_YCBCR or page.photometric.name == "YCBCR"
        return _by_pillow("JPEG2000", data, shape, turned=turned)
    if page.bitspersample == 8 and compression == WEBP:
        return _by_pillow("WEBP", data, shape)
    if compression in (LZW, ZSTD) and page.bitspersample in (8, 16):
        return _unpack(page, data, shape)
    decoded, _, _ = page.decode(data, number, jpegtables=page.jpegtables)
    values: NDArray[Any] = np.asarray(decoded).reshape(-1, *decoded.shape[-2:])
    return values[: shape[0]]


def _by_pillow(
    kind: str, data: bytes, shape: tuple[int, int, int], *, turned: bool = False
) -> NDArray[np.uint8]:
    """A tile that is an image file of its own; `turned`: its channels are Y, Cb and Cr."""
    from PIL.Image import merge
    from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    decoders: dict[str, Callable[[io.BytesIO], ImageFile]] = {
        "JPEG": JpegImageFile,
        "JPEG2000": Jpeg2KImageFile,
        "WEBP": WebPImageFile,
    }
    with decoders[kind](io.BytesIO(data)) as file:
        if file.width * file.height > MAX_TILE_PX:
            raise ValueError(f"a tile says it has {file.width} x {file.height} pixels")
        image = merge("YCbCr", file.split()[:3]).convert("RGB") if turned else file
        mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(shape[2], image.mode)
        pixels = np.array(image if image.mode == mode else image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)[: shape[0]]


def _whole_jpeg(page: Any, data: bytes) -> bytes:
    """A JPEG tile with the page's tables, marked as RGB or YCbCr as the page says."""
    body = data[2:]
    while body[:2] == b"\xff\xe0" or body[:2] == b"\xff\xee":  # JFIF and Adobe say it otherwise
        body = body[2 + int.from_bytes(body[2:4], "big") :]
    tables = page.jpegtables[2:-2] if page.jpegtables else b""
    transform = int(page.photometric.name == "YCBCR")
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    color = adobe if page.samplesperpixel >= 3 and page.planarconfig == 1 else b""
    return b"\xff\xd8" + color + tables + body


def _unpack(page: Any, data: bytes, shape: tuple[int, int, int]) -> NDArray[Any]:
    """A tile of LZW or ZSTD, which libtiff unpacks as the bytes of a gray image."""
    from PIL.TiffImagePlugin import TiffImageFile

    height, width, samples = shape
    row_bytes = width * samples * page.dtype.itemsize
    entries = [
        (256, 4, row_bytes),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, int(page.compression)),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(data)),
    ]
    padded = data + b"\0" * (len(data) % 2)
    tags = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    header = b"II*\0" + struct.pack("<I", 8 + len(padded))
    whole = header + padded + struct.pack("<H", len(entries)) + tags + bytes(4)
    with TiffImageFile(io.BytesIO(whole)) as image:
        unpacked = np.asarray(image).tobytes()
    dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    values = np.frombuffer(unpacked, dtype).reshape(shape).astype(page.dtype)
    if page.predictor == 2:
        values = np.cumsum(values, axis=1, dtype=page.dtype)
    return values

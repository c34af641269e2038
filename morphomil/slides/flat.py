"""Images without tiles: JPEG, PNG and 8-bit TIFF through Pillow, decoded once and whole."""

from __future__ import annotations

from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from morphomil.errors import SlideError
from morphomil.slides.color import refuse_gray, squares, wrong_color
from morphomil.slides.levels import CELL_PX, Level, reading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

STRIP_PX = 256
"""A decoded image is copied this many rows at a time."""
MAX_FLAT_PX = 10**9
"""An image without tiles may have this many pixels: it is decoded whole, 3 bytes per pixel."""
SIXTEEN_BIT_PNG = b"\x10\x02", b"\x10\x06"
"""Bytes 24 and 25 of a PNG with 16 bits per channel in color, without and with opacity."""
DARK_IN_16_BITS = 64
"""A PNG of 16 bits whose largest high byte is below it holds 8 to 14 significant bits."""


class ArrayPixels:
    """An image that is held in memory once it is asked for."""

    def __init__(
        self, path: Path, load: Callable[[], NDArray[np.uint8]], *, width: int, height: int
    ) -> None:
        """`load` decodes the image.

        Raises:
            SlideError: the image is too large to be decoded whole.
        """
        if width < 1 or height < 1:
            raise ValueError(f"it says it has {width} x {height} pixels")
        if width * height > MAX_FLAT_PX:
            raise SlideError(
                f"slide {path}: {width} x {height} pixels without tiles are too many to decode at "
                "once; convert it to "
                "a tiled pyramid, for example with: vips tiffsave IN OUT.tif --tile --pyramid "
                "--compression jpeg"
            )
        self.levels: tuple[Level, ...] = (Level(1.0, width, height),)
        self._path, self._load, self._loading = path, load, Lock()

    @cached_property
    def _image(self) -> NDArray[np.uint8]:
        with reading(self._path):
            image = self._load()
        refuse_gray(self._path, squares(image))
        return image

    def cell(self, level: int, column: int, row: int) -> NDArray[np.uint8]:
        """RGB of a cell, cut at the right and bottom edge."""
        with self._loading:  # whole, and so once
            image = self._image
        return image[row * CELL_PX :, column * CELL_PX :][:CELL_PX, :CELL_PX]

    def close(self) -> None:
        """Forget the image."""
        self.__dict__.pop("_image", None)


def open_flat(path: Path) -> tuple[ArrayPixels, bytes | None]:
    """JPEG, PNG or 8-bit flat TIFF, and its color profile.

    The decoders are called directly: `Image.open` would refuse 180 megapixels, which region exports
    reach, unless its global limit is changed; `MAX_FLAT_PX` is the limit here. PNG of 16 bits per
    channel keep the high byte.
    """
    from PIL.Image import Image

    with _open_pillow(path) as image:
        if Image.getexif(image).get(0x0112, 1) != 1:  # PngImageFile.getexif would decode the image
            raise turned(path, "an EXIF tag")
        if image.mode not in ("RGB", "RGBA", "RGBX", "P", "PA") or _is_gray_palette(image):
            kind = "gray" if image.mode.startswith(("1", "L", "I", "F", "P")) else image.mode
            raise wrong_color(path, kind)
        width, height = image.size
        profile = image.info.get("icc_profile")

    def load() -> NDArray[np.uint8]:
        with _open_pillow(path) as image:
            pixels = on_white(image)
        if _is_16_bit_png(path) and 0 < pixels.max() < DARK_IN_16_BITS:
            raise SlideError(
                f"slide {path}: its 16 bits per channel hold small values only, as of a camera "
                "with 10, 12 or 14 bits; save it as 8-bit RGB"
            )
        return pixels

    return ArrayPixels(path, load, width=width, height=height), profile


def turned(path: Path, tag: str) -> SlideError:
    """The error for an image that a tag says to turn or mirror."""
    return SlideError(
        f"slide {path}: {tag} says to turn it, so annotations may be in either "
        "frame; save it upright, "
        "without that tag"
    )


def _open_pillow(path: Path) -> ImageFile:
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.TiffImagePlugin import TiffImageFile

    with path.open("rb") as stream:
        magic = stream.read(4)
    decoder = {b"\xff\xd8\xff": JpegImageFile, b"\x89PN": PngImageFile}.get(
        magic[:3], TiffImageFile
    )
    return decoder(path)


def _is_16_bit_png(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(26)
    return head.startswith(b"\x89PNG") and head[24:26] in SIXTEEN_BIT_PNG


def _is_gray_palette(image: ImageFile) -> bool:
    if image.mode not in ("P", "PA"):
        return False
    colors = np.array(image.getpalette("RGB")).reshape(-1, 3)
    return bool((colors == colors[:, :1]).all())


def on_white(image: Image) -> NDArray[np.uint8]:
    """RGB of a Pillow image as it looks on white paper."""
    from PIL.Image import new

    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        paper = new("RGB", image.size, (255, 255, 255))
        paper.paste(image, mask=image.getchannel("A"))
        image = paper
    elif image.mode != "RGB":
        image = image.convert("RGB")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(
        0, image.height, STRIP_PX
    ):  # in one piece Pillow's conversion takes three times as long
        strip = image.crop((0, top, image.width, min(top + STRIP_PX, image.height)))
        pixels[top : top + STRIP_PX] = np.asarray(strip)
    return pixels

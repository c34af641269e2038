"""Files -> decoders: whatever OpenSlide reads, tiled and flat TIFF, JPEG, PNG; and the pixel size
that a file states.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from morphomil.errors import SlideError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

CELL_PX = 512
TILE_CACHE_BYTES = 2**27
"""OpenSlide may cache this many bytes, for tiles that lie across two cells."""
STRIP_PX = 256
"""A decoded image is copied this many rows at a time."""
MAX_FLAT_PX = 10**9
"""An image without tiles may have this many pixels: it is decoded whole, 3 bytes per pixel."""
MEND_FILE = "copy it anew from its source, or leave it out"


class Level(NamedTuple):
    """A level of a pyramid: level-0 pixels per pixel, and its size."""

    downsample: float
    width: int
    height: int


class Pixels(Protocol):
    """A decoder: levels, finest first, and 512 x 512 cells of a level on a fixed grid, white where
    there is nothing."""

    levels: tuple[Level, ...]

    def cell(self, level: int, column: int, row: int) -> NDArray[np.uint8]:
        """RGB of the cell, cut at the right and bottom edge."""

    def close(self) -> None:
        """Release the file."""


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into one error that names the file."""
    from openslide import OpenSlideError

    damaged = (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
        SyntaxError,
    )
    try:
        yield
    except (OpenSlideError, struct.error, zlib.error, *damaged) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise SlideError(f"slide {path} can't be read: {cause}; {MEND_FILE}") from error


def open_pixels(path: Path) -> tuple[Pixels, float | None]:
    """The decoder for a file, by its content, and the um per pixel that the file states."""
    import openslide

    with _reading(path):
        with path.open("rb") as stream:
            magic = stream.read(8)
        if not magic:
            raise ValueError("the file is empty")
        if magic.startswith((b"\xff\xd8\xff", b"\x89PNG")):
            return _open_flat(path), None
        vendor = openslide.OpenSlide.detect_format(path)
        is_tiff = magic[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
        flat, mpp = (
            _inspect_tiff(path) if is_tiff and vendor in (None, "generic-tiff") else (None, None)
        )
        if flat is not None:
            return flat, mpp
        if vendor is None:
            raise ValueError("it is no image of a known format")
        whole = _OpenSlidePixels(path)
        return whole, whole.mpp or mpp


class _OpenSlidePixels:
    """What OpenSlide reads.

    OpenSlide interpolates where a level's pixel isn't at a whole level-0 position, so results would
    depend on the corner of each request; cells on a fixed grid don't.
    """

    def __init__(self, path: Path) -> None:
        import openslide

        self._path = path
        self._slide = openslide.OpenSlide(path)
        self._slide.set_cache(openslide.OpenSlideCache(TILE_CACHE_BYTES))
        sizes = zip(self._slide.level_downsamples, self._slide.level_dimensions, strict=True)
        self.levels = tuple(
            Level(float(downsample), width, height) for downsample, (width, height) in sizes
        )
        self.properties = dict(self._slide.properties)
        x, y = (float(self.properties.get(f"openslide.mpp-{axis}", 0)) for axis in "xy")
        self.mpp = _square(path, x, y)

    def cell(self, level: int, column: int, row: int) -> NDArray[np.uint8]:
        downsample, width, height = self.levels[level]
        left, top = column * CELL_PX, row * CELL_PX
        size = (min(CELL_PX, width - left), min(CELL_PX, height - top))
        with _reading(self._path):
            rgba = self._slide.read_region(
                (round(left * downsample), round(top * downsample)), level, size
            )
        return _on_white(rgba)

    def close(self) -> None:
        self._slide.close()


class _ArrayPixels:
    """An image that is held in memory once it is asked for."""

    def __init__(
        self, path: Path, load: Callable[[], NDArray[np.uint8]], *, width: int, height: int
    ) -> None:
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
        self._path, self._load = path, load

    @cached_property
    def _image(self) -> NDArray[np.uint8]:
        with _reading(self._path):
            return self._load()

    def cell(self, level: int, column: int, row: int) -> NDArray[np.uint8]:
        return self._image[row * CELL_PX :, column * CELL_PX :][:CELL_PX, :CELL_PX]

    def close(self) -> None:
        self.__dict__.pop("_image", None)


def _open_flat(path: Path) -> _ArrayPixels:
    """JPEG, PNG or 8-bit flat TIFF through Pillow.

    The decoders are called directly: `Image.open` would refuse 180 megapixels, which region exports
    reach, unless its global limit is changed; `MAX_FLAT_PX` is the limit here. PNG of 16 bits per
    channel keep the high byte.
    """
    from PIL.Image import Image

    with _open_pillow(path) as image:
        if Image.getexif(image).get(0x0112, 1) != 1:  # PngImageFile.getexif would decode the image
            raise SlideError(
                f"slide {path}: an EXIF tag says to turn it, so annotations may be in either "
                "frame; save it upright, "
                "without that tag"
            )
        if image.mode not in ("RGB", "RGBA", "RGBX", "P", "PA") or _is_gray_palette(image):
            kind = "gray" if image.mode.startswith(("1", "L", "I", "F", "P")) else image.mode
            raise _wrong_color(path, kind)
        width, height = image.size

    def load() -> NDArray[np.uint8]:
        with _open_pillow(path) as image:
            return _on_white(image)

    return _ArrayPixels(path, load, width=width, height=height)


def _wrong_color(path: Path, kind: str) -> SlideError:
    return SlideError(
        f"slide {path}: its pixels are {kind}, but nuclei are measured in H&E color; save it as "
        "8-bit RGB"
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


def _is_gray_palette(image: ImageFile) -> bool:
    if image.mode not in ("P", "PA"):
        return False
    colors = np.array(image.getpalette("RGB")).reshape(-1, 3)
    return bool((colors == colors[:, :1]).all())


def _on_white(image: Image) -> NDArray[np.uint8]:
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


def _inspect_tiff(path: Path) -> tuple[_ArrayPixels | None, float | None]:
    """A decoder if the TIFF is flat (else OpenSlide's task), and the um per pixel that its tags or
    OME-XML state."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        if page.photometric.name in ("MINISBLACK", "MINISWHITE") and page.samplesperpixel < 3:
            raise _wrong_color(path, "gray")
        if page.photometric.name == "SEPARATED":
            raise _wrong_color(path, "CMYK")
        mpp = _tiff_mpp(path, file)
        if page.is_tiled:
            return None, mpp
        if page.bitspersample == 8:
            return _open_flat(path), mpp
        if page.dtype is None or page.dtype.kind != "u" or page.bitspersample > 16:
            raise _wrong_color(path, f"{page.dtype} values")
        bits, width, height = page.bitspersample, page.imagewidth, page.imagelength

    def load() -> NDArray[np.uint8]:
        values = tifffile.imread(path, key=0)
        rgb = values if values.shape[-1] in (3, 4) else np.moveaxis(values, 0, -1)
        if rgb.shape[:2] != (height, width) or rgb.ndim != 3 or rgb.shape[2] < 3:
            raise ValueError(f"an array of shape {values.shape} is no RGB image")
        eight_bits: NDArray[np.uint8] = np.rint(np.arange(2**bits) * (255 / (2**bits - 1))).astype(
            np.uint8
        )
        rgb8: NDArray[np.uint8] = eight_bits[rgb[..., :3]]
        return rgb8

    return _ArrayPixels(path, load, width=width, height=height), mpp


def _tiff_mpp(path: Path, file: Any) -> float | None:
    """um per pixel from OME-XML, ImageJ's or the resolution tags."""
    page = file.pages.first
    micrometer = {"micron", "microns", "um", "µm", "μm", "\\u00B5m"}
    if file.is_ome:
        from defusedxml.ElementTree import fromstring

        sizes = fromstring(file.ome_metadata).find(".//{*}Pixels")
        if sizes is not None and "PhysicalSizeX" in sizes.attrib:
            factor = {"µm": 1.0, "nm": 1e-3, "mm": 1e3}.get(sizes.get("PhysicalSizeXUnit", "µm"))
            x = float(sizes.attrib["PhysicalSizeX"])
            return factor and _square(
                path, x * factor, float(sizes.get("PhysicalSizeY", x)) * factor
            )
    if "XResolution" not in page.tags or "YResolution" not in page.tags:
        return None
    x, y = (page.tags[name].value for name in ("XResolution", "YResolution"))
    if 0 in (*x, *y):  # a rational's numerator or denominator
        return None
    unit = {2: 25400.0, 3: 10000.0}.get(int(page.tags.valueof("ResolutionUnit", default=2)))
    if unit is None and file.is_imagej and (file.imagej_metadata or {}).get("unit") in micrometer:
        unit = 1.0
    return unit and _square(path, unit * x[1] / x[0], unit * y[1] / y[0])


def _square(path: Path, x: float, y: float) -> float | None:
    """um per pixel of a file that states `x` and `y`; None where it states none.

    Raises:
        SlideError: they differ by more than 1 %.
    """
    if not (x > 0 and y > 0):
        return None
    if abs(x / y - 1) > 0.01:
        raise SlideError(
            f"slide {path}: its pixels are {x:g} x {y:g} um; resample it to square pixels"
        )
    return (x + y) / 2

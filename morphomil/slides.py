"""Slide -> tumor regions -> patches. A slide is read by area, at any resolution, and never whole
into memory.

Flat images (JPEG, PNG, TIFF without tiles) are the exception: they are decoded once, up to
`MAX_FLAT_PX`.
"""

from __future__ import annotations

import contextlib
import math
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd
import shapely

from morphomil.annotations import read_annotation
from morphomil.cohort import MPP_RANGE
from morphomil.quality import is_ink, sharpness
from morphomil.types import CORES, PATCHES, ImageSource, InputError, PatchSettings, SlideError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

    from morphomil.types import RegionMode

CELL_PX = 512
CACHED_CELLS = 320
"""Cells of 512 x 512 kept in memory: 250 MB, two rows of a slide 80,000 pixels wide."""
TILE_CACHE_BYTES = 2**27
"""Of OpenSlide, for tiles that lie across two cells."""
BLOCK_PX = 1024
"""Side of the source area that one resampling works on: Pillow takes positions in it as 32-bit
floats."""
STRIP_PX = 256
"""Rows of a decoded image copied at a time."""
MAX_FLAT_PX = 10**9
"""Images without tiles have to be decoded whole, 3 bytes per pixel."""
MAX_MPP_CONFLICT = 0.05
MAX_OUTSIDE = 0.5
"""An annotation with a larger share outside the image belongs to another slide."""

MEND_FILE = "copy it anew from its source, or leave it out"


class _Level(NamedTuple):
    downsample: float
    width: int
    height: int


class _Pixels(Protocol):
    """A decoder: levels, finest first, and 512 x 512 cells of a level on a fixed grid, white where
    there is nothing."""

    levels: tuple[_Level, ...]

    def cell(self, level: int, column: int, row: int) -> NDArray[np.uint8]:
        """RGB of the cell, cut at the right and bottom edge."""

    def close(self) -> None:
        """Release the file."""


class SlideImage:
    """One image file: its size in level-0 pixels, its um per pixel, and its pixels by area."""

    def __init__(self, path: Path, pixels: _Pixels, mpp: float) -> None:
        """See `open_image`."""
        self.path, self.mpp = path, mpp
        self._pixels = pixels
        _, self.width, self.height = pixels.levels[0]
        self._cell = lru_cache(CACHED_CELLS)(pixels.cell)

    def __enter__(self) -> Self:
        """The image; leaving the block closes the file."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._cell.cache_clear()
        self._pixels.close()

    def read(
        self, x: float, y: float, width: int, height: int, *, downsample: float
    ) -> NDArray[np.uint8]:
        """RGB uint8 (height, width, 3) of the area whose top left corner is the level-0 position
        (x, y).

        A pixel of the result covers `downsample` level-0 pixels (below 1: enlarged); beyond the
        image all is white. Resampled from the nearest finer pyramid level with Pillow's
        antialiasing HAMMING filter (no negative weights, so no overshoot). An area read in one
        piece and in parts gives the same pixels where positions, downsample and that level's own
        are whole; else up to one pixel in a hundred differs, by one of 255.

        Raises:
            SlideError: the file is damaged there.
        """
        if width < 1 or height < 1 or not downsample > 0:
            raise ValueError(
                f"asked for {width} x {height} pixels at downsample {downsample}; "
                "all must be positive"
            )
        fits = [
            number
            for number, level in enumerate(self._pixels.levels)
            if level.downsample <= downsample * 1.01
        ]
        level = max(fits, key=lambda number: self._pixels.levels[number].downsample, default=0)
        own = self._pixels.levels[level].downsample
        step = downsample / own
        result = np.empty((height, width, 3), np.uint8)
        side = max(1, int(BLOCK_PX / step))
        for top in range(0, height, side):
            for left in range(0, width, side):
                block = result[top : top + side, left : left + side]
                block[:] = self._resample(
                    level, x / own + left * step, y / own + top * step, block.shape[:2], step
                )
        return result

    def thumbnail(self, max_px: int = 1024) -> NDArray[np.uint8]:
        """The whole image, its longer side at most `max_px`; never enlarged."""
        downsample = max(1.0, max(self.width, self.height) / max_px)
        width, height = (
            max(1, math.ceil(side / downsample - 1e-9)) for side in (self.width, self.height)
        )
        return self.read(0, 0, width, height, downsample=downsample)

    def _resample(
        self, level: int, x: float, y: float, shape: tuple[int, ...], step: float
    ) -> NDArray[np.uint8]:
        """Pixels of `step` level pixels each, from the level's position (x, y)."""
        from PIL.Image import Resampling, fromarray

        height, width = shape
        if step == 1 and x == math.floor(x) and y == math.floor(y):
            return self._crop(level, int(x), int(y), width, height)
        margin = math.ceil(max(1.0, step)) + 1
        left, top = math.floor(x) - margin, math.floor(y) - margin
        right, bottom = math.ceil(x + width * step) + margin, math.ceil(y + height * step) + margin
        source = fromarray(self._crop(level, left, top, right - left, bottom - top))
        across = (x - left, 0, x - left + width * step, source.height)
        down = (0, y - top, width, y - top + height * step)
        # in two steps: in one, Pillow rounds between them in an order that depends on the shape of
        # the area
        source = source.resize((width, source.height), Resampling.HAMMING, box=across)
        return np.asarray(source.resize((width, height), Resampling.HAMMING, box=down))

    def _crop(self, level: int, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels of a level, white outside."""
        crop = np.full((height, width, 3), 255, np.uint8)
        _, columns, rows = self._pixels.levels[level]
        for row in range(max(top, 0) // CELL_PX, math.ceil(min(top + height, rows) / CELL_PX)):
            for column in range(
                max(left, 0) // CELL_PX, math.ceil(min(left + width, columns) / CELL_PX)
            ):
                cell = self._cell(level, column, row)
                x, y = column * CELL_PX - left, row * CELL_PX - top
                part = cell[max(-y, 0) : height - y, max(-x, 0) : width - x]
                crop[max(y, 0) :, max(x, 0) :][: part.shape[0], : part.shape[1]] = part
        return crop


def open_image(source: ImageSource, *, default_mpp: float | None = None) -> SlideImage:
    """Open an image file; flat images are decoded at the first read.

    The pixel size is the manifest's, else the file's, else `default_mpp`; one that the file
    contradicts is an error.

    Raises:
        SlideError: the file can't be opened, or isn't an RGB image.
        InputError: the pixel size is unknown or contradicted.
    """
    pixels, found = _open_pixels(source.path)
    try:
        mpp = _settle_mpp(source.path, found, stated=source.mpp, default=default_mpp)
    except InputError:
        pixels.close()
        raise
    return SlideImage(source.path, pixels, mpp)


def _settle_mpp(
    path: Path, found: float | None, *, stated: float | None, default: float | None
) -> float:
    low, high = MPP_RANGE
    given = default if stated is None else stated
    origin = "--mpp" if stated is None else "the manifest"
    if given is not None and not low <= given <= high:
        raise InputError(
            f"slide {path}: {origin} says {given:g} um per pixel; pixel sizes are "
            f"{low:g} to {high:g}"
        )
    usable = found if found is not None and low <= found <= high else None
    if given is not None and usable is not None and abs(given / usable - 1) > MAX_MPP_CONFLICT:
        raise InputError(
            f"slide {path}: {origin} says {given:g} um per pixel, the file {usable:g}; correct "
            "the one that is wrong"
        )
    for mpp in (stated, usable, default):
        if mpp is not None:
            return float(mpp)
    says = (
        "doesn't record it" if found is None else f"says {found:.4g} um, which no microscope gives"
    )
    raise InputError(
        f"slide {path}: pixel size unknown (the file {says}); give it in the manifest's column "
        "mpp, "
        "with --mpp, or use a file that records it"
    )


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


def _open_pixels(path: Path) -> tuple[_Pixels, float | None]:
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
            _Level(float(downsample), width, height) for downsample, (width, height) in sizes
        )
        x, y = (float(self._slide.properties.get(f"openslide.mpp-{axis}", 0)) for axis in "xy")
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
        self.levels: tuple[_Level, ...] = (_Level(1.0, width, height),)
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


RegionSource = Literal["annotation", "white", "tissue", "whole"]


@dataclass(frozen=True)
class Region:
    """A connected tumor area of an image, outline in level-0 pixels; `index` counts within the
    slide."""

    image: int
    index: int
    polygon: shapely.Polygon
    name: str
    source: RegionSource


def find_regions(
    image: SlideImage,
    source: ImageSource,
    *,
    image_index: int,
    first_index: int,
    settings: PatchSettings,
) -> list[Region]:
    """The tumor regions of an image, disjoint, from the top left; none on a blank slide.

    Mode auto takes the annotation where there is one; else all that isn't white, where a twentieth
    or more of the image is pure white and more than half of the rest is tissue (a region cut out as
    in BCNB); else the tissue.

    Raises:
        InputError: the annotation can't be read, or there is none and the mode asks for it.
        SlideError: the image is damaged, or most of the annotation lies outside of it.
    """
    mode = settings.regions
    origin: RegionSource
    if mode == "annotation" and source.annotation is None:
        raise InputError(
            f"slide {source.path}: regions are to be annotated, but the manifest "
            "names no annotation"
        )
    if mode in ("auto", "annotation") and source.annotation is not None:
        named, origin = _annotated(image, source.annotation), "annotation"
    elif mode == "whole":
        named, origin = [("", shapely.box(0, 0, image.width, image.height))], "whole"
    else:
        named, origin = _detected(image, mode)
    named.sort(key=lambda pair: (pair[1].bounds[1], pair[1].bounds[0]))
    return [
        Region(
            image_index,
            first_index + number,
            polygon,
            name or f"region {first_index + number}",
            origin,
        )
        for number, (name, polygon) in enumerate(named)
    ]


def _parts(shape: shapely.Geometry) -> list[shapely.Polygon]:
    """The connected polygons of a shape, those below a pixel left out."""
    return [
        part for part in shapely.get_parts(shape) if part.geom_type == "Polygon" and part.area >= 1
    ]


def _annotated(image: SlideImage, path: Path) -> list[tuple[str, shapely.Polygon]]:
    areas = read_annotation(path)
    kind = "tumor" if any(area.kind == "tumor" for area in areas) else "unknown"
    wanted = [area for area in areas if area.kind == kind]
    if not wanted:
        names = ", ".join(sorted({area.name for area in areas}))
        raise InputError(
            f"annotation {path} marks no tumor, only: {names}; give tumor areas a "
            "class such as Tumor"
        )
    union = shapely.union_all([area.polygon for area in wanted])
    inside = shapely.intersection(union, shapely.box(0, 0, image.width, image.height))
    if inside.area < (1 - MAX_OUTSIDE) * union.area:
        raise SlideError(
            f"slide {image.path}: {1 - inside.area / union.area:.0%} of annotation {path} lies "
            "outside the image "
            f"({image.width} x {image.height} pixels); it belongs to another slide or isn't in "
            "level-0 pixels"
        )
    tumor = inside.difference(
        shapely.union_all([area.polygon for area in areas if area.kind == "other"])
    )
    parts = _parts(tumor)
    titles = [
        {area.name for area in wanted if area.name and area.polygon.intersects(part)}
        for part in parts
    ]
    return [(" + ".join(sorted(some)), part) for some, part in zip(titles, parts, strict=True)]


WHITE_SHARE = 0.05
TISSUE_SHARE_OF_CROP = 0.5
CELL_UM = 8.0
"""Resolution of tissue detection."""
MIN_OBJECT_MM2 = 0.02


def _detected(
    image: SlideImage, mode: RegionMode
) -> tuple[list[tuple[str, shapely.Polygon]], RegionSource]:
    from scipy import ndimage

    downsample = max(1.0, CELL_UM / image.mpp)
    width, height = (math.ceil(side / downsample) for side in (image.width, image.height))
    rgb = image.read(0, 0, width, height, downsample=downsample)
    cell_mm2 = (downsample * image.mpp / 1000) ** 2
    tissue = tissue_mask(rgb, cell_mm2=cell_mm2)
    filled = rgb.min(axis=-1) < 250
    is_crop = (
        _is_white(rgb).mean() >= WHITE_SHARE and tissue.sum() > TISSUE_SHARE_OF_CROP * filled.sum()
    )
    origin: RegionSource = "white" if mode == "white" or (mode == "auto" and is_crop) else "tissue"
    if origin == "white":
        solid = _drop_small(filled, cells=_least_cells(filled, cell_mm2))
        mask = ndimage.binary_fill_holes(ndimage.binary_dilation(solid))
    else:
        mask = tissue
    frame = shapely.box(0, 0, image.width, image.height)
    outlines = [
        shapely.intersection(outline, frame) for outline in mask_polygons(mask, cell_px=downsample)
    ]
    return [("", part) for outline in outlines for part in _parts(outline)], origin


def tissue_mask(rgb: NDArray[np.uint8], *, cell_mm2: float) -> NDArray[np.bool_]:
    """Where an H&E thumbnail shows tissue, at about 8 um per pixel; `cell_mm2` is the area of its
    pixel.

    Tissue absorbs green more than the weaker of red and blue; glass, dust, shadows and black ink
    absorb all alike, blue and green ink mostly red. That difference of optical densities, relative
    to the glass's own color, is cut at Otsu's threshold, held within 0.03 to 0.06 (natural units)
    so that a blank slide has none and pale stroma stays.
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    smooth = ndimage.gaussian_filter(rgb.astype(np.float32), (1, 1, 0))
    density = -np.log(np.maximum(smooth, 1) / _glass(smooth))
    red, green, blue = np.moveaxis(density, -1, 0)
    stain = green - np.minimum(red, blue)
    dark = smooth.max(axis=-1) < 60
    ink = (red > 1.2 * green + 0.05) | ((red > 0.4) & (blue < 0.35 * red))
    soiled = ndimage.binary_dilation(dark | _drop_small(ink, cells=9), iterations=2)
    usable = stain[~soiled]
    if usable.size == 0 or np.ptp(usable) == 0:
        return np.zeros(rgb.shape[:2], bool)
    tissue = (stain > np.clip(threshold_otsu(usable), 0.03, 0.06)) & ~soiled
    tissue = ndimage.binary_closing(np.pad(tissue, 3), iterations=3)[3:-3, 3:-3] & ~soiled
    least = _least_cells(tissue, cell_mm2)
    tissue = _drop_small(tissue, cells=least)
    holes = ndimage.binary_fill_holes(tissue) & ~tissue
    filled: NDArray[np.bool_] = tissue | (holes & ~_drop_small(holes, cells=least))
    return filled


def _least_cells(mask: NDArray[np.bool_], cell_mm2: float) -> float:
    """Cells that an object must have: 0.02 mm2, or a twentieth of a small image."""
    return min(MIN_OBJECT_MM2 / cell_mm2, mask.size / 20)


def _glass(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Color of the empty glass: the median of the brightest nearly gray pixels; neutral where these
    are few."""
    low, high = rgb.min(axis=-1), rgb.max(axis=-1)
    gray = (high - low < 12) & (low > 150) & (low < 254.5)
    if gray.mean() < 0.01:
        return np.full(3, 245, np.float32)
    brightest = gray & (low > np.quantile(low[gray], 0.95) - 8)
    glass: NDArray[np.float32] = np.median(rgb[brightest], axis=0).astype(np.float32)
    return glass


def _drop_small(mask: NDArray[np.bool_], *, cells: float) -> NDArray[np.bool_]:
    """The mask without its 4-connected parts of fewer cells."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= max(cells, 1))[labels]


def mask_polygons(mask: NDArray[np.bool_], *, cell_px: float) -> list[shapely.Polygon]:
    """The outlines, with holes, of a mask's 4-connected parts; a cell is a square of `cell_px`, so
    areas are exact."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    row, start = np.nonzero(edges == 1)
    end = np.nonzero(edges == -1)[1]
    runs = shapely.box(start * cell_px, row * cell_px, end * cell_px, (row + 1) * cell_px)
    return _parts(shapely.union_all(runs))


def _is_white(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels are 255 in all channels."""
    white: NDArray[np.bool_] = (rgb[..., 0] & rgb[..., 1] & rgb[..., 2]) == 255
    return white


@dataclass(frozen=True)
class RegionPatches:
    """The patches of a region, on a grid from the top left corner (x_px, y_px) of its bounding box.

    `table` has the schema PATCHES, row by row of the grid. `kept_cells` (rows, columns) marks the
    kept ones. `tissue` (rows * patch_px // 4, columns * patch_px // 4) marks what lies inside the
    region and isn't blank, by blocks of 4 x 4 working pixels. `downsample` is level-0 pixels per
    working pixel.
    """

    table: pd.DataFrame
    kept_cells: NDArray[np.bool_]
    tissue: NDArray[np.bool_]
    x_px: float
    y_px: float
    rows: int
    columns: int
    downsample: float


def cut_patches(
    image: SlideImage,
    region: Region,
    *,
    slide_id: str,
    first_patch_id: int,
    settings: PatchSettings,
) -> RegionPatches:
    """Lay a grid of patches over a region; those that it touches make the table, one row of patches
    read at a time.

    Blank is what lies outside the region or is pure white (255, 255, 255) at working resolution, as
    in BCNB.

    Raises:
        SlideError: the image is damaged there, or every patch is covered by ink.
    """
    side = settings.patch_px
    downsample = settings.working_mpp / image.mpp
    left, top, right, bottom = region.polygon.bounds
    x, y = float(math.floor(left)), float(math.floor(top))
    columns, rows = (
        max(1, math.ceil(span / (side * downsample) - 1e-9)) for span in (right - x, bottom - y)
    )
    outline = _edges(region.polygon, x, y, downsample)
    tissue = np.zeros((rows * side // 4, columns * side // 4), bool)
    blank, ink, sharp = np.full((3, rows, columns), np.nan)
    reading = Lock()

    def measure(row: int) -> None:
        inside = _rasterize(outline, top=row * side, shape=(side, columns * side))
        touched = np.asarray(inside.any(axis=0).reshape(columns, side).any(axis=1))
        for first, last in _spans(touched):
            span = slice(first * side, last * side)
            corner = (x + first * side * downsample, y + row * side * downsample)
            with reading:
                rgb = image.read(*corner, (last - first) * side, side, downsample=downsample)
            solid = inside[:, span] & ~_is_white(rgb)
            # 4 x 4 pixels at a time; two short sums are several times faster than one over both
            # axes
            cells = solid.view(np.uint8).reshape(side // 4, 4, -1).sum(axis=1, dtype=np.uint8)
            cells = cells.reshape(side // 4, -1, 4).sum(axis=2, dtype=np.uint8)
            blank[row, first:last] = (
                1 - cells.reshape(side // 4, last - first, -1).sum(axis=(0, 2)) / side**2
            )
            for column, start in enumerate(range(0, solid.shape[1], side), start=first):
                patch = np.s_[:, start : start + side]
                if solid[patch].any():
                    ink[row, column] = is_ink(rgb[patch])[solid[patch]].mean()
                    sharp[row, column] = sharpness(
                        rgb[patch], solid[patch], mpp=settings.working_mpp
                    )
            tissue[row * side // 4 : (row + 1) * side // 4, span.start // 4 : span.stop // 4] = (
                cells >= 8
            )

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(measure, range(rows)))  # raises what a row raised
    filled = blank < settings.max_blank
    kept = filled & (ink < settings.max_ink)
    if filled.any() and not kept.any():
        raise SlideError(
            f"{image.path.name}: every patch of region {region.index} has ink or colors that H&E "
            "doesn't yield "
            f"(median share {np.median(ink[filled]):.0%}): is the image inverted, fluorescence, "
            "or under a pen mark? "
            "--max-ink 1 takes it as it is"
        )
    row_of, column_of = np.nonzero(~np.isnan(blank))
    table = pd.DataFrame(
        {
            "slide_id": slide_id,
            "patch_id": first_patch_id + np.arange(len(row_of)),
            "image": region.image,
            "region": region.index,
            "x_px": x + column_of * side * downsample,
            "y_px": y + row_of * side * downsample,
            "side_px": side * downsample,
            "blank_fraction": blank[row_of, column_of],
            "tissue_mm2": (1 - blank[row_of, column_of]) * (settings.patch_um / 1000) ** 2,
            "ink_fraction": ink[row_of, column_of],
            "sharpness": sharp[row_of, column_of],
            "kept": kept[row_of, column_of],
        }
    )
    return RegionPatches(PATCHES.check(table), kept, tissue, x, y, rows, columns, downsample)


def _edges(polygon: shapely.Polygon, x: float, y: float, downsample: float) -> NDArray[np.float64]:
    """All edges of a polygon and its holes as rows (x0, y0, x1, y1), y0 <= y1, in working pixels
    from (x, y)."""
    rings = [
        (shapely.get_coordinates(ring) - (x, y)) / downsample
        for ring in (polygon.exterior, *polygon.interiors)
    ]
    edges = np.concatenate([np.hstack([ring[:-1], ring[1:]]) for ring in rings])
    falling = edges[:, 1] > edges[:, 3]
    edges[falling] = edges[falling][:, [2, 3, 0, 1]]
    return edges


def _rasterize(
    edges: NDArray[np.float64], *, top: int, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which pixels' centers are inside, even-odd, in the rows from `top` on: every edge toggles all
    to its right.

    A row is crossed an even number of times, so that pixels row after row are outside and inside by
    turns.
    """
    height, width = shape
    first = np.clip(np.ceil(edges[:, 1] - 0.5) - top, 0, height).astype(int)
    last = np.clip(np.ceil(edges[:, 3] - 0.5) - top, 0, height).astype(int)
    crossing = np.repeat(np.arange(len(edges)), last - first)
    row = (
        np.arange(len(crossing))
        - np.repeat(np.cumsum(last - first) - last + first, last - first)
        + first[crossing]
    )
    x0, y0, x1, y1 = edges[crossing].T
    at = x0 + (row + top + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    crossed = np.sort(row * width + np.clip(np.ceil(at - 0.5), 0, width).astype(int))
    lengths = np.diff(crossed, prepend=0, append=height * width)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)


def _spans(flags: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and past-the-last index of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    yield from ((int(first), int(last)) for first, last in edges.reshape(-1, 2))


def regions_geojson(regions: Sequence[Region]) -> dict[str, Any]:
    """The regions as a GeoJSON FeatureCollection of QuPath annotations, level-0 pixels of each
    region's image."""
    return {"type": "FeatureCollection", "features": [_feature(region) for region in regions]}


def _feature(region: Region) -> dict[str, Any]:
    known = region.source in ("annotation", "white")
    classification = (
        {"name": "Tumor", "color": [200, 0, 0]}
        if known
        else {"name": "Tissue", "color": [0, 120, 120]}
    )
    rings = (region.polygon.exterior, *region.polygon.interiors)
    return {
        "type": "Feature",
        "geometry": {
            "type": "Polygon",
            "coordinates": [shapely.get_coordinates(ring).tolist() for ring in rings],
        },
        "properties": {
            "objectType": "annotation",
            "name": region.name,
            "classification": classification,
            "image": region.image,
            "region": region.index,
            "source": region.source,
        },
    }

"""TIFF that no scanner's format explains -> which of its images is the slide, how it is decoded,
its pixel size and its color profile.

OpenSlide and Pillow decode what they read right; a decoder on tifffile's tags takes the rest: a
fourth sample that is no opacity, less than 16 significant bits, compressions that they lack, an
image that isn't the first one of its file.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from morphomil.errors import SlideError
from morphomil.numerals import read_digits
from morphomil.slides.color import significant_bits, wrong_color
from morphomil.slides.flat import ArrayPixels, open_flat, turned
from morphomil.slides.levels import CELL_PX, Pixels
from morphomil.slides.tiff_sizes import StatedSize, stated_sizes
from morphomil.slides.tiff_tiles import MAX_TILE_PX, TiffPixels, check_compression, tile_shape

if TYPE_CHECKING:
    from pathlib import Path
    from xml.etree.ElementTree import Element

    from numpy.typing import NDArray

logging.getLogger("tifffile").addHandler(logging.NullHandler())
"""What is wrong with a file its error says; without a handler tifffile's remarks on the way to it
would come on the terminal."""
GRAY, RGB, PALETTE, CMYK, YCBCR, CIELAB = 1, 2, 3, 5, 6, 8
"""Values of the tag PhotometricInterpretation."""
BY_OPENSLIDE = (1, 5, 6, 7, 8, 32773, 32946)
"""OpenSlide's libtiff decodes these compressions: none, LZW, JPEG, Deflate, PackBits."""
SMALLEST_SLIDE = 0.25
"""An image in color that has less than this share of the pixels of a larger one, which isn't in
color, is no slide but its label or overview."""
ASPECT_TOLERANCE = 0.02
"""A level's width may be scaled otherwise than its height by this share, and two pixels."""


@dataclass(frozen=True)
class TiffImage:
    """One of the images of a TIFF."""

    page: Any
    """Its page of full resolution, or of its first color."""
    colors: tuple[Any, ...] = ()
    """The pages of its other colors, where each has one."""
    xml: Element | None = None
    """Its element `Pixels` in the OME-XML."""
    plane: str = ""
    """The plane that is read of several, in words."""
    channels: int = 1
    """So many channels lie in pages of their own."""

    @property
    def size_px(self) -> int:
        """Its pixels in all."""
        return int(self.page.imagewidth) * int(self.page.imagelength)


class TiffPlan(NamedTuple):
    """How a TIFF is read."""

    pixels: Pixels | None
    """The decoder; None: OpenSlide's task."""
    sizes: list[StatedSize]
    """The pixel sizes that it states, the authority first."""
    profile: bytes | None
    """Its ICC color profile."""
    notes: tuple[str, ...]
    """What a user should know about the choice."""


def plan_tiff(path: Path, number: int | None, *, by_openslide: bool) -> TiffPlan:
    """Choose the image of a TIFF, or take its `number`-th, and the decoder for it.

    Raises:
        SlideError: it has no image in H&E color, or it would be read wrong.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        images = _images(file)
        place = _choose(path, images, number)
        image = images[place]
        page = image.page
        if page.tags.valueof("Orientation", default=1) != 1:
            raise turned(path, "its tag Orientation")
        _check_samples(path, page)
        sizes = stated_sizes(path, file, page, image.xml)
        notes = _notes(images, place)
        profile = page.tags.valueof("InterColorProfile")
        plain = page is file.pages.first and _is_plain(page) and not image.colors
        if plain and not page.is_tiled and page.bitspersample == 8:
            return TiffPlan(open_flat(path)[0], sizes, profile, notes)
        eight_bits = page.is_tiled and page.bitspersample in (1, 2, 4, 8)
        if plain and by_openslide and eight_bits and _has_true_levels(file):
            return TiffPlan(None, sizes, profile, notes)
        levels = _levels(file, image)
        _load_tags(levels)
        pixels, bits = _decoder(path, image, levels, _stated_bits(image))
        if bits is not None:
            notes += (bits,)
        return TiffPlan(pixels, sizes, profile, notes)


def _load_tags(levels: list[tuple[Any, ...]]) -> None:
    """Read what tifffile would read later, from a file that is closed by then."""
    for page in (page for pages in levels for page in pages):
        for name in ("jpegtables", "dataoffsets", "databytecounts", "extrasamples"):
            getattr(page, name)


def check_scanner_tiff(path: Path) -> None:
    """Raise SlideError where a file in Aperio's format has tags that OpenSlide disregards."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        if page.tags.valueof("Orientation", default=1) != 1:
            raise turned(path, "its tag Orientation")
        if page.bitspersample != 8 or page.samplesperpixel != 3:
            raise wrong_color(
                path, f"{page.samplesperpixel} samples of {page.bitspersample} bits each"
            )


def _images(file: Any) -> list[TiffImage]:
    """The images in the order of the file; levels of pyramids, and masks, are none."""
    if file.is_ome and (images := _ome_images(file)):
        return images
    if not len(file.pages):
        raise ValueError("it ends before the list of its images; it was cut short")
    pages = [page for page in (page.aspage() for page in file.pages) if not page.subfiletype & 5]
    return [TiffImage(page) for page in pages] or [TiffImage(file.pages.first)]


def _ome_images(file: Any) -> list[TiffImage]:
    """The images of an OME-TIFF that lie in the file itself."""
    from defusedxml.ElementTree import fromstring

    elements = fromstring(file.ome_metadata).findall(".//{*}Pixels")
    images = []
    for index, series in enumerate(file.series):
        if series.kind != "ome":
            return []
        page = series.keyframe.aspage()
        size = (page.imagewidth, page.imagelength)
        of_size = [
            element
            for element in elements[index : index + 1] + elements
            if (int(element.get("SizeX", 0)), int(element.get("SizeY", 0))) == size
        ]
        image = _ome_image(series, of_size[0] if of_size else None)
        if image.page.parent.filehandle.path == file.filehandle.path:
            images.append(image)
    return images


def _ome_image(series: Any, xml: Element | None) -> TiffImage:
    """The plane of a series that is read: the middle of a Z stack, else the first."""
    axes, sizes = _page_axes(series)
    channels = sizes[axes.index("C")] if "C" in axes else 1
    at = {"Z": sizes[axes.index("Z")] // 2 if "Z" in axes else 0}

    def page(channel: int) -> Any:
        place = [at.get(axis, channel if axis == "C" else 0) for axis in axes]
        found = series.pages[int(np.ravel_multi_index(place, sizes)) if sizes else 0]
        return (found or series.keyframe).aspage()

    first = page(0)
    several = [
        f"{axis} {at.get(axis, 0) + 1} of {size}"
        for axis, size in zip(axes, sizes, strict=True)
        if size > 1 and not (axis == "C" and first.samplesperpixel < 3)
    ]
    names = [] if xml is None else [c.get("Name", "") for c in xml.findall("{*}Channel")]
    apart = first.samplesperpixel == 1 and [name[:1].casefold() for name in names] == [*"rgb"]
    colors = (page(1), page(2)) if apart and channels == 3 else ()
    plane = f"plane {', '.join(several)}" if several else ""
    return TiffImage(first, colors, xml, plane, channels)


def _page_axes(series: Any) -> tuple[str, list[int]]:
    """The axes of a series over its pages, and their sizes."""
    count = len(series.pages)
    axes = ""
    sizes: list[int] = []
    for axis, size in zip(series.axes, series.shape, strict=True):
        if axis in "YXS" or int(np.prod(sizes)) == count:
            break
        axes, sizes = axes + axis, [*sizes, int(size)]
    return (axes, sizes) if int(np.prod(sizes)) == count else ("", [])


def _choose(path: Path, images: list[TiffImage], number: int | None) -> int:
    """Which image is the slide: the named one, else the largest in color."""
    if number is not None:
        if not 1 <= number <= len(images):
            raise SlideError(
                f"slide {path}: there is no image {number}; the file holds {len(images)}, "
                "counted from 1"
            )
        if kind := _no_color(images[number - 1]):
            raise wrong_color(path, kind)
        return number - 1
    largest = max(range(len(images)), key=lambda index: images[index].size_px)
    colored = [index for index, image in enumerate(images) if not _no_color(image)]
    chosen = max(colored, key=lambda index: images[index].size_px, default=None)
    if chosen is None:
        raise wrong_color(path, _no_color(images[largest]))
    if images[chosen].size_px < SMALLEST_SLIDE * images[largest].size_px:
        page = images[chosen].page
        raise SlideError(
            f"slide {path}: its largest image is {_no_color(images[largest])}; if image "
            f"{chosen + 1}, {page.imagewidth} x {page.imagelength} pixels in color, is the slide, "
            f"name it: {path.name}#{chosen + 1}"
        )
    return chosen


def _no_color(image: TiffImage) -> str:
    """Why an image is not in H&E color, in words; empty: it may be."""
    photometric, samples = int(image.page.photometric), image.page.samplesperpixel
    if photometric == CMYK:
        return "CMYK"
    if image.colors or (photometric in (RGB, YCBCR, CIELAB) and samples >= 3):
        return ""
    if photometric == PALETTE or (photometric == GRAY and samples == 3):
        return ""
    if image.channels > 1:
        return f"{image.channels} channels in planes of their own, each gray"
    return "gray" if samples < 3 else f"{samples} channels"


def _check_samples(path: Path, page: Any) -> None:
    if page.dtype is None or page.dtype.kind != "u" or page.bitspersample > 16:
        raise wrong_color(path, f"{page.dtype} values")


def _notes(images: list[TiffImage], place: int) -> tuple[str, ...]:
    notes = []
    if len(images) > 1:
        page = images[place].page
        notes.append(
            f"image {place + 1} of {len(images)} is read, {page.imagewidth} x "
            f"{page.imagelength} pixels"
        )
    if images[place].plane:
        notes.append(f"{images[place].plane} is read")
    return tuple(notes)


def _is_plain(page: Any) -> bool:
    """Whether OpenSlide and Pillow read a page's samples right."""
    photometric, extra = int(page.photometric), tuple(page.extrasamples)
    if photometric in (PALETTE, CIELAB):
        return True
    if int(page.compression) not in BY_OPENSLIDE or photometric not in (RGB, YCBCR):
        return False
    return page.samplesperpixel == 3 or (page.samplesperpixel == 4 and extra in ((1,), (2,)))


def _has_true_levels(file: Any) -> bool:
    """Whether what OpenSlide takes for levels are levels of the first image."""
    first = file.pages.first
    reduced = [page.aspage() for page in file.pages]
    return all(_is_level(page, first) for page in reduced if page.subfiletype & 1 and page.is_tiled)


def _is_level(page: Any, first: Any) -> bool:
    """Whether a page shows the same as a finer one."""
    across, down = first.imagewidth / page.imagewidth, first.imagelength / page.imagelength
    wanted = first.imagelength / across
    close = abs(page.imagelength - wanted) <= 2 + ASPECT_TOLERANCE * wanted
    same = page.photometric == first.photometric and page.samplesperpixel == first.samplesperpixel
    same &= page.bitspersample == first.bitspersample
    return bool(close and same and min(across, down) >= 1)


def _levels(file: Any, image: TiffImage) -> list[tuple[Any, ...]]:
    """Pages of the levels of an image, finest first, one or one for each color."""
    stacks = []
    for page in (image.page, *image.colors):
        coarser = [level.aspage() for level in page.pages or ()]
        if not image.colors:
            pages = [found.aspage() for found in file.pages]
            after = next((i for i, found in enumerate(pages) if found.offset == page.offset), None)
            for found in pages[after + 1 :] if after is not None else ():
                if not found.subfiletype & 1:
                    break
                coarser.append(found)
        levels = [level for level in coarser if level.is_tiled and _is_level(level, page)]
        levels.sort(key=lambda level: -int(level.imagewidth))
        stacks.append([page, *levels])
    return list(zip(*stacks, strict=False))


def _decoder(
    path: Path, image: TiffImage, levels: list[tuple[Any, ...]], stated_bits: int | None
) -> tuple[Pixels, str | None]:
    """The decoder for pages that others would read wrong, and a note of the bits that count."""
    page = image.page
    if int(page.photometric) in (PALETTE, CIELAB):
        raise wrong_color(path, f"{page.photometric.name} in a form that isn't read")
    if int(page.photometric) == YCBCR and int(page.compression) not in (7, 33003, 33005, 34712):
        raise wrong_color(path, f"YCbCr, compressed as {page.compression.name}")
    for pages in levels:
        for level in pages:
            check_compression(path, level)
    if not page.is_tiled:
        return _whole(path, levels[:1], stated_bits), None
    if tile_shape(page)[0] * tile_shape(page)[1] > MAX_TILE_PX:
        raise SlideError(f"slide {path}: its tiles are too large; save it with tiles of 256 pixels")
    pixels = TiffPixels(path, levels, alpha=_alpha(page))
    if pixels.bits <= 8:
        return pixels, None
    stored, pixels.bits = pixels.bits, _bits(pixels.bits, stated_bits, _peak(pixels))
    return pixels, _bits_note(pixels.bits, stored)


def _peak(pixels: TiffPixels) -> int:
    try:
        return pixels.peak()
    except SlideError:  # a damaged tile is reported where it is read
        return 0


def _whole(path: Path, levels: list[tuple[Any, ...]], stated_bits: int | None) -> ArrayPixels:
    """An image of strips, decoded at once when it is asked for."""
    page = levels[0][0]
    width, height = page.imagewidth, page.imagelength

    def load() -> NDArray[np.uint8]:
        strips = TiffPixels(path, levels, alpha=_alpha(page))
        rgb = np.empty((height, width, 3), np.uint8)
        try:
            if strips.bits > 8:
                strips.bits = _bits(strips.bits, stated_bits, strips.peak(cells=10**6))
            for top in range(0, height, CELL_PX):
                for left in range(0, width, CELL_PX):
                    cell = strips.cell(0, left // CELL_PX, top // CELL_PX)
                    rgb[top : top + CELL_PX, left : left + CELL_PX] = cell
        finally:
            strips.close()
        return rgb

    return ArrayPixels(path, load, width=width, height=height)


def _alpha(page: Any) -> tuple[int, bool] | None:
    """Which sample is the opacity, if one says that it is, and whether colors contain it."""
    for place, kind in enumerate(page.extrasamples, start=3):
        if int(kind) in (1, 2) and place < page.samplesperpixel:
            return place, int(kind) == 1
    return None


def _stated_bits(image: TiffImage) -> int | None:
    """Significant bits of a sample by the OME-XML or the tags: the fewest that one states."""
    page, stored = image.page, int(image.page.bitspersample)
    stated = []
    said = "" if image.xml is None else image.xml.get("SignificantBits", "")
    if (bits := read_digits(said)) is not None:
        stated.append(bits)
    for name in ("SMaxSampleValue", "MaxSampleValue"):
        value = page.tags.valueof(name)
        if value is not None:
            stated.append(significant_bits(stored, stated=None, peak=int(np.max(value))))
    return min(stated, default=None)


def _bits(stored: int, stated: int | None, peak: int) -> int:
    """Significant bits of a sample: what the file states, if the values fit, else what they
    need."""
    fits = stated is not None and peak < 2**stated
    return significant_bits(stored, stated=stated if fits else None, peak=peak)


def _bits_note(bits: int, stored: int) -> str | None:
    return f"{bits} of {stored} bits per sample are used" if bits < stored else None

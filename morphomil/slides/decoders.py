"""Files -> decoders: whatever OpenSlide reads, tiled and flat TIFF, JPEG, PNG; with the pixel sizes
and the color profile that a file states.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from morphomil.errors import SlideError
from morphomil.slides.color import refuse_gray
from morphomil.slides.flat import ArrayPixels, on_white, open_flat
from morphomil.slides.levels import CELL_PX, Level, Pixels, reading
from morphomil.slides.tiff import check_scanner_tiff, plan_tiff
from morphomil.slides.tiff_sizes import StatedSize, square_mpp
from morphomil.slides.tiff_tiles import MAX_TILE_PX
from morphomil.store import check_kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

TILE_CACHE_BYTES = 2**27
"""OpenSlide may cache this many bytes, for tiles that lie across two cells."""
LOOKED_AT_CELLS = 64
"""Whether a slide is gray is first asked of this many cells; only if they are gray and not empty,
of up to 16 times as many."""


@dataclass(frozen=True)
class OpenedFile:
    """A file that is open."""

    pixels: Pixels
    """Its decoder."""
    sizes: tuple[StatedSize, ...] = ()
    """The pixel sizes in um that it states, the authority first."""
    profile: bytes | None = None
    """Its ICC color profile."""
    notes: tuple[str, ...] = ()
    """What a user should know: which image of several is read, and the like."""


def open_file(path: Path, number: int | None = None) -> OpenedFile:
    """A file's decoder, by its content; `number`: its image, counted from 1, where it has several.

    Raises:
        SlideError: it can't be opened, isn't in color, or would be read wrong.
    """
    opened = _open(path, number)
    if isinstance(opened.pixels, ArrayPixels):
        return opened  # it is looked at when it is decoded
    probe = _open(path, number).pixels  # a handle of OpenSlide is dead after its first error
    try:
        refuse_gray(path, _some_cells(probe))
    except SlideError:
        opened.pixels.close()
        raise
    finally:
        probe.close()
    return opened


def _some_cells(pixels: Pixels) -> Iterator[NDArray[np.uint8]]:
    """Cells of the coarsest level, evenly over it, up to the first that is damaged."""
    level = len(pixels.levels) - 1
    _, width, height = pixels.levels[level]
    columns, rows = -(-width // CELL_PX), -(-height // CELL_PX)
    count = columns * rows
    step = max(1, count // LOOKED_AT_CELLS)
    order = [cell for start in range(min(step, 16)) for cell in range(start, count, step)]
    with contextlib.suppress(SlideError):
        for cell in order[len(order) // 2 :] + order[: len(order) // 2]:
            yield pixels.cell(level, cell % columns, cell // columns)


def _open(path: Path, number: int | None) -> OpenedFile:
    import openslide

    with reading(path):
        if path.is_dir():
            path = _file_of_folder(path)
        check_kind(path)
        with path.open("rb") as stream:
            magic = stream.read(8)
        if not magic:
            raise ValueError("the file is empty")
        is_tiff = magic[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
        vendor = openslide.OpenSlide.detect_format(path)
        of_no_scanner = is_tiff and vendor in (None, "generic-tiff")
        if number not in (None, 1) and not of_no_scanner:
            raise SlideError(f"slide {path}: there is no image {number}; the file holds one")
        if magic.startswith((b"\xff\xd8\xff", b"\x89PNG")):
            flat, profile = open_flat(path)
            return OpenedFile(flat, profile=profile)
        if of_no_scanner:
            plan = plan_tiff(path, number, by_openslide=vendor is not None)
            pixels = OpenSlidePixels(path) if plan.pixels is None else plan.pixels
            return OpenedFile(pixels, tuple(plan.sizes), plan.profile, plan.notes)
        if vendor is None:
            raise ValueError("it is no image of a known format")
        if vendor == "aperio":
            check_scanner_tiff(path)
        whole = OpenSlidePixels(path)
        sizes = (StatedSize("the file", whole.mpp),) if whole.mpp else ()
        return OpenedFile(whole, sizes, whole.profile)


def _file_of_folder(folder: Path) -> Path:
    """A file of the DICOM slide in a folder; OpenSlide looks for the others of its series."""
    import openslide

    slides: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.is_file() and openslide.OpenSlide.detect_format(file) == "dicom":
            with openslide.OpenSlide(file) as slide:
                slides.setdefault(slide.properties.get("dicom.SeriesInstanceUID", ""), file)
    if not slides:
        raise ValueError("it is a folder without a DICOM slide")
    if len(slides) > 1:
        names = ", ".join(file.name for file in [*slides.values()][:4])
        raise SlideError(
            f"slide {folder}: the folder holds {len(slides)} DICOM slides; name one file of the "
            f"one that is meant, such as {names}"
        )
    return next(iter(slides.values()))


class OpenSlidePixels:
    """What OpenSlide reads.

    OpenSlide interpolates where a level's pixel isn't at a whole level-0 position, so results would
    depend on the corner of each request; cells on a fixed grid don't.
    """

    def __init__(self, path: Path) -> None:
        """Open a file that OpenSlide knows."""
        import openslide

        self._path = path
        self._slide = openslide.OpenSlide(path)
        self._slide.set_cache(openslide.OpenSlideCache(TILE_CACHE_BYTES))
        sizes = zip(self._slide.level_downsamples, self._slide.level_dimensions, strict=True)
        self.levels = tuple(
            Level(float(downsample), width, height) for downsample, (width, height) in sizes
        )
        self.properties = dict(self._slide.properties)
        self._check_tiles()

    def _check_tiles(self) -> None:
        """OpenSlide ends the whole process where it can't have the memory for a tile."""
        for level in range(len(self.levels)):
            width, height = (
                int(self.properties.get(f"openslide.level[{level}].tile-{side}", 0))
                for side in ("width", "height")
            )
            if width * height > MAX_TILE_PX:
                self.close()
                raise ValueError(f"it says its tiles have {width} x {height} pixels")

    @property
    def mpp(self) -> float | None:
        """um per pixel, or None.

        Raises:
            SlideError: a pixel is more than 1 % longer than wide.
        """
        x, y = (float(self.properties.get(f"openslide.mpp-{axis}", 0)) for axis in "xy")
        return square_mpp(self._path, x, y)

    @property
    def profile(self) -> bytes | None:
        """The ICC color profile of level 0, or None."""
        from PIL.ImageCms import PyCMSError

        try:
            profile = self._slide.color_profile
        except PyCMSError:
            return b"damaged"
        return None if profile is None else bytes(profile.tobytes())

    def cell(self, level: int, column: int, row: int) -> NDArray[np.uint8]:
        """RGB of a cell, cut at the right and bottom edge."""
        downsample, width, height = self.levels[level]
        left, top = column * CELL_PX, row * CELL_PX
        size = (min(CELL_PX, width - left), min(CELL_PX, height - top))
        with reading(self._path):
            rgba = self._slide.read_region(
                (round(left * downsample), round(top * downsample)), level, size
            )
        return on_white(rgba)

    def close(self) -> None:
        """Release the file."""
        self._slide.close()

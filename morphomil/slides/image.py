"""Slide -> tumor regions -> patches. A slide is read by area, at any resolution, and never whole
into memory.

Flat images (JPEG, PNG, TIFF without tiles) are the exception: they are decoded once, up to
`MAX_FLAT_PX`.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, suppress
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from morphomil import store
from morphomil.errors import SlideError
from morphomil.places import Address, is_dicom, local_copy, naming, split_image_number
from morphomil.slides.cells import CELL_BYTES, CELLS_HELD, ROWS_OF_CELLS, Cells
from morphomil.slides.color import open_profile
from morphomil.slides.decoders import OpenedFile, open_file
from morphomil.slides.flat import ArrayPixels
from morphomil.slides.levels import CELL_PX, Pixels, reading
from morphomil.slides.pixel_size import settle_mpp

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from morphomil.places import Place
    from morphomil.slides.color import Profile
    from morphomil.types import ImageSource

TURNS = 64
"""Threads that read at once wait for each other only where they want the same cell, which is
decoded once, or one of those that share its lock: so many."""
BLOCK_PX = 1024
"""The source area that one resampling works on is this many pixels wide: Pillow takes positions in
it as 32-bit floats."""
OFF_TIES_PX = 0.00093
"""Positions that aren't whole are moved by this much. Halfway between two pixels half of all sums
end in .5, and which way they are rounded hung on the position's last bit, which depends on the area
that is read; this is ten times more than that bit, and nothing to the eye."""


class SlideImage:
    """One image file: its size in level-0 pixels, its um per pixel, and its pixels by area, which
    several threads may read."""

    def __init__(
        self,
        path: Place,
        pixels: Pixels,
        mpp: float,
        *,
        profile: Profile | None = None,
        notes: tuple[str, ...] = (),
        copy: Path,
        until: ExitStack,
    ) -> None:
        """See `open_image`; `copy` is the file that is read, `until` what ends with the image."""
        self.path, self.mpp, self.notes = path, mpp, notes
        self._pixels, self._profile, self._copy, self._until = pixels, profile, copy, until
        self.properties: dict[str, str] = getattr(pixels, "properties", {})
        """What OpenSlide says of the file; empty where another decoder reads it."""
        self.downsamples = tuple(level.downsample for level in pixels.levels)
        _, self.width, self.height = pixels.levels[0]
        self._cells = [
            Cells(partial(self._decode, number), level, in_memory=isinstance(pixels, ArrayPixels))
            for number, level in enumerate(pixels.levels)
        ]
        self._turns = [Lock() for _ in range(TURNS)]

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
        for level in self._cells:
            level.clear()
        self._until.close()

    @property
    def held_bytes(self) -> int:
        """At most about so much of it is in memory, while a level is read."""
        if isinstance(self._pixels, ArrayPixels):
            return 3 * self.width * self.height
        return CELLS_HELD * CELL_BYTES

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
        of_level = self._pixels.levels[level].downsample
        step = downsample / of_level
        result = np.empty((height, width, 3), np.uint8)
        side = max(1, int(BLOCK_PX / step))
        for top in range(0, height, side):
            for left in range(0, width, side):
                block = result[top : top + side, left : left + side]
                block[:] = self._resample(
                    level,
                    x / of_level + left * step,
                    y / of_level + top * step,
                    block.shape[:2],
                    step,
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
        x, y = round(x, 9), round(y, 9)  # whole is what differs from it by sums' last bits
        if step == 1 and x == math.floor(x) and y == math.floor(y):
            return self._crop(level, int(x), int(y), width, height)
        margin = math.ceil(max(1.0, step)) + 1
        left, top = math.floor(x) - margin, math.floor(y) - margin
        right, bottom = math.ceil(x + width * step) + margin, math.ceil(y + height * step) + margin
        source = fromarray(self._crop(level, left, top, right - left, bottom - top))
        shift = 0.0 if all(float(n).is_integer() for n in (x, y, step)) else OFF_TIES_PX
        x, y = x - left + shift, y - top + shift
        across = (x, 0, x + width * step, source.height)
        down = (0, y, width, y + height * step)
        # in two steps: in one, Pillow rounds between them in an order that depends on the shape of
        # the area
        source = source.resize((width, source.height), Resampling.HAMMING, box=across)
        return np.asarray(source.resize((width, height), Resampling.HAMMING, box=down))

    def _decode(self, level: int, column: int, row: int) -> NDArray[np.uint8]:
        with naming(self.path, self._copy):
            cell = self._pixels.cell(level, column, row)
        return self._profile(cell) if self._profile else cell

    def _crop(self, level: int, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels of a level, white outside."""
        crop = np.full((height, width, 3), 255, np.uint8)
        _, columns, rows = self._pixels.levels[level]
        for row in range(max(top, 0) // CELL_PX, math.ceil(min(top + height, rows) / CELL_PX)):
            for column in range(
                max(left, 0) // CELL_PX, math.ceil(min(left + width, columns) / CELL_PX)
            ):
                with self._turns[(ROWS_OF_CELLS * column + row) % TURNS]:
                    cell = self._cells[level](column, row)
                x, y = column * CELL_PX - left, row * CELL_PX - top
                part = cell[max(-y, 0) : height - y, max(-x, 0) : width - x]
                crop[max(y, 0) :, max(x, 0) :][: part.shape[0], : part.shape[1]] = part
        return crop


def scanned_corner(place: Place) -> tuple[float, float]:
    """Where the scanned part of a file's canvas begins, level-0 pixels: OpenSlide's bounds; (0, 0)
    where the canvas is all scanned, or the file can't be opened (any more).

    Raises:
        SlideError: a file elsewhere can't be reached.
    """
    import openslide

    with local_copy(place) as path, suppress(SlideError), reading(path):
        if openslide.OpenSlide.detect_format(path) is None:
            return 0.0, 0.0
        with openslide.OpenSlide(path) as slide:
            x, y = (float(slide.properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
            return x, y
    return 0.0, 0.0


def open_image(
    source: ImageSource, *, default_mpp: float | None = None, icc: bool = True
) -> SlideImage:
    """Open an image file; flat images are decoded at the first read. One elsewhere is copied first,
    and the copy is held for as long as the image is open.

    The pixel size is the manifest's, else the file's, else `default_mpp`
    (`pixel_size.settle_mpp`). With `icc`, the colors of a file with an ICC profile other than sRGB
    become those in sRGB. `notes` of the image say what was chosen in the file and changed.

    Raises:
        SlideError: the file can't be reached or opened, isn't an RGB image, or would be read wrong.
        InputError: the pixel size is unknown or contradicted.
    """
    with ExitStack() as stack:
        copy = stack.enter_context(local_copy(source.path))
        if isinstance(source.path, Address) and is_dicom(copy):
            raise SlideError(
                f"slide {source.path}: a DICOM slide is several files, and only single files are "
                "copied from elsewhere; bring its folder to a disk"
            )
        opened, profile, notes = _open(copy, split_image_number(source.path)[1], icc=icc)
        stack.callback(opened.pixels.close)
        mpp = settle_mpp(source, stated=opened.sizes, default=default_mpp)
        return SlideImage(
            source.path,
            opened.pixels,
            mpp,
            profile=profile,
            notes=notes,
            copy=copy,
            until=stack.pop_all(),
        )


def how_read(source: ImageSource, *, icc: bool = True) -> tuple[str, ...]:
    """The notes that an image has once it is open; none of a file that can't be read.

    A file elsewhere isn't copied to learn them: what is asked for stands for them, as it is always
    read in the same way.
    """
    if isinstance(source.path, Address):
        return (f"color profiles are {'applied' if icc else 'disregarded'}",)
    path, number = store.split_image_number(source.path)
    try:
        opened, _, notes = _open(path, number, icc=icc)
    except SlideError:
        return ()
    opened.pixels.close()
    return notes


def _open(
    path: Path, number: int | None, *, icc: bool
) -> tuple[OpenedFile, Profile | None, tuple[str, ...]]:
    opened = open_file(path, number)
    try:
        profile = open_profile(path, opened.profile) if icc else None
    except SlideError:
        opened.pixels.close()
        raise
    applied = () if profile is None else (f"color profile {profile.name} is applied",)
    return opened, profile, opened.notes + applied

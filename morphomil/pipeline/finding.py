"""The nuclei of one region of a slide, found by the network block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from morphomil.slides.masks import PAD_PX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from morphomil.pipeline.execution import Step
    from morphomil.segment.model import Segmenter
    from morphomil.segment.outlines import Outlines
    from morphomil.slides.image import SlideImage
    from morphomil.slides.masks import MaskFrame
    from morphomil.slides.patches import RegionPatches
    from morphomil.slides.regions import Region
    from morphomil.slides.stain import Change


@dataclass(frozen=True)
class RegionOfSlide:
    """A region whose nuclei are to be drawn."""

    image: SlideImage
    """The region lies in this image, which is open."""
    region: Region
    """Its polygon says which nuclei are its own."""
    cut: RegionPatches
    """Its patches have been cut."""
    frame: MaskFrame
    """Its masks lie so."""


def find_in_region(
    part: RegionOfSlide,
    segmenter: Segmenter,
    *,
    change: Change | None = None,
    step: Step | None = None,
) -> Iterator[Outlines]:
    """The nuclei of a region, those of a row of blocks at a time, in pixels of its masks.

    Only where patches are kept; `change` is what is done to its stains (`change_of_region`), `step`
    hears how many patches are done.
    """
    from morphomil.segment.blocks import block_rows
    from morphomil.segment.detect import find_nuclei

    cut, frame = part.cut, part.frame
    factor = segmenter.network_mpp(frame.mpp) / frame.mpp
    downsample = cut.downsample * factor
    height, width = (round(count * frame.patch_px / factor) for count in (cut.rows, cut.columns))
    rows = block_rows(height, width, wanted=_wanted_cells(cut, frame.patch_px / factor))
    read = _reader(part, downsample, change)
    kept = int(cut.table["kept"].sum())
    drawn = find_nuclei(read, rows, mpp=frame.mpp * factor, segmenter=segmenter)
    for done, outlines in enumerate(drawn, start=1):
        if len(outlines):
            inside = _inside(part.region, cut, outlines, downsample)
            yield inside.scaled(factor).shifted(PAD_PX)
        if step is not None:
            step(round(kept * done / len(rows)), kept)


def _reader(
    part: RegionOfSlide,
    downsample: float,
    change: Change | None,
) -> Callable[[int, int, int, int], NDArray[np.uint8]]:
    """Reads a block of a region's patch grid at the network's resolution: row, column, rows and
    columns in its pixels."""
    cut = part.cut

    def read(row: int, column: int, rows: int, columns: int) -> NDArray[np.uint8]:
        x, y = cut.x_px + column * downsample, cut.y_px + row * downsample
        rgb = part.image.read(x, y, columns, rows, downsample=downsample)
        return rgb if change is None else change(rgb)

    return read


def change_of_region(part: RegionOfSlide, segmenter: Segmenter) -> Change | None:
    """What brings a region's pixels (..., 3) to the stains that the segmenter's settings ask for;
    None where they stay.

    Raises:
        SlideError: stains that are always to be normalized can't be told apart.
    """
    from morphomil.segment.stains import choose_change, may_change

    if segmenter.settings.normalize_stain == "never" or not part.cut.table["kept"].any():
        return None
    asked = _some_patches(part, ASKED_PATCHES)
    if not may_change(asked, segmenter):
        return None
    halves = np.array_split(asked, 2) if len(asked) == ASKED_PATCHES else [asked]
    square = np.concatenate([np.concatenate(half, axis=1) for half in halves])
    return choose_change(
        _some_patches(part, STAIN_PATCHES), square, mpp=part.frame.mpp, segmenter=segmenter
    )


STAIN_PATCHES = 16
"""A region's stains are estimated from this many kept patches, evenly over the region."""
ASKED_PATCHES = 4
"""And so many are shown to the network both ways."""


def _some_patches(part: RegionOfSlide, count: int) -> NDArray[np.uint8]:
    """Pixels (n, side, side, 3) of at most so many of a region's kept patches, of which there are
    some."""
    table, side = part.cut.table, part.frame.patch_px
    places = table.loc[table["kept"], ["x_px", "y_px"]].to_numpy()
    chosen = places[np.unique(np.linspace(0, len(places) - 1, count).astype(int))]
    sample = np.full((len(chosen), side, side, 3), 255, np.uint8)
    for number, (x, y) in enumerate(chosen):
        sample[number] = part.frame.read_patch(part.image, x, y)
    return sample


def _wanted_cells(cut: RegionPatches, patch_px: float, *, cell: int = 256) -> NDArray[np.bool_]:
    """Which cells of 256 network pixels a kept patch touches; `patch_px`: a patch's side in network
    pixels."""
    shape = [-(-round(count * patch_px) // cell) for count in (cut.rows, cut.columns)]
    wanted = np.zeros(shape, bool)
    for row, column in np.argwhere(cut.kept_cells):
        top, left = (int(index * patch_px) // cell for index in (row, column))
        bottom, right = (
            int(np.ceil(round((index + 1) * patch_px, 6) / cell)) for index in (row, column)
        )
        wanted[top:bottom, left:right] = True
    return wanted


def _inside(region: Region, cut: RegionPatches, nuclei: Outlines, downsample: float) -> Outlines:
    """The nuclei whose center lies in the region."""
    import shapely

    x = cut.x_px + (nuclei.points[:, 1] + 0.5) * downsample
    y = cut.y_px + (nuclei.points[:, 0] + 0.5) * downsample
    return nuclei[shapely.contains_xy(region.polygon, x, y)]

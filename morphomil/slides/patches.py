"""Region -> patches on a grid, with what is blank, inked or out of focus."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely

from morphomil.errors import SlideError
from morphomil.slides.quality import is_ink, is_white, sharpness
from morphomil.types import CORES, PATCHES, PatchSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from morphomil.slides.image import SlideImage
    from morphomil.slides.regions import Region


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
            solid = inside[:, span] & ~is_white(rgb)
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

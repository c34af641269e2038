"""Region -> patches on a grid, with what is blank, inked or out of focus."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely

from morphomil.errors import SlideError
from morphomil.memory import give_back_memory
from morphomil.slides.quality import ink_share, is_white, sharpness
from morphomil.spool import Spool
from morphomil.types import CORES, PATCHES, PatchSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from morphomil.slides.image import SlideImage
    from morphomil.slides.regions import Region


READ_AT_ONCE = 32
"""So many patches side by side are read at once."""
FIT_STEPS = 16
"""A fitted grid begins at one of so many places per side of a patch."""


@dataclass(frozen=True)
class RegionPatches:
    """The patches of a region, on a grid from (x_px, y_px) on.

    `table` has the schema PATCHES, row by row of the grid. `kept_cells` (rows, columns) marks the
    kept ones. `tissue` (rows * patch_px // 4, columns * patch_px // 4) marks what lies inside the
    region and isn't blank, by blocks of 4 x 4 working pixels: slices of its rows are arrays, and so
    is `np.asarray` of it. `downsample` is level-0 pixels per working pixel.
    """

    table: pd.DataFrame
    kept_cells: NDArray[np.bool_]
    tissue: Spool
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
    grid = _lay_grid(region, settings, downsample=settings.working_mpp / image.mpp)
    shares = _measure_grid(image, region, grid)
    filled = shares.blank < settings.max_blank
    kept = filled & (shares.ink < settings.max_ink)
    if filled.any() and not kept.any():
        raise SlideError(
            f"{image.path.name}: every patch of region {region.index} has ink or colors that H&E "
            "doesn't yield "
            f"(median share {np.median(shares.ink[filled]):.0%}): is the image inverted, "
            "fluorescence, or under a pen mark? --max-ink 1 takes it as it is"
        )
    table = _patch_table(grid, shares, kept, patch_mm2=(settings.patch_um / 1000) ** 2).assign(
        slide_id=slide_id, image=region.image, region=region.index
    )
    table["patch_id"] = first_patch_id + np.arange(len(table))
    return RegionPatches(
        PATCHES.check(table),
        kept,
        shares.tissue,
        grid.x_px,
        grid.y_px,
        grid.rows,
        grid.columns,
        grid.downsample,
    )


@dataclass(frozen=True)
class _Grid:
    """Patches of `side` working pixels in rows and columns from the level-0 position (x_px, y_px)
    on."""

    x_px: float
    y_px: float
    rows: int
    columns: int
    side: int
    downsample: float
    mpp: float


@dataclass(frozen=True)
class _Shares:
    """What is measured of each patch (rows, columns), NaN where the region isn't: the blank part,
    the ink in the rest, and its sharpness; and the tissue in blocks of 4 x 4 working pixels."""

    blank: NDArray[np.float64]
    ink: NDArray[np.float64]
    sharp: NDArray[np.float64]
    tissue: Spool


def _lay_grid(region: Region, settings: PatchSettings, *, downsample: float) -> _Grid:
    """The grid over a region's bounding box, from its top left corner, or up to a patch before."""
    left, top, right, bottom = region.polygon.bounds
    x, y = float(math.floor(left)), float(math.floor(top))
    if settings.grid == "fit":
        step = settings.patch_px * downsample / FIT_STEPS
        up, back = best_shift(_coarse_cells(region, x, y, step), max_blank=settings.max_blank)
        x, y = x - math.floor(back * step), y - math.floor(up * step)
    columns, rows = (
        max(1, math.ceil(span / (settings.patch_px * downsample) - 1e-9))
        for span in (right - x, bottom - y)
    )
    return _Grid(x, y, rows, columns, settings.patch_px, downsample, settings.working_mpp)


def _coarse_cells(region: Region, x: float, y: float, step: float) -> NDArray[np.bool_]:
    """Which cells of `step` level-0 pixels, from (x, y) on, have their center in the region."""
    _, _, right, bottom = region.polygon.bounds
    shape = (math.ceil((bottom - y) / step), math.ceil((right - x) / step))
    return _rasterize(_edges(region.polygon, x, y, step), top=0, shape=shape)


def best_shift(inside: NDArray[np.bool_], *, max_blank: float) -> tuple[int, int]:
    """How many cells up and left a grid of patches, `FIT_STEPS` cells wide, begins so that those
    with less than `max_blank` outside hold most of the cells that are `inside` (rows, columns); of
    equal ones the shift that is smallest, up first."""
    side = FIT_STEPS
    padded = np.pad(inside, [(side, 2 * side)] * 2)
    total = np.pad(padded.cumsum(axis=0, dtype=np.int32).cumsum(axis=1), [(1, 0)] * 2)
    held = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    kept = np.where(side**2 - held < max_blank * side**2, held, 0)
    gained = np.array(
        [
            [kept[side - up :: side, side - back :: side].sum() for back in range(side)]
            for up in range(side)
        ]
    )
    up, back = np.unravel_index(int(gained.argmax()), gained.shape)
    return int(up), int(back)


def _measure_grid(image: SlideImage, region: Region, grid: _Grid) -> _Shares:
    """Read the region row by row of patches and measure each patch."""
    side = grid.side
    edges = _edges(region.polygon, grid.x_px, grid.y_px, grid.downsample)
    blank, ink, sharp = np.full((3, grid.rows, grid.columns), np.nan)
    shares = _Shares(blank, ink, sharp, Spool(bool))

    def measure(row: int) -> NDArray[np.bool_]:
        tissue = np.zeros((side // 4, grid.columns * side // 4), bool)
        inside = _rasterize(edges, top=row * side, shape=(side, grid.columns * side))
        touched = np.asarray(inside.any(axis=0).reshape(grid.columns, side).any(axis=1))
        for first, last in _pieces(touched):
            corner = (
                grid.x_px + first * side * grid.downsample,
                grid.y_px + row * side * grid.downsample,
            )
            rgb = image.read(*corner, (last - first) * side, side, downsample=grid.downsample)
            solid = inside[:, first * side : last * side] & ~is_white(rgb)
            tissue[:, first * side // 4 : last * side // 4] = _measure_span(
                shares, row, first, rgb=rgb, solid=solid, mpp=grid.mpp
            )
        return tissue

    with ThreadPoolExecutor(CORES) as pool:
        for tissue in pool.map(measure, range(grid.rows)):
            shares.tissue.add(tissue)
    give_back_memory()
    return shares


def _measure_span(
    shares: _Shares,
    row: int,
    first: int,
    *,
    rgb: NDArray[np.uint8],
    solid: NDArray[np.bool_],
    mpp: float,
) -> NDArray[np.bool_]:
    """Measure patches side by side, from column `first` on: their pixels (side, n * side, 3), and
    which of these aren't blank; the tissue in them (side // 4, n * side // 4)."""
    side, count = len(solid), solid.shape[1] // len(solid)
    # 4 x 4 pixels at a time; two short sums are several times faster than one over both axes
    cells = solid.view(np.uint8).reshape(side // 4, 4, -1).sum(axis=1, dtype=np.uint8)
    cells = cells.reshape(side // 4, -1, 4).sum(axis=2, dtype=np.uint8)
    filled = cells.reshape(side // 4, count, -1).sum(axis=(0, 2))
    shares.blank[row, first : first + count] = 1 - filled / side**2
    for number in range(count):
        patch = np.s_[:, number * side : (number + 1) * side]
        if solid[patch].any():
            shares.ink[row, first + number] = ink_share(rgb[patch], solid[patch])
            shares.sharp[row, first + number] = sharpness(rgb[patch], solid[patch], mpp=mpp)
    return np.asarray(cells >= 8)


def _patch_table(
    grid: _Grid, shares: _Shares, kept: NDArray[np.bool_], *, patch_mm2: float
) -> pd.DataFrame:
    """Places and shares of the patches that the region touches, row by row of the grid."""
    row, column = np.nonzero(~np.isnan(shares.blank))
    width = grid.side * grid.downsample
    blank = shares.blank[row, column]
    return pd.DataFrame(
        {
            "x_px": grid.x_px + column * grid.side * grid.downsample,
            "y_px": grid.y_px + row * grid.side * grid.downsample,
            "side_px": width,
            "blank_fraction": blank,
            "tissue_mm2": (1 - blank) * patch_mm2,
            "ink_fraction": shares.ink[row, column],
            "sharpness": shares.sharp[row, column],
            "kept": kept[row, column],
        }
    )


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


def _pieces(touched: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and past-the-last index of runs of true values that are short enough to be read."""
    for begin, end in _spans(touched):
        for first in range(begin, end, READ_AT_ONCE):
            yield first, min(first + READ_AT_ONCE, end)


def _spans(flags: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and past-the-last index of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    yield from ((int(first), int(last)) for first, last in edges.reshape(-1, 2))

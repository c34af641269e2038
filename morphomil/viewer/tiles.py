"""Tiles of outlines: what is drawn of a square of a slide, as bytes.

Level 0 has tiles of `TILE_PX` level-0 pixels, each further level of twice as many, drawn in as many
pixels on screen. A tile holds the outlines that reach into it; on levels with too many for that it
holds how many nuclei of each type lie in each of its cells. All numbers are little-endian:

| | |
|---|---|
| 4 uint32 | kind (0 outlines, 1 cells), n, m, number of types |
| outlines | n uint32 labels; n uint32 ends; m pairs of int16, vertices; n uint8 types |
| cells | types x m x m uint16 (n is 0) |

Vertices are sixteenths of the tile's pixels from its corner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphomil.viewer.nuclei import TYPES, SlideNuclei, SlideRings

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE_PX = 512
"""A tile's side, in its pixels."""
CELL_PX = 8
"""Where nuclei are counted, a cell has this side, in pixels of the tile."""
SUBPIXELS = 16
MOST_OUTLINES = 40_000
"""A tile with more nuclei has no outlines, nor has any other of its level or above."""
COARSEST_UM = 5.0
"""Outlines are drawn up to so many um per pixel: at more they would be points."""
TOLERANCE_PX = 0.7
"""Vertices nearer together than this on a tile are one, but on level 0."""
MISSING = 255
"""Stands for the value of a nucleus that has none; the others are 0 to 254."""


def count_levels(nuclei: SlideNuclei, *, mpp: float) -> int:
    """How many levels have outlines: those on which nuclei are large enough and not too many; level
    0 has them always."""
    counts, level = _count_tiles(nuclei.place), 0
    while mpp * 2**level <= COARSEST_UM and counts.max(initial=0) <= MOST_OUTLINES:
        level += 1
        counts = np.pad(counts, [(0, side % 2) for side in counts.shape])
        rows, columns = counts.shape
        counts = counts.reshape(rows // 2, 2, columns // 2, 2).sum(axis=(1, 3))
    return max(level, 1)


def _count_tiles(place: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many nuclei each tile (rows, columns) of level 0 has."""
    if not len(place):
        return np.zeros((1, 1), np.int64)
    column, row = (place.astype(np.int64) // TILE_PX).clip(0).T
    rows, columns = int(row.max()) + 1, int(column.max()) + 1
    return np.bincount(row * columns + column, minlength=rows * columns).reshape(rows, columns)


def outline_tile(
    nuclei: SlideNuclei, rings: SlideRings, level: int, column: int, row: int
) -> bytes:
    """The outlines that reach into a tile."""
    scale = 2**level
    left, top = (TILE_PX * scale * at for at in (column, row))
    chosen = rings.within(left, top, TILE_PX * scale)
    vertices, ends = rings.take(chosen, tolerance=TOLERANCE_PX * scale if level else 0.0)
    corner = np.array([left, top], np.float32)
    placed = np.rint((vertices - corner) * np.float32(SUBPIXELS / scale))
    own = rings.row[chosen]
    parts = (
        np.array([0, len(chosen), len(vertices), len(TYPES)], "<u4"),
        nuclei.label[own].astype("<u4"),
        ends.astype("<u4"),
        placed.clip(-32768, 32767).astype("<i2"),
        nuclei.type[own],
    )
    return b"".join(part.tobytes() for part in parts)


def density_tile(nuclei: SlideNuclei, level: int, column: int, row: int) -> bytes:
    """How many nuclei of each type lie in each cell of a tile."""
    scale, cells = 2**level, TILE_PX // CELL_PX
    at = np.floor(nuclei.place / (CELL_PX * scale)).astype(np.int64)
    at -= np.array([column, row]) * cells
    inside = ((at >= 0) & (at < cells)).all(axis=1)
    x, y = at[inside].T
    cell = (nuclei.type[inside].astype(np.int64) * cells + y) * cells + x
    counts = np.bincount(cell, minlength=len(TYPES) * cells**2).clip(max=65535)
    return np.array([1, 0, cells, len(TYPES)], "<u4").tobytes() + counts.astype("<u2").tobytes()


def value_tile(
    values: NDArray[np.float32],
    rings: SlideRings,
    limits: tuple[float, float],
    place: tuple[int, int, int],
) -> bytes:
    """The values of the nuclei of an outline tile (`place`: level, column, row), in its order, as
    uint8: 0 is the lower limit or less, 254 the upper one or more."""
    level, column, row = place
    side = TILE_PX * 2**level
    own = values[rings.row[rings.within(side * column, side * row, side)]]
    low, high = limits
    share = (own - low) / (high - low) if high > low else np.where(np.isnan(own), np.nan, 0.5)
    known = ~np.isnan(share)
    code = np.where(known, np.rint(np.nan_to_num(share).clip(0, 1) * 254), MISSING)
    return code.astype(np.uint8).tobytes()

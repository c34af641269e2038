"""Typed nuclei -> the outlines of epithelium: where epithelial nuclei are dense and most of all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from morphomil.slides.regions import mask_polygons
from morphomil.slides.tissue import drop_small

if TYPE_CHECKING:
    import shapely
    from numpy.typing import NDArray

CELL_UM = 8.0
"""Nuclei are counted in cells of this side."""
SPREAD_UM = 20.0
"""Density is that of nuclei spread by a Gaussian of this SD: two or three nuclei wide."""
MIN_PER_MM2 = 1000.0
"""Epithelium has this many epithelial nuclei at least."""
MIN_SHARE = 0.5
"""And this share of all nuclei."""
BRIDGE_UM = 60.0
"""Stroma up to twice as wide between nests belongs to them, as a pathologist outlines tumor."""
LEAST_MM2 = 0.02
"""Smaller nests are left out, smaller holes are filled: a square of 140 um."""


def outline_epithelium(
    positions_um: NDArray[np.float64],
    p_epithelial: NDArray[np.floating],
    *,
    width_um: float,
    height_um: float,
) -> list[shapely.Polygon]:
    """The outlines, in um, of where epithelial nuclei lie closely together.

    The density of epithelial nuclei, each counted by its probability, and that of all nuclei are
    kernel estimates with a Gaussian of `SPREAD_UM` SD. Epithelium is where the first is at least
    `MIN_PER_MM2` and `MIN_SHARE` of the second; what stroma of `BRIDGE_UM` on either side parts is
    joined (morphological closing). Memory goes with the area, not with the nuclei.

    Args:
        positions_um: x and y (n, 2) of all nuclei, from the area's top left corner.
        p_epithelial: probability of each that it is epithelial (n,), NaN where its type is unknown:
            such nuclei are left out.
        width_um: of the area that was searched.
        height_um: of the area that was searched.

    Returns:
        Disjoint polygons, with holes, within the area.

    Raises:
        ValueError: arrays that don't belong together, or an area without extent.
    """
    positions, shares = np.asarray(positions_um, float), np.asarray(p_epithelial, float)
    if positions.shape != (len(shares), 2) or shares.ndim != 1:
        raise ValueError(
            f"positions are (n, 2) and probabilities (n,), got {positions.shape} and {shares.shape}"
        )
    if not (width_um > 0 and height_um > 0):
        raise ValueError(f"the area is {width_um:g} x {height_um:g} um")
    known = np.isfinite(shares)
    size = math.ceil(height_um / CELL_UM), math.ceil(width_um / CELL_UM)
    column, row = (positions[known] / CELL_UM).astype(int).T
    where = np.clip(row, 0, size[0] - 1), np.clip(column, 0, size[1] - 1)
    cells = np.ravel_multi_index(where, size)

    def density(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        counts = np.bincount(cells, weights, minlength=size[0] * size[1]).reshape(size)
        spread = ndimage.gaussian_filter(counts, SPREAD_UM / CELL_UM, mode="constant")
        return np.asarray(spread / (CELL_UM / 1000) ** 2)

    epithelial, every = density(shares[known]), density(np.ones(int(known.sum())))
    dense = (epithelial >= MIN_PER_MM2) & (epithelial >= MIN_SHARE * every)
    least = round(LEAST_MM2 / (CELL_UM / 1000) ** 2)
    joined = drop_small(_closed(dense, BRIDGE_UM / CELL_UM), cells=least)
    if not joined.any():
        return []
    around = np.pad(~joined, 1, constant_values=True)  # what reaches the edge is no hole
    filled = ~drop_small(around, cells=least)[1:-1, 1:-1]
    return mask_polygons(filled, cell_px=CELL_UM)


def _closed(mask: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
    """Closing with a disc: what can't be reached by discs that don't touch the mask."""
    if not mask.any():
        return mask
    pad = math.ceil(reach) + 1
    wide = np.pad(mask, pad)
    grown = ndimage.distance_transform_edt(~wide) <= reach
    kept = ndimage.distance_transform_edt(grown) > reach
    return np.asarray((kept | wide)[pad:-pad, pad:-pad], dtype=bool)

"""Neighbors of a nucleus, and the tissue in which they are counted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

from morphomil.compiled import compiled
from morphomil.nuclei.features import ROUNDING, density
from morphomil.nuclei.registry import NEIGHBOR_ROOTS, FloatArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

DENSITY_RADIUS_UM = 50.0
"""Neighbors are counted in a disc of this radius."""


def local_density(
    x_um: FloatArray,
    y_um: FloatArray,
    *,
    tissue: NDArray[Any],
    tissue_mpp: float,
    radius_um: float = DENSITY_RADIUS_UM,
) -> FloatArray:
    """`density_per_mm2` at the points: other points within the radius, per mm2 of the disc's part
    inside `tissue`.

    NaN where less than half of the disc is tissue. The origin of the points is the outer corner of
    `tissue[0, 0]`: the center of pixel [row, column] lies at ((column + 0.5), (row + 0.5)) *
    tissue_mpp. `tissue` (H, W) is bool or the share of each pixel that is tissue; there is none
    outside the grid. Every point counts, inside tissue or not.

    Raises:
        ValueError: points of unequal number or not finite, `tissue` not 2-D or outside [0, 1], a
            size not positive.
    """
    roots = neighbor_roots(
        np.asarray(x_um, float), np.asarray(y_um, float), tissue, tissue_mpp, radius_um
    )
    return density(*(roots[name] for name in NEIGHBOR_ROOTS))


def check_positive(name: str, value: float) -> None:
    """Refuse what isn't a positive number."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive, got {value}")


def neighbor_roots(
    x_um: FloatArray, y_um: FloatArray, tissue: NDArray[Any], tissue_mpp: float, radius_um: float
) -> dict[str, Any]:
    """`NEIGHBOR_ROOTS` of points in the frame of `local_density`."""
    check_positive("tissue_mpp", tissue_mpp)
    check_positive("radius_um", radius_um)
    if x_um.ndim != 1 or x_um.shape != y_um.shape or not np.isfinite([x_um, y_um]).all():
        raise ValueError(
            f"x_um and y_um must be finite and of one length, got {x_um.shape} and {y_um.shape}"
        )
    if tissue.ndim != 2 or not (tissue.min(initial=0) >= 0 and tissue.max(initial=0) <= 1):
        raise ValueError(
            f"tissue must be 2-D with values in [0, 1], got {tissue.dtype} of shape {tissue.shape}"
        )
    points = np.column_stack([x_um, y_um])
    reach = radius_um * (1 + ROUNDING)
    return {
        "neighbors": cKDTree(points).query_ball_point(points, reach, return_length=True) - 1,
        "nearby_tissue_um2": area_around(points, tissue, tissue_mpp, radius_um),
        "radius_um": radius_um,
    }


def area_around(
    points_um: FloatArray, grid: NDArray[Any], cell_um: float, radius_um: float
) -> FloatArray:
    """um2 (n,) of what a grid (rows, columns) has shares of, inside the disc around each point
    (n, 2)."""
    x, y = points_um.T / cell_um
    return _disc_areas(x, y, grid, radius_um / cell_um) * cell_um**2


def _disc_areas(x: FloatArray, y: FloatArray, tissue: NDArray[Any], radius: float) -> FloatArray:
    """Tissue inside the disc around each point, all in pixels of `tissue`.

    The mean of an integral by rows and one by columns: turning the slide by 90 degrees doesn't
    change it.
    """
    by_rows = _disc_sums(x, y, _row_integrals(tissue), radius)
    by_columns = _disc_sums(y, x, _row_integrals(tissue.T), radius)
    return (by_rows + by_columns) / 2


def _row_integrals(grid: NDArray[Any]) -> FloatArray:
    """(H, W + 1): the sum of each row left of each pixel border."""
    integrals = np.zeros((grid.shape[0], grid.shape[1] + 1))
    integrals[:, 1:] = grid
    return np.cumsum(integrals, axis=1, out=integrals)


@compiled()
def _disc_sums(x: FloatArray, y: FloatArray, integrals: FloatArray, radius: float) -> FloatArray:
    """Sum of a grid inside discs: each row counts over the disc's mean chord in that row, so a full
    disc is exact."""
    sums = np.zeros(len(x))
    for i in range(len(x)):
        first = max(0, math.floor(y[i] - radius))
        last = min(integrals.shape[0], math.ceil(y[i] + radius))
        above = _half_segment(first - y[i], radius)
        for row in range(first, last):
            below = _half_segment(row + 1 - y[i], radius)
            chord = below - above
            above = below
            sums[i] += _integral_to(integrals[row], x[i] + chord) - _integral_to(
                integrals[row], x[i] - chord
            )
    return sums


@compiled()
def _half_segment(height: float, radius: float) -> float:
    """Integral of half the chord, sqrt(r^2 - t^2), for t from 0 to `height`."""
    t = min(max(height, -radius), radius)
    return (t * math.sqrt(radius * radius - t * t) + radius * radius * math.asin(t / radius)) / 2


@compiled()
def _integral_to(integrals: FloatArray, position: float) -> float:
    """Integral of a row up to a position between pixel borders."""
    inside = min(max(position, 0.0), len(integrals) - 1.0)
    pixel = min(int(inside), len(integrals) - 2)
    return float(integrals[pixel] + (inside - pixel) * (integrals[pixel + 1] - integrals[pixel]))

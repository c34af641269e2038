"""Mask -> nuclei table: one row per nucleus, and the registry of features with unit, range and
formula.

A feature is a pure function of roots (what one pass over the mask yields, in pixels) and of
features registered before it. To add one, decorate its formula::

    @feature("elongation", of=("major_axis_um", "minor_axis_um"), unit="1", low=1, high=5,
    meaning="axis ratio") def elongation(major, minor):
        return major / minor
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree

FloatArray = NDArray[np.float64]
Formula = TypeVar("Formula", bound=Callable[..., Any])

SHAPE_ROOTS = {
    "mpp": "um per pixel",
    "x_px": "centroid, pixel centers at integers",
    "y_px": "centroid, pixel centers at integers",
    "pixels": "number of pixels",
    "var_x_px2": "variance of the pixel centers' x",
    "var_y_px2": "variance of the pixel centers' y",
    "cov_xy_px2": "covariance of the pixel centers' x and y",
    "straight_exits": "how often grid lines along x or y leave the nucleus",
    "diagonal_exits": "how often grid lines along the two diagonals leave the nucleus",
    "rectangle_px2": "area of the smallest rotated rectangle around the pixels' corners",
}
NEIGHBOR_ROOTS = {
    "neighbors": "other nuclei with centroid within the radius",
    "nearby_tissue_um2": "area of the disc of that radius inside the tissue",
    "radius_um": "radius of the disc",
}
"""`SHAPE_ROOTS` come from the mask; `NEIGHBOR_ROOTS` need all nuclei of a slide and its tissue."""

MIN_AXIS_RATIO = 1.1
"""Below this ratio of the ellipse's axes a nucleus has no orientation."""
DENSITY_RADIUS_UM = 50.0
"""Radius of the disc in which neighbors are counted."""
TISSUE_UM = 2.0
"""A tissue mask is averaged to blocks of at most this side before density is taken."""
ROUNDING = 1e-9
"""Relative slack of comparisons, so that turning a slide can't move a nucleus over a limit."""


@dataclass(frozen=True)
class Feature:
    """A column of the nuclei table: its unit, the range of its histogram and the formula that
    yields it.

    `low` and `high` bound the fixed fine grid of its histograms (values beyond fall in the end
    bins). `of` names the roots and earlier features that `formula` takes. `axial`: a direction
    without head, modulo 180 degrees. `fixed_edges`: histograms always span `low` to `high` instead
    of the training patients' percentiles.
    """

    name: str
    unit: str
    meaning: str
    low: float
    high: float
    of: tuple[str, ...]
    formula: Callable[..., Any]
    axial: bool = False
    fixed_edges: bool = False

    def __post_init__(self) -> None:
        """Refuse an empty range and arguments that nothing provides."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"feature {self.name} needs finite low < high, got {self.low} and {self.high}"
            )
        known = {**SHAPE_ROOTS, **NEIGHBOR_ROOTS, **FEATURES}
        if unknown := [name for name in self.of if name not in known]:
            raise ValueError(
                f"feature {self.name} asks for {', '.join(unknown)}; there are {', '.join(known)}"
            )


FEATURES: dict[str, Feature] = {}
"""Every feature by name, in the order of the table's columns."""


def feature(
    name: str,
    *,
    of: tuple[str, ...],
    unit: str,
    low: float,
    high: float,
    meaning: str,
    axial: bool = False,
    fixed_edges: bool = False,
) -> Callable[[Formula], Formula]:
    """Register the decorated formula as a feature; see `Feature` for the arguments.

    The formula takes the arrays that `of` names (`mpp` and `radius_um` are numbers) and returns one
    value per nucleus.

    Raises:
        ValueError: the name is taken, `of` asks for something unknown, or the range is empty.
    """

    def register(formula: Formula) -> Formula:
        if name in {**SHAPE_ROOTS, **NEIGHBOR_ROOTS, **FEATURES, "label": None}:
            raise ValueError(f"the name {name} is taken")
        FEATURES[name] = Feature(name, unit, meaning, low, high, of, formula, axial, fixed_edges)
        return formula

    return register


_MOMENTS = ("var_x_px2", "var_y_px2", "cov_xy_px2", "mpp")


@feature("area_um2", of=("pixels", "mpp"), unit="um2", low=0, high=400, meaning="area")
def area(pixels: FloatArray, mpp: float) -> FloatArray:
    """Area in um2: pixels x mpp^2."""
    return pixels * mpp**2


@feature(
    "major_axis_um",
    of=_MOMENTS,
    unit="um",
    low=0,
    high=50,
    meaning="long axis of the ellipse of equal moments",
)
def major_axis(var_x: FloatArray, var_y: FloatArray, cov_xy: FloatArray, mpp: float) -> FloatArray:
    """Full long axis in um of the ellipse with this pixel covariance (pixels as points, as
    scikit-image)."""
    return 4 * np.sqrt((var_x + var_y) / 2 + np.hypot((var_x - var_y) / 2, cov_xy)) * mpp


@feature(
    "minor_axis_um",
    of=_MOMENTS,
    unit="um",
    low=0,
    high=25,
    meaning="short axis of the ellipse of equal moments",
)
def minor_axis(var_x: FloatArray, var_y: FloatArray, cov_xy: FloatArray, mpp: float) -> FloatArray:
    """Full short axis in um of the ellipse with this pixel covariance; 0 for straight lines of
    pixels."""
    eigenvalue = (var_x + var_y) / 2 - np.hypot((var_x - var_y) / 2, cov_xy)
    return 4 * np.sqrt(np.maximum(eigenvalue, 0)) * mpp


@feature(
    "orientation_deg",
    of=("var_x_px2", "var_y_px2", "cov_xy_px2"),
    unit="deg",
    low=0,
    high=90,
    meaning="direction of the long axis in [0, 180), x right, y down; histograms take its axial "
    "deviation from the "
    "mean direction of the patch, in [0, 90], and that is what low and high bound",
    axial=True,
    fixed_edges=True,
)
def orientation(var_x: FloatArray, var_y: FloatArray, cov_xy: FloatArray) -> FloatArray:
    """Angle of the long axis in [0, 180) degrees, clockwise on screen from x; NaN below an axis
    ratio of 1.1.

    Equals (90 - degrees(scikit-image orientation)) mod 180.
    """
    major, minor = major_axis(var_x, var_y, cov_xy, 1.0), minor_axis(var_x, var_y, cov_xy, 1.0)
    elongated = (major > 0) & (major >= MIN_AXIS_RATIO * minor)
    # The second modulo: a tiny negative angle gives 180.0 in the first.
    angle = np.degrees(np.arctan2(2 * cov_xy, var_x - var_y)) / 2 % 180 % 180
    return np.where(elongated, angle, np.nan)


@feature(
    "circumference_um",
    of=("straight_exits", "diagonal_exits", "mpp"),
    unit="um",
    low=0,
    high=125,
    meaning="Crofton perimeter, 4 directions",
)
def circumference(straight_exits: FloatArray, diagonal_exits: FloatArray, mpp: float) -> FloatArray:
    """Crofton perimeter in um from the exits of grid lines in 4 directions; diagonal lines are
    sqrt(2) denser.

    Equals scikit-image's `perimeter_crofton(directions=4)` (S. Rivollier, PhD thesis, Saint-Etienne
    2010).
    """
    return np.pi / 4 * (straight_exits + diagonal_exits / math.sqrt(2)) * mpp


@feature(
    "density_per_mm2",
    of=("neighbors", "nearby_tissue_um2", "radius_um"),
    unit="1/mm2",
    low=0,
    high=30000,
    meaning="other nuclei within 50 um per mm2 of tissue there",
)
def density(neighbors: FloatArray, tissue_um2: FloatArray, radius_um: float) -> FloatArray:
    """Neighbors per mm2 of the disc's tissue; NaN where less than half of the disc is tissue."""
    enough = tissue_um2 >= np.pi * radius_um**2 / 2 * (1 - ROUNDING)
    per_mm2 = np.full(len(neighbors), np.nan)
    np.divide(1e6 * neighbors, tissue_um2, out=per_mm2, where=enough)
    return per_mm2


@feature(
    "circularity",
    of=("area_um2", "circumference_um"),
    unit="1",
    low=0,
    high=1.2,
    meaning="4 pi area / circumference^2, not clipped",
)
def circularity(area_um2: FloatArray, perimeter_um: FloatArray) -> FloatArray:
    """4 pi area / perimeter^2: 1 for a disc; small digital discs reach 1.07."""
    return 4 * np.pi * area_um2 / perimeter_um**2


@feature(
    "rectangularity",
    of=("pixels", "rectangle_px2"),
    unit="1",
    low=0,
    high=1,
    meaning="area / area of the smallest rotated rectangle around the pixels' corners",
)
def rectangularity(pixels: FloatArray, rectangle_px2: FloatArray) -> FloatArray:
    """Share of the smallest enclosing rectangle that the nucleus fills, in (0, 1]; pi/4 for an
    ellipse."""
    return pixels / rectangle_px2


def measure_nuclei(
    labels: NDArray[Any], *, mpp: float, tissue: NDArray[np.bool_] | None = None
) -> pd.DataFrame:
    """One row per nucleus, by label: `label`, centroid `x_px` and `y_px` (as scikit-image), and
    every feature.

    `labels` is (H, W) of any integer type, 0 background; all pixels of an id are one nucleus, in
    however many parts. `tissue` (H, W) is the analyzed tissue for density, None for the whole
    image.

    Raises:
        ValueError: `labels` isn't a 2-D array of integers from 0, `tissue` doesn't fit it, or `mpp`
            isn't positive.
    """
    if tissue is not None and (tissue.shape != labels.shape or tissue.dtype != np.bool_):
        raise ValueError(
            f"tissue must be bool of shape {labels.shape}, got {tissue.dtype} of "
            f"shape {tissue.shape}"
        )
    roots = _shape_roots(labels, mpp)
    x_um, y_um = ((roots[name] + 0.5) * mpp for name in ("x_px", "y_px"))
    side = _block_side(labels.shape, mpp)
    grid = _block_means(np.broadcast_to(True, labels.shape) if tissue is None else tissue, side)
    return _table(roots | _neighbor_roots(x_um, y_um, grid, side * mpp, DENSITY_RADIUS_UM))


def measure_shapes(labels: NDArray[Any], *, mpp: float) -> pd.DataFrame:
    """The table of `measure_nuclei` without density and what is computed from it, for one band of a
    larger image.

    Raises:
        ValueError: as `measure_nuclei`.
    """
    return _table(_shape_roots(labels, mpp))


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
    roots = _neighbor_roots(
        np.asarray(x_um, float), np.asarray(y_um, float), tissue, tissue_mpp, radius_um
    )
    return density(*(roots[name] for name in NEIGHBOR_ROOTS))


def _table(roots: dict[str, Any]) -> pd.DataFrame:
    """Label, centroid and the features that follow from these roots."""
    values = dict(roots)
    with np.errstate(divide="ignore", invalid="ignore"):  # lines of pixels have a short axis of 0
        for entry in FEATURES.values():
            if all(name in values for name in entry.of):
                values[entry.name] = np.asarray(
                    entry.formula(*(values[name] for name in entry.of)), dtype=np.float64
                )
    columns = ["label", "x_px", "y_px", *(name for name in FEATURES if name in values)]
    return pd.DataFrame({name: values[name] for name in columns})


def _shape_roots(labels: NDArray[Any], mpp: float) -> dict[str, Any]:
    """`label` and `SHAPE_ROOTS` of every nucleus, sorted by label."""
    _check_positive("mpp", mpp)
    runs, values = _scan_runs(_checked(labels))
    codes, ids = pd.factorize(values, sort=True)
    ends = np.cumsum(np.bincount(codes, minlength=len(ids)))
    roots = _measure_runs(
        runs[np.argsort(codes, kind="stable")], ends
    )  # (nuclei, SHAPE_ROOTS less mpp)
    return {"label": ids.astype(np.int64), "mpp": mpp} | dict(
        zip(list(SHAPE_ROOTS)[1:], roots.T, strict=True)
    )


def _checked(labels: NDArray[Any]) -> NDArray[Any]:
    """The labels as one of the two types that the compiled scan knows."""
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be a 2-D array of integers, got {labels.dtype} of shape {labels.shape}"
        )
    checked = np.ascontiguousarray(
        labels, dtype=np.int32 if np.can_cast(labels.dtype, np.int32) else np.int64
    )
    if checked.min(initial=0) < 0:
        raise ValueError(f"labels must be 0 to 2^63 - 1, got {labels.min()} to {labels.max()}")
    return checked


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive, got {value}")


@njit(cache=True)
def _scan_runs(labels: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Row-wise runs of equal label, in image order: (row, start, stop, straight exits, diagonal
    exits), and the labels.

    A line that enters a nucleus leaves it as often, so exits to the right, below and to the two
    sides below suffice.
    """
    height, width = labels.shape
    runs = np.empty((_count_runs(labels), 5), np.int32)
    values = np.empty(len(runs), labels.dtype)
    run = 0
    for y in range(height):
        x = 0
        while x < width:
            label = labels[y, x]
            if label == 0:
                x += 1
                continue
            start, below = x, 0
            while x < width and labels[y, x] == label:
                below += y + 1 < height and labels[y + 1, x] == label
                x += 1
            # The same count one pixel to the left plus one to the right: only the ends of the run
            # differ.
            beside = (
                2 * below
                + _is_label(labels, y + 1, start - 1, label)
                + _is_label(labels, y + 1, x, label)
            )
            beside -= _is_label(labels, y + 1, start, label) + _is_label(
                labels, y + 1, x - 1, label
            )
            values[run] = label
            runs[run, 0], runs[run, 1], runs[run, 2] = y, start, x
            runs[run, 3], runs[run, 4] = 1 + x - start - below, 2 * (x - start) - beside
            run += 1
    return runs, values


@njit(cache=True)
def _count_runs(labels: NDArray[Any]) -> int:
    count = 0
    for y in range(labels.shape[0]):
        left = 0
        for x in range(labels.shape[1]):
            label = labels[y, x]
            count += (label != 0) & (label != left)
            left = label
    return count


@njit(cache=True)
def _is_label(labels: NDArray[Any], y: int, x: int, label: int) -> bool:
    """Whether the pixel has this label; outside the image none has."""
    return bool(0 <= x < labels.shape[1] and y < labels.shape[0] and labels[y, x] == label)


@njit(cache=True)
def _measure_runs(runs: NDArray[np.int32], ends: NDArray[np.int64]) -> FloatArray:
    """The shape roots of each nucleus; `runs` is sorted by nucleus, then by row, and `ends` says
    where each one ends.

    Sums are integers relative to the nucleus' first pixel, so the moments are sound anywhere on a
    large slide.
    """
    roots = np.empty((len(ends), 9))
    begin = 0
    for i in range(len(ends)):
        own = runs[begin : ends[i]]
        begin = ends[i]
        y0, x0 = own[0, 0], own[0, 1]
        n = sum_x = sum_y = sum_xx = sum_yy = sum_xy = straight = diagonal = 0
        for k in range(len(own)):
            y = own[k, 0] - y0
            for x in range(own[k, 1] - x0, own[k, 2] - x0):
                sum_x += x
                sum_xx += x * x
                sum_xy += x * y
            length = own[k, 2] - own[k, 1]
            n += length
            sum_y += length * y
            sum_yy += length * y * y
            straight += own[k, 3]
            diagonal += own[k, 4]
        size = float(n)
        mean_x, mean_y = sum_x / size, sum_y / size
        roots[i, 0] = x0 + mean_x
        roots[i, 1] = y0 + mean_y
        roots[i, 2] = size
        # Products of integers below 2^53 are exact, so a nucleus and its mirror image have equal
        # moments.
        roots[i, 3] = (size * sum_xx - float(sum_x) * sum_x) / (size * size)
        roots[i, 4] = (size * sum_yy - float(sum_y) * sum_y) / (size * size)
        roots[i, 5] = (size * sum_xy - float(sum_x) * sum_y) / (size * size)
        roots[i, 6] = straight
        roots[i, 7] = diagonal
        roots[i, 8] = _smallest_rectangle(_corner_hull(own))
    return roots


@njit(cache=True)
def _corner_hull(runs: NDArray[np.int32]) -> NDArray[np.int64]:
    """Convex hull (vertices, xy) of the corners of one nucleus' pixels, by A. M. Andrew's monotone
    chains (1979)."""
    y0 = runs[0, 0]
    lines = runs[-1, 0] - y0 + 2
    left = np.full(lines, np.iinfo(np.int64).max)
    right = np.full(lines, np.iinfo(np.int64).min)
    for k in range(len(runs)):
        for line in range(runs[k, 0] - y0, runs[k, 0] - y0 + 2):
            left[line] = min(left[line], runs[k, 1])
            right[line] = max(right[line], runs[k, 2])
    hull = np.empty((2 * lines, 2), np.int64)
    size = 0
    for side in range(2):  # down the left ends, then up the right ends
        base = size
        for step in range(lines):
            y = step if side == 0 else lines - 1 - step
            if left[y] > right[y]:
                continue  # a row between two parts of the nucleus
            x = left[y] if side == 0 else right[y]
            while size - base >= 2 and _turn(hull[size - 2], hull[size - 1], x, y) >= 0:
                size -= 1
            hull[size, 0], hull[size, 1] = x, y
            size += 1
    return hull[:size]


@njit(cache=True)
def _turn(a: NDArray[np.int64], b: NDArray[np.int64], x: int, y: int) -> int:
    """Cross product of a -> b and a -> (x, y); negative where the hull stays convex."""
    return int((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]))


@njit(cache=True)
def _smallest_rectangle(hull: NDArray[np.int64]) -> float:
    """Area of the smallest rectangle around a convex polygon: one side lies on an edge (Freeman &
    Shapira 1975)."""
    smallest = np.inf
    for i in range(len(hull)):
        dx, dy = hull[i, 0] - hull[i - 1, 0], hull[i, 1] - hull[i - 1, 1]
        along_min = along_max = across_min = across_max = 0
        for k in range(len(hull)):
            x, y = hull[k, 0] - hull[i, 0], hull[k, 1] - hull[i, 1]
            along, across = x * dx + y * dy, x * dy - y * dx
            along_min, along_max = min(along_min, along), max(along_max, along)
            across_min, across_max = min(across_min, across), max(across_max, across)
        extent = float(along_max - along_min) * float(across_max - across_min)
        smallest = min(smallest, extent / float(dx * dx + dy * dy))
    return smallest


def _neighbor_roots(
    x_um: FloatArray, y_um: FloatArray, tissue: NDArray[Any], tissue_mpp: float, radius_um: float
) -> dict[str, Any]:
    """`NEIGHBOR_ROOTS` of points in the frame of `local_density`."""
    _check_positive("tissue_mpp", tissue_mpp)
    _check_positive("radius_um", radius_um)
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
        "nearby_tissue_um2": _disc_areas(
            x_um / tissue_mpp, y_um / tissue_mpp, tissue, radius_um / tissue_mpp
        )
        * tissue_mpp**2,
        "radius_um": radius_um,
    }


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


@njit(cache=True)
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


@njit(cache=True)
def _half_segment(height: float, radius: float) -> float:
    """Integral of half the chord, sqrt(r^2 - t^2), for t from 0 to `height`."""
    t = min(max(height, -radius), radius)
    return (t * math.sqrt(radius * radius - t * t) + radius * radius * math.asin(t / radius)) / 2


@njit(cache=True)
def _integral_to(integrals: FloatArray, position: float) -> float:
    """Integral of a row up to a position between pixel borders."""
    inside = min(max(position, 0.0), len(integrals) - 1.0)
    pixel = min(int(inside), len(integrals) - 2)
    return float(integrals[pixel] + (inside - pixel) * (integrals[pixel + 1] - integrals[pixel]))


def _block_side(shape: tuple[int, ...], mpp: float) -> int:
    """Side in pixels of the largest blocks up to `TISSUE_UM` that tile the image without rest."""
    widest = max(1, int(TISSUE_UM / mpp))
    return max(
        side for side in range(1, widest + 1) if shape[0] % side == 0 and shape[1] % side == 0
    )


def _block_means(mask: NDArray[np.bool_], side: int) -> FloatArray:
    height, width = mask.shape
    rows = mask.reshape(height // side, side, width).sum(axis=1, dtype=np.int32)
    blocks: FloatArray = rows.reshape(height // side, width // side, side).mean(axis=2) / side
    return blocks

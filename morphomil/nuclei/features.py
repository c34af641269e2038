"""The eight features of a nucleus: their formulas, units and ranges."""

from __future__ import annotations

import numpy as np

from morphomil.nuclei.registry import FloatArray, feature

MIN_AXIS_RATIO = 1.1
"""Below this ratio of the ellipse's axes a nucleus has no orientation."""
ROUNDING = 1e-9
"""Comparisons have this relative slack, so that turning a slide can't move a nucleus over a
limit."""
AREA_LIMITS_UM2 = (15.0, 120.0)
"""A slide's median nuclear area lies within: small lymphocytes have about 25 um2, nuclei of
carcinomas 30 to 90. Half or twice the true pixel size makes a quarter or four times the area."""
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
    of=("perimeter_px", "mpp"),
    unit="um",
    low=0,
    high=125,
    meaning="length of the outline; of a mask the Crofton perimeter, 4 directions",
)
def circumference(perimeter_px: FloatArray, mpp: float) -> FloatArray:
    """Length of the outline in um."""
    return perimeter_px * mpp


@feature(
    "density_per_mm2",
    of=("neighbors", "nearby_tissue_um2", "radius_um"),
    unit="1/mm2",
    low=0,
    high=30000,
    meaning="other nuclei within 50 um per mm2 of tissue there",
    step=1e6 / (np.pi * 50**2),
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

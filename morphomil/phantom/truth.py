"""What a phantom's nuclei measure, from their exact outlines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely

from morphomil.nuclei.density import local_density
from morphomil.nuclei.features import MIN_AXIS_RATIO
from morphomil.phantom.layout import LAYOUT_UM
from morphomil.phantom.nuclei import outline_moments
from morphomil.phantom.settings import NUCLEUS_CLASSES, FloatArray

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely import Polygon


def truth_table(
    points: FloatArray,
    outlines: FloatArray,
    *,
    classes: NDArray[np.int8],
    tumor: Polygon,
    mpp: float,
) -> pd.DataFrame:
    """One row per nucleus: its place, class and true features."""
    x_um, y_um = points.T
    shape = outline_moments(outlines)
    spread = np.hypot(shape["xx"] - shape["yy"], 2 * shape["xy"])
    major, minor = (np.sqrt(8 * (shape["xx"] + shape["yy"] + sign * spread)) for sign in (1, -1))
    orientation = np.degrees(np.arctan2(2 * shape["xy"], shape["xx"] - shape["yy"]) / 2) % 180
    circumference = np.linalg.norm(outlines - np.roll(outlines, -1, 1), axis=2).sum(1)
    inside = shapely.contains_xy(tumor, x_um / mpp, y_um / mpp)
    density = np.full(len(x_um), np.nan)
    density[inside] = density_within(x_um[inside], y_um[inside], tumor, mpp)
    return pd.DataFrame(
        {
            "label": np.arange(1, len(x_um) + 1, dtype=np.int32),
            "nucleus_class": np.array(NUCLEUS_CLASSES)[classes],
            "in_tumor": inside,
            "x_px": x_um / mpp,
            "y_px": y_um / mpp,
            "area_um2": shape["area"],
            "major_axis_um": major,
            "minor_axis_um": minor,
            "orientation_deg": np.where(major < MIN_AXIS_RATIO * minor, np.nan, orientation),
            "circumference_um": circumference,
            "density_per_mm2": density,
            "circularity": 4 * math.pi * shape["area"] / circumference**2,
            "rectangularity": shape["area"] / _rectangle_areas(outlines),
        }
    )


def density_within(x_um: FloatArray, y_um: FloatArray, tumor: Polygon, mpp: float) -> FloatArray:
    """Other nuclei within 50 um per mm2 of tumor there."""
    cell = LAYOUT_UM / 2
    _, _, right, bottom = np.array(tumor.bounds) * mpp / cell
    rows, columns = np.indices((math.ceil(bottom), math.ceil(right)))
    tissue = shapely.contains_xy(tumor, (columns + 0.5) * cell / mpp, (rows + 0.5) * cell / mpp)
    return local_density(x_um, y_um, tissue=tissue, tissue_mpp=cell)


def _rectangle_areas(outlines: FloatArray) -> FloatArray:
    """Area of the smallest enclosing rectangle among 60 directions; at most 0.5 % above the true
    one for a nucleus."""
    x, y = outlines[..., 0], outlines[..., 1]
    angles = np.arange(120) / 120 * math.pi
    widths = np.array([np.ptp(x * np.cos(angle) + y * np.sin(angle), axis=1) for angle in angles])
    return np.asarray((widths[:60] * widths[60:]).min(axis=0))

"""Label images of known content, and witnesses of what is measured on them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.measure import regionprops_table

from morphomil.nuclei.measure import measure_shapes
from morphomil.types import FEATURE_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray


SHAPES = [name for name in FEATURE_NAMES if name != "density_per_mm2"]


WITNESS = (
    "label",
    "area",
    "axis_major_length",
    "axis_minor_length",
    "orientation",
    "perimeter_crofton",
    "centroid",
)


LAW = settings(deadline=None, max_examples=25)


IMAGES = ("Breast_TCGA-A7-A13E-01Z-00-DX1", "Kidney_TCGA-HE-7130-01Z-00-DX1")


def blobs(seed: int, shape: tuple[int, int] = (96, 64), width: float = 2) -> NDArray[np.int32]:
    """Touching, border and one-pixel nuclei under shuffled ids."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=shape), width)
    labels, count = ndimage.label(noise > 0.3 * noise.std())
    labels = np.where(
        labels > 0, 2 * labels - (rng.random(shape) < 0.02), 0
    )  # touching one-pixel neighbors
    return np.concatenate([[0], 1 + rng.permutation(2 * count)])[labels].astype(np.int32)


def confetti() -> st.SearchStrategy[NDArray[Any]]:
    """Images of few pixels in which nuclei are lines, single pixels, or in parts."""
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
    return hnp.arrays(np.uint8, shapes, elements=st.integers(0, 3))


def axial_difference(a: Any, b: Any) -> NDArray[np.float64]:
    return np.abs((np.asarray(a) - np.asarray(b) + 90) % 180 - 90)


def assert_equals_skimage(labels: NDArray[Any], mpp: float = 0.25) -> None:
    ours, theirs = (
        measure_shapes(labels, mpp=mpp),
        pd.DataFrame(regionprops_table(labels, properties=WITNESS)),
    )
    assert ours["label"].tolist() == theirs["label"].tolist()
    for column, name, unit in (
        ("x_px", "centroid-1", 1),
        ("y_px", "centroid-0", 1),
        ("area_um2", "area", mpp**2),
        ("major_axis_um", "axis_major_length", mpp),
        ("circumference_um", "perimeter_crofton", mpp),
    ):
        np.testing.assert_allclose(ours[column], theirs[name] * unit, rtol=1e-12, atol=1e-12)
    # A zero eigenvalue carries scikit-image's rounding, 1e-16 of the larger one, under a square
    # root.
    np.testing.assert_allclose(
        ours["minor_axis_um"], theirs["axis_minor_length"] * mpp, rtol=1e-9, atol=1e-6
    )
    oriented = ours["orientation_deg"].notna()
    ratio = theirs["axis_major_length"] - 1.1 * theirs["axis_minor_length"]
    clear = (ratio.abs() > 1e-6) | (theirs["area"] == 1)
    assert (oriented == ((ratio > 0) & (theirs["area"] > 1)))[clear].all()
    angle = (90 - np.degrees(theirs["orientation"])) % 180
    assert axial_difference(ours["orientation_deg"], angle)[oriented].max(initial=0) < 1e-6
    assert ours["orientation_deg"][oriented].between(0, 180, inclusive="left").all()


def corners(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    y, x = np.nonzero(mask)
    return np.unique(
        np.concatenate([np.column_stack([x + i, y + j]) for i in (0, 1) for j in (0, 1)]), axis=0
    )


def smallest_rectangle(points: NDArray[np.int64]) -> float:
    """Brute force: the extents of all points along and across every edge of Qhull's hull."""
    hull = points[ConvexHull(points).vertices].astype(float)
    edges = np.roll(hull, -1, axis=0) - hull
    along = edges / np.linalg.norm(edges, axis=1, keepdims=True)
    across = along[:, ::-1] * [1, -1]
    return float((np.ptp(hull @ along.T, axis=0) * np.ptp(hull @ across.T, axis=0)).min())


def ellipse(major: float, minor: float, degrees: float, side: int = 128) -> NDArray[np.uint8]:
    """Full axes in pixels, off the pixel grid."""
    y, x = np.mgrid[:side, :side] - (side / 2 + 0.3)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (((x * c + y * s) / major) ** 2 + ((y * c - x * s) / minor) ** 2 <= 0.25).astype(
        np.uint8
    )

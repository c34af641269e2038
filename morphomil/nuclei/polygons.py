"""Outlines -> nuclei table: the features' roots from the formulas of polygons, without pixels.

A mask at 0.5 um per pixel can't carry rectangularity, whoever draws it; an outline between the
pixels can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.compiled import compiled
from morphomil.nuclei.density import check_positive
from morphomil.nuclei.measure import evaluate_features
from morphomil.nuclei.registry import SHAPE_ROOTS

if TYPE_CHECKING:
    from numpy.typing import NDArray


def measure_outlines(
    vertices: NDArray[Any], ends: NDArray[np.integer], *, mpp: float
) -> pd.DataFrame:
    """One row per outline: `label` from 1, centroid `x_px`, `y_px`, and every feature of its shape.

    Area, centroid and second moments are those of the polygon's area (Green's theorem), the
    circumference is its length, the smallest rectangle around it has a side on its convex hull. A
    digitized mask's features agree but for the digitization: its moments are those of the pixels'
    centers, 1/12 of a squared pixel less along each axis.

    Args:
        vertices: x and y (m, 2) of all outlines one after the other, pixel centers at whole
            numbers, either sense of rotation; the last vertex of one is joined with its first.
        ends: of each outline, where it ends in `vertices`.
        mpp: um per pixel.

    Raises:
        ValueError: `vertices` isn't (m, 2) of finite numbers, an outline has fewer than three, or
            `mpp` isn't positive.
    """
    check_positive("mpp", mpp)
    return evaluate_features(outline_roots(vertices, ends), mpp=mpp)


def outline_roots(vertices: NDArray[Any], ends: NDArray[np.integer]) -> pd.DataFrame:
    """`label` from 1 and `SHAPE_ROOTS` but `mpp` of every outline: what features need of it.

    Arguments and errors as of `measure_outlines`.
    """
    points = np.ascontiguousarray(vertices, dtype=np.float64)
    stops = np.ascontiguousarray(ends, dtype=np.int64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"vertices must be finite numbers (m, 2), got {points.shape}")
    counts = np.diff(stops, prepend=0)
    if stops.ndim != 1 or (counts < 3).any() or counts.sum() != len(points):
        raise ValueError(
            f"ends must divide {len(points)} vertices into outlines of three or more, got {stops}"
        )
    names = [name for name in SHAPE_ROOTS if name != "mpp"]
    columns = dict(zip(names, _measure_rings(points, stops).T, strict=True))
    return pd.DataFrame({"label": np.arange(1, len(stops) + 1)} | columns)


@compiled(nogil=True)
def _measure_rings(points: NDArray[np.float64], ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """The shape roots of each ring but `mpp`, in the order of `SHAPE_ROOTS`.

    Sums are relative to the ring's first vertex, so they are sound anywhere on a large slide. An
    outline without area has its vertices' mean as centroid and no extent.
    """
    roots = np.empty((len(ends), 8))
    begin = 0
    for i in range(len(ends)):
        own = points[begin : ends[i]] - points[begin]
        x0, y0 = points[begin]
        begin = ends[i]
        twice = sum_x = sum_y = sum_xx = sum_yy = sum_xy = length = 0.0
        for k in range(len(own)):
            ax, ay = own[k - 1]
            bx, by = own[k]
            cross = ax * by - bx * ay
            twice += cross
            sum_x += cross * (ax + bx)
            sum_y += cross * (ay + by)
            sum_xx += cross * (ax * ax + ax * bx + bx * bx)
            sum_yy += cross * (ay * ay + ay * by + by * by)
            sum_xy += cross * (2 * ax * ay + ax * by + bx * ay + 2 * bx * by)
            length += np.hypot(bx - ax, by - ay)
        if twice == 0:
            roots[i, 0], roots[i, 1] = x0 + own[:, 0].mean(), y0 + own[:, 1].mean()
            roots[i, 2:6] = 0
        else:
            mean_x, mean_y = sum_x / (3 * twice), sum_y / (3 * twice)
            roots[i, 0], roots[i, 1] = x0 + mean_x, y0 + mean_y
            roots[i, 2] = abs(twice) / 2
            roots[i, 3] = sum_xx / (6 * twice) - mean_x * mean_x
            roots[i, 4] = sum_yy / (6 * twice) - mean_y * mean_y
            roots[i, 5] = sum_xy / (12 * twice) - mean_x * mean_y
        roots[i, 6] = length
        roots[i, 7] = _smallest_rectangle(_hull(own))
    return roots


@compiled(nogil=True)
def _hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convex hull (vertices, xy), no three on a line, by A. M. Andrew's monotone chains (1979)."""
    order = np.argsort(points[:, 0], kind="mergesort")
    for i in range(1, len(order)):  # of equal x the smaller y first
        k = i
        while (
            k > 0
            and points[order[k - 1], 0] == points[order[k], 0]
            and points[order[k - 1], 1] > points[order[k], 1]
        ):
            order[k - 1], order[k] = order[k], order[k - 1]
            k -= 1
    hull = np.empty((2 * len(order) + 1, 2))
    size = 0
    for chain in range(2):
        base = size
        for step in range(len(order)):
            x, y = points[order[step if chain == 0 else len(order) - 1 - step]]
            while size - base >= 2 and (
                (hull[size - 1, 0] - hull[size - 2, 0]) * (y - hull[size - 2, 1])
                - (hull[size - 1, 1] - hull[size - 2, 1]) * (x - hull[size - 2, 0])
                <= 0
            ):
                size -= 1
            hull[size, 0], hull[size, 1] = x, y
            size += 1
        size -= 1  # the chain's last point begins the next one
    return hull[: max(size, 1)]


@compiled(nogil=True)
def _smallest_rectangle(hull: NDArray[np.float64]) -> float:
    """Area of the smallest rectangle around a convex polygon: one side lies on an edge (Freeman &
    Shapira 1975), the others touch it where rotating calipers do (Toussaint 1983).

    The polygon turns from x to y; 0 with fewer than three vertices.
    """
    count = len(hull)
    if count < 3:
        return 0.0
    smallest = np.inf
    far = ahead = behind = 0
    for i in range(count):
        ax, ay = hull[i]
        dx, dy = hull[(i + 1) % count, 0] - ax, hull[(i + 1) % count, 1] - ay
        size = np.hypot(dx, dy)
        dx, dy = dx / size, dy / size
        ahead = _advance(hull, max(ahead, i + 1), dx, dy)
        far = _advance(hull, max(far, ahead), -dy, dx)
        behind = _advance(hull, max(behind, far), -dx, -dy)
        fx, fy = hull[ahead % count, 0] - hull[behind % count, 0], hull[ahead % count, 1]
        fy -= hull[behind % count, 1]
        deep = (hull[far % count, 1] - ay) * dx - (hull[far % count, 0] - ax) * dy
        smallest = min(smallest, (fx * dx + fy * dy) * deep)
    return float(smallest)


@compiled(nogil=True)
def _advance(hull: NDArray[np.float64], k: int, dx: float, dy: float) -> int:
    """The first vertex from k on beyond which the polygon no longer goes along (dx, dy)."""
    count = len(hull)
    for _ in range(count):
        a, b = hull[k % count], hull[(k + 1) % count]
        if (b[0] - a[0]) * dx + (b[1] - a[1]) * dy <= 0:
            break
        k += 1
    return k

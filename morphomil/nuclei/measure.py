"""Label image -> nuclei table: one pass over the runs of pixels yields what features rest on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.compiled import compiled
from morphomil.nuclei.density import DENSITY_RADIUS_UM, check_positive, neighbor_roots
from morphomil.nuclei.registry import FEATURES, SHAPE_ROOTS, FloatArray, evaluate, features_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

TISSUE_UM = 2.0
"""A tissue mask is averaged to blocks of at most this side before density is taken."""


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
    roots = measure_roots(labels, mpp=mpp)
    x_um, y_um = ((roots[name].to_numpy() + 0.5) * mpp for name in ("x_px", "y_px"))
    side = _block_side(labels.shape, mpp)
    grid = _block_means(np.broadcast_to(True, labels.shape) if tissue is None else tissue, side)
    neighbors = neighbor_roots(x_um, y_um, grid, side * mpp, DENSITY_RADIUS_UM)
    return evaluate_features(roots, mpp=mpp, neighbors=neighbors)


def measure_shapes(labels: NDArray[Any], *, mpp: float) -> pd.DataFrame:
    """The table of `measure_nuclei` without density and what is computed from it, where the tissue
    isn't known.

    Raises:
        ValueError: as `measure_nuclei`.
    """
    return evaluate_features(measure_roots(labels, mpp=mpp), mpp=mpp)


def measure_roots(labels: NDArray[Any], *, mpp: float) -> pd.DataFrame:
    """`label` and `SHAPE_ROOTS` but `mpp` of every nucleus, by label: all that features need of the
    mask, so that a large mask can be measured band by band.

    Raises:
        ValueError: as `measure_nuclei`.
    """
    check_positive("mpp", mpp)
    runs, values = _scan_runs(_checked(labels))
    codes, ids = pd.factorize(values, sort=True)
    ends = np.cumsum(np.bincount(codes, minlength=len(ids)))
    roots = _measure_runs(runs[np.argsort(codes, kind="stable")], ends)
    perimeters = _crofton(roots[:, 6], roots[:, 7])
    roots = np.column_stack([roots[:, :6], perimeters, roots[:, 8]])
    names = [name for name in SHAPE_ROOTS if name != "mpp"]
    columns = dict(zip(names, roots.T, strict=True))
    return pd.DataFrame({"label": ids.astype(np.int64)} | columns)


def evaluate_features(
    roots: pd.DataFrame,
    *,
    mpp: float,
    neighbors: Mapping[str, Any] | None = None,
    families: Sequence[str] = (),
) -> pd.DataFrame:
    """Label, centroid and features of the nuclei of `measure_roots`: with their `NEIGHBOR_ROOTS`
    every feature without a family, and those of `families`, for which `neighbors` has their roots
    (`TYPE_ROOTS`) too; without those that need only shapes."""
    values = {str(name): roots[name].to_numpy(copy=True) for name in roots} | {"mpp": mpp}
    entries = [FEATURES[name] for name in features_of(families)]
    chosen = [entry for entry in entries if neighbors is not None or not entry.needs_neighbors]
    features = evaluate(values | dict(neighbors or {}), chosen)
    return pd.DataFrame({name: values[name] for name in ("label", "x_px", "y_px")} | features)


def _crofton(straight_exits: FloatArray, diagonal_exits: FloatArray) -> FloatArray:
    """Perimeter in pixels from the exits of grid lines in 4 directions; diagonal lines are sqrt(2)
    denser.

    Equals scikit-image's `perimeter_crofton(directions=4)` (S. Rivollier, PhD thesis, Saint-Etienne
    2010).
    """
    return np.pi / 4 * (straight_exits + diagonal_exits / math.sqrt(2))


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


@compiled()
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


@compiled()
def _count_runs(labels: NDArray[Any]) -> int:
    count = 0
    for y in range(labels.shape[0]):
        left = 0
        for x in range(labels.shape[1]):
            label = labels[y, x]
            count += (label != 0) & (label != left)
            left = label
    return count


@compiled()
def _is_label(labels: NDArray[Any], y: int, x: int, label: int) -> bool:
    """Whether the pixel has this label; outside the image none has."""
    return bool(0 <= x < labels.shape[1] and y < labels.shape[0] and labels[y, x] == label)


@compiled()
def _measure_runs(runs: NDArray[np.int32], ends: NDArray[np.int64]) -> FloatArray:
    """x, y, pixels, variances, covariance, exits of straight and of diagonal grid lines, and the
    smallest rectangle, of each nucleus; `runs` is sorted by nucleus, then by row, and `ends` says
    where each one ends.

    Sums are integers relative to the nucleus' first pixel, so the moments are sound anywhere on a
    large slide.
    """
    roots = np.empty((len(ends), 9))
    begin = 0
    for i in range(len(ends)):
        rows = runs[begin : ends[i]]
        begin = ends[i]
        y0, x0 = rows[0, 0], rows[0, 1]
        n = sum_x = sum_y = sum_xx = sum_yy = sum_xy = straight = diagonal = 0
        for k in range(len(rows)):
            y = rows[k, 0] - y0
            for x in range(rows[k, 1] - x0, rows[k, 2] - x0):
                sum_x += x
                sum_xx += x * x
                sum_xy += x * y
            length = rows[k, 2] - rows[k, 1]
            n += length
            sum_y += length * y
            sum_yy += length * y * y
            straight += rows[k, 3]
            diagonal += rows[k, 4]
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
        roots[i, 8] = _smallest_rectangle(_corner_hull(rows))
    return roots


@compiled()
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


@compiled()
def _turn(a: NDArray[np.int64], b: NDArray[np.int64], x: int, y: int) -> int:
    """Cross product of a -> b and a -> (x, y); negative where the hull stays convex."""
    return int((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]))


@compiled()
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

"""Label image <-> outlines: polygons along the pixels' edges, and polygons back to pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.compiled import compiled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
Rings = list["NDArray[np.float64]"]
"""The outer ring of a polygon and its holes: each (n, 2) x, y, closed (the first point stands at
the end again)."""


@dataclass(frozen=True)
class Outline:
    """A nucleus's polygons along the edges of its pixels; more than one where its pixels don't
    touch side by side."""

    label: int
    polygons: list[Rings]


def trace_outlines(labels: NDArray[Any]) -> Iterator[Outline]:
    """The outline of every label, in the order of the topmost pixels (the left one first).

    Coordinates are x, y in pixels, a pixel's corners at whole numbers, so an outline's area is its
    number of pixels. Outer rings turn clockwise on screen, holes against it. Pixels that only touch
    at a corner are apart.

    Args:
        labels: integers (H, W), 0 is background.

    Raises:
        ValueError: `labels` isn't a 2-D array of integers.
    """
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be a 2-D array of integers, got {labels.dtype} of shape {labels.shape}"
        )
    points, ends, owners, pinched = _trace(np.pad(np.ascontiguousarray(labels, dtype=np.int64), 1))
    rings = np.split(points.astype(np.float64), ends[:-1]) if len(ends) else []
    of_label: dict[int, Rings] = {}
    for ring, owner, touches in zip(rings, owners.tolist(), pinched.tolist(), strict=True):
        of_label.setdefault(owner, []).extend(_split(ring) if touches else [ring])
    for label, own in of_label.items():
        closed = [np.concatenate([ring, ring[:1]]) for ring in own]
        areas = [_signed_area(ring) for ring in closed] if len(closed) > 1 else [1.0]
        outer = [ring for ring, area in zip(closed, areas, strict=True) if area > 0]
        yield Outline(
            label,
            _assign(outer, [ring for ring, area in zip(closed, areas, strict=True) if area < 0]),
        )


def trace_rings(
    labels: NDArray[Any],
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """The outer rings of all labels, as one array: corners x, y (m, 2) in pixels, where each ring
    ends in them, and its label. `trace_outlines` says what a ring is; one that touches itself at a
    corner stays whole."""
    points, ends, owners, _ = _trace(np.pad(np.ascontiguousarray(labels, dtype=np.int64), 1))
    if not len(ends):
        return points, ends, owners
    starts = np.concatenate([[0], ends[:-1]])
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts
    x, y = points.astype(np.int64).T
    outer = np.add.reduceat(x * y[following] - x[following] * y, starts) > 0
    sizes = np.diff(ends, prepend=0)
    kept: NDArray[np.int32] = points[np.repeat(outer, sizes)]
    return kept, np.cumsum(sizes[outer]), owners[outer]


def _split(ring: NDArray[np.float64]) -> Rings:
    """The simple rings of one that passes a corner twice."""
    parts: Rings = []
    path: list[tuple[float, float]] = []
    at: dict[tuple[float, float], int] = {}
    for corner in ((x, y) for x, y in ring.tolist()):
        if corner in at:
            first = at[corner]
            parts.append(np.array(path[first:]))
            for passed in path[first:]:
                del at[passed]
            del path[first:]
        at[corner] = len(path)
        path.append(corner)
    return [*parts, np.array(path)]


def _signed_area(ring: NDArray[np.float64]) -> float:
    """Of a closed ring, positive where it turns clockwise on screen."""
    return float(np.sum(ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]) / 2)


def _assign(outer: Rings, holes: Rings) -> list[Rings]:
    """Every outer ring with the holes inside of it."""
    if len(outer) == 1:
        return [[outer[0], *holes]]
    from shapely import Polygon

    polygons = [[ring] for ring in outer]
    shapes = [Polygon(ring) for ring in outer]
    for hole in holes:
        inside = Polygon(hole).representative_point()
        around = [number for number, shape in enumerate(shapes) if shape.contains(inside)]
        polygons[min(around, key=lambda number: shapes[number].area)].append(hole)
    return polygons


# An edge has the pixel to its right (on screen, y down); per direction (east, south, west, north)
# the pixel ahead and the one to the left of it, seen from that pixel, as row and column.
_AHEAD = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])
_ACROSS = np.array([[-1, 1], [1, 1], [1, -1], [-1, -1]])
# The corner where an edge of each direction ends, from the pixel's upper left one, as row and
# column.
_END = np.array([[0, 1], [1, 1], [1, 0], [0, 0]])


@compiled(nogil=True)
def _trace(
    labels: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Rings of all labels of a padded image: corners (x, y), each ring's end, label, whether it may
    touch itself."""
    height, width = labels.shape
    edges = 0
    tops = 0
    for row in range(1, height - 1):
        for column in range(1, width - 1):
            own = labels[row, column]
            if own != 0:
                edges += (labels[row, column - 1] != own) + (labels[row, column + 1] != own)
                edges += (labels[row - 1, column] != own) + (labels[row + 1, column] != own)
                tops += labels[row - 1, column] != own
    points = np.empty((edges, 2), np.int32)
    ends, owners, pinched = (
        np.empty(tops, np.int64),
        np.empty(tops, np.int64),
        np.zeros(tops, np.bool_),
    )
    seen = np.zeros((height, width), np.bool_)
    count = rings = 0
    for row in range(1, height - 1):
        for column in range(1, width - 1):
            own = labels[row, column]
            if own == 0 or labels[row - 1, column] == own or seen[row, column]:
                continue
            r, c, direction = row, column, 0
            while True:
                if direction == 0:
                    if seen[r, c]:
                        break
                    seen[r, c] = True
                turn = direction
                across = labels[r + _ACROSS[direction, 0], c + _ACROSS[direction, 1]] == own
                if labels[r + _AHEAD[direction, 0], c + _AHEAD[direction, 1]] != own:
                    pinched[rings] |= across
                    turn = (direction + 1) % 4
                    next_r, next_c = r, c
                elif across:
                    turn = (direction + 3) % 4
                    next_r, next_c = r + _ACROSS[direction, 0], c + _ACROSS[direction, 1]
                else:
                    next_r, next_c = r + _AHEAD[direction, 0], c + _AHEAD[direction, 1]
                if turn != direction:
                    points[count, 0], points[count, 1] = (
                        c + _END[direction, 1] - 1,
                        r + _END[direction, 0] - 1,
                    )
                    count += 1
                r, c, direction = next_r, next_c, turn
            ends[rings], owners[rings] = count, own
            rings += 1
    return points[:count], ends[:rings], owners[:rings], pinched[:rings]


def fill_polygons(
    canvas: NDArray[np.int32], polygons: Sequence[Rings], numbers: Sequence[int]
) -> None:
    """Write each polygon's number to the pixels of `canvas` whose centers lie in it and that are
    still 0.

    Args:
        canvas: int32 (H, W), changed in place.
        polygons: rings in pixels of the canvas, corners of pixels at whole numbers; holes by the
            even-odd rule.
        numbers: one per polygon, positive.
    """
    rings = [ring for polygon in polygons for ring in polygon]
    if not rings:
        return
    points = np.concatenate(rings).astype(np.float64)
    ring_ends = np.cumsum([len(ring) for ring in rings])
    ends = np.cumsum([len(polygon) for polygon in polygons])
    fill_rings(canvas, points, ring_ends, ends, np.asarray(numbers, dtype=np.int32))


@compiled(nogil=True)
def fill_rings(
    canvas: NDArray[np.int32],
    points: NDArray[np.float64],
    ring_ends: NDArray[np.int64],
    ends: NDArray[np.int64],
    numbers: NDArray[np.int32],
) -> None:
    """`fill_polygons` of polygons that lie in one array: vertices (n, 2), each ring's end among
    them, each polygon's end among the rings."""
    height, width = canvas.shape
    first_ring = 0
    for i in range(len(ends)):
        start = 0 if first_ring == 0 else ring_ends[first_ring - 1]
        stop = ring_ends[ends[i] - 1]
        own = points[start:stop, 1]
        top = max(0, int(np.ceil(own.min() - 0.5)))
        bottom = min(height, int(np.ceil(own.max() - 0.5)))
        crossings = np.empty(stop - start, np.float64)
        for row in range(top, bottom):
            level = row + 0.5
            found = 0
            begin = start
            for ring in range(first_ring, ends[i]):
                for j in range(begin, ring_ends[ring]):
                    k = j + 1 if j + 1 < ring_ends[ring] else begin
                    y0, y1 = points[j, 1], points[k, 1]
                    if (y0 <= level) != (y1 <= level):
                        x0, x1 = points[j, 0], points[k, 0]
                        crossings[found] = x0 + (level - y0) * (x1 - x0) / (y1 - y0)
                        found += 1
                begin = ring_ends[ring]
            ordered = np.sort(crossings[:found])
            for pair in range(0, found - 1, 2):
                left = max(0, int(np.ceil(ordered[pair] - 0.5)))
                right = min(width, int(np.ceil(ordered[pair + 1] - 0.5)))
                for column in range(left, right):
                    if canvas[row, column] == 0:
                        canvas[row, column] = numbers[i]
        first_ring = ends[i]

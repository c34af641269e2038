"""Outlines of nuclei: the level line of the network's map of what is nucleus, one per star polygon.

The polygon says which nucleus, the map where its edge is. Every pixel belongs to the polygon whose
edge it lies deepest inside of (or least outside, up to `RIM_UM`); of the pixels of a polygon whose
logit is above the level, those connected with its center are the nucleus. Its outline is drawn
between pixels, where the linear interpolation of the logit passes the level, or where two polygons
are equally near. Holes are filled. Where the nucleus so found and the polygon disagree, the polygon
is kept.

Coordinates are (row, column) in pixels with a pixel's center at whole numbers, as in `polygons`:
pixel (i, j) covers [i - 0.5, i + 0.5) x [j - 0.5, j + 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from morphomil.segment.polygons import Polygons

RIM_UM = 1.5
"""An outline lies no farther than this outside of its polygon."""
MIN_IOU = 0.5
"""A nucleus that shares less than this with its polygon is none; the polygon is kept."""
SLOPE = 1.0
"""Logits per pixel: how distances to other polygons, and to the rim, compare with the map."""


@dataclass(frozen=True)
class Outlines:
    """Nuclei: centers (n, 2) as (row, column), probabilities (n,), and the vertices of all outlines
    one after the other (m, 2), of which nucleus i has those before `ends[i]`."""

    points: NDArray[np.float32]
    prob: NDArray[np.float32]
    vertices: NDArray[np.float32]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.prob)

    def __getitem__(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Outlines:
        chosen = np.arange(len(self))[keep]
        counts = np.diff(self.ends, prepend=0)[chosen]
        ends = np.cumsum(counts)
        first = np.repeat(self.ends[chosen] - counts, counts)
        own = np.arange(len(first)) - np.repeat(ends - counts, counts)
        return Outlines(self.points[chosen], self.prob[chosen], self.vertices[first + own], ends)

    def scaled(self, factor: float) -> Outlines:
        """The same outlines where a pixel is `factor` times smaller."""
        half, scale = np.float32(0.5), np.float32(factor)
        points, vertices = ((p + half) * scale - half for p in (self.points, self.vertices))
        return Outlines(points, self.prob, vertices, self.ends)

    def shifted(self, pixels: float) -> Outlines:
        """The same outlines, down and to the right by so many pixels."""
        shift = np.float32(pixels)
        return Outlines(self.points + shift, self.prob, self.vertices + shift, self.ends)


def join_outlines(parts: Sequence[Outlines]) -> Outlines:
    """All outlines of `parts`, in order."""
    empty = np.empty((0, 2), np.float32)
    parts = [Outlines(empty, empty[:, 0], empty, np.empty(0, np.int64)), *parts]
    before = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    return Outlines(
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.prob for part in parts]),
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.ends + start for part, start in zip(parts, before, strict=True)]),
    )


def polygon_outlines(polygons: Polygons) -> Outlines:
    """The star polygons themselves as outlines."""
    rays = polygons.dist.shape[1]
    return Outlines(
        polygons.points,
        polygons.prob,
        polygons.outlines().reshape(-1, 2).astype(np.float32),
        np.arange(1, len(polygons) + 1) * rays,
    )


def trace_contours(
    polygons: Polygons,
    near: Polygons,
    logit: NDArray[np.floating],
    *,
    corner: tuple[int, int],
    level: float,
    rim_px: float,
) -> Outlines:
    """The outlines of `polygons`, in their order.

    Args:
        polygons: the nuclei, none hiding another.
        near: other nuclei, beside which they lie.
        logit: of what is nucleus (H, W); NaN where unknown, there the polygon is the outline.
        corner: row and column of the first pixel of `logit`.
        level: the logit at an edge.
        rim_px: how far outside of its polygon an outline may lie, pixels.
    """
    if not len(polygons):
        return join_outlines([])
    points = np.concatenate([polygons.points, near.points]) if len(near) else polygons.points
    dist = np.concatenate([polygons.dist, near.dist]) if len(near) else polygons.dist
    start = points.astype(np.float64) - np.array(corner)
    vertices, ends = _trace(
        start, dist.astype(np.float64), len(polygons), logit.astype(np.float32), level, rim_px
    )
    return Outlines(
        polygons.points,
        polygons.prob,
        (vertices + np.array(corner)).astype(np.float32),
        ends,
    )


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _trace(
    points: NDArray[np.float64],
    dist: NDArray[np.float64],
    count: int,
    logit: NDArray[np.float32],
    level: float,
    rim: float,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices (m, 2) of the outlines of the first `count` polygons, and where each one ends."""
    height, width = logit.shape
    first = np.full((height, width), np.inf, np.float32)
    second = np.full((height, width), np.inf, np.float32)
    owner = np.full((height, width), -1, np.int32)
    for i in range(len(points)):
        reach = dist[i].max() + rim
        top, bottom = _span(points[i, 0], reach, height)
        left, right = _span(points[i, 1], reach, width)
        for row in range(top, bottom):
            for column in range(left, right):
                deep = _outside(points[i], dist[i], row, column, reach)
                if deep < first[row, column]:
                    second[row, column] = first[row, column]
                    first[row, column], owner[row, column] = deep, i
                elif deep < second[row, column]:
                    second[row, column] = deep
    vertices, ends = np.empty((256 * count, 2)), np.empty(count, np.int64)
    used = 0
    for i in range(count):
        reach = dist[i].max() + rim + 2
        top, bottom = _span(points[i, 0], reach, height)
        left, right = _span(points[i, 1], reach, width)
        tall, wide = max(bottom - top, 0), max(right - left, 0)
        field = np.full((tall + 2, wide + 2), np.nan, np.float32)
        inside = np.zeros((tall + 2, wide + 2), np.bool_)
        drawn = 0
        peak, seed_row, seed_column = 0.0, -1, -1
        for row in range(top, bottom):
            for column in range(left, right):
                if owner[row, column] == i and first[row, column] < 0:
                    drawn += 1
                    value = min(logit[row, column] - level, -first[row, column])
                    if value > peak:
                        peak, seed_row, seed_column = value, row, column
        number = 0
        if seed_row >= 0:
            number = _grow(
                points[i], dist[i], i, logit, first, second, owner, level, rim, reach,
                top, left, seed_row, seed_column, field, inside,
            )  # fmt: skip
        shared = 0
        for row in range(top, bottom):
            for column in range(left, right):
                shared += (
                    inside[row - top + 1, column - left + 1]
                    and owner[row, column] == i
                    and first[row, column] < 0
                )
        room = max(4 * number + 8, dist.shape[1])
        if used + room > len(vertices):
            larger = np.empty((2 * len(vertices) + room, 2))
            larger[:used] = vertices[:used]
            vertices = larger
        if shared > 0 and shared >= MIN_IOU * (number + drawn - shared):
            used = _follow(field, inside, top - 1, left - 1, vertices, used)
        else:
            rays = dist.shape[1]
            for k in range(rays):
                vertices[used, 0] = points[i, 0] + dist[i, k] * np.sin(2 * np.pi * k / rays)
                vertices[used, 1] = points[i, 1] + dist[i, k] * np.cos(2 * np.pi * k / rays)
                used += 1
        ends[i] = used
    return vertices[:used], ends


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _span(center: float, reach: float, size: int) -> tuple[int, int]:
    return max(int(np.floor(center - reach)), 0), min(int(np.ceil(center + reach)) + 1, size)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _outside(
    center: NDArray[np.float64], dist: NDArray[np.float64], row: int, column: int, reach: float
) -> float:
    """How far a pixel lies outside of a star polygon (negative: inside), about; infinity beyond
    `reach` of its center.

    Along the ray, times the cosine of the angle between it and the edge's normal.
    """
    y, x = row - center[0], column - center[1]
    square = y * y + x * x
    if square > reach * reach:
        return float(np.inf)
    rays = len(dist)
    step = 2 * np.pi / rays
    turn = np.arctan2(y, x) / step
    if turn < 0:
        turn += rays
    k = int(turn)
    share = turn - k
    a, b = dist[k % rays], dist[(k + 1) % rays]
    edge = a + (b - a) * share
    across = edge * step
    return float((np.sqrt(square) - edge) * across / np.sqrt(across * across + (b - a) * (b - a)))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _grow(
    center: NDArray[np.float64],
    dist: NDArray[np.float64],
    i: int,
    logit: NDArray[np.float32],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    owner: NDArray[np.int32],
    level: float,
    rim: float,
    reach: float,
    top: int,
    left: int,
    seed_row: int,
    seed_column: int,
    field: NDArray[np.float32],
    inside: NDArray[np.bool_],
) -> int:
    """Fill `inside` with the pixels connected with the seed and `field` with what was seen, both
    one pixel wider on each side than the window at `top`, `left`; the number of pixels inside."""
    stack = np.empty((inside.size, 2), np.int32)
    stack[0, 0], stack[0, 1] = seed_row, seed_column
    inside[seed_row - top + 1, seed_column - left + 1] = True
    field[seed_row - top + 1, seed_column - left + 1] = min(
        logit[seed_row, seed_column] - level, -first[seed_row, seed_column]
    )
    size, number = 1, 0
    while size > 0:
        size -= 1
        row, column = stack[size, 0], stack[size, 1]
        number += 1
        for side in range(4):
            r = row + (side == 0) - (side == 1)
            c = column + (side == 2) - (side == 3)
            y, x = r - top + 1, c - left + 1
            if not np.isnan(field[y, x]):
                continue
            if y == 0 or x == 0 or y == inside.shape[0] - 1 or x == inside.shape[1] - 1:
                field[y, x] = -1.0
                continue
            if owner[r, c] == i:
                own = first[r, c]
                free = min(second[r, c] - own, rim - own)
            else:
                own = _outside(center, dist, r, c, reach)
                free = min(first[r, c] - own, rim - own)
            free = max(SLOPE * free, -8.0)
            value = logit[r, c] - level
            field[y, x] = min(-own if np.isnan(value) else value, free)
            if field[y, x] > 0:
                inside[y, x] = True
                stack[size, 0], stack[size, 1] = r, c
                size += 1
    # the seed's own value, with its neighbors' polygons
    own = first[seed_row, seed_column]
    free = SLOPE * min(second[seed_row, seed_column] - own, rim - own)
    y, x = seed_row - top + 1, seed_column - left + 1
    field[y, x] = max(min(logit[seed_row, seed_column] - level, free), np.float32(1e-3))
    return number


_AHEAD = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _follow(
    field: NDArray[np.float32],
    inside: NDArray[np.bool_],
    top: int,
    left: int,
    vertices: NDArray[np.float64],
    used: int,
) -> int:
    """Write the outer outline of the pixels inside, clockwise on screen, and say where it ends.

    One vertex between each pixel inside and each of its four neighbors outside, where the field is
    zero. `field` and `inside` begin at `top`, `left`.
    """
    row = column = -1
    for r in range(inside.shape[0]):
        for c in range(inside.shape[1]):
            if inside[r, c]:
                row, column = r, c
                break
        if row >= 0:
            break
    first_row, first_column, side = row, column, 3  # the neighbor above is outside
    while True:
        out_row, out_column = row + _AHEAD[side, 0], column + _AHEAD[side, 1]
        within, without = field[row, column], min(field[out_row, out_column], np.float32(0))
        share = within / (within - without)
        vertices[used, 0] = top + row + share * _AHEAD[side, 0]
        vertices[used, 1] = left + column + share * _AHEAD[side, 1]
        used += 1
        turn = (side + 1) % 4  # clockwise along the edge
        if not inside[row + _AHEAD[turn, 0], column + _AHEAD[turn, 1]]:
            side = turn
        elif inside[out_row + _AHEAD[turn, 0], out_column + _AHEAD[turn, 1]]:
            row, column = out_row + _AHEAD[turn, 0], out_column + _AHEAD[turn, 1]
            side = (side + 3) % 4
        else:
            row, column = row + _AHEAD[turn, 0], column + _AHEAD[turn, 1]
        if row == first_row and column == first_column and side == 3:
            return used

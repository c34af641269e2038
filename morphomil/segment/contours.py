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

from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.compiled import compiled
from morphomil.segment.outlines import Outlines, join_outlines

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.segment.polygons import Polygons

RIM_UM = 1.0
"""An outline lies no farther than this outside of its polygon."""
MIN_IOU = 0.5
"""A nucleus that shares less than this with its polygon is none; the polygon is kept."""
SLOPE = 1.0
"""Logits per pixel: how distances to other polygons, and to the rim, compare with the map."""


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
    rays = np.concatenate([dist, dist[:, :1]], axis=1).astype(np.float32)
    vertices, ends = _trace(start, rays, len(polygons), logit.astype(np.float32), level, rim_px)
    return Outlines(
        polygons.points,
        polygons.prob,
        (vertices + np.array(corner)).astype(np.float32),
        ends,
    )


@compiled(nogil=True, error_model="numpy")
def _deepest(
    points: NDArray[np.float64],
    dist: NDArray[np.float32],
    tilt: NDArray[np.float32],
    rim: float,
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    owner: NDArray[np.int32],
) -> int:
    """Fill in which polygon each pixel is deepest in, how deep, and how deep in the next one; the
    side of the largest window.

    Row by row, what has no table to look into first: so the processor works on several pixels at
    once.
    """
    height, width = first.shape
    rays = dist.shape[1] - 1
    places, away = np.empty(width, np.float32), np.empty(width, np.float32)
    side = 0
    for i in range(len(points)):
        reach = np.float32(dist[i].max() + rim)
        top, bottom = _span(points[i, 0], float(reach), height)
        left, right = _span(points[i, 1], float(reach), width)
        side = max(side, bottom - top, right - left)
        for row in range(top, bottom):
            y = np.float32(row - points[i, 0])
            half = np.sqrt(max(reach * reach - y * y, np.float32(0)))
            start, end = _span(points[i, 1], float(half) + 1, width)
            for n in range(end - start):
                x = np.float32(np.int32(start + n) - points[i, 1])
                places[n], away[n] = _polar(y, x, np.float32(rays))
            for n in range(end - start):
                if away[n] > reach:
                    continue
                deep, column = _beyond(dist[i], tilt[i], places[n], away[n]), start + n
                if deep < first[row, column]:
                    second[row, column] = first[row, column]
                    first[row, column], owner[row, column] = deep, i
                elif deep < second[row, column]:
                    second[row, column] = deep
    return side


@compiled(nogil=True)
def _trace(
    points: NDArray[np.float64],
    dist: NDArray[np.float32],
    count: int,
    logit: NDArray[np.float32],
    level: float,
    rim: float,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices (m, 2) of the outlines of the first `count` polygons, and where each one ends.

    `dist` has the first ray once more at the end.
    """
    height, width = logit.shape
    rays = dist.shape[1] - 1
    tilt = _tilts(dist)
    first = np.full((height, width), np.inf, np.float32)
    second = np.full((height, width), np.inf, np.float32)
    owner = np.full((height, width), -1, np.int32)
    side = _deepest(points, dist, tilt, rim, first, second, owner)
    vertices, ends = np.empty((256 * count, 2)), np.empty(count, np.int64)
    field = np.full((side + 8, side + 8), np.nan, np.float32)
    stack = np.empty((field.size, 2), np.int32)
    used = 0
    for i in range(count):
        reach = dist[i].max() + rim + 2
        top, bottom = _span(points[i, 0], reach, height)
        left, right = _span(points[i, 1], reach, width)
        window = field[: max(bottom - top, 0) + 2, : max(right - left, 0) + 2]
        window[:] = np.nan
        drawn = number = shared = 0
        peak, seed_row, seed_column = 0.0, -1, -1
        for row in range(top, bottom):
            for column in range(left, right):
                if owner[row, column] == i and first[row, column] < 0:
                    drawn += 1
                    value = min(logit[row, column] - level, -first[row, column])
                    if value > peak:
                        peak, seed_row, seed_column = value, row, column
        if seed_row >= 0:
            number, shared = _grow(
                points, dist, tilt, i, logit, first, second, owner, level, rim,
                top, left, seed_row, seed_column, window, stack,
            )  # fmt: skip
        room = max(4 * number + 8, rays)
        if used + room > len(vertices):
            larger = np.empty((2 * len(vertices) + room, 2))
            larger[:used] = vertices[:used]
            vertices = larger
        if shared > 0 and shared >= MIN_IOU * (number + drawn - shared):
            used = follow(window, top - 1, left - 1, vertices, used)
        else:
            for k in range(rays):
                vertices[used, 0] = points[i, 0] + dist[i, k] * np.sin(2 * np.pi * k / rays)
                vertices[used, 1] = points[i, 1] + dist[i, k] * np.cos(2 * np.pi * k / rays)
                used += 1
        ends[i] = used
    return vertices[:used], ends


@compiled(nogil=True)
def _span(center: float, reach: float, size: int) -> tuple[int, int]:
    return max(int(np.floor(center - reach)), 0), min(int(np.ceil(center + reach)) + 1, size)


@compiled(nogil=True)
def _tilts(dist: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of the angle between the middle of two rays and the normal of the edge between their
    ends (n, rays)."""
    count, rays = len(dist), dist.shape[1] - 1
    step = 2 * np.pi / rays
    tilt = np.empty((count, rays), np.float32)
    for i in range(count):
        for k in range(rays):
            a, b = dist[i, k], dist[i, k + 1]
            across = (a + b) / 2 * step
            tilt[i, k] = across / np.sqrt(across * across + (b - a) * (b - a))
    return tilt


@compiled(nogil=True, inline="always", error_model="numpy")
def _polar(y: Any, x: Any, rays: Any) -> Any:
    """The direction of (y, x), as a number of rays from the first one, and its distance.

    The direction is a polynomial's (Abramowitz & Stegun 1964, 4.4.47), in a fraction of the time of
    `arctan2`; off by less than 1e-5 radians.
    """
    wide, tall = abs(x), abs(y)
    steep = tall > wide
    large = tall if steep else wide
    t = (wide if steep else tall) / (large if large > np.float32(1e-9) else np.float32(1e-9))
    s = t * t
    turn = (
        t
        * (
            np.float32(0.9998660)
            + s
            * (
                np.float32(-0.3302995)
                + s
                * (np.float32(0.1801410) + s * (np.float32(-0.0851330) + s * np.float32(0.0208351)))
            )
        )
        * np.float32(0.5 / np.pi)
    )
    turn = np.float32(0.25) - turn if steep else turn
    turn = np.float32(0.5) - turn if x < 0 else turn
    turn = np.float32(1) - turn if y < 0 else turn
    return turn * rays, np.sqrt(y * y + x * x)


@compiled(nogil=True, inline="always")
def _beyond(dist: NDArray[np.float32], tilt: NDArray[np.float32], place: Any, away: Any) -> Any:
    """How far a pixel so far away, in the direction of `place` (`_polar`), lies outside of a
    polygon (negative: inside), about.

    Along the ray, times the cosine of the angle between it and the edge's normal. `dist` has the
    first ray once more at the end.
    """
    k = min(np.uint64(place), np.uint64(len(tilt) - 1))
    edge = dist[k] + (dist[k + np.uint64(1)] - dist[k]) * (place - np.float32(k))
    return (away - edge) * tilt[k]


@compiled(nogil=True)
def _grow(
    points: NDArray[np.float64],
    dist: NDArray[np.float32],
    tilt: NDArray[np.float32],
    i: int,
    logit: NDArray[np.float32],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    owner: NDArray[np.int32],
    level: float,
    rim: float,
    top: int,
    left: int,
    seed_row: int,
    seed_column: int,
    field: NDArray[np.float32],
    stack: NDArray[np.int32],
) -> tuple[int, int]:
    """Fill `field` (NaN before) for the pixels connected with the seed, where it is positive, and
    their neighbors; it is one pixel wider on each side than the window at `top`, `left`.

    Returns the number of connected pixels, and of those that the polygon holds too.
    """
    tall, wide = field.shape
    size, number, shared = 0, 0, 0
    for visit in range(5 * field.size):
        if visit == 0:
            r, c = seed_row, seed_column
        elif (visit - 1) % 4 == 0:
            if size == 0:
                break
            size -= 1
            row, column = stack[size, 0], stack[size, 1]
            number += 1
            shared += owner[row, column] == i and first[row, column] < 0
            r, c = row + 1, column
        else:
            side = (visit - 1) % 4
            r, c = row - (side == 1), column + (side == 2) - (side == 3)
        y, x = r - top + 1, c - left + 1
        if not np.isnan(field[y, x]):
            continue
        if y == 0 or x == 0 or y == tall - 1 or x == wide - 1:
            field[y, x] = -1.0
            continue
        if owner[r, c] == i:
            own = first[r, c]
            free = min(second[r, c] - own, rim - own)
        else:
            ahead, across = np.float32(r - points[i, 0]), np.float32(c - points[i, 1])
            place, away = _polar(ahead, across, np.float32(tilt.shape[1]))
            own = _beyond(dist[i], tilt[i], place, away)
            free = min(first[r, c] - own, rim - own)
        value = logit[r, c] - level
        field[y, x] = max(min(-own if np.isnan(value) else value, SLOPE * free), -8.0)
        if visit == 0:
            field[y, x] = max(field[y, x], np.float32(1e-3))
        if field[y, x] > 0:
            stack[size, 0], stack[size, 1] = r, c
            size += 1
    return number, shared


_AHEAD = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])


@compiled(nogil=True)
def follow(
    field: NDArray[np.float32], top: int, left: int, vertices: NDArray[np.float64], used: int
) -> int:
    """Write the outer outline of the pixels where `field` is positive, clockwise on screen, and say
    where it ends.

    One vertex between each of these pixels and each of its four neighbors where it is not, at the
    field's zero. `field` begins at `top`, `left`.
    """
    row = column = -1
    for r in range(field.shape[0]):
        for c in range(field.shape[1]):
            if field[r, c] > 0:
                row, column = r, c
                break
        if row >= 0:
            break
    first_row, first_column, side = row, column, 3  # the neighbor above is outside
    while True:
        out_row, out_column = row + _AHEAD[side, 0], column + _AHEAD[side, 1]
        within, without = field[row, column], field[out_row, out_column]
        share = within / (within - without)
        vertices[used, 0] = top + row + share * _AHEAD[side, 0]
        vertices[used, 1] = left + column + share * _AHEAD[side, 1]
        used += 1
        turn = (side + 1) % 4  # clockwise along the edge
        if not field[row + _AHEAD[turn, 0], column + _AHEAD[turn, 1]] > 0:
            side = turn
        elif field[out_row + _AHEAD[turn, 0], out_column + _AHEAD[turn, 1]] > 0:
            row, column = out_row + _AHEAD[turn, 0], out_column + _AHEAD[turn, 1]
            side = (side + 3) % 4
        else:
            row, column = row + _AHEAD[turn, 0], column + _AHEAD[turn, 1]
        if row == first_row and column == first_column and side == 3:
            return used

"""Annotated labels -> outlines between their pixels, to be compared with outlines that lie there
too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphomil.compiled import compiled
from morphomil.nuclei.polygons import outline_roots
from morphomil.segment.contours import follow
from morphomil.segment.polygons import keep_largest_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMOOTHING = 2
"""A mask is averaged with its neighbors (1, 2, 1 in both directions) so many times before its level
line is drawn, which takes the stairs out of it."""


def label_outlines(
    labels: NDArray[np.integer],
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.int64]]:
    """The level lines of the labels (H, W) where half of the smoothed mask is passed, scaled to the
    areas of their pixels.

    Of a label in pieces the largest is taken.

    Returns:
        The labels (n,) in ascending order; x and y (m, 2) of all vertices one after the other, in
        pixels whose centers are at whole numbers; where each outline ends (n,).
    """
    whole = keep_largest_parts(np.ascontiguousarray(labels, dtype=np.int32))
    numbers = np.unique(whole)
    numbers = numbers[numbers > 0]
    if not len(numbers):
        return numbers.astype(np.intp), np.empty((0, 2)), np.empty(0, np.int64)
    places = np.zeros(int(numbers[-1]) + 1, np.int64)
    places[numbers] = np.arange(len(numbers))
    vertices, ends = _trace_labels(whole, places, len(numbers))
    grown = _with_areas(vertices[:, ::-1], ends, np.bincount(whole.ravel())[numbers])
    return numbers.astype(np.intp), grown, ends


def _with_areas(
    vertices: NDArray[np.float64], ends: NDArray[np.int64], areas: NDArray[np.integer]
) -> NDArray[np.float64]:
    """The outlines scaled about their centroids to these areas, which smoothing made smaller."""
    roots = outline_roots(vertices, ends)
    counts = np.diff(ends, prepend=0)
    middle = np.repeat(roots[["x_px", "y_px"]].to_numpy(), counts, axis=0)
    scale = np.sqrt(areas / roots["pixels"].to_numpy())
    return np.asarray(middle + (vertices - middle) * np.repeat(scale, counts)[:, None])


@compiled(nogil=True)
def _trace_labels(
    labels: NDArray[np.int32], places: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices (m, 2) as (row, column), and where each outline ends."""
    height, width = labels.shape
    box = np.empty((count, 4), np.int64)
    box[:, 0], box[:, 1], box[:, 2], box[:, 3] = height, width, -1, -1
    for y in range(height):
        for x in range(width):
            if labels[y, x] > 0:
                own = box[places[labels[y, x]]]
                own[0], own[1] = min(own[0], y), min(own[1], x)
                own[2], own[3] = max(own[2], y), max(own[3], x)
    vertices, ends, used = np.empty((256 * count, 2)), np.empty(count, np.int64), 0
    rim = SMOOTHING + 2
    for i in range(count):
        top, left = box[i, 0] - rim, box[i, 1] - rim
        tall, wide = box[i, 2] + rim + 1 - top, box[i, 3] + rim + 1 - left
        field = np.zeros((tall, wide), np.float32)
        for y in range(rim, tall - rim):
            for x in range(rim, wide - rim):
                label = labels[top + y, left + x]
                field[y, x] = label > 0 and places[label] == i
        pixels = field > 0
        for _ in range(SMOOTHING):
            field = _smoothed(field)
        field -= np.float32(0.5)
        if not (field > 0).any():  # thinner than the smoothing: the pixels themselves
            field[:] = np.where(pixels, np.float32(0.5), np.float32(-0.5))
        field = _connected(field)
        room = 4 * int((field > 0).sum()) + 8
        if used + room > len(vertices):
            larger = np.empty((2 * len(vertices) + room, 2))
            larger[:used] = vertices[:used]
            vertices = larger
        used = follow(field, top, left, vertices, used)
        ends[i] = used
    return vertices[:used], ends


@compiled(nogil=True)
def _smoothed(field: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each pixel with its neighbors, 1, 2, 1 in both directions; the rim is 0."""
    across, result = np.zeros_like(field), np.zeros_like(field)
    across[:, 1:-1] = (field[:, :-2] + 2 * field[:, 1:-1] + field[:, 2:]) / 4
    result[1:-1] = (across[:-2] + 2 * across[1:-1] + across[2:]) / 4
    return result


@compiled(nogil=True)
def _connected(field: NDArray[np.float32]) -> NDArray[np.float32]:
    """The field with only the pixels above 0 that are 4-connected with its highest one; others
    become barely negative."""
    height, width = field.shape
    reached = np.zeros(field.shape, np.bool_)
    stack = np.empty((field.size, 2), np.int64)
    best = field.argmax()
    stack[0, 0], stack[0, 1] = best // width, best % width
    reached[stack[0, 0], stack[0, 1]] = True
    size = 1
    while size:
        size -= 1
        row, column = stack[size]
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= r < height and 0 <= c < width and field[r, c] > 0 and not reached[r, c]:
                reached[r, c] = True
                stack[size, 0], stack[size, 1] = r, c
                size += 1
    return np.where(reached | (field <= 0), field, np.float32(-1e-3))

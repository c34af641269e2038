"""Many outlines in one array of vertices: their boxes, some of them with fewer vertices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray


@compiled(nogil=True)
def box_rings(points: NDArray[Any], ends: NDArray[np.int64]) -> NDArray[np.float32]:
    """Smallest x, smallest y, largest x, largest y (n, 4) of rings: vertices (m, 2) one after the
    other, and where each ring ends in them."""
    boxes = np.empty((len(ends), 4), np.float32)
    begin = 0
    for i in range(len(ends)):
        boxes[i, :2] = points[begin]
        boxes[i, 2:] = points[begin]
        for k in range(begin + 1, ends[i]):
            for axis in range(2):
                boxes[i, axis] = min(boxes[i, axis], points[k, axis])
                boxes[i, axis + 2] = max(boxes[i, axis + 2], points[k, axis])
        begin = ends[i]
    return boxes


@compiled(nogil=True)
def take_rings(
    points: NDArray[Any], ends: NDArray[np.int64], chosen: NDArray[np.int64], tolerance: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Some rings, in this order, as vertices (m, 2) and their ends.

    A vertex nearer than `tolerance` to the one that was kept before it is left out; a ring keeps
    three at least, if it has so many.
    """
    most = 0
    for i in chosen:
        most += ends[i] - (ends[i - 1] if i else 0)
    taken = np.empty((most, 2), np.float32)
    stops = np.empty(len(chosen), np.int64)
    count = 0
    for number in range(len(chosen)):
        i = chosen[number]
        begin, end = (ends[i - 1] if i else 0), ends[i]
        first = count
        for k in range(begin, end):
            if (
                count == first
                or np.hypot(points[k, 0] - taken[count - 1, 0], points[k, 1] - taken[count - 1, 1])
                >= tolerance
            ):
                taken[count] = points[k]
                count += 1
        if count - first < 3 <= end - begin:
            for corner in range(3):
                taken[first + corner] = points[begin + corner * (end - begin) // 3]
            count = first + 3
        stops[number] = count
    return taken[:count], stops

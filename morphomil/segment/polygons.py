"""Star-convex polygons: suppression of overlapping ones, and their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from morphomil.compiled import compiled
from morphomil.segment.blocks import BLOCK_PX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from threadpoolctl import ThreadpoolController

    from morphomil.segment.outlines import Outlines, StoredOutlines


@dataclass(frozen=True)
class Polygons:
    """Star-convex polygons: centers (n, 2) as (row, column), probabilities (n,), ray lengths (n,
    rays), in pixels."""

    points: NDArray[np.float32]
    prob: NDArray[np.float32]
    dist: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.prob)

    def __getitem__(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Polygons:
        return Polygons(self.points[keep], self.prob[keep], self.dist[keep])

    def scaled(self, factor: float) -> Polygons:
        """The same polygons where a pixel is `factor` times smaller (pixel centers at integer
        coordinates)."""
        return Polygons((self.points + 0.5) * factor - 0.5, self.prob, self.dist * factor)

    def shifted(self, pixels: float) -> Polygons:
        """The same polygons, down and to the right by so many pixels."""
        return Polygons(self.points + np.float32(pixels), self.prob, self.dist)

    def outlines(self) -> NDArray[np.float64]:
        """Vertices (n, rays, 2) as (row, column)."""
        angles = np.arange(self.dist.shape[1]) * (2 * np.pi / max(self.dist.shape[1], 1))
        rays = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
        return np.asarray(self.points[:, None] + self.dist[..., None] * rays, dtype=np.float64)


def join(parts: Sequence[Polygons], *, rays: int) -> Polygons:
    """All polygons of `parts`, in order."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return Polygons(
            np.empty((0, 2), np.float32), np.empty(0, np.float32), np.empty((0, rays), np.float32)
        )
    return Polygons(
        np.concatenate([p.points for p in parts]),
        np.concatenate([p.prob for p in parts]),
        np.concatenate([p.dist for p in parts]),
    )


def suppress(candidates: Polygons, *, threshold: float) -> Polygons:
    """Greedy suppression as StarDist's: of overlapping candidates the most probable stays.

    Two polygons overlap when they share more than `threshold` of the smaller one's area. Areas are
    counted in pixels here, where StarDist clips polygons: the same nuclei but for pairs at the very
    threshold, in a tenth of the time.
    """
    if not len(candidates):
        return candidates
    points = candidates.points
    order = np.lexsort((points[:, 1], points[:, 0], -candidates.prob))
    reach = candidates.dist.max() + 2
    low, high = (
        np.floor(edge(points, axis=0) + away).astype(int)
        for edge, away in ((np.min, -reach), (np.max, reach + 1))
    )
    height, width = (high - low).tolist()
    kept = _survivors(
        points - low.astype(np.float64), candidates.dist, order, threshold, height, width
    )
    return candidates[order[kept]]


LAYERS = 4
"""So many accepted polygons may cover a pixel; further ones don't count there."""


@compiled(nogil=True)
def _survivors(
    points: NDArray[np.float64],
    dist: NDArray[np.float32],
    order: NDArray[np.intp],
    threshold: float,
    height: int,
    width: int,
) -> NDArray[np.bool_]:
    """Which of the polygons, in an order that has the most probable first, share no more than
    `threshold` with an accepted one before them.

    Accepted polygons are drawn into a canvas (height, width) of a few layers, so each polygon is
    compared with what lies under its own pixels only. The upper layers hold something where
    `layers` says so.
    """
    canvas = np.empty((LAYERS, height, width), np.int32)
    canvas[0] = 0
    layers = np.zeros((height, width), np.uint8)
    count, rays = dist.shape
    sines, cosines = (
        np.sin(np.arange(rays) * (2 * np.pi / rays)),
        np.cos(np.arange(rays) * (2 * np.pi / rays)),
    )
    inscribed = np.cos(np.pi / rays)
    corners, rows = np.empty((rays, 2)), int(2 * dist.max() + 6)
    crossings, counts = np.empty((rows, rays)), np.empty(rows, np.int64)
    spans = np.empty((rows * (rays // 2 + 1), 3), np.int64)
    areas, shared = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    under = np.empty(count, np.int64)
    kept = np.zeros(count, np.bool_)
    for i in range(count):
        y, x = points[order[i]]
        own = dist[order[i]]
        if _hidden_at_center(y, x, inscribed * own.min(), canvas[0], areas, threshold):
            continue
        for k in range(rays):
            corners[k, 0] = y + own[k] * sines[k]
            corners[k, 1] = x + own[k] * cosines[k]
        number, area = _scan(corners, height, width, crossings, counts, spans)
        found, hidden = 0, area == 0
        for n in range(number):
            if hidden:
                break
            row = spans[n, 0]
            for column in range(spans[n, 1], spans[n, 2]):
                for layer in range(layers[row, column]):
                    other = canvas[layer, row, column]
                    if shared[other] == 0:
                        under[found] = other
                        found += 1
                    shared[other] += 1
                    hidden |= shared[other] > threshold * min(area, areas[other])
        for n in range(found):
            shared[under[n]] = 0
        if hidden:
            continue
        kept[i], areas[i + 1] = True, area
        for n in range(number):
            row = spans[n, 0]
            for column in range(spans[n, 1], spans[n, 2]):
                layer = layers[row, column]
                if layer < LAYERS:
                    canvas[layer, row, column] = i + 1
                    layers[row, column] = layer + 1
    return kept


@compiled(nogil=True)
def _hidden_at_center(
    y: float,
    x: float,
    radius: float,
    canvas: NDArray[np.int32],
    areas: NDArray[np.int64],
    threshold: float,
) -> bool:
    """Whether a polygon shares more than `threshold` with the accepted one at its center (y, x), as
    far as the disc around it tells that lies inside of the polygon.

    So most candidates are told without their pixels being listed.
    """
    other = canvas[round(y), round(x)]
    radius -= 1e-3  # what lies on the edge is left to others
    limit = threshold * areas[other]
    if other == 0 or np.pi * radius * radius < limit or radius <= 0:
        return False
    shared = 0
    for row in range(int(np.ceil(y - radius)), int(np.floor(y + radius)) + 1):
        half = np.sqrt(radius * radius - (row - y) * (row - y))
        for pixel in canvas[row, int(np.ceil(x - half)) : int(np.floor(x + half)) + 1]:
            shared += pixel == other
        if shared > limit:
            return True
    return False


@compiled(nogil=True)
def _scan(
    corners: NDArray[np.float64],
    height: int,
    width: int,
    crossings: NDArray[np.float64],
    counts: NDArray[np.int64],
    spans: NDArray[np.int64],
) -> tuple[int, int]:
    """Fill `spans` with (row, first column, column after the last) of the pixels whose centers a
    polygon holds.

    Even-odd rule, as scikit-image's `polygon`. `crossings` and `counts` are room for the crossings
    of its edges with each row of pixels, and their number. Returns the number of spans and of
    pixels.
    """
    top = max(int(np.ceil(corners[:, 0].min())), 0)
    bottom = min(int(np.floor(corners[:, 0].max())), height - 1)
    counts[: max(bottom + 1 - top, 0)] = 0
    y0, x0 = corners[-1]
    for k in range(len(corners)):
        y1, x1 = corners[k]
        if y0 != y1:
            slope = (x1 - x0) / (y1 - y0)
            # rows with (y0 <= row) != (y1 <= row)
            for row in range(
                max(int(np.ceil(min(y0, y1))), top), min(int(np.ceil(max(y0, y1))), bottom + 1)
            ):
                crossing = x0 + (row - y0) * slope
                place = counts[row - top]
                while place > 0 and crossings[row - top, place - 1] > crossing:
                    crossings[row - top, place] = crossings[row - top, place - 1]
                    place -= 1
                crossings[row - top, place] = crossing
                counts[row - top] += 1
        y0, x0 = y1, x1
    number, pixels = 0, 0
    for row in range(top, bottom + 1):
        for pair in range(0, counts[row - top] - 1, 2):
            first = max(int(np.ceil(crossings[row - top, pair])), 0)
            end = min(int(np.floor(crossings[row - top, pair + 1])) + 1, width)
            if first < end:
                spans[number, 0], spans[number, 1], spans[number, 2] = row, first, end
                number, pixels = number + 1, pixels + end - first
    return number, pixels


@cache
def native_threads() -> ThreadpoolController:
    """StarDist opens a parallel section for each candidate; on a busy machine the threads' waiting
    takes minutes."""
    import stardist.lib.stardist2d  # noqa: F401 - the controller finds only what is loaded
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def render(
    nuclei: Outlines | StoredOutlines,
    *,
    shape: tuple[int, int],
    min_px: float,
    first_label: int = 1,
    side: int = BLOCK_PX,
) -> Iterator[tuple[int, int, NDArray[np.int32]]]:
    """The label image of nuclei, piece by piece: (first row, first column, int32 (rows, columns)),
    without those where no nucleus is.

    Labels follow the order of the nuclei. Where two overlap, the more probable one is on top; of
    a nucleus that another one cuts in pieces the largest piece stays, if it has `min_px` pixels.

    Args:
        nuclei: in pixels of the label image.
        shape: of the label image.
        min_px: smallest nucleus, pixels.
        first_label: label of the first nucleus.
        side: pieces are so high, and twice as wide; it leaves no trace in the result.
    """
    height, width = shape
    boxes = nuclei.boxes()
    halo = int(np.ceil((boxes[:, 2:] - boxes[:, :2]).max(initial=0))) + 2
    for top in range(0, height, side):
        rows = min(side, height - top)
        near = np.flatnonzero((boxes[:, 2] >= top - halo) & (boxes[:, 0] < top + rows + halo))
        band = nuclei[near].loaded()
        for left in range(0, width, 2 * side):
            columns = min(2 * side, width - left)
            own = np.flatnonzero(
                (boxes[near, 3] >= left - halo) & (boxes[near, 1] < left + columns + halo)
            )
            if len(own):
                first, end = max(left - halo, 0), min(left + columns + halo, width)
                canvas = draw(
                    band[own],
                    near[own] + first_label,
                    corner=(top - halo, first),
                    shape=(rows + 2 * halo, end - first),
                )
                whole = keep_largest_parts(canvas, min_px=min_px)
                yield top, left, whole[halo : halo + rows, left - first :][:, :columns]


def render_whole(nuclei: Outlines, *, shape: tuple[int, int], min_px: float) -> NDArray[np.int32]:
    """The label image of `render` in one piece."""
    labels = np.zeros(shape, np.int32)
    for top, left, piece in render(nuclei, shape=shape, min_px=min_px):
        labels[top : top + piece.shape[0], left : left + piece.shape[1]] = piece
    return labels


def draw(
    nuclei: Outlines, numbers: NDArray[np.intp], *, corner: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.int32]:
    """A canvas (H, W) that begins at `corner`, with each nucleus's number on its pixels, the most
    probable on top; 0 elsewhere."""
    canvas = np.zeros(shape, np.int32)
    vertices = nuclei.vertices.astype(np.float64) - np.array(corner)
    _fill(canvas, vertices, nuclei.ends, np.lexsort((numbers, nuclei.prob)), numbers)
    return canvas


@compiled(nogil=True)
def _fill(
    canvas: NDArray[np.int32],
    vertices: NDArray[np.float64],
    ends: NDArray[np.int64],
    order: NDArray[np.intp],
    numbers: NDArray[np.intp],
) -> None:
    """Write each outline's number to its pixels, in the given order."""
    height, width = canvas.shape
    corners = 0
    for i in range(len(ends)):
        corners = max(corners, ends[i] - (ends[i - 1] if i else 0))
    crossings, counts = np.empty((height, corners)), np.empty(height, np.int64)
    spans = np.empty((height * (corners // 2 + 1), 3), np.int64)
    for i in order:
        own = vertices[(ends[i - 1] if i else 0) : ends[i]]
        number, _ = _scan(own, height, width, crossings, counts, spans)
        for n in range(number):
            canvas[spans[n, 0], spans[n, 1] : spans[n, 2]] = numbers[i]


@compiled(nogil=True)
def keep_largest_parts(labels: NDArray[np.int32], min_px: float = 0) -> NDArray[np.int32]:
    """The label image with only the largest 4-connected part of each label, if it has `min_px`
    pixels or more.

    Of parts of the same size the one that begins first, row by row, stays.
    """
    height, width = labels.shape
    result = labels.copy()
    runs = np.empty(
        (labels.size, 3), np.int32
    )  # of one label in a row: row, first column, last + 1
    parent = np.empty(labels.size, np.int32)  # the root of a part is its first run
    sizes = np.empty(labels.size, np.int32)
    count, above = 0, 0
    lowest, highest = 2**31, -1
    for row in range(height):
        begun, near, column = count, above, 0
        while column < width:
            label, start = labels[row, column], column
            while column < width and labels[row, column] == label:
                column += 1
            if label == 0:
                continue
            runs[count, 0], runs[count, 1], runs[count, 2] = row, start, column
            parent[count], sizes[count] = count, column - start
            lowest, highest = min(lowest, label), max(highest, label)
            while near < begun and runs[near, 2] <= start:
                near += 1
            for other in range(near, begun):
                if runs[other, 1] >= column:
                    break
                if labels[row - 1, runs[other, 1]] == label:
                    one, two = _root(parent, count), _root(parent, other)
                    parent[max(one, two)] = min(one, two)
            count += 1
        above = begun
    for i in range(count):
        parent[i] = parent[parent[i]]  # what lies before is settled
        if parent[i] != i:
            sizes[parent[i]] += sizes[i]
    best = np.full(max(highest - lowest + 1, 0), -1, np.int64)
    for i in range(count):
        place = labels[runs[i, 0], runs[i, 1]] - lowest
        if (
            parent[i] == i
            and sizes[i] >= min_px
            and (best[place] < 0 or sizes[i] > sizes[best[place]])
        ):
            best[place] = i
    for i in range(count):
        row, start, end = runs[i]
        if best[labels[row, start] - lowest] != parent[i]:
            result[row, start:end] = 0
    return result


@compiled(nogil=True)
def _root(parent: NDArray[np.int32], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i

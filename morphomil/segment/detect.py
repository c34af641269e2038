"""Pixels -> nuclei, the same however the image is cut up: blocks with context, candidates,
suppression, rendering.

An image of any size is read in blocks. The network sees each block with `MARGIN_PX` of context, and
each network pixel is predicted once, in the block that owns it. Suppression of overlapping
candidates then works on a block's own candidates together with those within `MARGIN_PX` around it;
what an earlier block has accepted stays accepted. So a nucleus across a seam is found whole and
once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from morphomil.quality import is_colored_ink
from morphomil.types import CORES, SlideError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from threadpoolctl import ThreadpoolController

    from morphomil.segment.model import Segmenter

BLOCK_PX = 512
"""Height of a block, network pixels; multiple of every network's `multiple`. It may be half as wide
again."""
MARGIN_PX = 96
"""Context around a block, network pixels: beyond the largest nucleus and most of what the shipped
network looks at."""
MIN_RAY_PX = 1e-3
MAX_CANDIDATE_SHARE = 0.6
"""More grid points than this above the threshold: the model doesn't fit the image (StarDist would
run for hours)."""

Read = Callable[[int, int, int, int], "NDArray[np.uint8]"]
"""(row, column, height, width) in network pixels, possibly beyond the image -> RGB uint8 (height,
width, 3)."""


@dataclass(frozen=True)
class Block:
    """A rectangle of network pixels, owned by one call of the network."""

    row: int
    column: int
    height: int
    width: int


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


def block_rows(
    height: int, width: int, *, wanted: NDArray[np.bool_] | None = None, cell: int = 256
) -> list[list[Block]]:
    """Blocks that cover the cells wanted, row by row of `BLOCK_PX`, in the widths that cost least.

    A block is as high as the wanted cells in it are, up to `BLOCK_PX`, and up to half as wide
    again: a wide block has less context for its size, and one with unwanted cells does what nobody
    needs.

    Args:
        height: of the image, network pixels.
        width: of the image, network pixels.
        wanted: bool (ceil(height / cell), ceil(width / cell)); None: everything.
        cell: side of a cell, network pixels; `BLOCK_PX` is a multiple of it.
    """
    if wanted is None:
        cell = BLOCK_PX
        wanted = np.ones((-(-height // cell), -(-width // cell)), bool)
    deep = BLOCK_PX // cell
    rows = []
    for top in range(0, len(wanted), deep):
        blocks = []
        row, context = wanted[top : top + deep], 2 * MARGIN_PX / cell
        for left, right in _cheapest_cuts(row, widest=3 * deep // 2, context=context):
            used = top + np.flatnonzero(wanted[top : top + deep, left:right].any(axis=1))
            first, end = int(used[0]) * cell, min((int(used[-1]) + 1) * cell, height)
            blocks.append(
                Block(first, left * cell, end - first, min(right * cell, width) - left * cell)
            )
        rows.append(blocks)
    return rows


DECODER_COST = 2
"""What the decoder, which sees a block without its context, costs per pixel, in costs of the
encoder (measured)."""


def _cheapest_cuts(
    wanted: NDArray[np.bool_], *, widest: int, context: float
) -> list[tuple[int, int]]:
    """Spans of columns (first, end) that hold all wanted cells of a row of blocks and cost least
    together.

    Args:
        wanted: bool (cells of a block's height, columns).
        widest: cells.
        context: of a block, both sides together, cells.
    """
    least: list[tuple[float, int]] = [(0.0, 0)]
    """For the columns before each: the least cost, and where the last block begins; there itself:
    unwanted column."""
    for end in range(1, wanted.shape[1] + 1):
        choices = [] if wanted[:, end - 1].any() else [(least[end - 1][0], end)]
        for start in range(max(end - widest, 0), end):
            used = np.flatnonzero(wanted[:, start:end].any(axis=1))
            if len(used):
                tall, wide = int(used[-1] + 1 - used[0]), end - start
                cost = (tall + context) * (wide + context) + DECODER_COST * tall * wide
                choices.append((least[start][0] + cost, start))
        least.append(min(choices))
    spans, end = [], wanted.shape[1]
    while end:
        start = least[end][1]
        if start < end:
            spans.append((start, end))
        end = min(start, end - 1)
    return spans[::-1]


def find_candidates(read: Read, block: Block, *, segmenter: Segmenter) -> Polygons:
    """Every candidate whose center a block owns and no ink covers, in network pixels of the image.

    Raises:
        SlideError: the model finds nuclei nearly everywhere.
    """
    height = block.height + 2 * MARGIN_PX
    width = block.width + 2 * MARGIN_PX
    padded = (
        -(-height // segmenter.multiple) * segmenter.multiple,
        -(-width // segmenter.multiple) * segmenter.multiple,
    )
    pixels = read(block.row - MARGIN_PX, block.column - MARGIN_PX, *padded)
    if all(
        (part == pixels[0, 0]).all() for part in (pixels[::16, ::16], pixels)
    ):  # most blocks differ in the first
        return join([], rays=0)
    probability, distance = segmenter.predict(pixels, margin=MARGIN_PX)
    grid = segmenter.grid
    owned = np.s_[: -(-block.height // grid), : -(-block.width // grid)]
    found = probability[owned] > segmenter.prob_threshold
    if found.mean() > MAX_CANDIDATE_SHARE:
        raise SlideError(
            f"the model finds nuclei on {found.mean():.0%} of a block, which no tissue has; "
            "check the pixel size and whether the model fits the stain"
        )
    if segmenter.stain == "H&E":
        height, width = found.shape
        found &= ~is_colored_ink(pixels[MARGIN_PX::grid, MARGIN_PX::grid][:height, :width])
    where = np.argwhere(found)
    points = where * grid + np.array([block.row, block.column])
    rays = distance[owned][found].clip(MIN_RAY_PX, MARGIN_PX)
    return Polygons(points.astype(np.float32), probability[owned][found], rays)


def suppress(candidates: Polygons, *, threshold: float) -> Polygons:
    """Greedy suppression as StarDist's: of overlapping candidates the most probable stays.

    Two polygons overlap when they share more than `threshold` of the smaller one's area. Areas are
    counted in pixels here, where StarDist clips polygons: the same nuclei but for pairs at the very
    threshold, in a tenth of the time.
    """
    if not len(candidates):
        return candidates
    order = np.lexsort((candidates.points[:, 1], candidates.points[:, 0], -candidates.prob))
    ranked = candidates[order]
    return ranked[_survivors(ranked.points, ranked.dist, threshold)]


LAYERS = 4
"""So many accepted polygons may cover a pixel; further ones don't count there."""


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _survivors(
    points: NDArray[np.float32], dist: NDArray[np.float32], threshold: float
) -> NDArray[np.bool_]:
    """Which of the polygons, most probable first, share no more than `threshold` with an accepted
    one before them.

    Accepted polygons are drawn into a canvas of a few layers, so each polygon is compared with what
    lies under its own pixels only.
    """
    count, rays = dist.shape
    sines, cosines = (
        np.sin(np.arange(rays) * (2 * np.pi / rays)),
        np.cos(np.arange(rays) * (2 * np.pi / rays)),
    )
    reach = dist.max() + 2
    top, left = int(np.floor(points[:, 0].min() - reach)), int(np.floor(points[:, 1].min() - reach))
    height, width = (
        int(points[:, 0].max() + reach) + 1 - top,
        int(points[:, 1].max() + reach) + 1 - left,
    )
    canvas = np.zeros((LAYERS, height, width), np.int32)  # the upper ones are hardly touched
    corners, rows = np.empty((rays, 2)), int(2 * reach + 2)
    crossings, counts = np.empty((rows, rays)), np.empty(rows, np.int64)
    spans = np.empty((rows * (rays // 2 + 1), 3), np.int64)
    areas, shared = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    under = np.empty(count, np.int64)
    kept = np.zeros(count, np.bool_)
    for i in range(count):
        for k in range(rays):
            corners[k, 0] = points[i, 0] - top + dist[i, k] * sines[k]
            corners[k, 1] = points[i, 1] - left + dist[i, k] * cosines[k]
        number, area = _scan(corners, height, width, crossings, counts, spans)
        found, hidden = 0, area == 0
        for n in range(number):
            if hidden:
                break
            row = spans[n, 0]
            for column in range(spans[n, 1], spans[n, 2]):
                for layer in range(LAYERS):
                    other = canvas[layer, row, column]
                    if other == 0:
                        break
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
                for layer in range(LAYERS):
                    if canvas[layer, row, column] == 0:
                        canvas[layer, row, column] = i + 1
                        break
    return kept


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
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


def find_nuclei(
    read: Read, rows: Sequence[Sequence[Block]], *, segmenter: Segmenter
) -> Iterator[Polygons]:
    """The nuclei of each row of blocks in turn, in network pixels.

    The network runs ahead on threads of its own while earlier rows are settled; at most three rows
    of candidates and a few blocks of pixels are held in memory.
    """
    with closing(
        _candidates_ahead(read, [b for blocks in rows for b in blocks], segmenter=segmenter)
    ) as candidates:
        above: list[Polygons] = []
        current = list(islice(candidates, len(rows[0]))) if rows else []
        for index, blocks in enumerate(rows):
            below = list(islice(candidates, len(rows[index + 1]))) if index + 1 < len(rows) else []
            accepted: list[Polygons] = []
            for position, block in enumerate(blocks):
                settled = [part for part in (*above, *accepted) if len(part)]
                open_ones = [part for part in (*current[position + 1 :], *below) if len(part)]
                accepted.append(
                    _settle(block, current[position], settled, open_ones, segmenter.nms_threshold)
                )
            yield join(accepted, rays=0)
            above, current = accepted, below


def _candidates_ahead(
    read: Read, blocks: Sequence[Block], *, segmenter: Segmenter
) -> Generator[Polygons]:
    """The candidates of each block in order; the next blocks are being worked meanwhile."""
    reading = Lock()

    def read_alone(*frame: int) -> NDArray[np.uint8]:
        with reading:
            return read(*frame)

    ahead: deque[Future[Polygons]] = deque()
    try:
        for block in blocks:
            ahead.append(_pool().submit(find_candidates, read_alone, block, segmenter=segmenter))
            if len(ahead) > 2 * CORES:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        wait([future for future in ahead if not future.cancel()])


@cache
def _pool() -> ThreadPoolExecutor:
    """The threads that networks run on; they keep the networks' memory. One more than cores: some
    one is reading."""
    return ThreadPoolExecutor(CORES + 1)


def _settle(
    block: Block,
    own: Polygons,
    settled: Sequence[Polygons],
    open_ones: Sequence[Polygons],
    threshold: float,
) -> Polygons:
    """A block's nuclei: its candidates against each other, settled neighbors (they win) and open
    ones."""
    if not len(own):
        return own
    low = np.array([block.row, block.column]) - MARGIN_PX
    high = np.array([block.row + block.height, block.column + block.width]) + MARGIN_PX

    def nearby(part: Polygons) -> Polygons:
        return part[np.flatnonzero(((part.points >= low) & (part.points < high)).all(axis=1))]

    winners = [Polygons(p.points, p.prob + 2, p.dist) for p in map(nearby, settled)]
    survivors = suppress(
        join([own, *winners, *map(nearby, open_ones)], rays=own.dist.shape[1]), threshold=threshold
    )
    inside = (survivors.points >= low + MARGIN_PX) & (survivors.points < high - MARGIN_PX)
    kept = survivors[np.flatnonzero((survivors.prob <= 1) & inside.all(axis=1))]
    return kept[np.lexsort((kept.points[:, 1], kept.points[:, 0]))]


def render(
    polygons: Polygons,
    *,
    shape: tuple[int, int],
    min_px: float,
    first_label: int = 1,
    band: int = BLOCK_PX,
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """The label image of polygons, band by band: (first row, int32 (rows, width)).

    Labels follow the order of the polygons. Where two overlap, the more probable one is on top; of
    a nucleus that another one cuts in pieces the largest piece stays, if it has `min_px` pixels.

    Args:
        polygons: in pixels of the label image.
        shape: of the label image.
        min_px: smallest nucleus, pixels.
        first_label: label of the first polygon.
        band: rows to render at a time; it leaves no trace in the result.
    """
    height, width = shape
    outlines = polygons.outlines()
    low, high = (
        f(outlines[..., 0], axis=1) if len(polygons) else np.empty(0) for f in (np.min, np.max)
    )
    halo = int(np.ceil((high - low).max(initial=0))) + 2
    for top in range(0, height, band):
        rows = min(band, height - top)
        near = np.flatnonzero((high >= top - halo) & (low < top + rows + halo))
        window = (rows + 2 * halo, width)
        canvas = _draw(
            outlines[near] - np.array([top - halo, 0]),
            polygons.prob[near],
            near + first_label,
            window,
        )
        yield top, keep_largest_parts(canvas, min_px=min_px)[halo : halo + rows]


def _draw(
    outlines: NDArray[np.float64],
    prob: NDArray[np.float32],
    numbers: NDArray[np.intp],
    shape: tuple[int, int],
) -> NDArray[np.int32]:
    canvas = np.zeros(shape, np.int32)
    _fill(canvas, outlines, np.lexsort((numbers, prob)), numbers)
    return canvas


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _fill(
    canvas: NDArray[np.int32],
    outlines: NDArray[np.float64],
    order: NDArray[np.intp],
    numbers: NDArray[np.intp],
) -> None:
    """Write each polygon's number to its pixels, in the given order."""
    height, width = canvas.shape
    corners = outlines.shape[1]
    crossings, counts = np.empty((height, corners)), np.empty(height, np.int64)
    spans = np.empty((height * (corners // 2 + 1), 3), np.int64)
    for i in order:
        number, _ = _scan(outlines[i], height, width, crossings, counts, spans)
        for n in range(number):
            canvas[spans[n, 0], spans[n, 1] : spans[n, 2]] = numbers[i]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
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


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _root(parent: NDArray[np.int32], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def array_reader(rgb: NDArray[np.uint8]) -> Read:
    """Reads blocks of an image in memory (H, W, 3), mirrored beyond its edges."""
    height, width = rgb.shape[:2]

    def read(row: int, column: int, rows: int, columns: int) -> NDArray[np.uint8]:
        return rgb[np.ix_(_mirrored(row, rows, height), _mirrored(column, columns, width))]

    return read


def _mirrored(start: int, count: int, size: int) -> NDArray[np.intp]:
    index = np.arange(start, start + count) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)

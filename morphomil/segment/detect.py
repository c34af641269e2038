"""Pixels -> nuclei, the same however the image is cut up: blocks with context, candidates,
suppression, outlines.

An image of any size is read in blocks. The network sees each block with `MARGIN_PX` of context, and
each network pixel is predicted once, in the block that owns it. Suppression of overlapping
candidates then works on a block's own candidates together with those within `MARGIN_PX` around it;
what an earlier block has accepted stays accepted. So a nucleus across a seam is found whole and
once. Its outline is drawn when the blocks around it are settled, from their maps together.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import cache
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from morphomil.errors import SlideError
from morphomil.segment.blocks import MARGIN_PX, Block, Read
from morphomil.segment.contours import (
    RIM_UM,
    polygon_outlines,
    trace_contours,
)
from morphomil.segment.outlines import Outlines, join_outlines
from morphomil.segment.polygons import Polygons, join, suppress
from morphomil.slides.quality import is_colored_ink
from morphomil.types import CORES

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from morphomil.segment.model import Segmenter
MIN_RAY_PX = 1e-3
MAX_CANDIDATE_SHARE = 0.6
"""More grid points than this above the threshold: the model doesn't fit the image (StarDist would
run for hours)."""
BLANK = -8.0
"""The logit of nucleus where there is nothing to see."""


class Found(NamedTuple):
    """What the network finds in a block: the candidates whose center it owns and no ink covers, in
    network pixels of the image, and the logit of what is nucleus (height, width), if it has it."""

    block: Block
    polygons: Polygons
    nucleus: NDArray[np.float16] | None


def find_candidates(read: Read, block: Block, *, segmenter: Segmenter) -> Found:
    """Every candidate of a block, and its map.

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
        nothing = np.full((block.height, block.width), BLANK, np.float16)
        return Found(block, join([], rays=0), nothing)
    probability, distance, logit = segmenter.predict(pixels, margin=MARGIN_PX)
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
    polygons = Polygons(points.astype(np.float32), probability[owned][found], rays)
    if logit is None:
        return Found(block, polygons, None)
    own = logit[: block.height, : block.width].astype(np.float16)  # a copy, as it must be
    return Found(block, polygons, own)


def find_nuclei(
    read: Read, rows: Sequence[Sequence[Block]], *, mpp: float, segmenter: Segmenter
) -> Iterator[Outlines]:
    """The nuclei of each row of blocks in turn, in network pixels of `mpp` um.

    The network runs ahead on threads of its own while earlier rows are settled; at most four rows
    of candidates and maps and a few blocks of pixels are held in memory.
    """
    settled = settled_rows(read, rows, segmenter=segmenter)
    yield from outline_rows(settled, mpp=mpp, level=segmenter.edge_logit)


def outline_rows(
    settled: Iterable[Sequence[Found]], *, mpp: float, level: float
) -> Iterator[Outlines]:
    """The nuclei of each settled row of blocks in turn, drawn from the maps of the rows around it.

    `mpp`: um per network pixel; `level`: the logit at an edge.
    """
    before: Sequence[Found] = []
    here: Sequence[Found] = []
    for row in settled:
        if here:
            yield _outline(here, [*before, *row], mpp=mpp, level=level)
        before, here = here, row
    if here:
        yield _outline(here, before, mpp=mpp, level=level)


def settled_rows(
    read: Read, rows: Sequence[Sequence[Block]], *, segmenter: Segmenter
) -> Iterator[list[Found]]:
    """The blocks of each row in turn with the candidates that are nuclei."""
    with closing(
        _candidates_ahead(read, [b for blocks in rows for b in blocks], segmenter=segmenter)
    ) as candidates:
        above: list[Found] = []
        current = list(islice(candidates, len(rows[0]))) if rows else []
        for index, blocks in enumerate(rows):
            below = list(islice(candidates, len(rows[index + 1]))) if index + 1 < len(rows) else []
            accepted: list[Found] = []
            for position, block in enumerate(blocks):
                own = current[position]
                settled = [part.polygons for part in (*above, *accepted) if len(part.polygons)]
                rest = (*current[position + 1 :], *below)
                open_ones = [part.polygons for part in rest if len(part.polygons)]
                nuclei = _settle(block, own.polygons, settled, open_ones, segmenter.nms_threshold)
                accepted.append(Found(block, nuclei, own.nucleus))
            yield accepted
            above, current = accepted, below


def _outline(
    row: Sequence[Found], around: Sequence[Found], *, mpp: float, level: float
) -> Outlines:
    """The outlines of the nuclei of a row of blocks, in the order of blocks and nuclei."""
    parts = []
    for own in row:
        if own.nucleus is None or not len(own.polygons):
            parts.append(polygon_outlines(own.polygons))
            continue
        rim = RIM_UM / mpp
        halo = int(np.ceil(own.polygons.dist.max() + rim)) + 4
        low = np.array([own.block.row, own.block.column]) - halo
        high = low + np.array([own.block.height, own.block.width]) + 2 * halo
        logit = np.full(high - low, np.nan, np.float32)
        near = []
        for part in (*row, *around):
            corner = np.array([part.block.row, part.block.column])
            end = corner + np.array([part.block.height, part.block.width])
            first, last = np.maximum(corner, low), np.minimum(end, high)
            if part.nucleus is None or (first >= last).any():
                continue
            logit[first[0] - low[0] : last[0] - low[0], first[1] - low[1] : last[1] - low[1]] = (
                part.nucleus[
                    first[0] - corner[0] : last[0] - corner[0],
                    first[1] - corner[1] : last[1] - corner[1],
                ]
            )
            if part is not own and len(part.polygons):
                points = part.polygons.points
                near.append(
                    part.polygons[
                        np.flatnonzero(
                            ((points >= low - halo) & (points < high + halo)).all(axis=1)
                        )
                    ]
                )
        parts.append(
            trace_contours(
                own.polygons,
                join(near, rays=own.polygons.dist.shape[1]),
                logit,
                corner=(int(low[0]), int(low[1])),
                level=level,
                rim_px=rim,
            )
        )
    return join_outlines(parts)


def _candidates_ahead(
    read: Read, blocks: Sequence[Block], *, segmenter: Segmenter
) -> Generator[Found]:
    """The candidates of each block in order; the next blocks are being worked meanwhile."""
    reading = Lock()

    def read_alone(*frame: int) -> NDArray[np.uint8]:
        with reading:
            return read(*frame)

    ahead: deque[Future[Found]] = deque()
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

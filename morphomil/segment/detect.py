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
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import cache
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from morphomil.errors import SlideError
from morphomil.segment.blocks import MARGIN_PX, Block, Read
from morphomil.segment.polygons import Polygons, join, suppress
from morphomil.slides.quality import is_colored_ink
from morphomil.types import CORES

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from morphomil.segment.model import Segmenter
MIN_RAY_PX = 1e-3
MAX_CANDIDATE_SHARE = 0.6
"""More grid points than this above the threshold: the model doesn't fit the image (StarDist would
run for hours)."""


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

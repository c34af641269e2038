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
from dataclasses import replace
from functools import cache, partial
from itertools import chain, islice
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from morphomil.errors import SlideError
from morphomil.memory import give_back_memory
from morphomil.segment.blocks import MARGIN_PX, Block, Read
from morphomil.segment.contours import (
    RIM_UM,
    polygon_outlines,
    trace_contours,
)
from morphomil.segment.network import TYPE_GRID
from morphomil.segment.outlines import Outlines, join_outlines
from morphomil.segment.plausible import RING_UM, averaged, evidence_factor, measure_evidence
from morphomil.segment.polygons import Polygons, draw, join, suppress
from morphomil.slides.quality import is_colored_ink
from morphomil.spool import Spool
from morphomil.types import CORES

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from morphomil.segment.model import Segmenter
MIN_RAY_PX = 1e-3
MAX_CANDIDATE_SHARE = 0.6
"""More grid points than this above the threshold: the model doesn't fit the image (StarDist would
run for hours)."""
RIM_PX = 32
"""Nuclei reach no farther than `MARGIN_PX` from their centers, and what is measured around them no
farther than this from their edges."""
BLANK = -8.0
"""The logit of nucleus where there is nothing to see."""


class StoredMap:
    """A map (height, ...) of a block that lies in a spool of bytes."""

    def __init__(self, spool: Spool, values: NDArray[Any]) -> None:
        """Added to the spool."""
        self.spool, self.first = spool, len(spool)
        self.shape, self.kind = values.shape, values.dtype
        spool.add(np.ascontiguousarray(values).reshape(-1).view(np.uint8))

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Some of its rows, a copy."""
        begin, end, _ = rows.indices(self.shape[0])
        size = int(np.prod(self.shape[1:])) * self.kind.itemsize
        stored = self.spool[self.first + begin * size : self.first + end * size]
        return stored.view(self.kind).reshape(-1, *self.shape[1:])


Map = NDArray[Any] | StoredMap


class Found(NamedTuple):
    """What the network finds in a block: the candidates whose center it owns and no ink covers, in
    network pixels of the image, the logit of what is nucleus (height, width), float16, and those of
    the types (a quarter of both, 4; once it is settled which are nuclei, those of each), if it has
    them; and its pixels, averaged (`plausible.averaged`), if nuclei are to be told from other
    objects."""

    block: Block
    polygons: Polygons
    nucleus: Map | None = None
    types: Map | None = None
    pixels: Map | None = None

    def maps(self) -> dict[str, Map]:
        """Those that it has."""
        maps = {"nucleus": self.nucleus, "types": self.types, "pixels": self.pixels}
        return {name: one for name, one in maps.items() if one is not None}

    def put_away(self, spool: Spool) -> Found:
        """The same, with its maps in a spool."""
        stored = {name: StoredMap(spool, one[:]) for name, one in self.maps().items()}
        return Found(self.block, self.polygons, **stored)


def find_candidates(read: Read, block: Block, *, mpp: float, segmenter: Segmenter) -> Found:
    """Every candidate of a block, and its map; `mpp`: um per network pixel.

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
    seen = _seen(pixels, block, mpp=mpp) if segmenter.judges else None
    if all(
        (part == pixels[0, 0]).all() for part in (pixels[::16, ::16], pixels)
    ):  # most blocks differ in the first
        nothing = np.full((block.height, block.width), BLANK, np.float16)
        return Found(block, join([], rays=0), nothing, None, seen)
    said = segmenter.predict(pixels, margin=MARGIN_PX)
    grid = segmenter.grid
    owned = np.s_[: -(-block.height // grid), : -(-block.width // grid)]
    found = said.probability[owned] > segmenter.prob_threshold
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
    rays = said.distance[owned][found].clip(MIN_RAY_PX, MARGIN_PX)
    polygons = Polygons(points.astype(np.float32), said.probability[owned][found], rays)
    # copies, as they must be
    types = None if said.types is None else np.array(said.types, np.float32)
    if said.nucleus is None:
        return Found(block, polygons, None, types, seen)
    own = said.nucleus[: block.height, : block.width].astype(np.float16)
    return Found(block, polygons, own, types, seen)


def _seen(pixels: NDArray[np.uint8], block: Block, *, mpp: float) -> NDArray[np.uint8]:
    """A block's own pixels at the resolution that objects are judged at."""
    factor = evidence_factor(mpp)
    rows, columns = (-(-side // factor) * factor for side in (block.height, block.width))
    return averaged(pixels[MARGIN_PX:, MARGIN_PX:][:rows, :columns], factor)


def find_nuclei(
    read: Read, rows: Sequence[Sequence[Block]], *, mpp: float, segmenter: Segmenter
) -> Iterator[Outlines]:
    """The nuclei of each row of blocks in turn, in network pixels of `mpp` um.

    The network runs ahead on threads of its own while earlier rows are settled. Four rows of maps
    are kept, those of wide rows in temporary files, and a few blocks of pixels.
    """
    settled = settled_rows(read, rows, mpp=mpp, segmenter=segmenter)
    for outlines in outline_rows(settled, mpp=mpp, level=segmenter.edge_logit(mpp)):
        if outlines.types is None or segmenter.types is None:
            yield outlines
        else:
            yield replace(outlines, types=segmenter.types(outlines.types))


def outline_rows(
    settled: Iterable[Sequence[Found]], *, mpp: float, level: float
) -> Iterator[Outlines]:
    """The nuclei of each settled row of blocks in turn, drawn from the maps of the rows around it.

    `mpp`: um per network pixel; `level`: the logit at an edge. Types are logits.
    """
    before: Sequence[Found] = []
    here: Sequence[Found] = []
    drawing: list[Future[Outlines]] = []
    try:
        for row in chain(settled, [[]]):
            drawn = drawing
            drawing = [
                _pool().submit(_outline, own, [*before, *here, *row], mpp=mpp, level=level)
                for own in here
                if len(own.polygons)
            ]
            if before:
                yield join_outlines([one.result() for one in drawn])
            before, here = here, row
        if before:
            yield join_outlines([one.result() for one in drawing])
    finally:
        wait([one for one in drawing if not one.cancel()])


def settled_rows(
    read: Read, rows: Sequence[Sequence[Block]], *, mpp: float, segmenter: Segmenter
) -> Iterator[list[Found]]:
    """The blocks of each row in turn with the candidates that are nuclei; one is settled as soon as
    those below it are there, while the network works on."""
    with closing(
        _candidates_ahead(
            read, [b for blocks in rows for b in blocks], mpp=mpp, segmenter=segmenter
        )
    ) as candidates:
        above: list[Found] = []
        current = [found for row in rows[:1] for found in _arriving(candidates, row)]
        for blocks, after in zip(rows, [*rows[1:], []], strict=True):
            arriving, below = _arriving(candidates, after), list[Found]()
            accepted: list[Found] = []
            for position, block in enumerate(blocks):
                end = block.column + block.width + MARGIN_PX
                waited_for = sum(one.column < end for one in after)  # they come from the left
                below += islice(arriving, max(0, waited_for - len(below)))
                own = current[position]
                settled, rest = (*above, *accepted), (*current[position + 1 :], *below)
                nuclei = _settle(
                    block,
                    own.polygons,
                    [part.polygons for part in _near(settled, block, MARGIN_PX)],
                    [part.polygons for part in _near(rest, block, MARGIN_PX)],
                    segmenter.nms_threshold,
                )
                types = None
                if own.types is not None and len(nuclei):
                    types = types_at(own.types[:], nuclei.points, block)
                current[position] = own._replace(polygons=nuclei, types=types)
                accepted.append(current[position])
            below += arriving
            yield accepted
            give_back_memory()
            above = [part._replace(nucleus=None, types=None, pixels=None) for part in accepted]
            current = below


ROW_BYTES = 2**23
"""So many bytes of a row's maps are held in memory."""


def _arriving(candidates: Iterator[Found], row: Sequence[Block]) -> Iterator[Found]:
    """The candidates of a row; maps beyond those that may be held are put away."""
    spool, held = Spool(np.uint8, held=0), 0
    for found in islice(candidates, len(row)):
        held += sum(one.nbytes for one in found.maps().values() if isinstance(one, np.ndarray))
        yield found if held <= ROW_BYTES else found.put_away(spool)


def _near(parts: Iterable[Found], block: Block, reach: int) -> list[Found]:
    """Those whose block is less than so many pixels away."""
    top, left = block.row - reach, block.column - reach
    bottom, right = block.row + block.height + reach, block.column + block.width + reach
    return [
        part
        for part in parts
        if top - part.block.height < part.block.row < bottom
        and left - part.block.width < part.block.column < right
    ]


def _outline(own: Found, around: Sequence[Found], *, mpp: float, level: float) -> Outlines:
    """The outlines of a block's nuclei, in their order; around it are all blocks that may reach
    it."""
    near = _near(around, own.block, 2 * (MARGIN_PX + RIM_PX))
    others = [part for part in near if part is not own]
    outlines = (
        polygon_outlines(own.polygons)
        if own.nucleus is None
        else _trace_block(own, others, mpp=mpp, level=level)
    )
    if own.pixels is not None:
        outlines = replace(outlines, evidence=_block_evidence(own, others, mpp=mpp))
    types = None if own.types is None else own.types[:]
    return replace(outlines, types=types)


def types_at(
    types: NDArray[np.float32], points: NDArray[np.float32], block: Block
) -> NDArray[np.float32]:
    """The logits (n, 4) that a block's map of types has at points (n, 2) inside it."""
    row, column = ((points - [block.row, block.column]) // TYPE_GRID).astype(int).T
    return np.asarray(types[row, column])


def _trace_block(own: Found, others: Sequence[Found], *, mpp: float, level: float) -> Outlines:
    """The outlines of a block's nuclei from the maps around them."""
    rim = RIM_UM / mpp
    halo = int(np.ceil(own.polygons.dist.max() + rim)) + 4
    low, high = _frame(own.block, halo)
    logit = np.full(high - low, np.nan, np.float32)
    for part in (own, *others):
        if part.nucleus is not None:
            _lay(logit, part.nucleus, part.block, low)
    return trace_contours(
        own.polygons,
        _polygons_near(others, low - halo, high + halo, rays=own.polygons.dist.shape[1]),
        logit,
        corner=(int(low[0]), int(low[1])),
        level=level,
        rim_px=rim,
    )


def _block_evidence(own: Found, others: Sequence[Found], *, mpp: float) -> NDArray[np.float32]:
    """Of each nucleus of a block what tells whether it is one (`measure_evidence`).

    The polygons say which pixels are its own, whatever outline is drawn, so that blocks leave no
    trace.
    """
    factor = evidence_factor(mpp)
    reach = own.polygons.dist.max(axis=1, keepdims=True) + (RING_UM / mpp + factor)
    low = np.floor((own.polygons.points - reach).min(axis=0) / factor).astype(int) * factor
    high = np.ceil((own.polygons.points + reach).max(axis=0)).astype(int) + 1
    size = -(-(high - low) // factor)
    rgb, unknown = np.zeros((*size, 3), np.uint8), np.ones(size, bool)
    for part in (own, *others):
        if part.pixels is not None:
            _lay(rgb, part.pixels, part.block, low, factor=factor)
            _lay(unknown, np.zeros(part.pixels.shape[:2], bool), part.block, low, factor=factor)
    near = _polygons_near(others, low - MARGIN_PX, high + MARGIN_PX, rays=0)
    nuclei = join([own.polygons, near], rays=0)
    drawn = polygon_outlines(nuclei)
    drawn = drawn if factor == 1 else drawn.scaled(1 / factor)
    corner = (int(low[0]) // factor, int(low[1]) // factor)
    shape = (int(size[0]), int(size[1]))
    labels = draw(drawn, np.arange(1, len(nuclei) + 1), corner=corner, shape=shape)
    labels[unknown] = -1
    return measure_evidence(rgb, labels, len(own.polygons), mpp=mpp * factor)


def _frame(block: Block, halo: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The first pixel (row, column) of a block and its halo, and the one after the last."""
    low = np.array([block.row, block.column]) - halo
    return low, low + np.array([block.height, block.width]) + 2 * halo


def _lay(
    canvas: NDArray[Any],
    part: Map,
    block: Block,
    low: NDArray[np.intp],
    *,
    factor: int = 1,
) -> None:
    """Write what is known of a block into a canvas that begins at `low`; `factor` network pixels
    are one of both."""
    start = (np.array([block.row, block.column]) - low) // factor
    first, end = np.maximum(start, 0), np.minimum(start + part.shape[:2], canvas.shape[:2])
    if (first < end).all():
        rows, columns = (slice(a, b) for a, b in zip(first, end, strict=True))
        own = first - start
        wanted = part[own[0] : own[0] + end[0] - first[0]]
        canvas[rows, columns] = wanted[:, own[1] : own[1] + end[1] - first[1]]


def _polygons_near(
    parts: Sequence[Found], low: NDArray[np.intp], high: NDArray[np.intp], *, rays: int
) -> Polygons:
    """Those whose center lies between two pixels."""
    near = []
    for part in parts:
        first, end = _frame(part.block, 0)
        if (first < high).all() and (end > low).all() and len(part.polygons):
            points = part.polygons.points
            inside = ((points >= low) & (points < high)).all(axis=1)
            near.append(part.polygons[np.flatnonzero(inside)])
    return join(near, rays=rays)


def _candidates_ahead(
    read: Read, blocks: Sequence[Block], *, mpp: float, segmenter: Segmenter
) -> Generator[Found]:
    """The candidates of each block in order; the next blocks are being worked meanwhile."""
    reading = Lock()

    def read_alone(*frame: int) -> NDArray[np.uint8]:
        with reading:
            return read(*frame)

    ahead: deque[Future[Found]] = deque()
    try:
        for block in blocks:
            work = partial(find_candidates, read_alone, block, mpp=mpp, segmenter=segmenter)
            ahead.append(_pool().submit(work))
            if len(ahead) > 4 * CORES:
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

"""An image in memory, and the blocks that cover an image, in the widths that cost least."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


BLOCK_PX = 512
"""A block is this many network pixels high, a multiple of every network's `multiple`, and as wide
or half as wide again; or it is one cell."""
LONG_PX = 2**14
"""In regions with rows longer than this no block is wider than high: the network for those, 230 MB,
saves a thirtieth of what blocks cost (`_cheapest_cuts`), and memory is short there."""
MARGIN_PX = 96
"""The network sees this many pixels around a block: more than the largest nucleus, and most of what
the shipped network looks at."""
Read = Callable[[int, int, int, int], "NDArray[np.uint8]"]
"""A reader takes (row, column, height, width) in network pixels, possibly beyond the image, and
gives RGB uint8 (height, width, 3)."""


@dataclass(frozen=True)
class Block:
    """A rectangle of network pixels, owned by one call of the network."""

    row: int
    column: int
    height: int
    width: int


def block_rows(
    height: int, width: int, *, wanted: NDArray[np.bool_] | None = None, cell: int = 256
) -> list[list[Block]]:
    """Blocks that cover the cells wanted, row by row of `BLOCK_PX`, in the widths that cost least.

    A wide block has less context for its size, and one with unwanted cells does what nobody needs.
    There are three sizes, two in long rows (`LONG_PX`), only where the image's are multiples of a
    cell's: each is a network of its own in memory.

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
    widest = deep if width > LONG_PX else 3 * deep // 2

    def block(top: int, left: int, tall: int, wide: int) -> Block:
        row, column = top * cell, left * cell
        return Block(row, column, min(tall * cell, height - row), min(wide * cell, width - column))

    rows = []
    for top in range(0, len(wanted), deep):
        row, blocks = wanted[top : top + deep], []
        cuts = _cheapest_cuts(row, deep=deep, widest=widest, context=2 * MARGIN_PX / cell)
        for left, right in cuts:
            if right - left < deep:
                for down in np.flatnonzero(row[:, left]).tolist():
                    blocks.append(block(top + down, left, 1, 1))
            else:
                blocks.append(block(top, left, deep, right - left))
        rows.append(blocks)
    return rows


DECODER_COST = 4
"""The decoder, which sees a block without its context, costs so many times what the encoder does
per pixel (measured)."""


def _cheapest_cuts(
    wanted: NDArray[np.bool_], *, deep: int, widest: int, context: float
) -> list[tuple[int, int]]:
    """Spans of columns (first, end) that hold all wanted cells of a row of blocks and cost least
    together: single columns, whose wanted cells are blocks of their own, and blocks of full height.

    Args:
        wanted: bool (cells of a block's height, columns).
        deep: cells of a full height, which may be more than there are.
        widest: cells of the widest block.
        context: of a block, both sides together, cells.
    """

    def cost(tall: int, wide: int) -> float:
        return (tall + context) * (wide + context) + DECODER_COST * tall * wide

    widths = range(deep, widest + 1) if len(wanted) == deep else range(0)
    counts = wanted.sum(axis=0).tolist()
    least: list[tuple[float, int]] = [(0.0, 0)]
    """For the columns before each: the least cost, and where the last span begins; there itself:
    unwanted column."""
    for end, count in enumerate(counts, start=1):
        if count:
            choices = [(least[end - 1][0] + count * cost(1, 1), end - 1)]
        else:
            choices = [(least[end - 1][0], end)]
        for wide in widths:
            if wide <= end:
                start = end - wide
                choices.append((least[start][0] + cost(deep, wide), start))
        least.append(min(choices))
    spans, end = [], wanted.shape[1]
    while end:
        start = least[end][1]
        if start < end:
            spans.append((start, end))
        end = min(start, end - 1)
    return spans[::-1]


def array_reader(rgb: NDArray[np.uint8]) -> Read:
    """Reads blocks of an image in memory (H, W, 3), mirrored beyond its edges."""
    height, width = rgb.shape[:2]

    def read(row: int, column: int, rows: int, columns: int) -> NDArray[np.uint8]:
        return rgb[np.ix_(_mirrored(row, rows, height), _mirrored(column, columns, width))]

    return read


def _mirrored(start: int, count: int, size: int) -> NDArray[np.intp]:
    index = np.arange(start, start + count) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


def check_image(rgb: NDArray[Any], mpp: float) -> None:
    """Raise what `segment_image` says of an unusable image."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(
            f"an RGB image is uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}{_how_to_mend(rgb)}"
        )
    if not 0.05 <= mpp <= 5:
        raise ValueError(f"pixel size must be 0.05 to 5 um, got {mpp:g}")


def _how_to_mend(array: NDArray[np.generic]) -> str:
    if array.ndim == 3 and array.shape[2] == 4:
        return "; leave out the alpha channel: rgb[..., :3]"
    if array.ndim == 2:
        return "; nuclei are told from their H&E color, which a gray image lacks"
    if array.dtype == np.uint16:
        return "; bring 16 bits to 8: (rgb // 257).astype('uint8')"
    if np.issubdtype(array.dtype, np.floating):
        return (
            "; bring values from 0..1 to 0..255, none of them NaN: (rgb * "
            "255).round().astype('uint8')"
        )
    return ""


def resized(rgb: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """The image with pixels `factor` times as large."""
    from PIL import Image

    height, width = (max(1, round(side / factor)) for side in rgb.shape[:2])
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.HAMMING))

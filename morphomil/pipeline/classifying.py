"""Types of imported nuclei, by the segmenter's network from the pixels."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from morphomil.pipeline.finding import change_of_region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.pipeline.finding import RegionOfSlide
    from morphomil.segment.model import Segmenter
    from morphomil.slides.nuclei_files import Nuclei

TILE_PX = 2048
"""A region is worked in tiles of this side, mask pixels."""
MARGIN_PX = 128
"""So much is read around a tile, for the network and for nuclei that leave it."""


def classify_unknown(
    part: RegionOfSlide,
    nuclei: Nuclei,
    chosen: NDArray[np.intp],
    types: NDArray[np.float32],
    *,
    segmenter: Segmenter,
) -> None:
    """Fill the rows of `types` (n, 4) that are NaN, of a region's chosen nuclei (n,), with the
    probabilities of the network; those of nuclei without a pixel of the masks stay.

    Raises:
        InputError: the model doesn't know types.
        SlideError: the image is damaged there, or its stains can't be told apart.
    """
    from morphomil.segment.classify import type_table

    frame, change = part.frame, change_of_region(part, segmenter)
    places = frame.from_level0(nuclei.centers[chosen])
    unknown = np.isnan(types).any(axis=1)
    for top, left in product(*(range(0, side, TILE_PX) for side in frame.shape)):
        corner = np.array([left, top])
        own = unknown & ((places >= corner) & (places < corner + TILE_PX)).all(axis=1)
        if not own.any():
            continue
        wanted = np.flatnonzero(own)
        x, y = frame.to_level0(corner - MARGIN_PX).tolist()
        canvas = np.zeros([TILE_PX + 2 * MARGIN_PX] * 2, np.int32)
        nuclei.draw(canvas, chosen[wanted], 1, x_px=x, y_px=y, downsample=frame.downsample)
        if not canvas.any():
            continue
        pixels = part.image.read(x, y, *canvas.shape[::-1], downsample=frame.downsample)
        stained = pixels if change is None else change(pixels)
        table = type_table(stained, canvas, mpp=frame.mpp, segmenter=segmenter)
        shares = table.filter(regex="^p_").to_numpy(np.float32)
        types[wanted[table["label"].to_numpy() - 1]] = shares

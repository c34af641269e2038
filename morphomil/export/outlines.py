"""Stored masks -> the outlines of their nuclei."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from morphomil.nuclei.outlines import Outline, trace_outlines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from morphomil.slides.masks import RegionMasks

TILE_PX = 1024
"""The part of a mask that is worked at a time is this many pixels wide."""


def region_outlines(masks: RegionMasks, known: NDArray[np.int32]) -> Iterator[Outline]:
    """The outlines of the known labels (sorted), in pixels of the whole mask: those stored, or else
    along the pixels of the masks, tile by tile.

    A label that earlier tiles of the raster don't show reaches at most the halo further down and to
    either side.
    """
    if masks.outlines is not None:
        first, count = masks.outlines.first_label, len(masks.outlines.ends)
        own = known[(known >= first) & (known < first + count)]
        for label, ring in masks.outlines.rings(own.tolist()):
            yield Outline(label, [[np.concatenate([ring, ring[:1]])]])
        return
    if not len(known):
        return
    done = np.zeros(len(known), bool)
    (height, width), halo = masks.frame.shape, masks.frame.halo_px
    for top, left in product(range(0, height, TILE_PX), range(0, width, TILE_PX)):
        first = max(left - halo, 0)
        window = masks.crop(np.s_[top : top + TILE_PX + halo, first : left + TILE_PX + halo])
        begun = np.unique(window[:TILE_PX, left - first : left - first + TILE_PX])
        places = np.minimum(np.searchsorted(known, begun), len(known) - 1)
        fresh = (known[places] == begun) & ~done[places]
        begun, places = begun[fresh], places[fresh]
        if not len(begun):
            continue
        done[places] = True
        for outline in trace_outlines(np.where(np.isin(window, begun), window, 0)):
            shift = np.array([first, top])
            yield Outline(
                outline.label, [[ring + shift for ring in rings] for rings in outline.polygons]
            )

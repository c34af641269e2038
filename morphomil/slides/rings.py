"""The outer rings of a region's nuclei on the image, whether its masks store outlines or pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from morphomil.nuclei.outlines import trace_rings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from morphomil.slides.masks import RegionMasks

VERTICES_AT_A_TIME = 2**20
"""About so many vertices are in memory at once."""


class Rings(NamedTuple):
    """Some nuclei's outer rings; one in pieces has several."""

    labels: NDArray[np.int64]
    """Each ring's nucleus."""
    vertices: NDArray[np.float32]
    """x and y (m, 2), level-0 pixels, one ring after the other; its last vertex is joined with its
    first."""
    ends: NDArray[np.int64]
    """Each ring ends here in `vertices`."""


def read_rings(masks: RegionMasks) -> Iterator[Rings]:
    """All rings of a region, part by part: the stored outlines, else those along the pixels."""
    if masks.outlines is None:
        yield from _trace_bands(masks)
        return
    first_label, vertices, ends = masks.outlines
    first = begin = 0
    while first < len(ends):
        last = max(int(np.searchsorted(ends, begin + VERTICES_AT_A_TIME)), first + 1)
        part = np.asarray(vertices[begin : int(ends[last - 1])])
        labels = np.arange(first, last) + first_label
        yield Rings(labels, _place(masks, part), ends[first:last] - begin)
        first, begin = last, int(ends[last - 1])


def _trace_bands(masks: RegionMasks) -> Iterator[Rings]:
    """A ring belongs to the band that its topmost row lies in, whose halo holds it whole."""
    for band in masks.bands():
        points, ends, owners = trace_rings(band.labels)
        if not len(ends):
            continue
        sizes = np.diff(ends, prepend=0)
        tops = np.minimum.reduceat(points[:, 1], ends - sizes) + band.first
        own = (tops >= band.top) & (tops < band.bottom)
        kept = points[np.repeat(own, sizes)] + [0, band.first]
        yield Rings(owners[own], _place(masks, kept), np.cumsum(sizes[own]))


def _place(masks: RegionMasks, points: NDArray[Any]) -> NDArray[np.float32]:
    """As `MaskFrame.to_level0`, in single precision: 1/100 of a pixel on the largest slides."""
    corner = np.array([masks.frame.x_px, masks.frame.y_px], np.float32)
    return points.astype(np.float32) * np.float32(masks.frame.downsample) + corner

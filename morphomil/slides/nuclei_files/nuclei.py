"""The nuclei of a file, whatever its format: where they are, what the file says of each, and their
pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd
import shapely

from morphomil.errors import SlideError, translating
from morphomil.nuclei.outlines import fill_rings
from morphomil.slides.masks import HALO_UM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from morphomil.nuclei.outlines import Rings
    from morphomil.slides.image import SlideImage

MAX_COORDINATE_PX = 1e8
CHUNK = 20_000
"""So many outlines are held as arrays of their own, or worked at a time."""
MIN_CHAIN_VERTICES = 8
"""Outlines that were traced through the centers of pixels have more vertices than this."""


@dataclass(frozen=True)
class Reading:
    """How a file of nuclei is to be read where it doesn't say so itself."""

    plane: str | None = None
    """Of a label image of several planes: nuclei, cells, or a number from 0."""
    cells_as_nuclei: bool = False
    """Take the outline of a cell for its nucleus where the file has none."""
    origin: Literal["level0", "bounds"] | None = None
    """Where coordinates begin on a slide whose scanned part doesn't begin at the canvas's corner;
    None: as the format has it."""


def decoding(path: Path) -> AbstractContextManager[None]:
    """Turn whatever a reader of nuclei raises into one error that names the file."""
    return translating(lambda cause: SlideError(f"nuclei {path} can't be read: {cause}"))


class Nuclei(Protocol):
    """The nuclei of one image file, in its level-0 pixels."""

    centers: NDArray[np.float64]
    """(nuclei, 2): x, y of the centroids."""
    areas_px: NDArray[np.float64]
    """(nuclei,): areas in level-0 pixels."""
    said: pd.DataFrame
    """What the file says of each nucleus: `type`, `type_probability`, `detection_probability`, as
    far as it has them."""
    left_out: Counter[str]
    """What the file holds beside, by kind."""

    def draw(
        self,
        canvas: NDArray[np.int32],
        chosen: NDArray[np.intp],
        first_label: int,
        *,
        x_px: float,
        y_px: float,
        downsample: float,
    ) -> None:
        """Write the chosen nuclei to a canvas of zeros whose top left corner is the position (x_px,
        y_px).

        The n-th chosen nucleus gets the number `first_label` + n; a pixel is `downsample` level-0
        pixels wide.
        """


@dataclass
class OutlineList:
    """Outlines as a reader finds them, one after the other, in the file's coordinates."""

    left_out: Counter[str] = field(default_factory=Counter)
    _rings: Rings = field(default_factory=list)
    _points: list[NDArray[np.float64]] = field(default_factory=list)
    _ring_sizes: list[int] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)
    _said: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, rings: Sequence[ArrayLike], said: dict[str, Any] | None = None) -> None:
        """Add a nucleus: its outer ring and holes, each (n, 2 or more), and what is said of it.

        Raises:
            ValueError: a coordinate is no number, or not finite.
        """
        checked = [_opened(to_ring(ring)) for ring in rings]
        if not checked or len(checked[0]) < 3:
            self.left_out["outlines of fewer than 3 vertices"] += 1
            return
        for name, value in (said or {}).items():
            column = self._said.setdefault(name, [])
            column.extend([None] * (len(self) - len(column)))
            column.append(value)
        solid = [ring for ring in checked if len(ring) >= 3]
        self._rings += solid
        self._ring_sizes += map(len, solid)
        self._counts.append(len(solid))
        if len(self._rings) >= CHUNK:
            self._pack()

    def _pack(self) -> None:
        if self._rings:
            self._points.append(np.concatenate(self._rings))
            self._rings.clear()

    @property
    def points(self) -> NDArray[np.float64]:
        """All vertices, (n, 2)."""
        self._pack()
        self._points = [np.concatenate(self._points)] if self._points else []
        return self._points[0] if self._points else np.empty((0, 2))

    def said(self) -> pd.DataFrame:
        """What is said of every nucleus, a row each."""
        columns = {
            name: column + [None] * (len(self) - len(column))
            for name, column in self._said.items()
            if any(value is not None for value in column)
        }
        numbers = {name for name in columns if name.endswith("probability")}
        return pd.DataFrame(
            {
                name: pd.Series(column, dtype="float64" if name in numbers else "object")
                for name, column in columns.items()
            },
            index=pd.RangeIndex(len(self)),
        )

    def placed(
        self, image: SlideImage, *, factor: ArrayLike = 1.0, shift: ArrayLike = 0.0
    ) -> Outlines:
        """The outlines on their image: in level-0 pixels after a factor and then a shift, for x and
        y or for both.

        Outlines that were traced through the centers of border pixels (OpenCV's `findContours`,
        which most of the tools use) are widened by half a pixel to hold the pixels whole.

        Raises:
            ValueError: a nucleus is longer than a nucleus can be.
        """
        points = self.points
        ring_ends = np.cumsum(np.array(self._ring_sizes, dtype=np.int64))
        ends = np.cumsum(np.array(self._counts, dtype=np.int64))
        left_out = Counter(self.left_out)
        if traced_through_centers(points, ring_ends):
            points, ring_ends, ends = _widened(points, ring_ends, ends)
            left_out["outlines through pixel centers, widened"] += len(ends)
        if np.any(np.asarray(factor) != 1) or np.any(np.asarray(shift) != 0):
            points = points * np.asarray(factor) + np.asarray(shift)
        return Outlines(points, ring_ends, ends, self.said(), left_out, mpp=image.mpp)


def to_ring(points: ArrayLike) -> NDArray[np.float64]:
    """Vertices (n, 2) of numbers that come from a file; what follows x and y is left out.

    Raises:
        ValueError: they are no numbers, or not finite.
    """
    try:
        ring = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        pairs: Any = points
        ring = np.array([(float(point[0]), float(point[1])) for point in pairs])
    ring = ring.reshape(-1, ring.shape[-1] if ring.ndim > 1 else 2)[:, :2]
    if ring.size and (ring.shape[1] != 2 or not np.abs(ring).max(initial=0) < MAX_COORDINATE_PX):
        raise ValueError("it has coordinates that are no finite pixel positions")
    return ring


def _opened(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without the first point again at the end."""
    return ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring


def traced_through_centers(points: NDArray[np.float64], ring_ends: NDArray[np.int64]) -> bool:
    """Whether outlines run through the centers of pixels: vertices are whole numbers, edges go in
    the eight directions of a pixel's neighbors, and diagonal ones occur in most outlines.

    So `cv2.findContours` traces a mask, with every vertex or with the ends of straight runs alone
    (`CHAIN_APPROX_NONE`, `CHAIN_APPROX_SIMPLE`); outlines along the pixels' edges have no diagonal
    ones.
    """
    if not len(ring_ends) or not all(
        (part == np.round(part)).all() for part in np.array_split(points, 1 + len(points) // CHUNK)
    ):
        return False
    starts = np.concatenate([[0], ring_ends[:-1]])
    step = np.abs(np.diff(points, axis=0, append=points[:1]))
    last = ring_ends - 1
    step[last] = np.abs(points[starts] - points[last])
    across, down = step.T
    diagonal = (across == down) & (across > 0)
    if not ((across == 0) | (down == 0) | diagonal).all():
        return False
    slanted = np.maximum.reduceat(diagonal, starts)
    long = ring_ends - starts >= MIN_CHAIN_VERTICES
    return bool((slanted & long).mean() > 0.5)


def _widened(
    points: NDArray[np.float64], ring_ends: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Outlines through pixel centers -> outlines around those pixels, corners of pixels at whole
    numbers."""
    parts: list[NDArray[np.float64]] = []
    sizes: list[int] = []
    counts: list[int] = []
    for shapes in polygons_of(points + 0.5, ring_ends, ends):
        wide = shapely.buffer(shapes, 0.5, cap_style="square", join_style="mitre", mitre_limit=1.5)
        for shape in wide:
            solid = max(shapely.get_parts(shape), key=lambda part: part.area)
            rings = [solid.exterior, *solid.interiors]
            coordinates = [shapely.get_coordinates(ring) for ring in rings]
            parts += coordinates
            sizes += map(len, coordinates)
            counts.append(len(coordinates))
    return np.concatenate(parts), np.cumsum(sizes), np.cumsum(counts)


def polygons_of(
    points: NDArray[np.float64], ring_ends: NDArray[np.int64], ends: NDArray[np.int64]
) -> Iterator[NDArray[Any]]:
    """Valid polygons (or what mending leaves) of outlines, `CHUNK` of them at a time."""
    for first in range(0, len(ends), CHUNK):
        stop = min(first + CHUNK, len(ends))
        ring_from, ring_to = (0 if first == 0 else int(ends[first - 1])), int(ends[stop - 1])
        start = 0 if ring_from == 0 else int(ring_ends[ring_from - 1])
        own_ends = ring_ends[ring_from:ring_to] - start
        ring_of = np.repeat(np.arange(len(own_ends)), np.diff(own_ends, prepend=0))
        rings: Any = shapely.linearrings(
            points[start : start + (own_ends[-1] if len(own_ends) else 0)], indices=ring_of
        )
        owner = np.repeat(np.arange(stop - first), np.diff(ends[first:stop] - ring_from, prepend=0))
        shapes: Any = shapely.make_valid(shapely.polygons(rings, indices=owner))
        yield shapes


class Outlines:
    """Nuclei as polygons in level-0 pixels."""

    def __init__(
        self,
        points: NDArray[np.float64],
        ring_ends: NDArray[np.int64],
        ends: NDArray[np.int64],
        said: pd.DataFrame,
        left_out: Counter[str],
        *,
        mpp: float,
    ) -> None:
        """Vertices (n, 2), each ring's end among them, each nucleus's end among the rings.

        Raises:
            ValueError: a nucleus is longer than a nucleus can be.
        """
        self._points, self._ring_ends, self._ends = points, ring_ends, ends
        self.said, self.left_out = said, left_out
        point_ends = ring_ends[ends - 1] if len(ends) else np.empty(0, np.int64)
        starts = np.concatenate([[0], point_ends])[:-1].astype(np.int64)
        self._starts, self._stops = starts, point_ends
        low, high = (
            (function.reduceat(points, starts) if len(starts) else np.empty((0, 2)))
            for function in (np.minimum, np.maximum)
        )
        self._top, self._bottom = low[:, 1], high[:, 1]
        span_um = (high - low).max(axis=1, initial=0) * mpp
        if len(span_um) and span_um.max() > HALO_UM:
            raise ValueError(
                f"a polygon at {low[np.argmax(span_um)].tolist()} spans "
                f"{span_um.max():.0f} um, more than a "
                "nucleus can; are these nuclei, in level-0 pixels?"
            )
        centers, areas = [np.empty((0, 2))], [np.empty(0)]
        for shapes in polygons_of(points, ring_ends, ends):
            centers.append(shapely.get_coordinates(shapely.centroid(shapes)))
            areas.append(shapely.area(shapes))
        self.centers, self.areas_px = np.concatenate(centers), np.concatenate(areas)

    def draw(
        self,
        canvas: NDArray[np.int32],
        chosen: NDArray[np.intp],
        first_label: int,
        *,
        x_px: float,
        y_px: float,
        downsample: float,
    ) -> None:
        """See `Nuclei.draw`: a pixel belongs to the polygon that holds its center."""
        bottom = y_px + canvas.shape[0] * downsample
        near = np.flatnonzero((self._bottom[chosen] >= y_px) & (self._top[chosen] <= bottom))
        if not len(near):
            return
        nuclei = chosen[near]
        first_rings = np.where(nuclei > 0, self._ends[nuclei - 1], 0)
        rings = _ranges(first_rings, self._ends[nuclei])
        sizes = np.diff(self._ring_ends, prepend=0)[rings]
        vertices = _ranges(self._starts[nuclei], self._stops[nuclei])
        points = (self._points[vertices] - np.array([x_px, y_px])) / downsample
        ends = np.cumsum(self._ends[nuclei] - first_rings)
        fill_rings(canvas, points, np.cumsum(sizes), ends, (first_label + near).astype(np.int32))


def _ranges(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of all ranges, one after the other."""
    sizes = stops - starts
    ends = np.cumsum(sizes)
    steps: NDArray[np.int64] = np.arange(ends[-1], dtype=np.int64)
    steps += np.repeat(starts - (ends - sizes), sizes)
    return steps

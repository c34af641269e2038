"""What the readers of annotation files share: shapes as drawn, the count of vertices, ellipses."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from morphomil.cohort.numbers import parse_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

Format = Literal["BCNB JSON", "GeoJSON", "ASAP XML", "ImageScope XML", "HALO XML", "NDPA"]
Role = Literal["tumor", "other"]
MAX_VERTICES = 5_000_000
"""An annotation file may have this many in all."""
MAX_COORDINATE = 1e8
"""Pixels, or nanometers from the slide's center in NDPA: larger values are no positions."""
ELLIPSE_STEPS = 32
"""An ellipse becomes a polygon of this many vertices per quarter; its area is right to 1 in 10,000
after `ellipse` has scaled it."""


@dataclass(frozen=True)
class Drawn:
    """A shape as its file has it."""

    class_name: str
    """Its class or layer, "" where it has none."""
    name: str
    """Its title, "" where it has none."""
    shape: shapely.Geometry
    """The outline, in the file's coordinates."""
    role: Role | None = None
    """The format says by itself that this is tumor, or that it isn't; None: the class tells."""


@dataclass(frozen=True)
class Drawing:
    """All that a file holds."""

    format: Format
    """The file is written so."""
    drawn: list[Drawn] = field(default_factory=list)
    """The areas, in the order of the file."""
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many objects of which class are no areas to analyze, and why: (class, reason)."""
    from_level0: bool = False
    """The file says that its coordinates start at the level-0 origin."""
    geographic: bool = False
    """The file names a reference system of longitudes and latitudes."""

    def leave_out(self, class_name: str, reason: str) -> None:
        """Count an object that isn't taken."""
        self.left_out[class_name, reason] += 1


class Vertices:
    """Makes a file's polygons and keeps count of its vertices."""

    def __init__(self, most: int = MAX_VERTICES) -> None:
        self.used, self.most = 0, most

    def polygon(self, rings: list[Any]) -> Polygon:
        """The outer ring and its holes; empty when the outer ring has fewer than three points."""
        shells = [self.ring(ring) for ring in rings]
        if not shells or len(shells[0]) < 3:
            return Polygon()
        return Polygon(shells[0], [hole for hole in shells[1:] if len(hole) >= 3])

    def ring(self, points: Iterable[Any]) -> NDArray[np.float64]:
        """Positions (n, 2) of points (x, y, ...); a third coordinate is dropped.

        Raises:
            ValueError: too many vertices in all, or values that are no positions.
        """
        listed = list(points)
        self.used += len(listed)
        if self.used > self.most:
            raise ValueError(f"it has more than {self.most:,} vertices")
        ring = np.array([(_place(point[0]), _place(point[1])) for point in listed]).reshape(-1, 2)
        if not (np.abs(ring) < MAX_COORDINATE).all():
            raise ValueError("it has coordinates that are no finite pixel positions")
        return ring


def _place(value: Any) -> float:
    return parse_number(value) if isinstance(value, str) else float(value)


def ellipse(bounds: Iterable[float]) -> Polygon:
    """The ellipse, axes along x and y, that fills a rectangle (left, top, right, bottom)."""
    left, top, right, bottom = bounds
    angle = np.linspace(0, 2 * np.pi, 4 * ELLIPSE_STEPS, endpoint=False)
    inscribed = 2 * ELLIPSE_STEPS * np.sin(np.pi / (2 * ELLIPSE_STEPS))
    grow = np.sqrt(np.pi / inscribed)  # to the ellipse's area
    x = (left + right) / 2 + grow * (right - left) / 2 * np.cos(angle)
    y = (top + bottom) / 2 + grow * (bottom - top) / 2 * np.sin(angle)
    return Polygon(np.column_stack([x, y]))


def rectangle_or_ellipse(points: NDArray[np.float64], *, is_ellipse: bool) -> Polygon:
    """From two opposite corners, four corners, or the ends of both axes."""
    bounds = (*points.min(axis=0), *points.max(axis=0))
    if is_ellipse:
        return ellipse(bounds)
    return shapely.box(*bounds) if len(points) < 3 else Polygon(points)


def polygonal(shape: shapely.Geometry) -> Polygon | MultiPolygon:
    """The valid polygons of a shape, without the points and lines that mending leaves."""
    valid = shapely.make_valid(shape)
    parts = [
        part for part in shapely.get_parts(shapely.get_parts(valid)) if part.geom_type == "Polygon"
    ]
    union = shapely.union_all(parts)
    return union if isinstance(union, Polygon | MultiPolygon) else Polygon()

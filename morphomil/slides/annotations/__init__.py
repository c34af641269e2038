"""Annotation files -> areas: BCNB JSON, QuPath GeoJSON (plain or gzipped), ASAP, ImageScope and
HALO XML, Hamamatsu NDPA."""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import shapely
from shapely.affinity import affine_transform

from morphomil.errors import InputError, translating
from morphomil.slides.annotations.classes import Kind, kind_of
from morphomil.slides.annotations.geojson import read_geojson
from morphomil.slides.annotations.shapes import (
    MAX_VERTICES,
    Drawing,
    Drawn,
    Format,
    Vertices,
    polygonal,
)
from morphomil.slides.annotations.xml_files import read_xml
from morphomil.store import check_kind, parse_json

if TYPE_CHECKING:
    from pathlib import Path

    from shapely import MultiPolygon, Polygon

__all__ = ["Annotation", "NamedPolygon", "read_annotation"]
MAX_BYTES = 256 * 2**20
"""Of an annotation file, unpacked; as Python objects it takes several times as much memory."""
MIN_AREA_PX = 1.0
"""Smaller polygons, in level-0 pixels squared, are slips of the mouse and are dropped."""
FORMATS = (
    "BCNB JSON, QuPath GeoJSON, ASAP XML, ImageScope XML, HALO's .annotations or Hamamatsu's .ndpa"
)


@dataclass(frozen=True)
class NamedPolygon:
    """An annotated area: its class or else its name, its outline in the file's coordinates, and
    what it is as far as that tells."""

    name: str
    polygon: Polygon | MultiPolygon
    kind: Kind


@dataclass(frozen=True)
class Annotation:
    """An annotation file."""

    format: Format
    """The file is written so; where coordinates start depends on it."""
    areas: tuple[NamedPolygon, ...]
    """At least one."""
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many objects of which class are no areas to analyze, and why: (class, reason)."""
    from_level0: bool = False
    """The file says that its coordinates start at the level-0 origin."""
    geographic: bool = False
    """The file names a reference system of longitudes and latitudes."""

    def moved(self, factor: float, x: float, y: float) -> Annotation:
        """The annotation with its areas scaled from the origin, then shifted."""
        if (factor, x, y) == (1, 0, 0):
            return self
        matrix = [factor, 0, 0, factor, x, y]
        areas = tuple(
            replace(area, polygon=affine_transform(area.polygon, matrix)) for area in self.areas
        )
        return replace(self, areas=areas)


def read_annotation(path: Path, *, tumor_classes: str = "") -> Annotation:
    """The areas of an annotation file, whose format is recognized by its content.

    BCNB `positive` areas are tumor and `negative` ones other; elsewhere the class tells
    (`classes.kind_of`). Open rings are closed, self-crossing ones made valid
    (`shapely.make_valid`); areas below one pixel, points, lines and what a program drew are left
    out.

    Args:
        path: the file.
        tumor_classes: the classes that are tumor, with commas between; empty: the documented list.

    Raises:
        InputError: unreadable, too large, not one of the formats, without any area, or with
            coordinates that can't be pixels.
    """
    with translating(
        lambda cause: InputError(f"annotation {path} can't be read: {cause}; give {FORMATS}")
    ):
        drawing = _read(_read_bytes(path))
    return _checked(path, drawing, tumor_classes)


def _read(content: bytes) -> Drawing:
    vertices = Vertices(MAX_VERTICES)
    if content.startswith(b"<"):
        return read_xml(content, vertices)
    tree = parse_json(content)
    if isinstance(tree, dict) and ("positive" in tree or "negative" in tree):
        return _read_bcnb(tree, vertices)
    return read_geojson(tree, vertices)


def _read_bcnb(tree: dict[str, Any], vertices: Vertices) -> Drawing:
    drawing = Drawing("BCNB JSON")
    for area in tree.get("positive") or []:
        outline = vertices.polygon([area["vertices"]])
        drawing.drawn.append(Drawn("", str(area.get("name") or "positive"), outline, "tumor"))
    for area in tree.get("negative") or []:
        outline = vertices.polygon([area["vertices"]])
        drawing.drawn.append(Drawn("", str(area.get("name") or "negative"), outline, "other"))
    return drawing


def _read_bytes(path: Path) -> bytes:
    check_kind(path)
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(
            f"it is larger than {MAX_BYTES // 2**20} MiB (export the annotations only, without "
            "detections)"
        )
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        content = content.decode("utf-16").encode()
    return content.removeprefix(b"\xef\xbb\xbf").lstrip()


def _checked(path: Path, drawing: Drawing, tumor_classes: str) -> Annotation:
    shapes = [polygonal(one.shape) for one in drawing.drawn]
    _check_span(path, shapes)
    areas, left_out = [], Counter(drawing.left_out)
    for one, shape in zip(drawing.drawn, shapes, strict=True):
        title = one.class_name or one.name
        if shape.area < MIN_AREA_PX:
            left_out[title, "smaller than a pixel"] += 1
            continue
        kind = one.role or kind_of(one.class_name, one.name, tumor_classes=tumor_classes)
        areas.append(NamedPolygon(title, shape, kind))
    if not areas:
        held = "; ".join(f"{count} x {reason}" for (_, reason), count in left_out.items())
        raise InputError(
            f"annotation {path} holds no area{f' (only {held})' if held else ''}; draw one, or "
            "leave the cell empty in the manifest"
        )
    return Annotation(
        drawing.format, tuple(areas), left_out, drawing.from_level0, drawing.geographic
    )


def _check_span(path: Path, shapes: list[Any]) -> None:
    """Refuse what spans less than two units in all: no tissue is that small in pixels.

    Raises:
        InputError: it does, and looks like a share of the image, or like degrees.
    """
    full = [shape.bounds for shape in shapes if shape.area > 0]
    if not full:
        return
    left, top, right, bottom = shapely.total_bounds([shapely.box(*bounds) for bounds in full])
    if max(right - left, bottom - top) >= 2:
        return
    if min(left, top) >= -0.01 and max(right, bottom) <= 1.01:
        looks = "shares of the image (0 to 1); multiply x by its width and y by its height"
    elif max(abs(left), abs(right)) <= 180 and max(abs(top), abs(bottom)) <= 90:
        looks = "degrees (longitude, latitude); export it in pixels"
    else:
        looks = "of another unit; export it in pixels"
    raise InputError(
        f"annotation {path} spans x {left:.6g} to {right:.6g} and y {top:.6g} to {bottom:.6g}: its "
        f"coordinates aren't pixels but look like {looks}"
    )

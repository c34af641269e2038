"""Annotation files -> polygons in level-0 pixels: BCNB JSON, ASAP XML, QuPath GeoJSON (plain or
gzipped)."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from morphomil.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
Kind = Literal["tumor", "other", "unknown"]
MAX_BYTES = 256 * 2**20
"""An annotation file may have this many bytes, unpacked; as Python objects it takes several times
as much memory."""
MAX_VERTICES = 5_000_000
MAX_COORDINATE_PX = 1e8
MIN_AREA_PX = 1.0
"""Smaller polygons, in level-0 pixels squared, are slips of the mouse and are dropped."""
_TUMOR = re.compile(
    r"tumou?r|cancer|carcinoma|metasta|malignan|neoplas|invasive|^_[01]$", re.IGNORECASE
)
_OTHER = re.compile(
    r"^(non|no|not)[- "
    r"]?tumou?r|normal|benign|healthy|stroma|necro|immune|lympho|\bfat\b|adipos|background|"
    r"art[ei]fact|ignore|exclu|negative|^_2$",
    re.IGNORECASE,
)
"""`_0` and `_1` are tumor and `_2` other in the annotations of CAMELYON16."""
_NOT_DRAWN = {"detection", "cell", "tile"}
"""QuPath object types that a program made: an export of all objects holds them beside the
annotations."""


@dataclass(frozen=True)
class NamedPolygon:
    """An annotated area: its name or class, its outline in level-0 pixels, and what it is as far as
    that tells."""

    name: str
    polygon: Polygon | MultiPolygon
    kind: Kind


def read_annotation(path: Path) -> list[NamedPolygon]:
    """The areas of an annotation file, whose format is recognized by its content.

    BCNB `positive` areas are tumor and `negative` ones other; elsewhere the class or group name
    tells (tumor, cancer, metastasis, ...; stroma, normal, necrosis, ignore, exclusion, ...). Open
    rings are closed, self-crossing ones made valid (`shapely.make_valid`), areas below one pixel,
    points and lines are left out.

    Raises:
        InputError: unreadable, too large, not one of the formats, or without any area.
    """
    try:
        content = _read_bytes(path)
        areas = list(_read_xml(content) if content.startswith(b"<") else _read_json(content))
    except OSError as error:
        raise InputError(f"annotation {path} can't be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise InputError(f"annotation {path} is nested too deeply to be an annotation") from error
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        SyntaxError,
        EOFError,
        zlib.error,
    ) as error:
        cause = (
            f"it lacks {error}" if isinstance(error, KeyError) else error or type(error).__name__
        )
        raise InputError(
            f"annotation {path} can't be read: {cause}; give BCNB JSON, ASAP XML or QuPath GeoJSON"
        ) from error
    named = [NamedPolygon(name, _polygonal(shape), kind) for name, shape, kind in areas]
    named = [area for area in named if area.polygon.area >= MIN_AREA_PX]
    if not named:
        raise InputError(
            f"annotation {path} holds no area; draw one, or leave the cell empty in the manifest"
        )
    return named


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(
            f"it is larger than {MAX_BYTES // 2**20} MiB (export the annotations only, without "
            "detections)"
        )
    return content.removeprefix(b"\xef\xbb\xbf").lstrip()


Area = tuple[str, "shapely.Geometry", Kind]


def _read_json(content: bytes) -> Iterator[Area]:
    tree = json.loads(content)
    budget = _Vertices()
    if isinstance(tree, dict) and ("positive" in tree or "negative" in tree):
        for key, kind in (("positive", "tumor"), ("negative", "other")):
            for area in tree.get(key) or []:
                yield str(area.get("name") or key), budget.polygon([area["vertices"]]), kind  # type: ignore[misc]
        return
    features = (
        tree["features"]
        if isinstance(tree, dict) and tree.get("type") == "FeatureCollection"
        else tree
    )
    for feature in features if isinstance(features, list) else [features]:
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise ValueError("it is JSON of another kind")
        properties = feature.get("properties") or {}
        if properties.get("objectType") in _NOT_DRAWN or not (geometry := feature["geometry"]):
            continue
        name = str(
            (properties.get("classification") or {}).get("name") or properties.get("name") or ""
        )
        if geometry["type"] == "Polygon":
            yield name, budget.polygon(geometry["coordinates"]), _kind(name)
        elif geometry["type"] == "MultiPolygon":
            parts = [budget.polygon(rings) for rings in geometry["coordinates"]]
            yield name, shapely.union_all([_polygonal(part) for part in parts]), _kind(name)


def _read_xml(content: bytes) -> Iterator[Area]:
    from defusedxml.ElementTree import fromstring

    root = fromstring(content, forbid_dtd=True)
    if root.tag != "ASAP_Annotations":
        raise ValueError(f"expected <ASAP_Annotations>, got <{root.tag}>")
    budget = _Vertices()
    for annotation in root.iter("Annotation"):
        if annotation.get("Type") not in ("Polygon", "Spline", "Rectangle"):
            continue
        points = sorted(
            annotation.iter("Coordinate"), key=lambda point: float(point.get("Order", 0))
        )
        group = annotation.get("PartOfGroup")
        name = (annotation.get("Name") or "") if group in (None, "", "None") else group
        yield (
            name,
            budget.polygon([[(point.attrib["X"], point.attrib["Y"]) for point in points]]),
            _kind(name),
        )


def _kind(name: str) -> Kind:
    if _OTHER.search(name):
        return "other"
    return "tumor" if _TUMOR.search(name) else "unknown"


class _Vertices:
    """Makes a file's polygons and keeps count of its vertices."""

    def __init__(self) -> None:
        self.used = 0

    def polygon(self, rings: list[Any]) -> Polygon:
        """The outer ring and its holes; empty when the outer ring has fewer than three points."""
        shells = [self._ring(ring) for ring in rings]
        if not shells or len(shells[0]) < 3:
            return Polygon()
        return Polygon(shells[0], [hole for hole in shells[1:] if len(hole) >= 3])

    def _ring(self, points: list[Any]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        self.used += len(points)
        if self.used > MAX_VERTICES:
            raise ValueError(f"it has more than {MAX_VERTICES:,} vertices")
        ring = np.array([(float(point[0]), float(point[1])) for point in points]).reshape(-1, 2)
        if not (np.abs(ring) < MAX_COORDINATE_PX).all():
            raise ValueError("it has coordinates that are no finite pixel positions")
        return ring


def _polygonal(shape: shapely.Geometry) -> Polygon | MultiPolygon:
    """The valid polygons of a shape, without the points and lines that mending leaves."""
    valid = shapely.make_valid(shape)
    parts = [
        part for part in shapely.get_parts(shapely.get_parts(valid)) if part.geom_type == "Polygon"
    ]
    union = shapely.union_all(parts)
    return union if isinstance(union, Polygon | MultiPolygon) else Polygon()

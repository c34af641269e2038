"""Nuclei in GeoJSON: QuPath's detections and cells, StarDist for QuPath, CellViT, HoverNeXt, plain
polygons.

Sources: RFC 7946; QuPath's `PathObjectTypeAdapters` (`nucleusGeometry` of a cell, `measurements`);
StarDist for QuPath names a measurement `Detection probability`
(https://github.com/qupath/qupath-extension-stardist, `StarDist2D`); CellViT writes one annotation
with a MultiPolygon of all nuclei for each class, or MultiPoints
(https://github.com/TIO-IKIM/CellViT, `cell_detection.py`, `template_geojson.py`); HoverNeXt writes
closed LineStrings (https://github.com/digitalpathologybern/hover_next_inference, `create_geojson`).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from morphomil.slides.annotations.geojson import class_name, object_kind
from morphomil.slides.annotations.shapes import ellipse
from morphomil.slides.masks import HALO_UM
from morphomil.slides.nuclei_files.nuclei import OutlineList, to_ring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from morphomil.nuclei.outlines import Rings
    from morphomil.slides.image import SlideImage
    from morphomil.slides.nuclei_files.json_stream import JsonStream
    from morphomil.slides.nuclei_files.nuclei import Outlines, Reading

WHOLE_CHARS = 2**18
"""A feature of fewer characters is decoded at once, a longer one piece by piece."""
MAX_DEPTH = 8
"""Objects and collections may lie in each other this deep."""
_OURS = {"source", "region", "image"}
"""Properties of the regions in the files that morphomil writes, which start at the level-0
origin."""
_ROLES = {"detection": "drawn", "cell": "drawn", "": "other", "annotation": "annotation"}
_POINTS = "points without an outline"


class FeatureNuclei:
    """Gathers the nuclei of features, sorted by what QuPath says that they are."""

    def __init__(self, image: SlideImage, reading: Reading) -> None:
        self._image, self._reading = image, reading
        self._lists = {role: OutlineList() for role in ("drawn", "other", "annotation")}
        self._counts: Counter[str] = Counter()
        self._ours = False

    def add(self, feature: dict[str, Any], depth: int = 0) -> None:
        """Take a feature with the objects inside it.

        Raises:
            ValueError: it is no feature, or has coordinates that are no positions.
        """
        if depth > MAX_DEPTH or not isinstance(feature, dict):
            raise ValueError("it is JSON, but no GeoJSON of features")
        if feature.get("type") == "FeatureCollection":
            for member in feature["features"]:
                self.add(member, depth + 1)
            return
        if feature.get("type") != "Feature":
            raise ValueError("it is JSON, but no GeoJSON of features")
        properties = feature.get("properties") or {}
        self._ours |= set(properties) >= _OURS
        kind = object_kind(feature)
        if kind in _ROLES:
            self._add_object(feature, properties, kind)
        for children in (feature.get("childObjects"), properties.get("childObjects")):
            for child in children or ():
                self.add(child, depth + 1)

    def _add_object(self, feature: dict[str, Any], properties: dict[str, Any], kind: str) -> None:
        nucleus = feature.get("nucleusGeometry") or properties.get("nucleusGeometry")
        geometry = nucleus or feature.get("geometry") or {}
        plane = geometry.get("plane") or {}
        if any(plane.get(axis) for axis in "zt"):
            self._counts["objects on other planes"] += 1
            return
        if kind == "cell":
            self._counts["cells"] += 1
            if not nucleus and not self._reading.cells_as_nuclei:
                self._counts["cells without a nucleus"] += 1
                return
        named = class_name(properties)
        if kind == "annotation":
            self._counts["annotations"] += 1
            self._counts["annotations without a class"] += not named
        kept = named if named.casefold() not in ("", "nucleus") else None
        said = {"type": kept} | _measured(properties.get("measurements"))
        outlines = self._lists[_ROLES[kind]]
        parts, points = _polygons(geometry)
        self._counts[_POINTS] += points
        if kind in ("detection", "cell") and len(parts) > 1 and self._fit_in_one(parts):
            parts = [parts[int(np.argmax([_area(rings) for rings in parts]))]]
        for rings in parts:
            outlines.add(rings, said)

    def _fit_in_one(self, parts: list[Rings]) -> bool:
        """Whether polygons lie so close that they can be the pieces of one nucleus."""
        vertices = np.concatenate([rings[0] for rings in parts])
        return bool(np.ptp(vertices, axis=0).max() * self._image.mpp <= HALO_UM)

    def nuclei(self) -> Outlines:
        """What was gathered: detections and cells, else what QuPath gives no kind, else annotations
        if each has a class.

        Raises:
            ValueError: there are objects but no nuclei, or cells without their nuclei.
        """
        counts, lists = self._counts, self._lists
        if counts["cells without a nucleus"]:
            raise ValueError(
                f"{counts['cells without a nucleus']:,} of its {counts['cells']:,} cells have no "
                "nucleus, and the outline of a cell is larger than its nucleus; export cells with "
                "nuclei, or take the cells' outlines with --cells-as-nuclei"
            )
        role = next((role for role in ("drawn", "other") if len(lists[role])), "annotation")
        chosen = lists[role]
        if role == "annotation" and counts["annotations without a class"]:
            raise ValueError(
                f"it has {counts['annotations']} annotations but no detections; export these "
                "(or cells) from QuPath, or give the nuclei a class"
            )
        if not len(chosen):
            _refuse_nothing(counts)
        beside = [_POINTS, "objects on other planes"]
        for name in beside if role == "annotation" else [*beside, "annotations"]:
            if counts[name]:
                chosen.left_out[name] += counts[name]
        return chosen.placed(self._image, shift=self._corner(role))

    def _corner(self, role: str) -> tuple[float, float]:
        """QuPath's coordinates begin where the scanned part does (`openslide.bounds-x`)."""
        origin = self._reading.origin
        if origin is None:
            origin = "bounds" if role == "drawn" and not self._ours else "level0"
        if origin == "level0":
            return 0.0, 0.0
        x, y = (float(self._image.properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
        return x, y


def _refuse_nothing(counts: Counter[str]) -> None:
    if counts[_POINTS]:
        raise ValueError(
            f"it has {counts[_POINTS]:,} points but no outlines, and without an outline no shape "
            "can be measured; export the nuclei's polygons (CellViT: cells.geojson; HoverNeXt: "
            "--save_polygon)"
        )
    if counts["objects on other planes"]:
        raise ValueError(
            f"its {counts['objects on other planes']:,} objects lie on planes z or t other than 0; "
            "export those of the plane that the slide shows"
        )


def _measured(measurements: Any) -> dict[str, Any]:
    """The probabilities among QuPath's measurements, an object or (before 0.4) a list of them."""
    if isinstance(measurements, list):
        pairs = [entry for entry in measurements if isinstance(entry, dict)]
        measurements = {str(entry.get("name")): entry.get("value") for entry in pairs}
    if not isinstance(measurements, dict):
        return {}
    names = {
        "Detection probability": "detection_probability",
        "type_probability": "type_probability",
    }
    return {
        column: float(measurements[name])
        for name, column in names.items()
        if isinstance(measurements.get(name), int | float)
    }


def _polygons(geometry: dict[str, Any], depth: int = 0) -> tuple[list[Rings], int]:
    """The polygons of a geometry, each with its holes, and how many points and open lines it has
    besides."""
    kind = geometry.get("type")
    if kind == "GeometryCollection" and depth < MAX_DEPTH:
        members = [_polygons(member, depth + 1) for member in geometry["geometries"]]
        return [rings for parts, _ in members for rings in parts], sum(n for _, n in members)
    coordinates: Any = geometry.get("coordinates")
    if kind == "Polygon" and geometry.get("isEllipse"):
        corners = to_ring(coordinates[0])
        shape = ellipse((*corners.min(axis=0), *corners.max(axis=0)))
        return [[shapely.get_coordinates(shape)]], 0
    if kind in ("Polygon", "MultiPolygon"):
        parts = [coordinates] if kind == "Polygon" else coordinates
        polygons = [[to_ring(ring) for ring in part] for part in parts]
        return [rings for rings in polygons if rings], 0
    if kind in ("LineString", "MultiLineString"):
        lines = [to_ring(line) for line in ([coordinates] if kind == "LineString" else coordinates)]
        closed = [[line] for line in lines if len(line) > 3 and (line[0] == line[-1]).all()]
        return closed, len(lines) - len(closed)
    if kind == "MultiPoint":
        return [], len(coordinates)
    return [], int(kind == "Point")


def _area(rings: Rings) -> float:
    """Of a polygon, holes included; of one that crosses itself what mending leaves."""
    ring = rings[0]
    return float(shapely.make_valid(shapely.Polygon(ring)).area) if len(ring) > 2 else 0.0


def read_feature(stream: JsonStream) -> dict[str, Any]:
    """The next feature; the coordinates of a long one as arrays, so that a MultiPolygon of a
    million nuclei takes little more than its numbers.

    Raises:
        ValueError: it is no JSON object, or cut off.
    """
    whole, value = stream.try_value(WHOLE_CHARS)
    if not whole and stream.peek() == "{":
        value = {key: read_part(stream, key) for key in stream.items()}
    elif not whole:
        value = stream.value()
    if not isinstance(value, dict):
        raise ValueError("it is JSON, but no GeoJSON of features")
    return value


def read_features(stream: JsonStream) -> Iterator[dict[str, Any]]:
    """The features of an array, one by one."""
    for _ in stream.elements():
        yield read_feature(stream)


def read_part(stream: JsonStream, key: str) -> Any:
    """The value of a key of a feature or geometry, before which the stream stands."""
    if key in ("geometry", "nucleusGeometry") and stream.peek() == "{":
        return {inner: read_part(stream, inner) for inner in stream.items()}
    if key == "geometries" and stream.peek() == "[":
        return [
            {inner: read_part(stream, inner) for inner in stream.items()} for _ in stream.elements()
        ]
    if key in ("childObjects", "features") and stream.peek() == "[":
        return list(read_features(stream))
    if key == "coordinates" and stream.peek() == "[":
        return [_packed(stream.value()) for _ in stream.elements()]
    return stream.value()


def _packed(element: Any) -> Any:
    """A ring as an array, a polygon as a list of them; what is neither as it is."""
    if not isinstance(element, list) or not element or not isinstance(element[0], list):
        return element
    if element[0] and isinstance(element[0][0], list):
        return [_packed(ring) for ring in element]
    packed: NDArray[np.float64] = to_ring(element)
    return packed

"""GeoJSON as QuPath writes it, of all its versions, and plain.

Sources: RFC 7946; QuPath's `GsonTools`, `PathObjectTypeAdapters` and `ROITypeAdapters`
(https://github.com/qupath/qupath): up to 0.2 the `id` of a feature names its kind
(`PathAnnotationObject`), 0.3 has `object_type`, from 0.4 on `objectType`; classes derived from
others are `Tumor: Positive`, or a list `names`; a geometry may have a `plane` (c, z, t) and
`isEllipse`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from morphomil.slides.annotations.shapes import (
    Drawing,
    Drawn,
    Vertices,
    ellipse,
    polygonal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_KINDS = {
    "pathannotationobject": "annotation",
    "pathdetectionobject": "detection",
    "pathcellobject": "cell",
    "pathtileobject": "tile",
    "tmacoreobject": "tma_core",
    "pathrootobject": "root",
}
_NOT_DRAWN = {
    "detection": "a detection, which a program made",
    "cell": "a cell, which a program made",
    "tile": "a tile, which a program made",
    "tma_core": "the frame of a tissue microarray's core",
    "root": "",
}
"""QuPath's objects beside annotations, and why they are left out; the root is no object."""
_OURS = {"source", "region", "image"}
"""Properties of the regions that morphomil writes, which start at the level-0 origin."""


def read_geojson(tree: Any, vertices: Vertices) -> Drawing:
    """The areas of a FeatureCollection, a list of features or a single one; nested `childObjects`
    too.

    Raises:
        ValueError: it is JSON of another kind, or has coordinates that are no positions.
    """
    features = list(_features(tree))
    ours = bool(features) and all(
        set(feature.get("properties") or ()) >= _OURS for feature in features
    )
    drawing = Drawing("GeoJSON", from_level0=ours, geographic=_names_degrees(tree))
    for feature in features:
        _read_feature(feature, drawing, vertices)
    return drawing


def _features(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict) and tree.get("type") == "FeatureCollection":
        tree = tree["features"]
    for feature in tree if isinstance(tree, list) else [tree]:
        if isinstance(feature, dict) and feature.get("type") == "FeatureCollection":
            yield from _features(feature)
            continue
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise ValueError("it is JSON of another kind")
        yield feature
        properties = feature.get("properties") or {}
        for children in (feature.get("childObjects"), properties.get("childObjects")):
            if children:
                yield from _features(children)


def _names_degrees(tree: Any) -> bool:
    if not isinstance(tree, dict):
        return False
    text = str(tree.get("crs") or "").upper()
    return any(name in text for name in ("CRS84", "EPSG::4326", "EPSG:4326", "WGS84"))


def object_kind(feature: dict[str, Any]) -> str:
    """What QuPath says that a feature is: annotation, detection, cell, tile, tma_core, root; ""
    where nothing is said."""
    properties = feature.get("properties") or {}
    said = next(
        (
            holder[key]
            for holder in (properties, feature)
            for key in ("objectType", "object_type")
            if isinstance(holder.get(key), str)
        ),
        feature.get("id"),
    )
    text = str(said or "").casefold()
    if text in _KINDS:
        return _KINDS[text]
    text = {"tmacore": "tma_core", "tma core": "tma_core"}.get(text, text)
    return text if text == "annotation" or text in _NOT_DRAWN else ""


def class_name(properties: dict[str, Any]) -> str:
    """The class of a feature: QuPath's, with the parts of a derived one joined by colons, else a
    text under `class` or `label`; "" without one."""
    said = properties.get("classification")
    if isinstance(said, dict):
        names = said.get("names")
        said = ": ".join(map(str, names)) if isinstance(names, list) and names else said.get("name")
    if isinstance(said, str) and said:
        return said
    texts = (properties.get(key) for key in ("class", "class_name", "label"))
    return next((text for text in texts if isinstance(text, str) and text), "")


def _read_feature(feature: dict[str, Any], drawing: Drawing, vertices: Vertices) -> None:
    properties = feature.get("properties") or {}
    kind, named = object_kind(feature), class_name(properties)
    if kind == "root":
        return
    if kind in _NOT_DRAWN:
        drawing.leave_out(named, _NOT_DRAWN[kind])
        return
    geometry = feature["geometry"]
    if not geometry:
        drawing.leave_out(named, "without a geometry")
        return
    plane = geometry.get("plane") or properties.get("plane") or {}
    away = [f"{axis} = {plane[axis]}" for axis in "zt" if plane.get(axis)]
    if away:
        drawing.leave_out(named, f"on another plane ({', '.join(away)})")
        return
    parts = []
    for part in _simple(geometry):
        shape = _shape(part, vertices)
        if shape is None:
            drawing.leave_out(named, f"a {part.get('type', 'shape')}, which has no area")
        else:
            parts.append(shape)
    if parts:
        shape = (
            parts[0] if len(parts) == 1 else shapely.union_all([polygonal(one) for one in parts])
        )
        drawing.drawn.append(Drawn(named, str(properties.get("name") or ""), shape))


def _simple(geometry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if geometry.get("type") == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _simple(part)
    else:
        yield geometry


def _shape(geometry: dict[str, Any], vertices: Vertices) -> shapely.Geometry | None:
    """The area of a geometry; None where it has none by its nature."""
    kind = geometry["type"]
    if kind == "Polygon":
        if geometry.get("isEllipse"):
            ring = vertices.ring(geometry["coordinates"][0])
            return ellipse((*np.min(ring, axis=0), *np.max(ring, axis=0)))
        return vertices.polygon(geometry["coordinates"])
    if kind == "MultiPolygon":
        polygons = [vertices.polygon(rings) for rings in geometry["coordinates"]]
        return shapely.union_all([polygonal(polygon) for polygon in polygons])
    return None

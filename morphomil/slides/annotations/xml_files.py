"""Annotations in XML: ASAP, Aperio ImageScope, HALO, Hamamatsu NDPA.

Sources: ASAP (https://github.com/computationalpathologygroup/ASAP, `XmlRepository`); ImageScope as
its users read it (`Annotation` is a layer, `Region` has `Type` 0 freehand, 1 rectangle, 2 ellipse,
and `NegativeROA`); HALO after pyhaloxml (https://github.com/rharkes/pyhaloxml): a rectangle's and
an ellipse's vertices are opposite corners; NDPA as QuPath users import it: nanometers from the
slide's center, `XOffsetFromSlideCentre` of the NDPI file being the image's center.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import shapely
from shapely import Point

from morphomil.cohort.numbers import parse_number
from morphomil.slides.annotations.shapes import (
    Drawing,
    Drawn,
    Vertices,
    polygonal,
    rectangle_or_ellipse,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IMAGESCOPE = {"0": "polygon", "1": "rectangle", "2": "ellipse", "3": "drawn arrow", "4": "ruler"}
"""Types of a region; larger numbers are counters and pointers."""


def read_xml(content: bytes, vertices: Vertices) -> Drawing:
    """The areas of an XML file, whose format its root tells.

    Raises:
        ValueError: it is XML of another kind, or has coordinates that are no positions.
    """
    from defusedxml.ElementTree import fromstring

    root = fromstring(content, forbid_dtd=True)
    if root.tag == "ASAP_Annotations":
        return _read_asap(root, vertices)
    if root.tag == "annotations":
        return _read_ndpa(root, vertices)
    if root.tag == "Annotations":
        return _read_layers(root, vertices)
    raise ValueError(
        "expected <ASAP_Annotations>, <Annotations> with layers (ImageScope, HALO) or "
        f"<annotations> (NDPA), got <{root.tag}>"
    )


def _read_asap(root: Any, vertices: Vertices) -> Drawing:
    drawing = Drawing("ASAP XML")
    for annotation in root.iter("Annotation"):
        group = annotation.get("PartOfGroup")
        class_name = "" if group in (None, "", "None") else group
        kind = annotation.get("Type")
        if kind not in ("Polygon", "Spline", "Rectangle"):
            drawing.leave_out(class_name, f"a {kind}, which has no area")
            continue
        points = sorted(
            annotation.iter("Coordinate"), key=lambda point: parse_number(point.get("Order", "0"))
        )
        outline = vertices.polygon([[(point.attrib["X"], point.attrib["Y"]) for point in points]])
        drawing.drawn.append(Drawn(class_name, annotation.get("Name") or "", outline))
    return drawing


def _read_layers(root: Any, vertices: Vertices) -> Drawing:
    """ImageScope and HALO: a layer's negative regions are cut out of its others."""
    is_halo = next(root.iter("V"), None) is not None
    drawing = Drawing("HALO XML" if is_halo else "ImageScope XML")
    for layer in root.iter("Annotation"):
        class_name = _layer_name(layer)
        drawn, negative = [], []
        for region in layer.iter("Region"):
            kind = _region_kind(region)
            points = vertices.ring(
                (vertex.attrib["X"], vertex.attrib["Y"])
                for vertex in region.iter("V" if is_halo else "Vertex")
            )
            shape = _region_shape(kind, points)
            if shape is None:
                drawing.leave_out(class_name, f"a {kind}, which has no area")
            elif region.get("NegativeROA", "0").casefold() in ("1", "true"):
                negative.append(polygonal(shape))
            else:
                drawn.append(Drawn(class_name, region.get("Text") or "", shape))
        holes = shapely.union_all(negative)
        for one in drawn:
            cut = one.shape
            if negative:
                cut = shapely.difference(polygonal(cut), holes)
            drawing.drawn.append(Drawn(one.class_name, one.name, cut))
        if negative and not drawn:
            drawing.drawn.append(Drawn(class_name, "negative", holes, "other"))
    return drawing


def _layer_name(layer: Any) -> str:
    """The name of a layer, else its attribute Description."""
    if layer.get("Name"):
        return str(layer.get("Name"))
    for attribute in layer.iterfind("Attributes/Attribute"):
        if (attribute.get("Name") or "").casefold() == "description" and attribute.get("Value"):
            return str(attribute.get("Value"))
    return ""


def _region_kind(region: Any) -> str:
    text = str(region.get("Type", "0")).strip()
    return _IMAGESCOPE.get(text, f"region of type {text}") if text.isdigit() else text.casefold()


def _region_shape(kind: str, points: NDArray[Any]) -> shapely.Geometry | None:
    if kind in ("rectangle", "ellipse") and len(points) in (2, 3, 4, 5):
        return rectangle_or_ellipse(points, is_ellipse=kind == "ellipse")
    if kind in ("polygon", "freehand", "rectangle", "ellipse") and len(points) >= 3:
        return shapely.Polygon(points)
    return None


def _read_ndpa(root: Any, vertices: Vertices) -> Drawing:
    """Areas in nanometers from the slide's center; closed freehand lines, rectangles, circles."""
    drawing = Drawing("NDPA")
    for view in root.iter("ndpviewstate"):
        title = (view.findtext("title") or "").strip()
        annotation = view.find("annotation")
        if annotation is None:
            continue
        unit = (view.findtext("coordformat") or "nanometers").strip().casefold()
        if unit not in ("nanometers", "nanometer", "nm"):
            raise ValueError(f"its coordinates are in {unit}; NDPA are known in nanometers")
        kind = (annotation.get("type") or "").casefold()
        if kind == "circle":
            x, y, radius = (
                parse_number(annotation.findtext(tag, "")) for tag in ("x", "y", "radius")
            )
            vertices.ring([(x, y), (x + radius, y)])
            drawing.drawn.append(Drawn(title, "", Point(x, y).buffer(radius, quad_segs=32)))
            continue
        points = vertices.ring(
            (point.findtext("x", ""), point.findtext("y", ""))
            for point in annotation.iterfind("pointlist/point")
        )
        shown = annotation.get("displayname") or kind or "shape"
        is_open = (
            annotation.findtext("closed") or "1"
        ).strip() == "0" or "line" in shown.casefold()
        if kind not in ("freehand", "rectangle", "polygon") or is_open or len(points) < 3:
            drawing.leave_out(title, f"{shown}, which has no area")
            continue
        drawing.drawn.append(Drawn(title, "", shapely.Polygon(points)))
    return drawing

"""What annotation programs write: every kind of object, which classes are tumor, what is left
out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import shapely

from morphomil.errors import InputError
from morphomil.slides.annotations import Annotation, read_annotation
from morphomil.slides.annotations.classes import TUMOR_CLASSES, kind_of, normal_name

if TYPE_CHECKING:
    from pathlib import Path

SQUARE = [[10.5, 20], [110.5, 20], [110.5, 70], [10.5, 70], [10.5, 20]]  # 100 x 50
POLYGON = {"type": "Polygon", "coordinates": [SQUARE]}


def feature(geometry: Any = None, **beside: Any) -> dict[str, Any]:
    properties = beside.pop("properties", {"classification": {"name": "Tumor"}})
    return {
        "type": "Feature",
        "geometry": geometry or POLYGON,
        "properties": properties,
        **beside,
    }


def read(folder: Path, content: Any, **options: str) -> Annotation:
    path = folder / "a.file"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_annotation(path, **options)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "tumor") for name in TUMOR_CLASSES),
        ("Tumour", "tumor"),
        (" TUMOR  Area ", "tumor"),
        ("Invasive_Carcinoma", "tumor"),
        ("Tumor: Positive", "tumor"),
        ("Tumor: Negative", "tumor"),
        ("Region*: Tumor", "tumor"),
        ("_0", "tumor"),
        ("_2", "other"),
        ("Non-neoplastic", "other"),
        ("non-cancerous", "other"),
        ("noncancerous", "other"),
        ("not tumor", "other"),
        ("benign tumour bed", "other"),
        ("Stroma: Inflamed", "other"),
        ("Tumor: Necrosis", "other"),
        ("Tumor-associated stroma", "other"),
        ("Stroma: Tumor", "other"),
        ("Normal", "other"),
        ("Ignore*", "other"),
        ("Peritumoral", "unlisted"),
        ("tumor bed", "unlisted"),
        ("Tumor border", "unlisted"),
        ("precancerous", "unlisted"),
        ("pseudoinvasive", "unlisted"),
        ("Gleason 3", "unlisted"),
        ("Lymph node", "unlisted"),
        ("Region*", "unknown"),
        ("Annotation 7", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_class_is_tumor_as_a_whole_name(name: str, kind: str) -> None:
    assert kind_of(name, "") == kind


def test_the_list_is_written_as_names_are_compared() -> None:
    assert [normal_name(name) for name in TUMOR_CLASSES] == list(TUMOR_CLASSES)
    assert len(set(TUMOR_CLASSES)) == len(TUMOR_CLASSES)


@pytest.mark.parametrize(
    ("class_name", "name", "kind"),
    [
        ("Gleason 3", "", "tumor"),
        ("gleason_3: Positive", "", "tumor"),
        ("Benign tumour bed", "", "tumor"),
        ("Tumor", "", "unlisted"),
        ("", "Annotation 1", "unknown"),
    ],
)
def test_the_user_says_which_classes_are_tumor(class_name: str, name: str, kind: str) -> None:
    said = "Gleason 3, benign tumour bed"
    assert kind_of(class_name, name, tumor_classes=said) == kind


@pytest.mark.parametrize(
    ("class_name", "name", "kind"),
    [
        ("", "Tumor 3", "tumor"),
        ("Region*", "stroma", "other"),
        ("", "peritumoral", "unlisted"),
        ("", "core B2", "unknown"),
        ("Layer 1", "cancer", "tumor"),
    ],
)
def test_without_a_class_the_name_tells(class_name: str, name: str, kind: str) -> None:
    assert kind_of(class_name, name) == kind


@pytest.mark.parametrize(
    ("properties", "kind"),
    [
        ({"classification": {"names": ["Tumor", "Positive"], "color": [1, 2, 3]}}, "tumor"),
        ({"classification": {"names": ["Stroma", "Inflamed"]}}, "other"),
        ({"classification": {"name": "Stroma: Inflamed", "colorRGB": -1}}, "other"),
        ({"classification": "Tumor"}, "tumor"),
        ({"label": "Stroma"}, "other"),
        ({"class": "Tumor", "isLocked": True}, "tumor"),
        ({"classification": {"name": None}, "name": "stroma"}, "other"),
        ({"classification": None}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_geojson_classes(tmp_path: Path, properties: dict[str, Any], kind: str) -> None:
    (area,) = read(tmp_path, feature(properties=properties)).areas
    assert area.kind == kind


TUMOR = {"classification": {"name": "Tumor"}}


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (feature(properties=TUMOR | {"objectType": "detection"}), "a detection, "),
        (feature(properties=TUMOR | {"object_type": "cell"}), "a cell, "),
        (feature(object_type="tile"), "a tile, "),
        (feature(objectType="tma_core"), "the frame of a tissue microarray's core"),
        (feature(id="PathCellObject"), "a cell, "),
        (feature(id="PathDetectionObject"), "a detection, "),
        (feature(id="PathTileObject"), "a tile, "),
        (feature(id="TMACoreObject"), "the frame of a tissue microarray's core"),
        (feature({"type": "Point", "coordinates": [1, 2]}), "a Point, which has no area"),
        (feature({"type": "MultiPoint", "coordinates": [[1, 2]]}), "a MultiPoint"),
        (feature({"type": "LineString", "coordinates": SQUARE}), "a LineString"),
        (feature(POLYGON | {"plane": {"c": -1, "z": 3, "t": 0}}), "on another plane (z = 3)"),
        (feature(POLYGON | {"plane": {"z": 0, "t": 2}}), "on another plane (t = 2)"),
        (feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}), "smaller than a pixel"),
    ],
)
def test_what_is_left_out_is_counted_with_its_reason(
    tmp_path: Path, one: dict[str, Any], reason: str
) -> None:
    kept = feature(id="PathAnnotationObject", properties={"classification": {"name": "Tumor"}})
    annotation = read(tmp_path, [kept, one, one])
    assert len(annotation.areas) == 1
    ((key, count),) = annotation.left_out.items()
    assert (key[0], count) == ("Tumor", 2)
    assert key[1].startswith(reason)
    with pytest.raises(InputError, match="holds no area"):
        read(tmp_path, [one])


def test_nested_objects_and_the_root(tmp_path: Path) -> None:
    cell = feature(id="PathCellObject")
    inner = feature(
        {"type": "Polygon", "coordinates": [[[20, 30], [30, 30], [30, 40], [20, 40]]]},
        id="PathAnnotationObject",
        properties={"classification": {"name": "Stroma"}, "childObjects": [cell]},
    )
    outer = feature(id="PathAnnotationObject", childObjects=[inner])
    root = feature(id="PathRootObject", childObjects=[outer])
    root["geometry"] = None
    annotation = read(tmp_path, root)
    assert [(area.name, area.kind, area.polygon.area) for area in annotation.areas] == [
        ("Tumor", "tumor", 5000),
        ("Stroma", "other", 100),
    ]
    assert sum(annotation.left_out.values()) == 1


def test_geometries_with_areas(tmp_path: Path) -> None:
    far = [[200, 0], [210, 0], [210, 10], [200, 10]]
    collection = {
        "type": "GeometryCollection",
        "geometries": [
            POLYGON,
            {
                "type": "GeometryCollection",
                "geometries": [{"type": "Polygon", "coordinates": [far]}],
            },
            {"type": "Point", "coordinates": [5, 5]},
        ],
    }
    deep = {"type": "Polygon", "coordinates": [[[x, y, 7.0] for x, y in SQUARE]]}
    ellipse = {"type": "Polygon", "isEllipse": True, "coordinates": [SQUARE]}
    annotation = read(tmp_path, [feature(shape) for shape in (collection, deep, ellipse)])
    areas = [area.polygon.area for area in annotation.areas]
    assert areas == [5100, 5000, pytest.approx(3926.99, abs=0.5)]
    assert annotation.areas[2].polygon.bounds == pytest.approx((10.5, 20, 110.5, 70), abs=0.05)
    assert sum(annotation.left_out.values()) == 1


def layer(name: str, *regions: str, attributes: str = "") -> str:
    return (
        f'<Annotation Id="1" Name="{name}" Type="4" Visible="1" LineColor="65280">{attributes}'
        f"<Regions><RegionAttributeHeaders/>{''.join(regions)}</Regions><Plots/></Annotation>"
    )


def region(
    points: list[list[float]], kind: str = "0", *, text: str = "", negative: int = 0, tag: str = ""
) -> str:
    tag = tag or "Vertex"
    vertices = "".join(f'<{tag} X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    return (
        f'<Region Id="1" Type="{kind}" Text="{text}" NegativeROA="{negative}" InputRegionId="0" '
        f'Analyze="1" DisplayId="1"><Attributes/><Vertices>{vertices}</Vertices></Region>'
    )


HOLE = [[20, 30], [30, 30], [30, 40], [20, 40]]


def test_imagescope(tmp_path: Path) -> None:
    description = '<Attributes><Attribute Name="Description" Id="0" Value="Necrosis"/></Attributes>'
    annotation = read(
        tmp_path,
        '<?xml version="1.0"?><Annotations MicronsPerPixel="0.25">'
        + layer(
            "Tumor",
            region(SQUARE),
            region(HOLE, negative=1),
            region([[0, 200], [100, 300]], "1"),
            region([[200, 200], [300, 200], [300, 300], [200, 300]], "2"),
            region([[0, 0], [9, 9]], "3"),
            region([[0, 0], [9, 9]], "4"),
        )
        + layer("", region(HOLE), attributes=description)
        + layer("Layer 3", region(HOLE, text="stroma"))
        + "</Annotations>",
    )
    assert annotation.format == "ImageScope XML"
    assert [(area.name, area.kind, round(area.polygon.area)) for area in annotation.areas] == [
        ("Tumor", "tumor", 4900),
        ("Tumor", "tumor", 10_000),
        ("Tumor", "tumor", 7854),
        ("Necrosis", "other", 100),
        ("Layer 3", "other", 100),
    ]
    assert annotation.left_out == {
        ("Tumor", "a drawn arrow, which has no area"): 1,
        ("Tumor", "a ruler, which has no area"): 1,
    }


def test_negative_regions_cut_their_layer_only(tmp_path: Path) -> None:
    annotation = read(
        tmp_path,
        "<Annotations>"
        + layer("Tumor", region(SQUARE))
        + layer("Cancer", region(SQUARE), region(HOLE, negative=1))
        + layer("Exclude", region(HOLE, negative=1))
        + "</Annotations>",
    )
    assert [(area.name, area.kind, area.polygon.area) for area in annotation.areas] == [
        ("Tumor", "tumor", 5000),
        ("Cancer", "tumor", 4900),
        ("Exclude", "other", 100),
    ]


def test_halo(tmp_path: Path) -> None:
    text = "<Annotations>" + layer(
        "Tumor",
        region(SQUARE[:-1], "Polygon", tag="V"),
        region([[20, 30], [30, 40]], "Rectangle", negative=1, tag="V"),
        region([[200, 0], [300, 50]], "Ellipse", tag="V"),
        region([[200, 0], [300, 50]], "Ruler", tag="V"),
    )
    annotation = read(tmp_path, text + "</Annotations>")
    assert annotation.format == "HALO XML"
    first, second = (area.polygon for area in annotation.areas)
    assert first.area == 4900
    assert second.area == pytest.approx(3926.99, abs=0.5)
    assert second.bounds == pytest.approx((200, 0, 300, 50), abs=0.05)
    assert annotation.left_out == {("Tumor", "a ruler, which has no area"): 1}


def test_asap_counts_what_has_no_area(tmp_path: Path) -> None:
    dot = '<Coordinate Order="0" X="1" Y="2"/>'
    square = "".join(
        f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(SQUARE)
    )
    annotation = read(
        tmp_path,
        "<ASAP_Annotations><Annotations>"
        f'<Annotation Name="A" Type="Polygon" PartOfGroup="Tumor"><Coordinates>{square}'
        "</Coordinates></Annotation>"
        f'<Annotation Name="B" Type="Dot" PartOfGroup="Mitosis"><Coordinates>{dot}'
        "</Coordinates></Annotation></Annotations></ASAP_Annotations>",
    )
    assert annotation.left_out == {("Mitosis", "a Dot, which has no area"): 1}
    assert annotation.areas[0].polygon.equals(shapely.box(10.5, 20, 110.5, 70))


def test_ndpa_in_other_units_is_refused(tmp_path: Path) -> None:
    view = "<ndpviewstate><coordformat>millimeters</coordformat><annotation/></ndpviewstate>"
    with pytest.raises(InputError, match="its coordinates are in millimeters"):
        read(tmp_path, f"<annotations>{view}</annotations>")

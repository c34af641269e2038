from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon

from morphomil.errors import InputError
from morphomil.slides.annotations import MAX_BYTES, read_annotation

if TYPE_CHECKING:
    from pathlib import Path

SQUARE = [[10.5, 20], [110.5, 20], [110.5, 70], [10.5, 70]]  # 100 x 50
HOLE = [[20, 30], [30, 30], [30, 40], [20, 40]]


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def feature(geometry: dict[str, Any] | None, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def asap(*annotations: str) -> str:
    return (
        "<?xml "
        f'version="1.0"?><ASAP_Annotations><Annotations>{"".join(annotations)}</Annotations></ASAP_Annotations>'
    )


def asap_annotation(
    points: list[list[float]], *, kind: str = "Polygon", group: str = "None", name: str = "A 0"
) -> str:
    coordinates = [f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(points)]
    return (
        f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" '
        'Color="#F4FA58"><Coordinates>'
        f"{''.join(reversed(coordinates))}</Coordinates></Annotation>"
    )


def test_bcnb_json(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        {
            "positive": [{"name": "Annotation 0", "vertices": SQUARE}],
            "negative": [{"name": "Annotation 1", "vertices": HOLE}],
        },
    )
    tumor, other = read_annotation(path).areas
    assert (tumor.name, tumor.kind, tumor.polygon.area) == ("Annotation 0", "tumor", 5000)
    assert tumor.polygon.bounds == (10.5, 20, 110.5, 70)
    assert (other.name, other.kind, other.polygon.area) == ("Annotation 1", "other", 100)


def test_asap_xml_takes_areas_in_the_order_of_their_points_and_leaves_dots(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.xml",
        asap(
            asap_annotation(SQUARE, group="Tumor"),
            asap_annotation(HOLE, kind="Rectangle"),
            asap_annotation(SQUARE, kind="Spline", group="Exclusion"),
            asap_annotation([[5, 5]], kind="Dot"),
            asap_annotation(SQUARE, kind="PointSet"),
        ),
    )
    found = [(area.name, area.kind, area.polygon.area) for area in read_annotation(path).areas]
    assert found == [
        ("Tumor", "tumor", 5000),
        ("A 0", "unknown", 100),
        ("Exclusion", "other", 5000),
    ]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", ["collection", "list"])
def test_qupath_geojson(tmp_path: Path, packed: bool, layout: str) -> None:
    features = [
        feature(
            polygon(SQUARE, HOLE),
            objectType="annotation",
            classification={"name": "Tumor", "color": [200, 0, 0]},
        ),
        feature(
            {
                "type": "MultiPolygon",
                "coordinates": [[SQUARE], [[[200, 0], [210, 0], [210, 10], [200, 10]]]],
            },
            name="mine",
        ),
        feature(polygon(HOLE), objectType="detection", classification={"name": "Tumor"}),
        feature({"type": "Point", "coordinates": [1, 2]}, objectType="annotation"),
        feature(None),
    ]
    tree = (
        {"type": "FeatureCollection", "features": features} if layout == "collection" else features
    )
    content = b"\xef\xbb\xbf" + json.dumps(tree).encode()
    path = tmp_path / "a.anything"
    path.write_bytes(gzip.compress(content) if packed else content)
    tumor, mine = read_annotation(path).areas
    assert (tumor.name, tumor.kind, tumor.polygon.area, len(tumor.polygon.interiors)) == (
        "Tumor",
        "tumor",
        4900,
        1,
    )
    assert (mine.name, mine.kind, mine.polygon.area) == ("mine", "unknown", 5100)


def test_single_feature(tmp_path: Path) -> None:
    (area,) = read_annotation(write(tmp_path / "a.geojson", feature(polygon(SQUARE)))).areas
    assert (area.name, area.kind, area.polygon.area) == ("", "unknown", 5000)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Tumour", "tumor"),
        ("invasive carcinoma", "tumor"),
        ("Tumor-associated stroma", "other"),
        ("non-tumor", "other"),
        ("Normal", "other"),
        ("Ignore*", "other"),
        ("_1", "tumor"),
        ("_2", "other"),
        ("Region*", "unknown"),
        ("", "unknown"),
    ],
)
def test_class_names_tell_tumor_from_other(tmp_path: Path, name: str, kind: str) -> None:
    path = write(tmp_path / "a.json", feature(polygon(SQUARE), classification={"name": name}))
    assert read_annotation(path).areas[0].kind == kind


def test_open_closed_crossing_and_empty_rings(tmp_path: Path) -> None:
    bow_tie = [[0, 0], [10, 10], [10, 0], [0, 10]]
    areas = [SQUARE, [*SQUARE, SQUARE[0]], bow_tie, [[0, 0], [5, 5]], [[0, 0], [5, 5], [9, 9]], []]
    path = write(tmp_path / "a.json", {"positive": [{"vertices": vertices} for vertices in areas]})
    found = read_annotation(path).areas
    assert [area.polygon.area for area in found] == [5000, 5000, 50]
    assert all(area.polygon.is_valid for area in found)


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;">]>'
    "<ASAP_Annotations>&lol2;</ASAP_Annotations>"
)
XXE = '<!DOCTYPE foo [<!ENTITY x SYSTEM "file:///etc/passwd">]><ASAP_Annotations>&x;</ASAP_Annotations>'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (BOMB, "Forbidden"),
        (XXE, "Forbidden"),
        ("[" * 100_000, "nested too deeply"),
        ("{}", "JSON of another kind"),
        ("3", "JSON of another kind"),
        ('[{"type": "Feature"}]', "lacks 'geometry'"),
        ("", "can't be read"),
        ("slide,label", "can't be read"),
        ("<Layers/>", "got <Layers>"),
        ("<Annotations/>", "holds no area"),
        ("<annotations/>", "holds no area"),
        ("<ASAP_Annotations>", "no element found"),
        (asap(asap_annotation([[1, 2], [3, 4]])), "holds no area"),
        ('{"positive": [{"name": "A"}]}', "lacks 'vertices'"),
        ('{"positive": [], "negative": []}', "holds no area"),
        ('{"positive": [{"vertices": [[NaN, 1], [2, 3], [4, 4]]}]}', "no finite pixel positions"),
        ('{"positive": [{"vertices": [[1e999, 1], [2, 3], [4, 4]]}]}', "no finite pixel positions"),
        ('{"positive": [{"vertices": [[1], [2, 3], [4, 4]]}]}', "can't be read"),
        ('{"positive": [{"vertices": ["ab", "cd", "ef"]}]}', "'a' is no number"),
    ],
)
def test_faulty_files_are_refused_by_name(tmp_path: Path, content: str, says: str) -> None:
    path = write(tmp_path / "a.txt", content)
    with pytest.raises(InputError, match=r"annotation .*a\.txt") as error:
        read_annotation(path)
    assert says in str(error.value)


def test_broken_gzip_and_missing_file(tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps(feature(polygon(SQUARE))).encode())
    (tmp_path / "a.geojson.gz").write_bytes(whole[:-20])
    for name in ("a.geojson.gz", "absent.json"):
        with pytest.raises(InputError, match=name):
            read_annotation(tmp_path / name)


def test_a_file_that_unpacks_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_BYTES >= 2**28
    monkeypatch.setattr("morphomil.slides.annotations.MAX_BYTES", 2**20)
    (tmp_path / "a.gz").write_bytes(gzip.compress(b" " * 2**21))
    with pytest.raises(InputError, match="larger than 1 MiB"):
        read_annotation(tmp_path / "a.gz")


def test_too_many_vertices_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("morphomil.slides.annotations.MAX_VERTICES", 7)
    path = write(tmp_path / "a.json", {"positive": [{"vertices": SQUARE}, {"vertices": SQUARE}]})
    with pytest.raises(InputError, match="more than 7 vertices"):
        read_annotation(path)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=12))
def test_any_ring_becomes_valid_areas_within_its_hull(
    tmp_path_factory: pytest.TempPathFactory, ring: list[tuple[int, int]]
) -> None:
    path = write(tmp_path_factory.mktemp("ring") / "a.json", {"positive": [{"vertices": ring}]})
    hull = shapely.MultiPoint(ring).convex_hull
    if shapely.make_valid(Polygon(ring)).area < 1:
        with pytest.raises(InputError):
            read_annotation(path)
        return
    (area,) = read_annotation(path).areas
    assert area.polygon.is_valid
    assert area.polygon.geom_type in ("Polygon", "MultiPolygon")
    assert area.polygon.area <= hull.area + 1e-9
    if Polygon(ring).is_valid:
        assert np.isclose(area.polygon.area, Polygon(ring).area)

"""Nuclei as other programs write them: each format gives the nuclei that its program meant, or a
sentence.

The files follow the programs' own writers: CellViT (`cell_detection.py`), HoVer-Net (`infer/`),
HoverNeXt (`create_geojson`, `create_tsvs`), Cellpose (`io.save_masks`, `io.outlines_to_text`),
QuPath (`PathObjectTypeAdapters`), GeoPandas (`to_parquet`) and SpatialData (`write_shapes`).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shapely
import tifffile
from pyarrow import parquet
from scipy.io import savemat

from morphomil.errors import SlideError
from morphomil.slides.nuclei_files import Nuclei, Reading, read_nuclei

MPP = 0.5
TYPES = {1: "Neoplastic", 2: "Inflammatory", 3: "Connective", 4: "Dead", 5: "Epithelial"}


@dataclass
class Image:
    """As much of a slide as a reader asks for."""

    width: int = 512
    height: int = 384
    mpp: float = MPP
    properties: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def labels(draw_nuclei: Callable[..., np.ndarray]) -> np.ndarray:
    return np.asarray(draw_nuclei((384, 512)), dtype=np.int32)


def contour(labels: np.ndarray, number: int) -> np.ndarray:
    """As HoVer-Net and CellViT trace a nucleus."""
    mask = (labels == number).astype(np.uint8)
    return np.squeeze(cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0][0])


def cells(labels: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "bbox": [[0, 0], [1, 1]],
            "centroid": contour(labels, number).mean(axis=0).tolist(),
            "contour": contour(labels, number).tolist(),
            "type_prob": 0.5 + number / 1000,
            "type": 1 + number % 5,
            "patch_coordinates": [0, 0],
            "cell_status": 0,
            "offset_global": [0, 0],
        }
        for number in range(1, labels.max() + 1)
    ]


def cellvit_geojson(labels: np.ndarray) -> list[dict[str, Any]]:
    of_type: dict[int, list[Any]] = {}
    for cell in cells(labels):
        ring = cell["contour"]
        of_type.setdefault(cell["type"], []).append([[*ring, ring[0]]])
    return [
        {
            "type": "Feature",
            "id": f"{kind}",
            "geometry": {"type": "MultiPolygon", "coordinates": polygons},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": TYPES[kind], "color": [255, 0, 0]},
            },
        }
        for kind, polygons in sorted(of_type.items())
    ]


def hovernet(labels: np.ndarray, magnification: float | None) -> dict[str, Any]:
    entries = {
        str(number): {
            "bbox": cell["bbox"],
            "centroid": cell["centroid"],
            "contour": cell["contour"],
            "type_prob": cell["type_prob"],
            "type": cell["type"],
        }
        for number, cell in enumerate(cells(labels), start=1)
    }
    return {"mag": magnification, "nuc": entries}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def read(path: Path, image: Image | None = None, **reading: Any) -> Nuclei:
    return read_nuclei(path, image or Image(), Reading(**reading))  # type: ignore[arg-type]


def drawn(nuclei: Nuclei, shape: tuple[int, int] = (384, 512)) -> np.ndarray:
    canvas = np.zeros(shape, np.int32)
    nuclei.draw(canvas, np.arange(len(nuclei.centers)), 1, x_px=0, y_px=0, downsample=1)
    return canvas


def cause(path: Path, image: Image | None = None, **reading: Any) -> str:
    with pytest.raises(SlideError) as caught:
        read(path, image, **reading)
    assert str(path.name) in str(caught.value)
    return str(caught.value)


def test_cellvit_cells(labels: np.ndarray, tmp_path: Path) -> None:
    """Every nucleus with its own pixels, class and probability; types stand before or after."""
    tree = {
        "wsi_metadata": {"magnification": 40, "downsampling": 1, "base_mpp": 0.25},
        "processed_patches": ["0_0"],
        "type_map": {"Background": 0} | {name: number for number, name in TYPES.items()},
        "cells": cells(labels),
    }
    turned = dict(reversed(tree.items())) | {
        "type_map": {str(n): name for n, name in TYPES.items()}
    }
    for name, content in {"cells.json": tree, "plus.json": turned}.items():
        nuclei = read(write(tmp_path / name, content))
        np.testing.assert_array_equal(drawn(nuclei), labels)
        assert nuclei.said["type"].tolist() == [
            TYPES[1 + n % 5] for n in range(1, labels.max() + 1)
        ]
        np.testing.assert_allclose(
            nuclei.said["type_probability"], 0.5 + np.arange(1, labels.max() + 1) / 1000
        )
    scaled = tree | {"wsi_metadata": {"downsampling": 2}}
    assert "downsampling of 2" in cause(write(tmp_path / "scaled.json", scaled))
    centers = [{"bbox": [[0, 0], [1, 1]], "centroid": [5, 5], "type": 1}] * 4
    detection = write(tmp_path / "cell_detection.json", tree | {"cells": centers})
    assert "4 of its cells have a center but no contour" in cause(detection)


@pytest.mark.parametrize("read_chars", [2**20, 500])
@pytest.mark.parametrize("indent", [None, 2])
def test_cellvit_geojson_is_many_nuclei(
    read_chars: int,
    indent: int | None,
    labels: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A MultiPolygon for each class, also where it is longer than what is decoded at once."""
    package = "morphomil.slides.nuclei_files"
    monkeypatch.setattr(f"{package}.json_stream.READ_CHARS", read_chars)
    monkeypatch.setattr(f"{package}.geojson.WHOLE_CHARS", read_chars)
    path = tmp_path / "cell_detection.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps(cellvit_geojson(labels), indent=indent).encode()))
    nuclei = read(path)
    assert len(nuclei.centers) == labels.max()
    np.testing.assert_array_equal(drawn(nuclei) > 0, labels > 0)
    counts = nuclei.said["type"].value_counts()
    expected = pd.Series([TYPES[cell["type"]] for cell in cells(labels)]).value_counts()
    assert counts.to_dict() == expected.to_dict()


def test_points_are_no_nuclei(tmp_path: Path) -> None:
    """CellViT's MultiPoints, HoverNeXt's tables and classes: a center has no shape."""
    feature = {
        "type": "Feature",
        "geometry": {"type": "MultiPoint", "coordinates": [[5, 5], [50, 60], [70, 80]]},
        "properties": {"objectType": "annotation", "classification": {"name": "Dead"}},
    }
    assert "3 points but no outlines" in cause(write(tmp_path / "a.geojson", [feature]))
    single = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [5, 5]}}
    assert "1 points but no outlines" in cause(write(tmp_path / "b.geojson", single))
    nested = {"type": "GeometryCollection", "geometries": [feature["geometry"]]}
    collected = feature | {"geometry": nested, "properties": {"objectType": "detection"}}
    assert "3 points" in cause(write(tmp_path / "c.geojson", [collected]))
    table = "x\ty\tname\tcolor\n5.0\t6.0\tlymphocyte\t-256\n7.0\t8.0\tlymphocyte\t-256\n"
    assert "centers can't be measured" in cause(write(tmp_path / "pred_lymphocyte.tsv", table))
    classes = {"1": [3, [10.5, 20.5]], "2": [1, [30.0, 40.0]]}
    assert "centers of 2 nuclei" in cause(write(tmp_path / "class_inst.json", classes))


@pytest.mark.parametrize(
    ("magnification", "image"),
    [
        (None, Image()),
        (20, Image()),
        (40, Image(width=256, height=192, mpp=0.5)),
        (40, Image(mpp=0.2527)),
        (20, Image(width=1024, height=768, mpp=0.25)),
        (40, Image(mpp=0.34, properties={"openslide.objective-power": "40"})),
    ],
)
def test_hovernet_json_at_its_magnification(
    magnification: float | None, image: Image, labels: np.ndarray, tmp_path: Path
) -> None:
    nuclei = read(write(tmp_path / "a.json", hovernet(labels, magnification)), image)
    factor = image.width / 512
    truth = [
        (np.argwhere(labels == number)[:, ::-1] + 0.5).mean(axis=0)
        for number in range(1, labels.max() + 1)
    ]
    np.testing.assert_allclose(nuclei.centers, np.array(truth) * factor, atol=0.4 * factor)
    pixels = np.bincount(labels.ravel())[1:] * factor**2
    np.testing.assert_allclose(nuclei.areas_px, pixels, rtol=0.12)
    assert nuclei.said["type"].tolist()[:5] == ["2", "3", "4", "5", "1"]
    if factor == 1:
        np.testing.assert_array_equal(drawn(nuclei), labels)


def test_a_magnification_that_fits_no_pixel_size_is_refused(
    labels: np.ndarray, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.json", hovernet(labels, 40))
    assert "40 x" in cause(path, Image(mpp=0.35))


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_hovernet_mat(dtype: type, labels: np.ndarray, tmp_path: Path) -> None:
    count = labels.max()
    content = {
        "inst_map": labels.astype(dtype),
        "inst_uid": np.arange(1, count + 1)[::-1, None],
        "inst_type": (np.arange(count) % 4)[:, None],
        "inst_centroid": np.zeros((count, 2)),
    }
    savemat(tmp_path / "a.mat", content)
    nuclei = read(tmp_path / "a.mat")
    np.testing.assert_array_equal(drawn(nuclei), labels)
    assert nuclei.said["type"].tolist() == [str(n % 4) for n in range(count)][::-1]
    savemat(tmp_path / "other.mat", {"image": np.zeros((3, 3))})
    assert "no inst_map; it holds image" in cause(tmp_path / "other.mat")
    savemat(tmp_path / "objects.mat", {"inst_map": np.array([{"a": 1}, "b"], dtype=object)})
    assert "its inst_map is cell" in cause(tmp_path / "objects.mat")
    savemat(tmp_path / "odd.mat", content | {"inst_type": np.zeros((3, 1))})
    assert "3 types" in cause(tmp_path / "odd.mat")


def test_hovernext_polygons(labels: np.ndarray, tmp_path: Path) -> None:
    """Closed LineStrings, a class each."""
    features = []
    for number in range(1, labels.max() + 1):
        ring = contour(labels, number).astype(float).tolist()
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "LineString", "coordinates": [*ring, ring[0]]},
                "properties": {
                    "Name": f"Nuc {number}",
                    "Type": "Polygon",
                    "classification": {"name": "plasma-cell", "color": [0, 0, 1]},
                },
            }
        )
    tree = {"type": "FeatureCollection", "features": features}
    nuclei = read(write(tmp_path / "poly.geojson", tree))
    np.testing.assert_array_equal(drawn(nuclei), labels)
    assert set(nuclei.said["type"]) == {"plasma-cell"}


def square(x: float, y: float, side: float = 20) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(ring: list[list[float]], kind: str | None, **further: Any) -> dict[str, Any]:
    properties = {"objectType": kind} if kind else {}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": properties | further}


def cell(x: float, *, nucleus: bool, **further: Any) -> dict[str, Any]:
    inner = {"type": "Polygon", "coordinates": [square(x + 5, 105, 10)]}
    return feature(square(x, 100), "cell", **further) | (
        {"nucleusGeometry": inner} if nucleus else {}
    )


def test_a_cell_without_a_nucleus_is_refused_or_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.geojson", [cell(10, nucleus=True), cell(50, nucleus=False)])
    assert "1 of its 2 cells have no nucleus" in cause(path)
    assert read(path, cells_as_nuclei=True).areas_px.tolist() == [100, 400]
    whole = write(tmp_path / "b.geojson", [cell(10, nucleus=True), cell(50, nucleus=True)])
    nuclei = read(whole)
    assert nuclei.areas_px.tolist() == [100, 100]
    np.testing.assert_allclose(nuclei.centers, [[20, 110], [60, 110]])


def test_older_kinds_classes_and_children(tmp_path: Path) -> None:
    """`object_type`, ids of QuPath 0.2, lists of names, nested objects, ellipses, other planes."""
    old = feature(square(10, 10), None, object_type="detection")
    oldest = feature(square(50, 10), None) | {"id": "PathDetectionObject"}
    derived = feature(square(90, 10), "detection", classification={"names": ["Stroma", "Inflamed"]})
    stardist = feature(
        square(130, 10),
        "detection",
        measurements={"Detection probability": 0.75, "Area µm^2": 100.0},
    )
    listed = feature(
        square(170, 10),
        "detection",
        measurements=[{"name": "Detection probability", "value": 0.5}],
    )
    round_one = feature([[210, 20], [220, 10], [230, 20], [220, 30], [210, 20]], "detection")
    round_one["geometry"]["isEllipse"] = True
    elsewhere = feature(square(250, 10), "detection")
    elsewhere["geometry"]["plane"] = {"c": -1, "z": 3, "t": 0}
    drawn_by_hand = feature(square(0, 0, 300), "annotation", name="Region")
    drawn_by_hand["properties"]["childObjects"] = [old, oldest, derived]
    tree = [drawn_by_hand, stardist, listed, round_one, elsewhere]
    nuclei = read(write(tmp_path / "a.geojson", tree))
    assert len(nuclei.centers) == 6
    assert nuclei.said["type"].tolist() == [None, None, "Stroma: Inflamed", None, None, None]
    assert nuclei.said["detection_probability"].tolist()[3:5] == [0.75, 0.5]
    assert nuclei.areas_px[-1] == pytest.approx(np.pi * 100, rel=0.01)
    assert nuclei.left_out == {"annotations": 1, "objects on other planes": 1}


def test_annotations_are_nuclei_only_alone_and_with_a_class(tmp_path: Path) -> None:
    named = [
        feature(square(40 * n, 10), "annotation", classification={"name": "Tumor"}) for n in (1, 2)
    ]
    assert read(write(tmp_path / "a.json", named)).said["type"].tolist() == ["Tumor"] * 2
    mixed = [*named, feature(square(200, 10), "annotation")]
    assert "3 annotations but no detections" in cause(write(tmp_path / "b.json", mixed))
    with_detection = [*named, feature(square(200, 10), "detection")]
    assert len(read(write(tmp_path / "c.json", with_detection)).centers) == 1


def test_multipolygons_and_collections(tmp_path: Path) -> None:
    """Far apart they are nuclei, of a detection within a nucleus's reach the pieces of one."""
    polygons = [[square(10, 10)], [square(100, 10, 10)], [square(400, 300, 16)]]
    many = feature([], "detection") | {
        "geometry": {"type": "MultiPolygon", "coordinates": polygons}
    }
    assert read(write(tmp_path / "a.json", many)).areas_px.tolist() == [400, 100, 256]
    pieces = feature([], "detection") | {
        "geometry": {"type": "MultiPolygon", "coordinates": [[square(10, 10)], [square(30, 30, 2)]]}
    }
    assert read(write(tmp_path / "b.json", pieces)).areas_px.tolist() == [400]
    members = [{"type": "Polygon", "coordinates": rings} for rings in polygons]
    collection = feature([], None) | {
        "geometry": {"type": "GeometryCollection", "geometries": members}
    }
    assert read(write(tmp_path / "c.json", collection)).areas_px.tolist() == [400, 100, 256]
    deep = [[[x, y, 7.0] for x, y in square(10, 10)]]
    solid = feature([], None) | {"geometry": {"type": "Polygon", "coordinates": deep}}
    assert read(write(tmp_path / "d.json", solid)).areas_px.tolist() == [400]


def test_qupath_begins_at_the_scanned_part(tmp_path: Path) -> None:
    image = Image(properties={"openslide.bounds-x": "100", "openslide.bounds-y": "40"})
    detection = write(tmp_path / "a.json", [feature(square(10, 10), "detection")])
    assert read(detection, image).centers.tolist() == [[120, 60]]
    assert read(detection, image, origin="level0").centers.tolist() == [[20, 20]]
    plain = write(tmp_path / "b.json", [feature(square(10, 10), None)])
    assert read(plain, image).centers.tolist() == [[20, 20]]
    ours = feature(square(0, 0, 300), "annotation", source="annotation", region=0, image=0)
    path = write(tmp_path / "c.json", [ours, feature(square(10, 10), "detection")])
    assert read(path, image).centers.tolist() == [[20, 20]]


@pytest.mark.parametrize("axis", [0, 2])
def test_planes_are_named_or_refused(axis: int, labels: np.ndarray, tmp_path: Path) -> None:
    """InstanSeg's two planes: nuclei, then cells."""
    wide = cv2.dilate(labels.astype(np.uint16), np.ones((3, 3), np.uint8)).astype(np.int32)
    path = tmp_path / "a.tif"
    extra = {"photometric": "minisblack"} | ({"planarconfig": "contig"} if axis else {})
    tifffile.imwrite(path, np.stack([labels, wide], axis=axis), **extra)
    said = cause(path)
    assert "2 planes" in said and "--plane nuclei" in said
    for name, truth in {"nuclei": labels, "0": labels, "cells": wide, "1": wide}.items():
        nuclei = read(path, plane=name)
        np.testing.assert_array_equal(drawn(nuclei), truth)
        np.testing.assert_array_equal(nuclei.areas_px, np.bincount(truth.ravel())[1:])
    assert "there is no 2" in cause(path, plane="2")
    assert "not 'Nuclei '" in cause(path, plane="Nuclei ")


def test_planes_by_their_names_in_ome(labels: np.ndarray, tmp_path: Path) -> None:
    wide = cv2.dilate(labels.astype(np.uint16), np.ones((3, 3), np.uint8))
    path = tmp_path / "a.ome.tif"
    names = ["Cell", "Nucleus"]
    tifffile.imwrite(
        path,
        np.stack([wide, labels.astype(np.uint16)]),
        metadata={"axes": "CYX", "Channel": {"Name": names}},
        photometric="minisblack",
    )
    assert "(Cell, Nucleus)" in cause(path)
    np.testing.assert_array_equal(drawn(read(path, plane="nuclei")), labels)
    np.testing.assert_array_equal(drawn(read(path, plane="cells")), wide)


def test_cellpose_tiff_png_and_outlines(labels: np.ndarray, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a_cp_masks.tif", labels.astype(np.uint16), compression="zlib")
    tifffile.imwrite(tmp_path / "single.tif", labels[None, None], photometric="minisblack")
    cv2.imwrite(str(tmp_path / "a_cp_masks.png"), labels.astype(np.uint16))
    for name in ("a_cp_masks.tif", "single.tif", "a_cp_masks.png"):
        np.testing.assert_array_equal(drawn(read(tmp_path / name)), labels)
    assert "one plane" in cause(tmp_path / "a_cp_masks.tif", plane="cells")
    lines = []
    for number in range(1, labels.max() + 1):
        mask = (labels == number).astype(np.uint8)
        traced = cv2.findContours(mask, cv2.RETR_EXTERNAL, method=cv2.CHAIN_APPROX_NONE)[-2]
        lines.append(",".join(str(value) for value in traced[0].astype(int).ravel()))
    nuclei = read(write(tmp_path / "a_cp_outlines.txt", "\n".join(lines) + "\n"))
    np.testing.assert_array_equal(drawn(nuclei), labels)


def geoparquet(path: Path, shapes: list[Any], **columns: Any) -> Path:
    """As GeoPandas writes it without a reference system."""
    geo = {
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "crs": None, "geometry_types": ["Polygon"]}},
        "version": "1.0.0",
        "creator": {"library": "geopandas", "version": "1.0.1"},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"geometry": [shapely.to_wkb(shape) for shape in shapes]} | columns)
    parquet.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
    return path


def transformation(kind: str, **values: Any) -> dict[str, Any]:
    axes = [{"name": name, "type": "space", "unit": "unit"} for name in "xy"]
    ends = {
        "input": {"axes": axes, "name": "xy"},
        "output": {"axes": axes, "name": "global"},
    }
    return ends | {"type": kind} | values


@pytest.mark.parametrize(
    ("file", "chosen", "scale"),
    [
        ("zarr.json", transformation("identity"), (1, 1)),
        (".zattrs", transformation("scale", scale=[2.0, 4.0]), (2, 4)),
        (
            "zarr.json",
            transformation(
                "sequence",
                transformations=[transformation("identity"), transformation("scale", scale=[2, 2])],
            ),
            (2, 2),
        ),
        ("zarr.json", transformation("affine", affine=[[3, 0, 0], [0, 3, 0], [0, 0, 1]]), (3, 3)),
        ("zarr.json", transformation("affine", affine=[[0, 1, 0], [1, 0, 0], [0, 0, 1]]), None),
        ("zarr.json", transformation("translation", translation=[10, 0]), None),
    ],
)
def test_spatialdata_shapes(
    file: str, chosen: dict[str, Any], scale: tuple[float, float] | None, tmp_path: Path
) -> None:
    element = tmp_path / "data.zarr" / "shapes" / "nuclei"
    shapes = [shapely.Polygon(square(10, 10)), shapely.Polygon(square(50, 40))]
    path = geoparquet(element / "shapes.parquet", shapes, cell_type=["T", None])
    attributes = {"coordinateTransformations": [chosen], "encoding-type": "ngff:shapes"}
    content = {"zarr_format": 3, "attributes": attributes} if file == "zarr.json" else attributes
    write(element / file, content)
    if scale is None:
        assert "only a scale" in cause(path)
        return
    for given in (path, element):
        nuclei = read(given)
        np.testing.assert_allclose(nuclei.centers, np.array([[20, 20], [60, 50]]) * scale)
        assert nuclei.areas_px.tolist() == [400 * scale[0] * scale[1]] * 2
        assert nuclei.said["type"].tolist() == ["T", None]


def test_other_parquet(tmp_path: Path) -> None:
    shapes = [shapely.MultiPolygon([shapely.box(10, 10, 30, 30), shapely.box(90, 90, 99, 99)])]
    assert len(read(geoparquet(tmp_path / "a.parquet", shapes)).centers) == 2
    circles = geoparquet(tmp_path / "b.parquet", [shapely.Point(5, 5)], radius=[4.0])
    assert "1 circles, not outlines" in cause(circles)
    assert "1 points but no outlines" in cause(
        geoparquet(tmp_path / "c.parquet", [shapely.Point(5, 5)])
    )
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "d.parquet")
    assert "without a column of geometries; it has a" in cause(tmp_path / "d.parquet")


@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_tables_of_vertices_and_of_text(mark: str, tmp_path: Path) -> None:
    rows = [
        (name, x, y, kind, probability)
        for name, left, kind, probability in (("b", 10, "T", 0.9), ("a", 60, "B", 0.7))
        for x, y in square(left, 20)
    ]
    lines = [mark.join(["cell_id", "X", "Y", "class", "type_prob"])]
    lines += [mark.join(map(str, row)) for row in rows]
    nuclei = read(write(tmp_path / "a.csv", "\n".join(lines)))
    assert nuclei.centers.tolist() == [[20, 30], [70, 30]]
    assert nuclei.areas_px.tolist() == [400, 400]
    assert nuclei.said["type"].tolist() == ["T", "B"]
    assert nuclei.said["type_probability"].tolist() == [0.9, 0.7]
    text = [f'{n}{mark}"{shapely.box(x, 20, x + 20, 40).wkt}"' for n, x in enumerate((10, 60))]
    path = write(tmp_path / "b.tsv", "\n".join([f"label{mark}wkt", *text]))
    assert read(path).centers.tolist() == [[20, 30], [70, 30]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,x,y\n1,5,6\n2,7,8\n", "these are centers"),
        ("x,y\n1,2\n3,4\n", "no column that says which"),
        ("id,x_um,y_um\n1,2,3\n", "it has the columns id, x_um, y_um"),
        ("id,x,y\n1,2,\n1,3,4\n1,5,6\n", "without an id, x or y"),
        ("id,wkt\n1,POINT (1 2)\n", "1 points but no outlines"),
        ("id,wkt\n1,hello\n", "other than well-known text"),
        ('id,wkt\n1,"POLYGON ((1 2, 3"\n', "can't be read"),
        ("1,2,3\n4,5,6\n", "a line has 3 numbers"),
    ],
)
def test_tables_without_outlines_are_refused(content: str, message: str, tmp_path: Path) -> None:
    assert message in cause(write(tmp_path / "a.csv", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x93NUMPY\x01\x00", "may hold a pickle"),
        (b"PK\x03\x04....", "ZIP"),
        (b"\x80\x04\x95", "pickle"),
        (b"\xff\x06\x00\x00sNaPpY", "Snappy"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"PAR1....", "GeoParquet"),
        (b"MATLAB 5.0 MAT-file", "MATLAB"),
        (b'{"cells": [{"contour": [[1, 2', "cut off"),
        (b'{"cells": [3]}', "something else"),
        (b'{"nuc": {"1": 5}}', "no HoVer-Net"),
        (b"[1, 2]", "no GeoJSON"),
        (b"{}", "no GeoJSON"),
        (b'[{"type": "Feature" "geometry": null}]', "no JSON"),
        (b"[]]", "something follows"),
        (b"just words", "neither PNG"),
    ],
)
def test_other_files_get_a_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert message in cause(path)


@pytest.mark.parametrize("factor", [1 / 512, 0.05])
def test_coordinates_of_another_unit_are_refused(factor: float, tmp_path: Path) -> None:
    """Shares of the width, degrees, millimeters: everything is a speck in the corner."""
    rings = [np.array(square(30 * n, 40)) * factor for n in range(12)]
    path = write(tmp_path / "a.json", [feature(ring.tolist(), "detection") for ring in rings])
    assert "smaller than 6 um2" in cause(path)


def test_outlines_along_pixel_edges_stay(tmp_path: Path) -> None:
    """Whole numbers alone don't tell that an outline runs through pixel centers."""
    ring = [
        [10, 10],
        [20, 10],
        [20, 16],
        [24, 16],
        [24, 30],
        [12, 30],
        [12, 22],
        [10, 22],
        [10, 10],
    ]
    nuclei = read(
        write(
            tmp_path / "a.json",
            hovernet(np.zeros((1, 1), int), None)
            | {"nuc": {"1": {"contour": ring, "type": None, "type_prob": None}}},
        )
    )
    assert nuclei.areas_px.tolist() == [shapely.Polygon(ring).area]
    assert not len(nuclei.said.columns)

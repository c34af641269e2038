"""Label images, MATLAB files, tables and Parquet of nuclei: each gives what its program meant, or a
sentence.

The files follow the programs' own writers: Cellpose (`io.save_masks`, `io.outlines_to_text`),
HoVer-Net (`infer/tile.py`), GeoPandas (`to_parquet`) and SpatialData (`write_shapes`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import shapely
import tifffile
from pyarrow import parquet
from scipy.io import savemat
from written_nuclei import cause, drawn, read, square, write

from morphomil.slides.nuclei_files import depends_on


@pytest.fixture
def labels(draw_nuclei: Callable[..., np.ndarray]) -> np.ndarray:
    return np.asarray(draw_nuclei((384, 512)), dtype=np.int32)


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


def test_types_lie_beside_a_label_image(labels: np.ndarray, tmp_path: Path) -> None:
    path, table = tmp_path / "a.b.tif", tmp_path / "a.b.types.csv"
    tifffile.imwrite(path, labels.astype(np.uint16))
    assert "type" not in read(path).said
    assert depends_on(path) == [path]
    table.write_text("Label;Type\n3;Tumor\n1;\n2;4\n", encoding="utf-8")
    assert read(path).said["type"].fillna("").tolist()[:4] == ["", "4", "Tumor", ""]
    assert depends_on(path) == [path, table]
    for text, said in (
        ("label,kind\n1,a\n", "a.b.types.csv beside it has no column type"),
        ("label,type\n1,a\n1,b\n", "labels that aren't whole numbers, each once"),
        ("label,type\nx,a\n", "labels that aren't whole numbers, each once"),
    ):
        table.write_text(text, encoding="utf-8")
        assert said in cause(path)


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
    assert "a plane is nuclei, cells or a number" in cause(path, plane="9" * 5000)
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

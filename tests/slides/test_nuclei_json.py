"""Nuclei in JSON of QuPath, StarDist, CellViT, HoVer-Net and HoverNeXt: each file gives what its
program meant, or a sentence."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from written_nuclei import (
    TYPES,
    Image,
    cause,
    cells,
    cellvit_geojson,
    contour,
    drawn,
    feature,
    hovernet,
    read,
    square,
    write,
)


@pytest.fixture
def labels(draw_nuclei: Callable[..., np.ndarray]) -> np.ndarray:
    return np.asarray(draw_nuclei((384, 512)), dtype=np.int32)


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

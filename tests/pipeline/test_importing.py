"""Nuclei from other programs: label images and GeoJSON lead to the nuclei that they show; exports
lead back."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from morphomil import pipeline
from morphomil.errors import InputError
from morphomil.export import export_run
from morphomil.nuclei.measure import measure_nuclei
from morphomil.nuclei.outlines import trace_outlines
from morphomil.pipeline.importing import find_files, import_nuclei, unmapped_types
from morphomil.run.directory import Run
from morphomil.slides.nuclei_files.geojson import read_features
from morphomil.slides.nuclei_files.json_stream import open_json
from morphomil.types import FEATURE_NAMES, Cohort, ImageSource, PatchSettings, Slide

SHAPES = [name for name in FEATURE_NAMES if name != "density_per_mm2"]
WHOLE = PatchSettings(patch_px=128, regions="whole")


@pytest.fixture
def labels(draw_nuclei: Callable[..., np.ndarray]) -> np.ndarray:
    return draw_nuclei((384, 512))


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """One slide of pink tissue, 512 x 384 pixels of 0.5 um."""
    rng = np.random.default_rng(1)
    pixels = np.clip(rng.normal(0, 12, (384, 512, 1)) + np.array([200, 130, 180]), 0, 250).astype(
        np.uint8
    )
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    return Cohort((Slide("slide", "p", "1", (ImageSource(tmp_path / "slide.png", mpp=0.5),)),))


def run_with(cohort: Cohort, nuclei: Path, out: Path, **options: Any) -> Run:
    image = cohort.slides[0].images[0].path
    run, result = import_nuclei(cohort, {image: nuclei}, out, **({"settings": WHOLE} | options))
    assert not result.failed, result.failed
    assert pipeline.featurize(run).done == (cohort.slides[0].slide_id,)
    return run


def emptiness(cohort: Cohort, nuclei: Path, out: Path) -> str:
    _, result = import_nuclei(
        cohort, {cohort.slides[0].images[0].path: nuclei}, out, settings=WHOLE
    )
    return result.empty["slide"]


def failure(cohort: Cohort, nuclei: Path, out: Path) -> str:
    _, result = import_nuclei(
        cohort, {cohort.slides[0].images[0].path: nuclei}, out, settings=WHOLE
    )
    return result.failed["slide"]


def geojson(
    labels: np.ndarray, kind: str | None = "detection", scale: float = 1
) -> list[dict[str, Any]]:
    properties = {"objectType": kind} if kind else {}
    return [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [(ring * scale).tolist() for ring in outline.polygons[0]],
            },
            "properties": properties,
        }
        for outline in trace_outlines(labels)
    ]


def write_labels(path: Path, labels: np.ndarray) -> Path:
    if path.suffix == ".png":
        Image.fromarray(labels.astype(np.uint16)).save(path)
    else:
        tiles = {"tile": (128, 128), "compression": "zlib"} if "tiled" in path.name else {}
        tifffile.imwrite(path, labels, **tiles)
    return path


@pytest.mark.parametrize(
    "name", ["a.png", "a.tif", "tiled.tif", "a.geojson", "a.geojson.gz", "list.json", "plain.json"]
)
def test_each_format_gives_the_nuclei_it_shows(
    name: str, labels: np.ndarray, cohort: Cohort, tmp_path: Path
) -> None:
    path = tmp_path / name
    if "json" in name:
        features = geojson(labels, None if name == "plain.json" else "detection")
        tree: Any = (
            features if name == "list.json" else {"type": "FeatureCollection", "features": features}
        )
        content = json.dumps(tree).encode()
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    else:
        write_labels(path, labels)
    run = run_with(cohort, path, tmp_path / "run")
    found, truth = run.nuclei("slide"), measure_nuclei(labels, mpp=0.5)
    assert len(found) == len(truth) == labels.max()
    found, truth = (
        table.sort_values(["y_px", "x_px"], ignore_index=True) for table in (found, truth)
    )
    pd.testing.assert_frame_equal(found[SHAPES], truth[SHAPES], rtol=1e-9)
    np.testing.assert_allclose(found[["x_px", "y_px"]], truth[["x_px", "y_px"]] + 0.5)
    assert run.segmented_with()["model"] == "imported"


@pytest.mark.parametrize("as_list", [True, False])
def test_half_a_character_in_a_class_is_replaced(
    as_list: bool, labels: np.ndarray, cohort: Cohort, tmp_path: Path
) -> None:
    path = tmp_path / "a.geojson"
    features = geojson(labels)
    features[0]["properties"]["classification"] = {"name": "\ud800x"}
    tree: Any = features if as_list else {"type": "FeatureCollection", "features": features}
    path.write_text(json.dumps(tree))
    run = run_with(cohort, path, tmp_path / "run")
    said = run.said_of_nuclei("slide")
    assert said is not None
    assert set(said["type"].dropna()) == {"\ufffdx"}


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_label_image_of_another_scale(
    factor: float, labels: np.ndarray, cohort: Cohort, tmp_path: Path
) -> None:
    other = np.kron(labels, np.ones((2, 2), int)) if factor == 2 else labels[::2, ::2]
    run = run_with(
        cohort, write_labels(tmp_path / "a.tif", other.astype(np.int32)), tmp_path / "run"
    )
    truth = measure_nuclei(labels, mpp=0.5)
    assert len(run.nuclei("slide")) == len(truth)
    assert run.nuclei("slide")["area_um2"].sum() == pytest.approx(truth["area_um2"].sum(), rel=0.02)


def annotate(slide: Slide, run: Run) -> Slide:
    """The slide with the run's regions as its annotation."""
    image = replace(
        slide.images[0], annotation=run.slide_folder(slide.slide_id) / "regions.geojson"
    )
    return replace(slide, images=(image,))


def test_qupath_export_leads_back_to_the_same_nuclei(
    make_run: Callable[..., Run], hostile: tuple[str, ...], tmp_path: Path
) -> None:
    """Under hostile names, on slides of twice the working resolution."""
    first = make_run(tmp_path / "first", hostile)
    for slide in first.cohort.slides:
        Image.new("RGB", (700, 640), (200, 130, 180)).save(slide.images[0].path)
    export_run(first, "qupath", out=tmp_path / "out")
    files = find_files(first.cohort, tmp_path / "out")
    annotated = Cohort(tuple(annotate(slide, first) for slide in first.cohort.slides))
    again, result = import_nuclei(
        annotated, files, tmp_path / "again", settings=PatchSettings(patch_px=128)
    )
    assert not result.failed
    pipeline.featurize(again)
    for name in hostile:
        tables = [
            run.nuclei(name).sort_values(["y_px", "x_px"], ignore_index=True).drop(columns="label")
            for run in (first, again)
        ]
        assert len(tables[0]) > 50
        pd.testing.assert_frame_equal(tables[0], tables[1], rtol=1e-9)


def test_many_bands_and_regions_leave_no_trace(
    labels: np.ndarray, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_labels(tmp_path / "a.tif", labels)
    whole = run_with(cohort, path, tmp_path / "run").masks("slide")[0].labels[:]
    monkeypatch.setattr("morphomil.pipeline.importing.BAND_PX", 90)
    banded = run_with(cohort, path, tmp_path / "banded").masks("slide")[0].labels[:]
    np.testing.assert_array_equal(whole, banded)


def test_an_unchanged_import_is_skipped_and_a_changed_one_done_anew(
    labels: np.ndarray, cohort: Cohort, tmp_path: Path
) -> None:
    path, image = write_labels(tmp_path / "a.tif", labels), cohort.slides[0].images[0].path
    run_with(cohort, path, tmp_path / "run")
    assert import_nuclei(cohort, {image: path}, tmp_path / "run", settings=WHOLE)[1].skipped == (
        "slide",
    )
    write_labels(path, np.where(labels == 3, 0, labels))
    run, result = import_nuclei(cohort, {image: path}, tmp_path / "run", settings=WHOLE)
    assert result.done == ("slide",)
    assert run.figures("segment")["nuclei_found"].item() == labels.max() - 1


def test_overlaps_pieces_and_nuclei_outside_the_region(
    labels: np.ndarray, cohort: Cohort, tmp_path: Path
) -> None:
    square = np.array([[100, 100], [120, 100], [120, 120], [100, 120], [100, 100]], float)
    bow_tie = np.array([[200, 200], [216, 216], [216, 200], [200, 216]], float)
    shapes = [square, square + 10, bow_tie, square + 5000]
    polygons = [{"type": "Polygon", "coordinates": [ring.tolist()]} for ring in shapes]
    features = [
        {"type": "Feature", "geometry": polygon, "properties": None} for polygon in polygons
    ]
    features.append(
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}}
    )
    path = tmp_path / "a.json"
    path.write_text(json.dumps(features), encoding="utf-8")
    run = run_with(cohort, path, tmp_path / "run")
    areas = run.nuclei("slide")["area_um2"].to_numpy() / 0.25
    assert areas.tolist() == [400, 300, pytest.approx(64, abs=10)]
    assert run.figures("segment")["nuclei_outside_regions"].item() == 1


def test_cells_give_their_nucleus(cohort: Cohort, tmp_path: Path) -> None:
    cell = {
        "type": "Polygon",
        "coordinates": [[[90, 90], [130, 90], [130, 130], [90, 130], [90, 90]]],
    }
    nucleus = {
        "type": "Polygon",
        "coordinates": [[[100, 100], [120, 100], [120, 110], [100, 110], [100, 100]]],
    }
    feature = {
        "type": "Feature",
        "geometry": cell,
        "nucleusGeometry": nucleus,
        "properties": {"objectType": "cell"},
    }
    drawn = {"type": "Feature", "geometry": cell, "properties": {"objectType": "annotation"}}
    path = tmp_path / "a.geojson"
    path.write_text(
        json.dumps({"type": "FeatureCollection", "features": [drawn, feature]}), encoding="utf-8"
    )
    assert (run_with(cohort, path, tmp_path / "run").nuclei("slide")["area_um2"] == 50).all()


def test_a_slide_without_nuclei_is_empty(cohort: Cohort, tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text('{"type": "FeatureCollection", "features": []}', encoding="utf-8")
    assert "no nucleus" in emptiness(cohort, path, tmp_path / "run")
    blank = write_labels(tmp_path / "a.tif", np.zeros((384, 512), np.int32))
    assert "no nucleus" in emptiness(cohort, blank, tmp_path / "run")
    assert Run.open(tmp_path / "run").done("segment") == []


def as_lists(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: as_lists(inner) for key, inner in value.items()}
    return [as_lists(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("whole_chars", [2**18, 100])
def test_features_are_read_across_chunks(
    labels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_chars: int
) -> None:
    """Those of fewer than `whole_chars` characters at once, others piece by piece."""
    features = geojson(labels)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(features, indent=1), encoding="utf-8")
    monkeypatch.setattr("morphomil.slides.nuclei_files.geojson.WHOLE_CHARS", whole_chars)
    for size in (64, 1000, 2**20):
        monkeypatch.setattr("morphomil.slides.nuclei_files.json_stream.READ_CHARS", size)
        with open_json(path) as stream:
            assert as_lists(list(read_features(stream))) == features


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mask.png", lambda labels: (labels > 0).astype(np.int32) * 255, "a number of its own"),
        ("shape.tif", lambda labels: labels[:, :300], "don't fit the slide's 512 x 384"),
        ("float.tif", lambda labels: labels.astype(np.float32), "one whole number per pixel"),
        (
            "rgb.tif",
            lambda labels: np.dstack([labels.astype(np.uint8)] * 3),
            "one whole number per pixel",
        ),
        ("negative.tif", lambda labels: -labels, "negative label"),
        (
            "cut.geojson",
            '{"type":"FeatureCollection","features":[{"type":"Feature","geom',
            "cut off",
        ),
        ("other.geojson", '{"type":"Topology","objects":{}}', "no GeoJSON"),
        (
            "nan.geojson",
            [[[[1, 1], [9, 1], [9, float("nan")], [1, 1]]], "detection"],
            "no finite pixel positions",
        ),
        (
            "far.geojson",
            [[[[9000, 1], [9009, 1], [9009, 9], [9000, 1]]], "detection"],
            "belong to another slide",
        ),
        (
            "huge.geojson",
            [[[[0, 0], [500, 0], [500, 300], [0, 0]]], "detection"],
            "more than a nucleus can",
        ),
        (
            "drawn.geojson",
            [[[[10, 10], [19, 10], [19, 19], [10, 10]]], "annotation"],
            "but no detections",
        ),
        ("empty.tif", "", "neither PNG"),
        ("text.tif", "hello", "neither PNG"),
    ],
)
def test_bad_files_are_told_in_a_sentence(
    name: str, content: Any, message: str, labels: np.ndarray, cohort: Cohort, tmp_path: Path
) -> None:
    path = tmp_path / name
    if callable(content):
        array = content(labels)
        Image.fromarray(array.astype(np.uint8)).save(path) if name.endswith(
            "png"
        ) else tifffile.imwrite(path, array)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        coordinates, kind = content
        geometry = {"type": "Polygon", "coordinates": coordinates}
        path.write_text(
            json.dumps(
                [{"type": "Feature", "geometry": geometry, "properties": {"objectType": kind}}]
            )
        )
    said = failure(cohort, path, tmp_path / "run")
    assert message in said
    assert name in said


def test_the_methods_say_that_nuclei_were_imported() -> None:
    from morphomil.tables.methods import describe_methods

    text = describe_methods(PatchSettings(), segmenter=None, folds=5, seeds=3, bag_patches=10)
    assert "segmented with another program and imported; a nucleus belongs" in text
    assert "context" not in text


def test_files_are_found_by_name_or_all_problems_are_told(cohort: Cohort, tmp_path: Path) -> None:
    folder = tmp_path / "nuclei"
    folder.mkdir()
    with pytest.raises(InputError, match=r"no file of nuclei .* such as slide\.geojson"):
        find_files(cohort, folder)
    (folder / "slide.GeoJSON.gz").touch()
    assert find_files(cohort, folder) == {tmp_path / "slide.png": folder / "slide.GeoJSON.gz"}
    (folder / "slide.tif").touch()
    with pytest.raises(InputError, match="more than one"):
        find_files(cohort, folder)
    with pytest.raises(InputError, match="is no folder"):
        find_files(cohort, folder / "gone")
    with pytest.raises(InputError, match="has no file of nuclei"):
        import_nuclei(cohort, {}, tmp_path / "run")
    with pytest.raises(InputError, match="doesn't exist"):
        import_nuclei(cohort, {tmp_path / "slide.png": folder / "gone.tif"}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_by_column_and_by_folder(
    labels: np.ndarray, cohort: Cohort, tmp_path: Path
) -> None:
    (tmp_path / "nuclei").mkdir()
    write_labels(tmp_path / "nuclei" / "slide.png", labels)
    rows = {
        "slide": ["slide.png"],
        "patient": ["p"],
        "label": ["1"],
        "mpp": ["0.5"],
        "nuclei": ["nuclei/slide.png"],
    }
    pd.DataFrame(rows).to_csv(tmp_path / "cohort.csv", index=False)
    program = Path(sys.executable).with_name("morphomil")
    for number, further in enumerate([[], ["--nuclei", tmp_path / "nuclei"]]):
        out = tmp_path / f"run{number}"
        words = [
            "import-nuclei",
            tmp_path / "cohort.csv",
            "--out",
            out,
            "--regions",
            "whole",
            "--patch",
            "128",
            *further,
        ]
        done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "columns not read" not in done.stderr
        subprocess.run([program, "featurize", out], capture_output=True, check=True)
        assert len(Run.open(out).nuclei("slide")) == labels.max()
        subprocess.run([program, "report", out], capture_output=True, check=True)
    pd.DataFrame(rows).drop(columns="nuclei").to_csv(tmp_path / "cohort.csv", index=False)
    words = ["import-nuclei", tmp_path / "cohort.csv", "--out", tmp_path / "run2"]
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "column nuclei is missing" in done.stderr


CLASSES = ("Tumor: Positive", "Kind 1", "2")


def test_types_and_probabilities_go_with_the_nuclei(
    labels: np.ndarray, cohort: Cohort, tmp_path: Path
) -> None:
    """By label, into the table and the exports; a run without them has the schema's columns."""
    features = geojson(labels)
    for number, feature in enumerate(features):
        feature["properties"] = feature["properties"] | {
            "classification": {"name": CLASSES[number % 3]},
            "measurements": {"Detection probability": number / 100},
        }
    path, out = tmp_path / "a.geojson", tmp_path / "run"
    path.write_text(json.dumps(features), encoding="utf-8")
    run = run_with(cohort, path, out)
    table = run.nuclei("slide")
    assert list(table)[-2:] == ["said_type", "detection_probability"]
    centers = np.array([np.mean(f["geometry"]["coordinates"][0][:-1], axis=0) for f in features])
    nearest = np.argmin(
        np.linalg.norm(table[["x_px", "y_px"]].to_numpy()[:, None] - centers, axis=2), axis=1
    )
    assert sorted(nearest) == list(range(len(features)))
    assert table["said_type"].tolist() == [CLASSES[number % 3] for number in nearest]
    known = table["type"].astype("object").fillna("")
    assert known.tolist() == [("epithelial", "", "")[number % 3] for number in nearest]
    assert unmapped_types(run) == {
        "Kind 1": np.sum(nearest % 3 == 1),
        "2": np.sum(nearest % 3 == 2),
    }
    np.testing.assert_allclose(table["detection_probability"], nearest / 100)
    exported = export_run(run, "qupath")[0]
    again = run_with(cohort, exported, tmp_path / "again").nuclei("slide")
    assert again["type"].value_counts().to_dict() == table["type"].value_counts().to_dict()
    assert again["said_type"].value_counts()["Kind 1"] == np.sum(nearest % 3 == 1)
    kinds = {"kind 1": "lymphocyte", "2": "stroma"}
    mapped = run_with(cohort, path, out, type_map=kinds)
    types = [("epithelial", "lymphocyte", "stroma")[number % 3] for number in nearest]
    assert mapped.nuclei("slide")["type"].tolist() == types
    assert (mapped.nuclei("slide")["type_probability"] == 1).all()
    assert not unmapped_types(mapped)
    csv = next(file for file in export_run(run, "csv") if file.parent.name == "nuclei")
    assert "Kind 1" in csv.read_text(encoding="utf-8")
    export_run(run, "anndata")
    plain = run_with(cohort, write_labels(tmp_path / "a.tif", labels), out)
    assert "said_type" not in plain.nuclei("slide")
    assert plain.nuclei("slide")[["type", "type_probability"]].isna().all(axis=None)


def test_specks_are_dropped_and_counted(
    labels: np.ndarray, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has less than 6 um2 on the grid, also where it holds no pixel's center, as in
    segment."""
    monkeypatch.setattr("morphomil.pipeline.importing.BAND_PX", 90)
    specked = labels.copy()
    free = np.argwhere(labels == 0)
    places = free[:: len(free) // 40][:20]
    for number, (row, column) in enumerate(places, start=labels.max() + 1):
        specked[row, column] = number
    run = run_with(cohort, write_labels(tmp_path / "a.tif", specked), tmp_path / "run")
    table = run.nuclei("slide")
    assert len(table) == labels.max()
    assert table["circularity"].max() < 1.2
    figures = run.figures("segment").iloc[0]
    assert figures["nuclei_too_small"] == 20
    speck = [[[300.1, 200.1], [300.3, 200.1], [300.3, 200.3], [300.1, 200.1]]]
    thin = [[[100, 50], [104, 50], [104, 55.9], [100, 55.9], [100, 50]]]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}}
        for rings in (speck, thin)
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(features), encoding="utf-8")
    run = run_with(cohort, path, tmp_path / "outlines")
    assert run.figures("segment").iloc[0]["nuclei_too_small"] == 1
    assert run.nuclei("slide")["area_um2"].tolist() == [6.0]


def test_the_command_names_planes_and_cells(
    labels: np.ndarray, cohort: Cohort, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "slide.tif", np.stack([labels, labels]), photometric="minisblack")
    rows = {"slide": ["slide.png"], "patient": ["p"], "label": ["1"], "mpp": ["0.5"]}
    pd.DataFrame(rows | {"nuclei": ["slide.tif"]}).to_csv(tmp_path / "cohort.csv", index=False)
    program = Path(sys.executable).with_name("morphomil")
    words = [program, "import-nuclei", tmp_path / "cohort.csv", "--regions", "whole"]
    words += ["--patch", "128", "--out", tmp_path / "run"]
    refused = subprocess.run(words, capture_output=True, text=True, check=False)
    assert refused.returncode == 3
    assert "--plane nuclei" in refused.stderr
    done = subprocess.run(
        [*words, "--plane", "nuclei"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Run.open(tmp_path / "run").segmented_with()["plane"] == "nuclei"

"""Annotated runs: what is left out is told, and what decides where the tumor is makes results
stale."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from PIL import Image
from scanner_files import scn, tissue_at
from typer.testing import CliRunner

from morphomil import pipeline
from morphomil.cli.app import app
from morphomil.export import qupath
from morphomil.pipeline.importing import import_nuclei
from morphomil.pipeline.segmentation import left_out_of_annotations
from morphomil.types import Cohort, ImageSource, PatchSettings, Slide

if TYPE_CHECKING:
    from pathlib import Path

    from morphomil.pipeline.execution import StageResult
    from morphomil.run.directory import Run

CORNER = (512, 256)


def feature(box: tuple[float, ...], name: str, **properties: Any) -> dict[str, Any]:
    geometry = shapely.geometry.mapping(shapely.box(*box))
    classification = {"classification": {"name": name}}
    return {"type": "Feature", "geometry": geometry, "properties": classification | properties}


@pytest.fixture
def slide(tmp_path: Path) -> Slide:
    """A canvas of 2,048 x 2,048; the scanned part begins at CORNER and is tissue all over."""
    path = scn(
        tmp_path / "slide.scn",
        tissue_at(1024, 1024, (0, 0, 1024, 1024)),
        corner=CORNER,
        canvas=(2048, 2048),
    )
    features = [
        feature((100, 100, 600, 500), "Tumor"),
        feature((500, 500, 900, 900), "Lymph node"),
        feature((100, 100, 140, 140), "Stroma: Inflamed"),
        feature((100, 100, 110, 110), "Tumor", objectType="detection"),
    ]
    (tmp_path / "slide.geojson").write_text(json.dumps(features))
    return Slide("S", "p", "1", (ImageSource(path, tmp_path / "slide.geojson"),))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Nuclei of 20 x 20 pixels, one within the annotated tumor and one within the lymph node."""
    image = np.zeros((2048, 2048), np.uint16)
    for label, place in ((1, 300), (2, 700)):
        top, left = CORNER[1] + place, CORNER[0] + place
        image[top : top + 20, left : left + 20] = label
    (tmp_path / "labels").mkdir()
    Image.fromarray(image).save(tmp_path / "labels" / "slide.png")
    return tmp_path / "labels" / "slide.png"


def imported(slide: Slide, labels: Path, out: Path, **settings: Any) -> tuple[Run, StageResult]:
    return import_nuclei(
        Cohort((slide,)),
        {slide.images[0].path: labels},
        out,
        settings=PatchSettings(patch_px=128, **settings),
    )


def test_a_class_or_an_origin_makes_results_stale(
    slide: Slide, labels: Path, tmp_path: Path
) -> None:
    run, result = imported(slide, labels, tmp_path / "run")
    assert result.done == ("S",)
    (tumor,) = run.regions("S")
    assert shapely.geometry.shape(tumor["geometry"]).bounds == (612, 356, 1112, 756)
    assert dict(left_out_of_annotations(run)) == {
        ("Lymph node", "not among the tumor classes"): 1,
        ("Stroma: Inflamed", "no tumor, cut out of it"): 1,
        ("Tumor", "a detection, which a program made"): 1,
    }
    assert imported(slide, labels, tmp_path / "run")[1].skipped == ("S",)
    run, result = imported(slide, labels, tmp_path / "run", tumor_classes="lymph  NODE")
    assert result.done == ("S",)
    (node,) = run.regions("S")
    assert shapely.geometry.shape(node["geometry"]).bounds == (1012, 756, 1412, 1156)
    stated = ImageSource(slide.images[0].path, slide.images[0].annotation, None, "level0")
    moved = Slide("S", "p", "1", (stated,))
    result = imported(moved, labels, tmp_path / "run", tumor_classes="lymph node")[1]
    assert not result.skipped


def test_an_export_for_qupath_begins_where_qupath_does(
    slide: Slide, labels: Path, tmp_path: Path
) -> None:
    run, _ = imported(slide, labels, tmp_path / "run")
    pipeline.featurize(run)
    (path,) = qupath.write_run(run, [slide], tmp_path)
    features = json.loads(gzip.decompress(path.read_bytes()))["features"]
    shapes = {one["properties"]["objectType"]: one for one in features}
    region, nucleus = (
        shapely.geometry.shape(shapes[kind]["geometry"]) for kind in ("annotation", "detection")
    )
    assert region.bounds == (100, 100, 600, 500)
    assert nucleus.bounds == (300, 300, 320, 320)


@pytest.mark.parametrize("quiet", [False, True])
def test_the_command_says_what_is_left_out(
    slide: Slide, labels: Path, tmp_path: Path, quiet: bool
) -> None:
    (tmp_path / "cohort.csv").write_text(
        "slide,patient,label,annotation\nslide.scn,p,1,slide.geojson\n"
    )
    words = ["import-nuclei", tmp_path / "cohort.csv", "--nuclei", labels.parent, "--out"]
    words += [tmp_path / "run", "--tumor-classes", "Tumor, Lymph node", "--patch", "128"]
    answer = CliRunner().invoke(app, [str(word) for word in words] + ["-q"] * quiet)
    assert answer.exit_code == 0, answer.output
    line = "Annotations, left out: 1 x Stroma: Inflamed, no tumor, cut out of it."
    assert (line in answer.output) != quiet
    assert "Lymph node" not in answer.output

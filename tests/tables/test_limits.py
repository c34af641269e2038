"""Limits: counts by hand, the shipped model's accuracy, a model's stored reliability."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from morphomil import pipeline
from morphomil.segment.reliability import FIGURES, read_accuracy
from morphomil.store import write_json, write_parquet
from morphomil.tables.flow import say_share
from morphomil.tables.limits import describe_limits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from morphomil.run.directory import Run


@pytest.fixture
def run(make_run: Callable[..., Run], tmp_path: Path) -> Run:
    """Three slides of four patches, one of these dropped."""
    made = make_run(tmp_path / "run", ("a", "b", "c"))
    patches = made.patches("a")
    patches.loc[0, "kept"] = False
    write_parquet(made.slide_folder("a") / "patches.parquet", patches)
    outputs = ["patches.parquet", "regions.geojson", "masks.zarr"]
    made.ledger.mark_done("a", "segment", "dropped", outputs=outputs, figures={})
    pipeline.featurize(made)
    return made


def test_shares_have_the_digits_that_say_something() -> None:
    assert [say_share(x, 1000) for x in (0, 4, 94, 140, 1000)] == [
        "0 %",
        "0.4 %",
        "9.4 %",
        "14 %",
        "100 %",
    ]


def test_patients_and_tissue_that_was_never_analyzed(run: Run) -> None:
    run.record("segment", {"model": "default", "engine": "openvino"}, seconds=0)
    patients, left, tissue, segmenter, reliability = describe_limits(run).sentences
    assert patients == "Patients: 2 with 0, 1 with 1. Intervals of so few are wide."
    assert left == "Left out: no slide and no patient of the manifest."
    # 1 of 12 patches
    assert tissue.startswith("Never analyzed: 8.3 % of the tissue in the regions")
    assert "--grid fit loses less" in tissue
    assert "tnbc at 0.5 µm per pixel PQ 0." in segmenter
    assert "measured isn't stored" in reliability or "compared with annotated" in reliability


def test_slides_whose_stains_were_normalized_are_counted_by_group(run: Run) -> None:
    run.record("segment", {"model": "default", "normalize_stain": "auto"}, seconds=0)
    assert "Stains" not in " ".join(describe_limits(run).sentences)
    outputs = ["patches.parquet", "regions.geojson", "masks.zarr"]
    run.ledger.mark_done(
        "b", "segment", "changed", outputs=outputs, figures={"regions_stain_normalized": 2}
    )
    label = next(slide.label for slide in run.cohort.slides if slide.slide_id == "b")
    other = "1" if label == "0" else "0"
    sizes = {name: sum(s.label == name for s in run.cohort.slides) for name in ("0", "1")}
    (said,) = (line for line in describe_limits(run).sentences if line.startswith("Stains"))
    assert f"1 of {sizes[label]} with {label}" in said
    assert f"0 of {sizes[other]} with {other}" in said
    run.record("segment", {"model": "default", "normalize_stain": "always"}, seconds=0)
    assert "Stains" not in " ".join(describe_limits(run).sentences)


def test_imported_nuclei_have_no_segmenter(run: Run) -> None:
    run.record("import-nuclei", {"model": "imported", "grid": "fit"}, seconds=0)
    *_, tissue, said = describe_limits(run).sentences
    assert "fit loses less" not in tissue
    assert "another program" in said


def test_features_that_shrink_differences_are_named(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    rows = [
        {"group": "own", "mpp": mpp, "feature": name, "images": 6, "pairs": 900}
        | {f"{figure}{end}": slope for figure in FIGURES for end in ("", "_low", "_high")}
        for mpp, name, slope in (
            (0.5, "area_um2", 0.95),
            (0.5, "circularity", 0.4),
            (0.25, "area_um2", 0.1),
        )
    ]
    write_json(folder / "reliability.json", {"features": rows})
    run.record("segment", {"model": str(folder), "working_mpp": 0.5}, seconds=0)
    limits = describe_limits(run)
    assert limits.reliability["feature"].tolist() == ["area_um2", "circularity"]
    assert limits.sentences[-1] == (
        "Features were compared with annotated nuclei on own (6 images), by the images' means. "
        "Differences come out smaller than they are in circularity (slope 0.40)."
    )
    assert "How accurate it is isn't stored" in limits.sentences[-2]


def test_accuracy_is_that_at_the_chosen_thresholds(tmp_path: Path) -> None:
    assert read_accuracy(str(tmp_path))[0].empty
    (tmp_path / "thresholds.json").write_text(json.dumps({"prob": 0.5, "nms": 0.2}))
    lines = ["prob,nms,group,mpp,pq,aji", "0.5,0.2,x,0.25,0.6,0.5", "0.5,0.3,x,0.25,0.9,0.9"]
    (tmp_path / "thresholds.csv").write_text("\n".join(lines))
    table, evaluated = read_accuracy(str(tmp_path))
    assert table.to_dict("records") == [{"group": "x", "mpp": 0.25, "pq": 0.6, "aji": 0.5}]
    assert not evaluated


def test_accuracy_of_an_evaluation_comes_first(run: Run, tmp_path: Path) -> None:
    """The outlines as they are measured, not the polygons that thresholds are chosen with."""
    rows = [
        {"group": "y", "mpp": 0.5, "images": 3, "score": score, "mean": mean}
        for score, mean in (("pq", 0.7), ("aji", 0.65))
    ]
    write_json(tmp_path / "reliability.json", {"features": [], "accuracy": rows})
    table, evaluated = read_accuracy(str(tmp_path))
    assert table.to_dict("records") == [{"group": "y", "mpp": 0.5, "pq": 0.7, "aji": 0.65}]
    assert evaluated
    run.record("segment", {"model": str(tmp_path), "working_mpp": 0.5}, seconds=0)
    assert "chose its thresholds" not in " ".join(describe_limits(run).sentences)
    lines = ["prob,nms,group,mpp,pq,aji", "0.5,0.2,x,0.25,0.6,0.5", "0.5,0.2,y,0.5,0.9,0.9"]
    (tmp_path / "thresholds.csv").write_text("\n".join(lines))
    assert "0.65. Of y they may be those that chose its thresholds. On" in " ".join(
        describe_limits(run).sentences
    )
    assert "On annotated images: y at 0.5 µm per pixel PQ 0.70, AJI 0.65." in " ".join(
        describe_limits(run).sentences
    )


@pytest.mark.parametrize("model", ["default", "noncommercial"])
def test_shipped_models_say_how_accurate_they_are(model: str) -> None:
    table, evaluated = read_accuracy(model)
    assert evaluated
    assert {"tnbc", "consep"} <= set(table["group"])
    assert table[["pq", "aji"]].gt(0.4).all(axis=None)

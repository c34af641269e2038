"""The methods in sentences: from settings, and the same in the report and beside the tables."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pandas as pd
from measured_run import add_types

from morphomil import pipeline
from morphomil.run.directory import Run
from morphomil.tables.checklist import Facts, checklist_page, read_items
from morphomil.tables.facts import collect_facts
from morphomil.tables.methods import (
    describe_methods,
    describe_run,
    describe_segmenter,
    methods_page,
    references,
)
from morphomil.tables.predictions import patients_table
from morphomil.types import FEATURE_NAMES, PatchSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_methods_name_the_settings() -> None:
    text = describe_methods(
        PatchSettings(), segmenter="StarDist 2D", folds=5, seeds=3, bag_patches=10
    )
    for part in (
        "256 x 256 pixels (128 µm)",
        "0.5 µm per pixel",
        "30% or more",
        "5-fold",
        "3 random starts",
        "StarDist 2D",
    ):
        assert part in text
    assert "Eight features were measured for each nucleus: area, " in text
    assert "circularity and rectangularity." in text
    assert "permuted" not in text


def test_the_segmenter_is_named_with_what_it_leaves_out() -> None:
    settings = {"model": "default", "engine": "openvino", "precision": "int8"}
    plain = "StarDist (the weights of morphomil; OpenVINO, int8)"
    assert describe_segmenter(settings) == plain
    assert describe_segmenter(settings | {"implausible": "keep"}) == plain
    dropping = describe_segmenter(settings | {"implausible": "drop", "normalize_stain": "always"})
    assert dropping == (
        f"{plain} after normalization of the stains (Macenko), leaving out objects whose size, "
        "color or focus no nucleus has"
    )
    auto = settings | {"normalize_stain": "auto"}
    assert describe_segmenter(auto) == plain  # no slide was
    assert describe_segmenter(auto, normalized=3) == (
        f"{plain} after normalization of the unusual stains of 3 slides (Macenko), where the "
        "network was surer then"
    )
    assert describe_segmenter({"model": "imported"}) is None


def test_normalization_is_cited_where_a_slide_was_normalized(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", ("one", "two"))
    run.record("segment", {"model": "default", "normalize_stain": "auto"}, seconds=1.0)
    assert "macenko2009" not in references(run, models=False)
    assert "Macenko" not in describe_run(run)
    outputs = ["patches.parquet", "regions.geojson", "masks.zarr"]
    figures = {"regions_stain_normalized": 1}
    run.ledger.mark_done("one", "segment", "changed", outputs=outputs, figures=figures)
    assert "macenko2009" in references(run, models=False)
    assert "stains of 1 slide (Macenko)" in describe_run(run)


def test_methods_name_further_features_and_permutations() -> None:
    said = {"segmenter": None, "folds": 5, "seeds": 3, "bag_patches": 10}
    features = ["area_um2_sd", *FEATURE_NAMES, "solidity"]
    text = describe_methods(PatchSettings(), **said, features=features, permutations=199)
    assert "Ten features were measured for each nucleus: area, " in text
    assert "circularity, rectangularity, area um2 sd and solidity." in text
    assert "permuted 199 times" in text


def predictions_of(run: Run) -> pd.DataFrame:
    patients = [slide.patient for slide in run.cohort.slides]
    labels = [int(str(slide.label)) for slide in run.cohort.slides]
    table = pd.DataFrame({"patient": patients, "label": labels, "score": 0.5})
    return table.assign(model="clinical", part="test", fold="test", cutoff=0.5)


def test_the_page_beside_the_tables_holds_the_report_s_paragraph(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    """Of imported nuclei the page once said that a model unknown segmented them, and the report the
    truth."""
    run = make_run(tmp_path / "run", ("one", "two"))
    run.record("import-nuclei", {"model": "imported", "patch_px": 128}, seconds=1.0)
    predictions, patients = predictions_of(run), patients_table(run)
    page = methods_page(run, patients, predictions, notes=["A note."])
    assert describe_run(run) in page
    assert "segmented with another program and imported" in page
    assert "128 x 128 pixels" in page
    assert "AUTHOR TO FILL" not in page and "SHA-256" not in page
    facts = collect_facts(run, patients, predictions, tables=())
    assert facts.preparation.startswith("patches of 128 pixels")
    assert "stain" not in facts.preparation


def test_references_are_those_of_what_was_done(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", ("a", "b"))
    assert "salgado2015" not in references(run, models=False)
    add_types(run, "a", [0.4, 0.3, 0.2, 0.1])
    add_types(run, "b", [0.4, 0.3, 0.2, 0.1])
    pipeline.featurize(run, families=["type"])
    run.model_folder("dl-cnb").mkdir(parents=True)
    cited = references(run, models=True)
    for key in ("salgado2015", "xu2021", "delong1988"):
        assert cited.count(f"{{{key},") == 1
    assert cited.count("{") == cited.count("}")


def test_what_a_run_can_t_know_is_the_author_s(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", ("one", "two"))
    page = methods_page(run, patients_table(run), predictions_of(run), notes=[])
    assert "Patches and nuclei: AUTHOR TO FILL." in page


def test_every_fact_answers_an_item_and_every_answer_is_a_fact() -> None:
    names = {item.fact for items in read_items().values() for item in items} - {""}
    assert names == {field.name for field in fields(Facts)}
    page = checklist_page(Facts(sites="two | three\nsites"))
    assert r"two \| three sites" in page

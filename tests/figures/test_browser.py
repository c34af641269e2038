"""The report in a real browser: no console errors, no foreign request; and what it draws."""

from __future__ import annotations

import json
import os
import shutil

import chromium
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from morphomil import pipeline
from morphomil.cohort.manifest import read_manifest
from morphomil.errors import InputError
from morphomil.figures.registry import FIGURES, draw_figures
from morphomil.figures.report import gallery
from morphomil.figures.report.write import write_report
from morphomil.run.directory import Run
from morphomil.store import write_json, write_parquet
from morphomil.tables.attention import attended_patches
from morphomil.tables.ranges import patch_quantities
from morphomil.types import SegmenterSettings

HOSTILE = "<img src=x onerror=alert(1)>"


needs_chromium = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two measured slides, one with a hostile name and label."""
    from morphomil.phantom.files import write_cohort

    folder = tmp_path_factory.mktemp("cohort")
    manifest = write_cohort(
        folder / "cohort", slides=2, effect="density_per_mm2", shift=2.0, seed=0
    )
    table = pd.read_csv(manifest, dtype=str)
    table.loc[1, ["slide_id", "label"]] = [HOSTILE, f"N+{HOSTILE}"]
    table.to_csv(manifest, index=False)
    run = Run.create(folder / "run")
    pipeline.segment(read_manifest(manifest).cohort, folder / "run", segmenter=SegmenterSettings())
    pipeline.featurize(run)
    return run


@pytest.fixture
def browser(tmp_path):
    with chromium.Browser(tmp_path / "profile") as browser:
        yield browser


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_report_opens_offline_without_errors(run, browser, tmp_path, dark):
    page = write_report(run)
    browser.open(page.as_uri(), dark=dark)
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    assert browser.ask("[...document.images].every(i => { i.loading = 'eager'; return true; })")
    browser.wait("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    light = browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light is not dark
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    assert browser.ask(f"document.body.textContent.includes({json.dumps(HOSTILE)})")
    assert browser.ask("document.querySelectorAll('[onerror]').length") == 0
    browser.screenshot(tmp_path / "report.png")
    assert np.asarray(Image.open(tmp_path / "report.png").convert("L")).std() > 10


@needs_chromium
def test_tables_of_the_report_sort_by_keyboard(run, browser):
    browser.open(write_report(run).as_uri())
    slides = (
        "[...document.querySelector('#segmentation table').tBodies[0].rows].map(r => "
        "Number(r.cells[{}].dataset.key))"
    )
    column = browser.ask(
        "[...document.querySelectorAll('#segmentation th')].findIndex(h => h.textContent.trim() "
        "=== 'Nuclei')"
    )
    browser.ask(f"document.querySelectorAll('#segmentation th button')[{column}].focus()")
    for expected in (sorted, lambda values: sorted(values, reverse=True)):
        browser.press("Enter", number=13, text="\r")
        values = browser.ask(slides.format(column))
        assert len(values) == 2 and values[0] != values[1] and values == expected(values)


def test_absent_results_are_sentences(run):
    outcomes = {outcome.name: outcome for outcome in draw_figures(run, formats=("png",))}
    assert list(outcomes) == list(FIGURES)
    assert {"flow", "matrices", "orientation", "composition"} == {
        name for name, found in outcomes.items() if found.paths
    }
    assert "morphomil rank" in outcomes["ranking"].absent
    assert all(
        (run.path / "figures" / f"{name}.csv").is_file()
        for name in ("flow", "matrices", "orientation")
    )
    with pytest.raises(InputError, match="figure roc_models"):
        list(draw_figures(run, only=["roc_models"]))
    with pytest.raises(InputError, match="there is no figure nothing"):
        list(draw_figures(run, only=["nothing"]))


def test_slides_are_drawn_again_only_where_something_changed(run, tmp_path):
    slides = gallery.choose_slides(run)

    def draw(top, run=run):
        drawn = list(gallery.draw_gallery(run, slides, top, positive=None))
        folders = [run.slide_figures_folder(slide.slide_id) for slide in slides]
        return drawn, [(folder / "overview.png").stat().st_mtime_ns for folder in folders]

    first, stamps = draw("area_um2")
    again, kept = draw("area_um2")
    assert again == first
    assert kept == stamps
    assert all(picture.data.startswith(b"\xff\xd8\xff") for picture in first[0].pictures)
    copy = Run(shutil.copytree(run.path, tmp_path / "elsewhere"))
    os.utime(copy.slide_folder(slides[0].slide_id) / "nuclei.parquet")
    assert draw("area_um2", copy) == (first, stamps)  # the same bytes wherever they lie
    (copy.slide_figures_folder(slides[0].slide_id) / "nuclei.png").write_bytes(b"no picture")
    _, mended = draw("area_um2", copy)
    assert mended[0] > stamps[0] and mended[1] == stamps[1]
    _, other = draw("circularity", copy)
    assert min(other) > max(mended)


@pytest.mark.parametrize("name", ["nuclei.parquet", "patches.parquet", "regions.geojson"])
def test_other_results_are_drawn_anew(run, tmp_path, name):
    copy = Run(shutil.copytree(run.path, tmp_path / "elsewhere"))

    def keys(run):
        return [
            gallery._key_of(run, slide, gallery._Task(run.path, slide.slide_id, (), {}, None))
            for slide in run.cohort.slides[:2]
        ]

    first, second = keys(run)
    assert keys(copy) == [first, second]
    path = copy.slide_folder(copy.cohort.slides[0].slide_id) / name
    path.write_bytes(path.read_bytes() + b" ")
    changed, kept = keys(copy)
    assert changed != first and kept == second


def store_predictions(run, folder, first_patients):
    """A run directory that holds predictions of two models, each of 40 patients from its first one
    on."""
    rng = np.random.default_rng(0)
    label = np.arange(40) % 2
    (folder / "cohort.parquet").write_bytes((run.path / "cohort.parquet").read_bytes())
    for model, first in zip(("clinical", "dl-cnb"), first_patients, strict=True):
        score = 1 / (1 + np.exp(-(label - 0.5 + rng.normal(0, 1, 40))))
        patients = np.arange(first, first + 40).astype(str)
        table = pd.DataFrame({"patient": patients, "label": label, "fold": "fold0", "part": "test"})
        write_parquet(
            folder / "models" / model / "predictions.parquet", table.assign(score=score, cutoff=0.4)
        )
    return Run(folder)


def test_models_without_a_common_patient_are_drawn_without_tests(run, tmp_path):
    (found,) = draw_figures(
        store_predictions(run, tmp_path, (0, 40)), only=["roc_models"], formats=("png",)
    )
    assert len(found.drawing.table) == 2
    assert found.drawing.further["pairs"].empty


def test_models_are_compared_from_stored_predictions(run, tmp_path):
    other = store_predictions(run, tmp_path, (0, 0))
    names = ["roc_models", "confusion", "calibration", "decision"]
    outcomes = {found.name: found for found in draw_figures(other, only=names, formats=("pdf",))}
    pairs = pd.read_csv(tmp_path / "figures" / "roc_models_pairs.csv")
    assert pairs[["model_a", "model_b"]].to_numpy().tolist() == [["clinical", "dl-cnb"]]
    assert (tmp_path / "figures" / "calibration.pdf").read_bytes().startswith(b"%PDF")
    assert b"/Type3" not in (tmp_path / "figures" / "roc_models.pdf").read_bytes()
    assert int(outcomes["confusion"].drawing.table["n"].sum()) == 80


def test_confusion_of_three_classes_takes_the_models_names_and_most_probable_class(run, tmp_path):
    (tmp_path / "cohort.parquet").write_bytes((run.path / "cohort.parquet").read_bytes())
    label = np.arange(30) % 3
    probability = np.full((30, 3), 0.25)
    probability[np.arange(30), np.where(label == 0, 2, label)] = 0.5
    table = pd.DataFrame(
        {"patient": np.arange(30).astype(str), "label": label, "fold": "fold0", "part": "test"}
    )
    table = table.assign(
        score=probability[:, 2],
        cutoff=0.9,
        **{f"probability_{k}": probability[:, k] for k in range(3)},
    )
    write_parquet(tmp_path / "models" / "dl-cnb" / "predictions.parquet", table)
    write_json(
        tmp_path / "models" / "dl-cnb" / "fold0" / "settings.json",
        {"classes": ["N0", "N+(1-2)", "N+(>2)"]},
    )
    (found,) = draw_figures(Run(tmp_path), only=["confusion"], formats=("png",))
    counts = found.drawing.table.set_index(["label", "call"])["n"]
    assert (
        counts["N0", "N+(>2)"] == counts["N+(1-2)", "N+(1-2)"] == counts["N+(>2)", "N+(>2)"] == 10
    )
    assert counts.sum() == 30
    with pytest.raises(InputError, match="it is for two classes"):
        list(draw_figures(Run(tmp_path), only=["calibration"]))


def test_confusion_without_a_ranking_names_the_classes_as_the_model_counts_them(run, tmp_path):
    other = store_predictions(run, tmp_path, (0, 0))
    for model in ("clinical", "dl-cnb"):
        write_json(
            tmp_path / "models" / model / "fold0" / "settings.json", {"classes": ["N0", "N+"]}
        )
    (found,) = draw_figures(other, only=["confusion"], formats=("png",))
    predictions = pd.read_parquet(tmp_path / "models" / "clinical" / "predictions.parquet")
    called = int(((predictions["label"] == 1) & (predictions["score"] >= 0.4)).sum())
    assert (
        found.drawing.table.set_index(["model", "label", "call"])["n"]["clinical", "N+", "N+"]
        == called
    )


def test_attention_is_that_of_the_median_patient_out_of_fold(run, tmp_path):
    slides = [slide.slide_id for slide in run.cohort.slides]
    shutil.copytree(run.path, tmp_path / "run")
    home = tmp_path / "run" / "models" / "dl-cnb"
    kept = {name: run.patches(name).query("kept")["patch_id"] for name in slides}
    for fold, part in (("fold0", "test"), ("fold1", "train")):
        shares = [
            pd.DataFrame({"slide_id": name, "patch_id": ids, "attention": 1 / len(ids)})
            for name, ids in kept.items()
        ]
        attention = pd.concat(shares, ignore_index=True)
        if part == "test":
            first = attention["slide_id"].eq(slides[0]) & attention["patch_id"].eq(
                kept[slides[0]].iloc[3]
            )
            attention.loc[first, "attention"] *= 2
        patients = [slide.patient for slide in run.cohort.slides]
        write_parquet(home / fold / "attention.parquet", attention)
        write_parquet(
            home / fold / "slides.parquet",
            pd.DataFrame({"slide_id": slides, "patient": patients, "part": part}),
        )
    table = pd.DataFrame(
        {"patient": patients, "label": [1, 0], "fold": "fold0", "part": "test", "score": 0.5}
    )
    write_parquet(home / "predictions.parquet", table.assign(cutoff=0.5))
    (found,) = draw_figures(Run(tmp_path / "run"), only=["attention"], formats=("pdf",))
    drawn = found.drawing.table
    assert set(drawn["slide_id"]) == {slides[0]} and set(drawn["fold"]) == {"fold0"}
    assert drawn["patch_id"].iloc[0] == kept[slides[0]].iloc[3]
    np.testing.assert_allclose(
        drawn["relative_attention"].to_numpy(), [2.0] + [1.0] * (len(drawn) - 1)
    )
    assert "no explanation" in found.drawing.caption
    texts = [text.get_text() for text in found.drawing.figure.findobj(Text)]
    assert f"1  patch {drawn['patch_id'].iloc[0]}: 2 x" in texts
    patches = patch_quantities(Run(tmp_path / "run"), slides[0]).set_index("patch_id")
    shown = patches["attention dl-cnb"].dropna()
    most = shown[shown > 1.2 / len(drawn)].to_dict()
    assert most == {
        drawn["patch_id"].iloc[0]: pytest.approx(1.5 / len(drawn), rel=1e-4)
    }  # mean of both folds
    assert set(shown.index) == set(kept[slides[0]])


def test_of_a_patient_with_several_slides_the_one_with_most_patches_is_attended(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    home = tmp_path / "run" / "models" / "dl-cnb" / "fold0"
    slides = [slide.slide_id for slide in run.cohort.slides]
    for few, many in (slides, slides[::-1]):
        ids = [
            run.patches(few).query("kept")["patch_id"][:4],
            run.patches(many).query("kept")["patch_id"][:9],
        ]
        own = [
            pd.DataFrame({"slide_id": name, "patch_id": i})
            for name, i in zip((few, many), ids, strict=True)
        ]
        write_parquet(
            home / "attention.parquet", pd.concat(own, ignore_index=True).assign(attention=0.1)
        )
        read = pd.DataFrame({"slide_id": slides, "patient": "P", "part": "test"})
        write_parquet(home / "slides.parquet", read)
        found = attended_patches(Run(tmp_path / "run"), "dl-cnb", "P")
        assert set(found["slide_id"]) == {many} and len(found) == 9
    assert attended_patches(Run(tmp_path / "run"), "dl-cnb", "nobody").empty


def test_report_of_a_large_cohort_shows_slides_of_every_group_and_says_so(run, monkeypatch):
    monkeypatch.setattr(gallery, "MOST_SLIDES", 1)
    assert [slide.label for slide in gallery.choose_slides(run)] == [
        min(s.label for s in run.cohort.slides)
    ]
    text = write_report(run).read_text(encoding="utf-8")
    assert "1 of 2 slides, evenly over the groups" in text
    assert text.count('class="gallery"') == 1
    monkeypatch.setattr(gallery, "MOST_SLIDES", 2)
    assert {slide.label for slide in gallery.choose_slides(run)} == {
        s.label for s in run.cohort.slides
    }

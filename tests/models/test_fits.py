"""Models of a run: splits, files, prediction logged once, heatmaps; on synthetic features and
through the commands."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from morphomil import pipeline
from morphomil.cohort.labels import order_classes
from morphomil.cohort.splits import split_cohort
from morphomil.errors import InputError, RefusedError
from morphomil.image_model.training import macro_auc
from morphomil.models.predict import describe_test
from morphomil.models.settings import TrainSettings
from morphomil.models.trained import trained_models
from morphomil.phantom.files import write_cohort
from morphomil.phantom.settings import PhantomSettings
from morphomil.run.directory import Run
from morphomil.run.embeddings import Embeddings
from morphomil.stats import auc, auc_interval, youden_cutoff
from morphomil.store import write_json, write_parquet
from morphomil.types import PATCHES, Cohort, ImageSource, Slide

PROGRAM = Path(sys.executable).with_name("morphomil")


def morphomil(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROGRAM), *map(str, words)], capture_output=True, text=True, check=False
    )


def make_run(
    path: Path,
    *,
    patients: int = 60,
    shift: float = 2.0,
    seed: int = 0,
    classes: int = 2,
    **columns,
) -> Run:
    """A run as `segment` and `embed` leave it, features drawn here; every third patient has two
    slides."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    (path / ".lock").touch()
    run, slides, drawn = Run(path), [], {}
    for number in range(patients):
        label, patient = number % classes, f"p{number:03d}"
        for part in range(2 if number % 3 == 0 else 1):
            name = f"{patient}-{part}"
            image = path.parent / "slides" / f"{name}.jpg"
            image.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(150, 240, (256, 320, 3)).astype(np.uint8)).save(image)
            covariates = {
                "age": float(rng.normal(50 + 8 * label, 8)),
                "er": str(rng.choice(["yes", "no"])),
            }
            if number == 5:
                covariates["age"] = None
            extra = {key: value[number] for key, value in columns.items()}
            first = covariates if part == 0 else slides[-1].covariates
            slides.append(
                Slide(
                    name,
                    patient,
                    str(label),
                    (ImageSource(image, None, 0.5),),
                    covariates=first,
                    **extra,
                )
            )
            side = 32
            grid = [(x, y) for y in range(0, 256, side) for x in range(0, 320, side)]
            grid = grid[: int(rng.integers(5, 60))]
            table = pd.DataFrame(grid, columns=["x_px", "y_px"]).assign(
                slide_id=name, patch_id=range(len(grid)), image=0, region=0, side_px=float(side)
            )
            table = table.assign(
                blank_fraction=0.0, tissue_mm2=1e-4, ink_fraction=0.0, sharpness=1.0
            )
            table["kept"] = np.arange(len(grid)) % 5 != 4
            rows = rng.normal(size=(int(table["kept"].sum()), 24))
            rows[: len(rows) // 2, 0] += shift * (2 * label / (classes - 1) - 1)
            drawn[name] = (PATCHES.check(table), rng.permutation(rows).astype(np.float16))
    run.save_cohort(Cohort(tuple(slides)))
    made = Embeddings(run, "efficientnet-lite0")
    for name, (table, rows) in drawn.items():
        write_parquet(run.slide_folder(name) / "patches.parquet", table)
        write_json(
            run.slide_folder(name) / "regions.geojson",
            {"type": "FeatureCollection", "features": []},
        )
        run.ledger.mark_done(name, "segment", "k", outputs=["patches.parquet"], figures={})
        figures = {"patches": len(rows), "features": rows.shape[1]}
        made.ledger.mark_done(name, "embed", "k", outputs=[made.save(name, rows)], figures=figures)
    run.record("segment", {"mpp": None, "model": "default"}, seconds=0)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    """All three models on a planted signal, trained and scored by the commands."""
    run = make_run(tmp_path_factory.mktemp("fits") / "run")
    for model in ("clinical", "dl-cnb", "dl-cnb+c"):
        more = [] if model == "clinical" else ["--epochs", "25"]
        done = morphomil("train", run.path, "--model", model, "--folds", "3", *more)
        assert done.returncode == 0, done.stderr
    done = morphomil("predict", run.path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("AUC") == 3
    return run


def predictions(run: Run, model: str) -> pd.DataFrame:
    return pd.read_parquet(run.path / "models" / model / "predictions.parquet")


@pytest.mark.parametrize("model", ["clinical", "dl-cnb", "dl-cnb+c"])
def test_every_patient_is_predicted_by_a_model_that_did_not_see_it(trained, model):
    table = predictions(trained, model)
    assert list(table.columns) == ["patient", "label", "fold", "part", "score", "cutoff"]
    test = table[table["part"] == "test"]
    assert sorted(test["patient"]) == [f"p{number:03d}" for number in range(60)]
    for _, fold in table.groupby("fold"):
        assert len(fold) == fold["patient"].nunique() == 60
        assert fold["cutoff"].nunique() == 1
        val = fold[fold["part"] == "val"]
        assert fold["cutoff"].iloc[0] == youden_cutoff(val["label"], val["score"])
    assert table["label"].tolist() == [int(name[1:]) % 2 for name in table["patient"]]


def test_the_planted_signal_is_found(trained):
    for model in ("dl-cnb", "dl-cnb+c"):
        test = predictions(trained, model).query("part == 'test'")
        assert (
            np.mean([auc(fold["label"], fold["score"]) for _, fold in test.groupby("fold")]) > 0.9
        )
    clinical = predictions(trained, "clinical").query("part == 'test'")
    assert auc(clinical["label"], clinical["score"]) > 0.6
    assert "pairs within folds" in describe_test(trained, "clinical")


def test_shuffled_labels_are_not_learned(tmp_path):
    run = make_run(tmp_path / "run", shift=0.0, seed=5)
    pipeline.train(run, TrainSettings("dl-cnb", changes={"epochs": 25}, folds=3))
    pipeline.predict(run, "dl-cnb")
    test = predictions(run, "dl-cnb").query("part == 'test'")
    found = auc_interval(test["label"], test["score"])
    assert found.low < 0.5 < found.high


def test_a_fold_leaves_what_was_promised(trained):
    folder = trained.path / "models" / "dl-cnb+c" / "fold1"
    names = {path.name for path in folder.iterdir()}
    assert {
        "weights.safetensors",
        "settings.json",
        "log.csv",
        "predictions.parquet",
        "attention.parquet",
    } <= names
    assert "checkpoint.safetensors" not in names
    about = json.loads((folder / "settings.json").read_text())
    assert about["classes"] == ["0", "1"]
    assert about["covariates"] == ["age", "er"]
    assert about["missing"] == {"age": 1, "er": 0}
    assert about["recipe"]["epochs"] == 25
    attention = pd.read_parquet(folder / "attention.parquet")
    by_slide = attention.groupby("slide_id")
    np.testing.assert_allclose(by_slide["attention"].sum(), 1)
    inside = attention[attention["bag"] >= 0].groupby(["slide_id", "bag"])["bag_attention"]
    np.testing.assert_allclose(inside.sum(), 1, atol=1e-6)
    for slide_id, own in by_slide:
        assert (
            own["patch_id"].tolist() == trained.patches(slide_id).query("kept")["patch_id"].tolist()
        )
    assert {trained.slide(name).patient for name in by_slide.groups} == set(about["parts"]["test"])
    assert set(trained.attention("p000-0")["model"]) == {"dl-cnb", "dl-cnb+c"}
    ratios = pd.read_csv(trained.path / "models" / "clinical" / "fold1" / "log.csv")
    assert {"term", "odds_ratio", "low", "high", "p_value"} <= set(ratios)
    assert trained_models(trained) == ["clinical", "dl-cnb", "dl-cnb+c"]


def test_the_test_patients_are_scored_once_and_that_is_logged(trained, tmp_path):
    run = Run(shutil.copytree(trained.path, tmp_path / "run"))
    log = pd.read_csv(run.path / "models" / "dl-cnb" / "test_log.csv")
    assert log["fold"].tolist() == ["fold0", "fold1", "fold2"]
    assert log["scoring"].tolist() == [1, 1, 1]
    before = predictions(run, "dl-cnb")
    again = pipeline.predict(run, "dl-cnb")
    assert (again.scored, again.skipped) == ((), ("fold0", "fold1", "fold2"))
    pd.testing.assert_frame_equal(predictions(run, "dl-cnb"), before)
    pipeline.train(run, TrainSettings("dl-cnb", changes={"epochs": 3}, folds=3))
    assert "test" not in set(predictions(run, "dl-cnb")["part"])
    scoring = pipeline.predict(run, "dl-cnb")
    assert len(scoring.notes) == 3
    assert "have now been scored by 2 trainings" in scoring.notes[0]
    assert pd.read_csv(run.path / "models" / "dl-cnb" / "test_log.csv")["scoring"].tolist() == [
        1,
        1,
        1,
        2,
        2,
        2,
    ]


def test_a_second_training_skips_and_a_changed_one_does_not(trained, tmp_path):
    run = Run(shutil.copytree(trained.path, tmp_path / "run"))
    same = TrainSettings("dl-cnb", changes={"epochs": 25}, folds=3)
    assert pipeline.train(run, same).skipped == ("fold0", "fold1", "fold2")
    made = Embeddings(run, "efficientnet-lite0")
    rows = np.load(made.features_path("p001-0")) + np.float16(1)
    figures = {"patches": len(rows), "features": rows.shape[1]}
    made.ledger.mark_done(
        "p001-0", "embed", "other", outputs=[made.save("p001-0", rows)], figures=figures
    )
    with pytest.raises(InputError, match="has changed since"):
        (run.path / "models" / "dl-cnb" / "test_log.csv").unlink()
        pipeline.predict(run, "dl-cnb")
    assert len(pipeline.train(run, same).done) == 3


@pytest.mark.parametrize("model", ["dl-cnb", "dl-cnb+c"])
def test_the_heatmap_run_gives_the_evaluations_prediction(trained, model):
    seen = {found.slide_id: found for found in pipeline.heatmap(trained, model)}
    assert len(seen) == 80
    stored = pd.concat(
        [
            pd.read_parquet(path)
            for path in (trained.path / "models" / model).glob("*/slides.parquet")
        ]
    ).set_index("slide_id")
    assert {name: found.probability for name, found in seen.items()} == stored["score"].to_dict()
    patients = pd.Series({name: found.patient for name, found in seen.items()})
    means = (
        pd.Series({name: found.probability for name, found in seen.items()})
        .groupby(patients)
        .mean()
    )
    test = predictions(trained, model).query("part == 'test'").set_index("patient")["score"]
    np.testing.assert_allclose(means[test.index], test, rtol=1e-12)
    scores = json.loads((trained.path / "models" / model / "maps" / "p004-0.geojson").read_text())[
        "features"
    ]
    attention = (
        trained.attention("p004-0").query("model == @model").set_index("patch_id")["attention"]
    )
    assert len(scores) == len(attention)
    total = sum(feature["properties"]["measurements"][f"{model} attention"] for feature in scores)
    assert total == pytest.approx(1)


def test_heatmaps_are_drawn_with_their_tables(trained):
    done = morphomil("heatmap", trained.path, "--model", "dl-cnb+c", "--slide", "p003-1")
    assert done.returncode == 0, done.stderr
    folder = trained.path / "figures" / "models" / "dl-cnb+c" / "p003-1"
    assert {path.name for path in folder.iterdir()} == {
        "attention.png",
        "attention.pdf",
        "attention.csv",
        "patches.png",
    }
    table = pd.read_csv(folder / "attention.csv")
    assert table["attention"].sum() == pytest.approx(1)
    with Image.open(folder / "attention.png") as picture:
        colors = len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0))
    assert colors > 200
    assert morphomil("heatmap", trained.path, "--slide", "p999").returncode == 2
    assert "sees no patches" in morphomil("heatmap", trained.path, "--model", "clinical").stderr


def test_three_classes_have_a_column_each(tmp_path):
    run = make_run(tmp_path / "run", classes=3, shift=3.0, patients=75)
    for model in ("dl-cnb", "clinical"):
        pipeline.train(
            run,
            TrainSettings(
                model, changes={"epochs": 25} if model == "dl-cnb" else {}, split="holdout"
            ),
        )
        pipeline.predict(run, model)
        table = predictions(run, model)
        columns = ["probability_0", "probability_1", "probability_2"]
        np.testing.assert_allclose(table[columns].sum(axis=1), 1)
        assert (table["score"] == table["probability_2"]).all()
    test = predictions(run, "dl-cnb").query("part == 'test'")
    assert macro_auc(test["label"].to_numpy(), test[columns].to_numpy()) > 0.75
    assert "macro AUC" in describe_test(run, "dl-cnb")


def test_a_patient_in_two_splits_is_refused(tmp_path):
    run = make_run(tmp_path / "run", patients=30)
    slides = list(run.cohort.slides)
    split = ["train" if number % 3 else "test" for number in range(len(slides))]
    run.save_cohort(
        Cohort(
            tuple(
                Slide(s.slide_id, s.patient, s.label, s.images, split=part, covariates=s.covariates)
                for s, part in zip(slides, split, strict=True)
            )
        )
    )
    for how in ("auto", "kfold", "site"):
        done = morphomil("train", run.path, "--model", "dl-cnb", "--split", how)
        assert done.returncode == 4, done.stdout
        assert "leakage" in done.stderr
    assert not (run.path / "models").exists()


def test_splits():
    cohort = pd.DataFrame(
        {"patient": [f"p{i}" for i in range(60)], "label": [str(i % 2) for i in range(60)]}
    )
    cohort = cohort.assign(
        slide_id=cohort["patient"],
        split=None,
        site=[("A", "B", "C")[i // 2 % 3] for i in range(60)],
    )
    (held,) = split_cohort(cohort, how="holdout", folds=5, seed=0)
    assert (len(held.train), len(held.val), len(held.test)) == (36, 12, 12)
    folds = split_cohort(cohort, how="site", folds=5, seed=0)
    assert [fold.name for fold in folds] == ["site-A", "site-B", "site-C"]
    for fold in folds:
        assert set(cohort.loc[cohort["patient"].isin(fold.test), "site"]) == {fold.name[-1]}
    with pytest.raises(InputError, match="column site"):
        split_cohort(cohort.assign(site=None), how="site", folds=5, seed=0)
    moved = pd.concat([cohort, cohort.iloc[:1].assign(slide_id="second", site="B")])
    with pytest.raises(RefusedError, match="leakage"):
        split_cohort(moved, how="site", folds=5, seed=0)


def test_classes_in_order():
    assert order_classes(pd.Series(["1", "0"]), None) == ("0", "1")
    assert order_classes(pd.Series(["10", "2", "1"]), None) == ("1", "2", "10")
    assert order_classes(pd.Series(["N+", "N0"]), "N+") == ("N0", "N+")
    assert order_classes(pd.Series(["N+(>2)", "N0", "N+(1-2)"]), "N+(>2)") == (
        "N0",
        "N+(1-2)",
        "N+(>2)",
    )
    assert order_classes(pd.Series(["grade 10", "grade 9", "b"]), "b") == (
        "grade 9",
        "grade 10",
        "b",
    )
    with pytest.raises(InputError, match="--positive"):
        order_classes(pd.Series(["N+", "N0"]), None)
    with pytest.raises(RefusedError, match="every patient has the label 0"):
        order_classes(pd.Series(["0", "0"]), None)


def test_a_covariate_that_is_the_label_is_refused(tmp_path):
    run = make_run(tmp_path / "run", patients=12)
    cohort = tuple(
        Slide(s.slide_id, s.patient, s.label, s.images, covariates={"outcome": s.label})
        for s in run.cohort.slides
    )
    run.save_cohort(Cohort(cohort))
    with pytest.raises(RefusedError, match="outcome is the label itself"):
        pipeline.train(run, TrainSettings("clinical", folds=3))


def test_a_fold_that_fails_leaves_the_others(tmp_path):
    """One site's slides hold a value that overflows; the fold that predicts that site never trains
    on it."""
    sites = ["A" if number < 10 else "B" for number in range(30)]
    run = make_run(tmp_path / "run", patients=30, site=sites)
    made = Embeddings(run, "efficientnet-lite0")
    rows = np.load(made.features_path("p004-0"))
    rows[0, 3] = np.inf
    figures = {"patches": len(rows), "features": rows.shape[1]}
    made.ledger.mark_done(
        "p004-0", "embed", "k", outputs=[made.save("p004-0", rows)], figures=figures
    )
    done = morphomil("train", run.path, "--model", "dl-cnb", "--split", "site", "--epochs", "2")
    assert done.returncode == 3
    assert "site-B: the loss is no number" in done.stderr
    assert set(predictions(run, "dl-cnb")["fold"]) == {"site-A"}


def test_a_killed_command_ends_with_the_same_bytes(tmp_path):
    run = make_run(tmp_path / "run", patients=30)
    words = ["train", run.path, "--model", "dl-cnb", "--folds", "2", "--epochs", "30"]
    other = Run(shutil.copytree(run.path, tmp_path / "other"))
    assert morphomil(*words).returncode == 0
    words[1] = other.path
    for seconds in (9, 14):
        process = subprocess.Popen(
            [str(PROGRAM), *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert morphomil(*words).returncode == 0
    names = [
        f"models/dl-cnb/fold{fold}/{name}"
        for fold in (0, 1)
        for name in ("weights.safetensors", "log.csv")
    ]
    names += [
        f"models/dl-cnb/fold{fold}/{name}"
        for fold in (0, 1)
        for name in ("settings.json", "predictions.parquet")
    ]
    for name in [*names, "models/dl-cnb/predictions.parquet"]:
        one, two = (
            hashlib.sha256((path / name).read_bytes()).hexdigest()
            for path in (run.path, other.path)
        )
        assert one == two, name


def test_the_clinical_model_of_the_paper_through_a_run(shared_data, tmp_path):
    """The paper's split and covariates; AUC 0.661 / 0.709 / 0.613."""
    table = pd.read_csv(
        shared_data / "bcnb" / "clinical_n0_vs_nplus.csv", dtype={"patient": str, "label": str}
    )
    names = [column for column in table if column.endswith(("_z", "_negative"))]
    slides = tuple(
        Slide(
            row["patient"],
            row["patient"],
            row["label"],
            (),
            split=row["split"],
            covariates={n: row[n] for n in names},
        )
        for row in table.to_dict("records")
    )
    path = tmp_path / "run"
    path.mkdir()
    (path / ".lock").touch()
    run = Run(path)
    run.__dict__["cohort"] = Cohort(slides)
    pipeline.train(run, TrainSettings("clinical"))
    pipeline.predict(run, "clinical")
    found = predictions(run, "clinical")
    for part, paper, tolerance in (
        ("train", 0.661, 0.01),
        ("val", 0.709, 0.01),
        ("test", 0.613, 0.015),
    ):
        own = found[found["part"] == part]
        assert auc(own["label"], own["score"]) == pytest.approx(paper, abs=tolerance)
    assert "one test split" in describe_test(run, "clinical")


def test_an_image_signal_planted_in_phantoms_is_found(tmp_path):
    """Nuclei of the positive patients are larger; from rendered slides to test patients by the
    commands."""
    settings = PhantomSettings(width_px=1024, height_px=768)
    manifest = write_cohort(
        tmp_path / "cohort", seed=11, slides=40, effect="area_um2", shift=5, settings=settings
    )
    run = tmp_path / "run"
    for words in (
        ["segment", manifest, "--out", run, "--quiet"],
        ["embed", run, "--quiet"],
        ["train", run, "--model", "dl-cnb", "--quiet"],
        ["predict", run],
    ):
        done = morphomil(*words)
        assert done.returncode == 0, done.stderr
    test = predictions(Run.open(run), "dl-cnb").query("part == 'test'")
    assert np.mean([auc(fold["label"], fold["score"]) for _, fold in test.groupby("fold")]) > 0.9
    first = pd.read_parquet(run / "models" / "dl-cnb" / "fold0" / "attention.parquet")
    assert len(first) == len(first.dropna(subset=["attention", "occlusion"]))

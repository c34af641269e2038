"""Training of the models of a run: what is refused, skipped, or goes on where it was killed."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from embedded_run import PROGRAM, make_run, morphomil, predictions

from morphomil import pipeline
from morphomil.errors import InputError, RefusedError
from morphomil.models.predict import describe_test
from morphomil.models.settings import TrainSettings
from morphomil.phantom.files import write_cohort
from morphomil.phantom.settings import PhantomSettings
from morphomil.pipeline import modeling
from morphomil.pipeline.costs import foretell_training
from morphomil.run.directory import Run
from morphomil.run.embeddings import Embeddings
from morphomil.stats import auc, auc_interval
from morphomil.types import Cohort, Slide


def test_shuffled_labels_are_not_learned(tmp_path):
    run = make_run(tmp_path / "run", shift=0.0, seed=5)
    pipeline.train(run, TrainSettings("dl-cnb", changes={"epochs": 25}, folds=3))
    pipeline.predict(run, "dl-cnb")
    test = predictions(run, "dl-cnb").query("part == 'test'")
    found = auc_interval(test["label"], test["score"])
    assert found.low < 0.5 < found.high


def test_a_second_training_skips_and_a_changed_one_does_not(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(modeling, "machine_pace", lambda: 1.0)
    run = Run(shutil.copytree(trained.path, tmp_path / "run"))
    same = TrainSettings("dl-cnb", changes={"epochs": 25}, folds=3)
    told = []
    again = pipeline.train(run, same, on_estimate=told.append)
    assert (again.skipped, told) == (("fold0", "fold1", "fold2"), [])
    made = Embeddings(run, "efficientnet-lite0")
    rows = np.load(made.features_path("p001-0")) + np.float16(1)
    figures = {"patches": len(rows), "features": rows.shape[1]}
    made.ledger.mark_done(
        "p001-0", "embed", "other", outputs=[made.save("p001-0", rows)], figures=figures
    )
    with pytest.raises(InputError, match="has changed since"):
        (run.path / "models" / "dl-cnb" / "test_log.csv").unlink()
        pipeline.predict(run, "dl-cnb")
    assert len(pipeline.train(run, same, on_estimate=told.append).done) == 3
    sizes = [np.load(path).size for path in (run.path / "embeddings").rglob("*.npy")]
    expected = foretell_training(len(sizes), sum(sizes), 1, folds=3, epochs=25, pace=1.0)
    assert told == [expected]


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


@pytest.mark.parametrize("words", [("0", "1"), (0.0, 1.0), ("low", "high")])
def test_a_covariate_that_says_the_label_is_refused_unless_named(tmp_path, words):
    run = make_run(tmp_path / "run", patients=12)
    cohort = tuple(
        Slide(
            s.slide_id,
            s.patient,
            s.label,
            s.images,
            covariates={"outcome": words[int(s.label)], "age": 50.0 + number},
        )
        for number, s in enumerate(run.cohort.slides)
    )
    cohort = tuple(
        replace(s, covariates=next(o for o in cohort if o.patient == s.patient).covariates)
        for s in cohort
    )
    run.save_cohort(Cohort(cohort))
    with pytest.raises(RefusedError, match="outcome is the label itself, or the label in other"):
        pipeline.train(run, TrainSettings("clinical", folds=3))
    insisted = TrainSettings("clinical", folds=3, allow_leakage=("outcome",))
    assert len(pipeline.train(run, insisted).done) == 3
    assert len(pipeline.predict(run, "clinical").scored) == 3


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

"""Test patients are predicted by models that did not see them, once, and that is logged."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from embedded_run import make_run, predictions

from morphomil import pipeline
from morphomil.image_model.training import macro_auc
from morphomil.models.predict import describe_test
from morphomil.models.settings import TrainSettings
from morphomil.run.directory import Run
from morphomil.stats import auc, youden_cutoff


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

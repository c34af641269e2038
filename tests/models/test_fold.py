"""What a fold leaves, and its record."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from morphomil.errors import InputError
from morphomil.models.fold import is_done, read_fold, read_record
from morphomil.models.predict import predict_run
from morphomil.models.trained import trained_folds, trained_models
from morphomil.run.directory import Run
from morphomil.store import read_json


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


def test_the_record_is_read_as_it_was_written(trained):
    for model in ("clinical", "dl-cnb", "dl-cnb+c"):
        for path in trained.fold_files("settings.json", model=model):
            record = read_record(path.parent)
            assert json.loads(json.dumps(record.to_json())) == read_json(path)
            assert is_done(path.parent, record.key)
            assert not is_done(path.parent, "other")


def test_a_harmed_fold_is_not_done_and_a_record_that_lacks_something_says_what(trained, tmp_path):
    folder = shutil.copytree(trained.fold_folder("clinical", "fold0"), tmp_path / "fold0")
    record = read_record(folder)
    with pytest.raises(InputError, match="lacks the histograms' edges; train the model anew"):
        _ = record.edges
    (folder / "log.csv").write_text("harmed")
    assert not is_done(folder, record.key)
    (folder / "settings.json").write_text("{}")
    assert read_record(folder) is None
    assert not is_done(folder, record.key)


def test_a_fold_that_is_gone_or_altered_is_not_left_out_in_silence(trained, tmp_path):
    path = shutil.copytree(trained.path, tmp_path / "run")
    run, record = Run(path), path / "models" / "clinical" / "fold1" / "settings.json"
    whole = record.read_bytes()
    record.unlink()
    with pytest.raises(InputError, match=r"fold1/settings\.json is missing, of 1 of the 3 folds"):
        predict_run(run, "clinical")
    record.parent.rename(tmp_path / "aside")
    with pytest.raises(InputError, match=r"of 1 of the 3 folds of clinical; run: morphomil train"):
        trained_folds(run, "clinical")
    (tmp_path / "aside").rename(record.parent)
    for changed in (
        whole.replace(b'"cutoff": 0.', b'"cutoff": 0.0'),
        whole.replace(b'"seed": 0', b'"seed": 1'),
        whole[: len(whole) // 2],
        b"[]",
    ):
        assert changed != whole
        record.write_bytes(changed)
        with pytest.raises(InputError, match=r"fold1/settings\.json is damaged"):
            predict_run(run, "clinical")
    record.write_bytes(whole)
    assert predict_run(run, "clinical").skipped == ("fold0", "fold1", "fold2")
    shutil.copytree(record.parent, record.parent.with_name("fold9"))
    (record.parents[1] / "predictions.parquet").unlink()
    with pytest.raises(InputError, match="isn't finished; run: morphomil train"):
        predict_run(run, "clinical")


def test_weights_of_another_fold_are_told(trained, tmp_path):
    home = shutil.copytree(trained.model_folder("dl-cnb"), tmp_path / "dl-cnb")
    shutil.copy(home / "fold0" / "weights.safetensors", home / "fold1" / "weights.safetensors")
    record = read_record(home / "fold1")
    assert record.weights_sha256 != read_record(home / "fold0").weights_sha256
    read_fold(home / "fold0", read_record(home / "fold0"))
    with pytest.raises(InputError, match="weights aren't those of this fold"):
        read_fold(home / "fold1", record)

"""Heatmaps give the prediction of the evaluation, and are drawn with their tables."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from embedded_run import morphomil, predictions
from PIL import Image

from morphomil import pipeline


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

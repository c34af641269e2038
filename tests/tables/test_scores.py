"""Do models score patients alike? Correlations against scipy, within folds and labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from morphomil.tables.scores import correlate_scores


def scores(
    values: dict[str, np.ndarray], label: np.ndarray, fold: np.ndarray | None = None
) -> pd.DataFrame:
    tables = []
    for model, score in values.items():
        table = pd.DataFrame({"model": model, "part": "test", "label": label, "score": score})
        tables.append(
            table.assign(
                fold=0 if fold is None else fold, patient=[f"p{i}" for i in range(len(label))]
            )
        )
    return pd.concat(tables)


def test_one_fold_gives_spearmans_rho():
    rng = np.random.default_rng(0)
    a, label = rng.normal(size=60), np.arange(60) % 2
    b = a + rng.normal(size=60)
    row = correlate_scores(scores({"a": a, "b": b}, label)).iloc[0]
    assert row["rho"] == pytest.approx(spearmanr(a, b).statistic)
    assert row["rho_low"] < row["rho"] < row["rho_high"]
    assert row["patients"] == 60


def test_folds_on_other_scales_do_not_correlate_scores():
    rng = np.random.default_rng(1)
    label, fold = np.arange(400) % 2, np.repeat(np.arange(4), 100)
    a, b = rng.normal(size=(2, 400)) + 10 * fold
    row = correlate_scores(scores({"a": a, "b": b}, label, fold)).iloc[0]
    assert spearmanr(a, b).statistic > 0.8
    assert row["rho_low"] < 0 < row["rho_high"]


def test_models_that_share_the_label_only_agree_no_further():
    rng = np.random.default_rng(2)
    label = np.arange(400) % 2
    a, b = rng.normal(size=(2, 400)) + 4 * label
    row = correlate_scores(scores({"a": a, "b": b}, label)).iloc[0]
    assert row["rho"] > 0.5
    assert row["rho_within_label_low"] < 0 < row["rho_within_label_high"]


def test_equal_scores_have_rho_1_and_no_interval():
    a = np.arange(20.0)
    row = correlate_scores(scores({"a": a, "b": a}, np.arange(20) % 2)).iloc[0]
    assert row["rho"] == pytest.approx(1)
    constant = correlate_scores(scores({"a": a, "b": np.ones(20)}, np.arange(20) % 2)).iloc[0]
    assert np.isnan(constant["rho"])
    assert correlate_scores(scores({"a": a}, np.arange(20) % 2)).empty

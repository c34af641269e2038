"""Plain models on the ranking's folds: against scikit-learn, without leaks, and what they say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from morphomil.cohort.splits import Fold, make_folds
from morphomil.rank.baselines import compare_baselines, fit_ridge, say_baselines
from morphomil.stats import within_fold_auc


def cohort_of(labels):
    names = [f"p{i:03}" for i in range(len(labels))]
    table = pd.DataFrame({"slide_id": names, "patient": names, "label": labels.astype(str)})
    folds = make_folds(table, folds=5, seed=0)
    fold = {patient: fold.name for fold in folds for patient in fold.test}
    predictions = pd.DataFrame({"patient": names, "fold": [fold[n] for n in names]})
    return predictions.assign(label=labels, probability=0.5), folds


def compare(values, summaries, labels, *, forest=False, own=None):
    predictions, folds = cohort_of(labels)
    if own is not None:
        predictions["probability"] = own
    names = predictions["patient"]
    return compare_baselines(
        predictions,
        folds,
        values=pd.DataFrame(values, index=names),
        summaries=pd.DataFrame(summaries, index=names),
        classes=pd.Series(labels == 1, index=names),
        seed=0,
        forest=forest,
    )


@pytest.fixture
def tables():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(100) % 2)
    return rng.normal(size=(100, 5)), rng.normal(size=(100, 30)), labels


def test_ridge_regressions_are_scikit_learns():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 4)), (rng.random(60) < 0.4).astype(float)
    used = np.ones((3, 60))
    used[1, :20] = 0
    penalty = np.array([1.0, 10.0, 100.0])
    for weights, rows, ridge in zip(
        fit_ridge(x, y, used=used, penalty=penalty), used, penalty, strict=True
    ):
        witness = LogisticRegression(C=1 / ridge, tol=1e-10).fit(x[rows == 1], y[rows == 1])
        np.testing.assert_allclose(weights[:-1], witness.coef_[0], atol=1e-5)
        assert weights[-1] == pytest.approx(witness.intercept_[0], abs=1e-4)


def test_separable_groups_give_finite_weights():
    y = np.repeat([0.0, 1.0], 20)
    weights = fit_ridge(y[:, None] * 8 - 4, y, used=np.ones((1, 40)), penalty=np.array([1.0]))
    assert np.isfinite(weights).all()
    assert weights[0, 0] > 0.5


@pytest.mark.parametrize(
    ("kind", "best"),
    [
        ("one", "single_feature"),
        ("median", "logistic_medians"),
        ("summary", "l1_summaries"),
        ("xor", "logistic_products"),
    ],
)
def test_each_baseline_finds_what_it_is_for(tables, kind, best):
    values, summaries, labels = tables
    sign = 2 * labels - 1
    if kind == "one":
        values[:, 2] += sign
    elif kind == "median":
        values[:, :4] += 0.6 * sign[:, None]
    elif kind == "summary":
        summaries[:, 11] += sign
    else:
        values[:, 1] = np.abs(values[:, 1]) * sign * np.sign(values[:, 3])
    found = compare(values, summaries, labels)
    table = found.table.set_index("model")
    assert table.loc[best, "auc"] > 0.75
    assert (table.loc[best, ["difference_low"]] > 0.05).all()
    assert table["auc"].drop(best).max() < table.loc[best, "auc"]
    scores = found.predictions
    assert table.loc[best, "auc"] == within_fold_auc(scores["label"], scores[best], scores["fold"])
    better = "The single feature is better" if kind == "one" else "predicts better than the morphom"
    assert better in found.statement


def test_without_an_effect_no_baseline_leaks():
    """Out-of-fold AUCs of all five about 0.5 over 12 cohorts, missing values and constants among
    the columns."""
    areas = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(60) % 2)
        values, summaries = rng.normal(size=(60, 4)), rng.normal(size=(60, 12))
        values[:9, 1], summaries[:, 3], summaries[:, 4] = np.nan, np.nan, 7.0
        areas.append(compare(values, summaries, labels, forest=seed < 4).table["auc"][1:])
    mean = pd.concat(areas).groupby(level=0).mean()
    assert mean.between(0.4, 0.6).all()


def test_a_test_patient_has_no_say_in_the_scores_of_its_fold(tables):
    values, summaries, labels = tables
    before = compare(values, summaries, labels).predictions
    models = ["single_feature", "logistic_medians", "logistic_products", "l1_summaries"]
    own = before["fold"] == "fold0"
    one = before.index[own][0]
    values[one], summaries[one] = 1000.0, np.nan
    after = compare(values, summaries, labels).predictions
    changed = ((before[models] - after[models]).abs() > 1e-12).any(axis=1)
    assert changed[one]
    assert not changed[own].drop(one).any()
    assert changed[~own].all()  # it trained their models


def test_the_forest_is_grown_only_where_asked(tables):
    values, summaries, labels = tables
    summaries[:, :3] += labels[:, None]
    grown = compare(values, summaries, labels, forest=True)
    assert grown.table["model"].tolist()[-1] == "forest_summaries"
    assert grown.table["auc"].iloc[-1] > 0.7
    again = compare(values, summaries, labels, forest=True)
    pd.testing.assert_frame_equal(grown.predictions, again.predictions)


def test_it_is_said_whether_a_baseline_is_better(tables):
    values, summaries, labels = tables
    values[:, 2] += 0.7 * labels
    good = compare(values, summaries, labels, own=labels + 0.5 * summaries[:, 0])
    assert "None of 3 plain models of all features has an AUC higher than" in good.statement
    assert "by 0.01 or more on the same folds" in good.statement
    chance = compare(values * 0, summaries * 0, labels, own=1 - labels)
    assert "predicts better than chance for sure" in chance.statement
    rows = [
        {"model": "morphometry", "description": "", "auc": 0.7, "low": 0.6, "high": 0.8},
        {
            "model": "l1_summaries",
            "description": "an L1 regression",
            "auc": 0.75,
            "low": 0.65,
            "high": 0.85,
            "difference": 0.05,
            "difference_low": -0.02,
            "difference_high": 0.12,
        },
    ]
    assert say_baselines(pd.DataFrame(rows)) == (
        "An L1 regression has a higher AUC than the morphometry model on the same folds: 0.75 "
        "[0.65, 0.85] against 0.70 [0.60, 0.80]; the difference, 0.05 [-0.02, 0.12], may be chance."
    )


def test_a_class_of_one_training_patient_is_fitted(tables):
    values, summaries, _ = tables
    names = [f"p{i}" for i in range(12)]
    cohort = pd.DataFrame({"patient": names, "fold": "holdout", "label": [0, 1] * 6})
    training = [*names[:7:2], names[1]]
    test = [name for name in names if name not in training]
    found = compare_baselines(
        cohort[cohort["patient"].isin(test)].assign(probability=0.5),
        [Fold("holdout", tuple(sorted(training)), (), tuple(sorted(test)))],
        values=pd.DataFrame(values[:12], index=names),
        summaries=pd.DataFrame(summaries[:12], index=names),
        classes=pd.Series(cohort["label"].to_numpy() == 1, index=names),
        seed=0,
        forest=True,
    )
    assert found.predictions.notna().all().all()


def test_the_single_best_feature_is_that_of_training_patients(tables):
    """Chosen by log-loss as scikit-learn's one-column regressions have it, and said to be better
    than a model that knows nothing."""
    values, summaries, labels = tables
    values[:, 3] += 2 * labels
    found = compare(values, summaries, labels)
    row = found.table.set_index("model").loc["single_feature"]
    assert row["description"] == "a logistic regression on the single best feature (3)"
    assert found.statement.startswith("A logistic regression on the single best feature (3) has")
    assert "The single feature is better (difference 0." in found.statement
    predictions, folds = cohort_of(labels)
    scores = found.predictions.set_index("patient")["single_feature"]
    for fold in folds:
        train, test = (predictions["patient"].isin(of).to_numpy() for of in (fold.train, fold.test))
        x = (values - values[train].mean(axis=0)) / values[train].std(axis=0)
        fits = [
            LogisticRegression(C=1.0, tol=1e-10).fit(x[train, j : j + 1], labels[train])
            for j in range(5)
        ]
        loss = [
            -fit.predict_log_proba(x[train, j : j + 1])[range(train.sum()), labels[train]].sum()
            for j, fit in enumerate(fits)
        ]
        best = int(np.argmin(loss))
        witness = fits[best].predict_proba(x[test, best : best + 1])[:, 1]
        own = scores[predictions["patient"][test]]
        np.testing.assert_allclose(own, witness, atol=1e-4)
    perfect = compare(summaries[:, :5], summaries, labels, own=labels.astype(float))
    assert "The model is better (difference -" in perfect.statement


def test_covariates_stand_beside_the_single_feature(tables):
    values, summaries, labels = tables
    values[:, 4] += 3 * labels
    predictions, folds = cohort_of(labels)
    names = predictions["patient"]
    found = compare_baselines(
        predictions,
        folds,
        values=pd.DataFrame(values, index=names),
        summaries=pd.DataFrame(summaries, index=names),
        classes=pd.Series(labels == 1, index=names),
        seed=0,
        forest=False,
        features=4,
        held=("age", "site"),
    )
    own, *plain = found.table["description"]
    assert own == "the morphometry model"
    assert all(text.endswith(" and age and site") for text in plain)
    row = found.table.set_index("model").loc["single_feature"]
    assert row["auc"] > 0.9
    assert "4" not in row["description"].partition("(")[2].partition(" ")[0]

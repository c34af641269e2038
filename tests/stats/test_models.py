"""Logistic regression against statsmodels; Firth's answer under separation; the clinical model of
the data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from morphomil.stats import (
    adjusted_associations,
    auc,
    interaction_test,
    likelihood_ratio_test,
    logistic_model,
)
from morphomil.stats.models import is_separated


def cases(n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    columns = pd.DataFrame(rng.normal(size=(n, 3)), columns=["age", "size", "grade"])
    return columns, rng.random(n) < 1 / (
        1 + np.exp(-(columns["age"] - 0.5 * columns["size"] + 0.3))
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 1e5]))
def test_as_statsmodels_whatever_the_units(seed: int, unit: float) -> None:
    columns, outcome = cases(150, seed)
    model = logistic_model(columns * [1, unit, 1], outcome)
    expected = sm.Logit(outcome.astype(float), sm.add_constant(columns)).fit(disp=0, tol=1e-12)
    scale = np.array([1, 1, unit, 1])
    np.testing.assert_allclose(
        model.summary["coefficient"] * scale, expected.params, rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(model.summary["p_value"], expected.pvalues, rtol=1e-5)
    limits = np.log(model.summary[["low", "high"]].to_numpy()) * scale[:, None]
    np.testing.assert_allclose(limits, expected.conf_int(), rtol=1e-5, atol=1e-7)
    assert model.log_likelihood == pytest.approx(expected.llf)
    np.testing.assert_allclose(model.predict(columns * [1, unit, 1]), expected.predict(), atol=1e-8)


def test_likelihood_ratio_is_statsmodels() -> None:
    columns, outcome = cases(200, 3)
    found = likelihood_ratio_test(columns[["age"]], columns, outcome)
    models = [
        sm.Logit(outcome.astype(float), sm.add_constant(c)).fit(disp=0)
        for c in (columns[["age"]], columns)
    ]
    assert found.statistic == pytest.approx(2 * (models[1].llf - models[0].llf), rel=1e-6)
    assert found.degrees == 2
    alone = likelihood_ratio_test(np.empty((200, 0)), columns, outcome)
    assert alone.p_value == pytest.approx(models[1].llr_pvalue, rel=1e-6)


def test_coefficients_and_likelihood_ratio_equal_r() -> None:
    folder = Path(__file__).parents[1] / "reference"
    expected = pd.read_csv(folder / "groups.csv").set_index("quantity")["value"]
    table = pd.read_csv(folder / "groups_cases.csv")
    names = ["smooth", "spread", "rare"]
    found = logistic_model(table[names], table["group"]).summary.rename(
        index={"intercept": "(Intercept)"}
    )
    for column, start in (("coefficient", "glm_"), ("p_value", "glm_p_")):
        np.testing.assert_allclose(
            found[column], expected[[start + name for name in found.index]], rtol=1e-6
        )
    errors = np.log(found["high"] / found["low"]) / 2 / 1.959963984540054
    np.testing.assert_allclose(
        errors, expected[["glm_error_" + name for name in found.index]], rtol=1e-6
    )
    ratio = likelihood_ratio_test(table[["spread"]], table[names], table["group"])
    assert [ratio.statistic, ratio.p_value] == pytest.approx(
        expected[["lrt", "lrt_p"]].tolist(), rel=1e-8
    )
    found = interaction_test(table["group"], table["spread"], table["grade"])
    theirs = expected[["interaction", "interaction_p"]].tolist()
    assert [found.statistic, found.p_value] == pytest.approx(theirs, rel=1e-7)
    assert found.degrees == 2
    # Neither the score's unit nor the groups' names nor the order of cases matter.
    order = np.random.default_rng(0).permutation(len(table))
    names = table["grade"].map({1: "c", 2: "a", 3: "b"})
    again = interaction_test(table["group"][order], 3 - 50 * table["spread"][order], names[order])
    assert again.statistic == pytest.approx(found.statistic, rel=1e-7)
    for groups, cause in ((np.ones(90), "two or more groups"), (table["group"], "separates")):
        with pytest.raises(ValueError, match=cause):
            interaction_test(table["group"], table["spread"], groups)


def test_separation_is_found_and_answered() -> None:
    x = np.r_[np.arange(10.0), np.arange(10.0) + 10]
    y = x >= 10
    model = logistic_model(x, y)
    assert model.separated
    assert 0 < model.summary.loc["x1", "coefficient"] < 5
    assert model.summary.loc["x1", "low"] > 1
    assert model.summary.loc["x1", "p_value"] < 0.001
    assert (model.predict(x)[y] > 0.5).all()
    y[[3, 15]] = True, False
    assert not logistic_model(x, y).separated
    quasi = np.r_[0.0, 0, 1, 1, 1]
    assert is_separated(np.column_stack([np.ones(5), quasi]), np.array([0.0, 1, 1, 1, 1]))


def test_firth_of_a_fourfold_table_adds_a_half_to_each_cell() -> None:
    """Known exactly: for one binary column the penalized estimate is the log odds ratio of the
    counts plus 0.5."""
    x = np.repeat([0.0, 0, 1, 1], [6, 4, 0, 9])
    y = np.repeat([0, 1, 0, 1], [6, 4, 0, 9])
    model = logistic_model(x, y)
    assert model.separated
    assert model.summary.loc["x1", "coefficient"] == pytest.approx(
        np.log((9.5 / 0.5) / (4.5 / 6.5)), abs=1e-6
    )
    assert model.summary.loc["intercept", "coefficient"] == pytest.approx(
        np.log(4.5 / 6.5), abs=1e-6
    )


@pytest.mark.parametrize("seed", [43, 0, 1, 2])
def test_profile_limits_of_few_events_are_found(seed: int) -> None:
    """Where all probabilities near 0 or 1 make the information singular (seed 43), the profile is
    followed in steps."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(40, 2))
    outcome = rng.random(40) < 1 / (1 + np.exp(2.5 - 1.5 * columns[:, 0]))
    summary = logistic_model(columns, outcome).summary
    assert (summary["low"] < summary["odds_ratio"]).all()
    assert (summary["odds_ratio"] < summary["high"]).all()


@pytest.mark.parametrize(
    ("columns", "outcome", "cause"),
    [
        ([[1.0], [2], [np.nan], [4]], [0, 1, 0, 1], "missing or infinite in x1"),
        ([[1.0], [2], [3], [4]], [1, 1, 1, 1], "both classes"),
        ([[1.0], [1], [1], [1]], [0, 1, 0, 1], "constant"),
        (np.outer(np.arange(8.0), [1, 2]), [0, 1] * 4, "depend on each other"),
        ([[1.0], [2]], [0, 1], "more cases"),
        ([[1.0], [2], [3], [4]], [0, 1, 2, 1], "0/1"),
    ],
)
def test_what_cannot_be_fitted_is_refused(columns: object, outcome: object, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        logistic_model(columns, outcome)  # type: ignore[arg-type]


def test_columns_are_taken_by_name() -> None:
    columns, outcome = cases(100, 1)
    model = logistic_model(columns, outcome)
    np.testing.assert_array_equal(
        model.predict(columns[["grade", "age", "size"]]), model.predict(columns)
    )
    with pytest.raises(ValueError, match="columns age are missing"):
        model.predict(columns[["grade", "size"]])


def test_the_clinical_model_of_the_data_set(shared_data: Path) -> None:
    """The paper's AUCs of the clinical model: 0.661, 0.709, 0.613."""
    table = pd.read_csv(shared_data / "bcnb" / "clinical_n0_vs_nplus.csv")
    names = ["age_z", "tumour_size_z", "is_er_negative", "is_pr_negative", "is_her2_negative"]
    known = table.dropna(subset=names)
    parts = dict(list(known.groupby("split")))
    train = next(part for name, part in parts.items() if str(name).lower().startswith("tr"))
    model = logistic_model(train[names], train["label"])
    areas = {
        str(name)[:2].lower(): auc(part["label"], model.predict(part[names]))
        for name, part in parts.items()
    }
    assert areas["tr"] == pytest.approx(0.661, abs=0.01)
    assert areas["va"] == pytest.approx(0.709, abs=0.01)
    assert areas["te"] == pytest.approx(0.613, abs=0.015)


def test_associations_beside_covariates() -> None:
    rng = np.random.default_rng(5)
    clinical = pd.DataFrame({"size": rng.normal(size=300)})
    columns = pd.DataFrame(
        {"copy": clinical["size"] * 10 + rng.normal(0, 3, 300), "own": rng.normal(5, 2, 300)}
    )
    outcome = rng.random(300) < 1 / (1 + np.exp(-clinical["size"] - 0.6 * (columns["own"] - 5) / 2))
    columns.loc[:4, "own"] = np.nan
    crude = adjusted_associations(columns, outcome).set_index("feature")
    adjusted = adjusted_associations(columns, outcome, covariates=clinical).set_index("feature")
    assert crude.loc["copy", "p_value"] < 1e-6
    assert adjusted.loc["copy", "p_value"] > 0.01
    assert adjusted.loc["own", "low"] > 1
    assert adjusted.loc["own", ["n", "missing"]].tolist() == [295, 5]
    known = columns["own"].notna()
    design = sm.add_constant(
        pd.DataFrame({"c": clinical["size"], "f": columns["own"] / columns["own"].std()})[known]
    )
    fitted = sm.Logit(outcome[known].astype(float), design).fit(disp=0)
    assert adjusted.loc["own", "odds_ratio"] == pytest.approx(np.exp(fitted.params["f"]))
    base = sm.Logit(outcome[known].astype(float), design[["const", "c"]]).fit(disp=0)
    assert adjusted.loc["own", "lrt_p"] == pytest.approx(
        chi2.sf(2 * (fitted.llf - base.llf), 1), rel=1e-4
    )
    assert (adjusted["p_holm"] >= adjusted["p_value"]).all()


def test_a_column_that_cannot_be_fitted_leaves_the_family_alone() -> None:
    rng = np.random.default_rng(6)
    clinical = pd.DataFrame({"size": rng.normal(size=80)})
    good = pd.DataFrame({"a": rng.normal(size=80), "b": rng.normal(size=80)})
    outcome = np.arange(80) % 2
    one_class = np.where(outcome == 1, rng.normal(size=80), np.nan)
    bad = pd.DataFrame(
        {"same": 1.0, "none": np.nan, "endless": np.r_[np.inf, np.zeros(79)], "one": one_class}
    )
    bad["copy"] = clinical["size"]
    found = adjusted_associations(good.join(bad), outcome, covariates=clinical).set_index("feature")
    alone = adjusted_associations(good, outcome, covariates=clinical).set_index("feature")
    pd.testing.assert_frame_equal(found.loc[["a", "b"]], alone)
    assert found.loc[list(bad), ["odds_ratio", "p_value", "p_holm", "lrt_p"]].isna().all(axis=None)
    assert "depend on each other" in found.loc["copy", "problem"]
    assert "both classes" in found.loc["one", "problem"]
    assert found.loc["none", ["n", "missing"]].tolist() == [0, 80]
    with pytest.raises(ValueError, match="constant"):
        adjusted_associations(good, outcome, covariates=clinical * 0)

"""Every row of the paper's tables; intervals against their definitions; calibration, net benefit
and McNemar."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from morphomil.stats import (
    binomial_auc_interval,
    calibration,
    decision_curve,
    diagnostic_table,
    mcnemar_test,
)


def test_the_papers_tables_to_the_printed_digits(shared_data: Path) -> None:
    """Table 2 and Supplementary Table 1: five figures of each model and part, with their limits."""
    rows = pd.read_csv(shared_data / "paper" / "table_rows.csv")
    assert len(rows) == 21
    _agrees_with_the_print(rows)


def test_the_papers_supplement_to_the_printed_digits() -> None:
    """Supplementary Tables 3 to 5; their counts are the only whole numbers that give all fifteen
    printed figures."""
    rows = pd.read_csv(Path(__file__).parents[1] / "reference" / "paper_supplement.csv")
    assert len(rows) == 28
    _agrees_with_the_print(rows)


MISPRINTED_AUC = "C T"
"""Its interval is that of the clinical model."""


def _agrees_with_the_print(rows: pd.DataFrame) -> None:
    """To half a unit of the last digit or just over it; AUC limits for some AUC that rounds to the
    printed one."""
    for row in rows.itertuples():
        table = 100 * diagnostic_table(row.tp, row.fp, row.fn, row.tn)
        for name in ("ACC", "SENS", "SPEC", "PPV", "NPV"):
            for column, suffix in (("estimate", "est"), ("low", "low"), ("high", "high")):
                printed = getattr(row, f"{name.lower()}_{suffix}")
                assert table.loc[name, column] == pytest.approx(printed, abs=0.0051), (
                    row.row,
                    name,
                    column,
                )
        ends = [
            binomial_auc_interval(row.auc_est + step, row.n_pos + row.n_neg)
            for step in (-0.0005, 0.0005)
        ]
        possible = all(
            least - 0.0005 <= printed <= most + 0.0005
            for least, most, printed in zip(*ends, (row.auc_low, row.auc_high), strict=True)
        )
        assert possible is (row.row != MISPRINTED_AUC), row.row


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_limits_hold_the_estimate_and_swapping_classes_swaps_names(
    tp: int, fp: int, fn: int, tn: int
) -> None:
    if tp + fp + fn + tn == 0:
        with pytest.raises(ValueError, match="at least one case"):
            diagnostic_table(tp, fp, fn, tn)
        return
    table = diagnostic_table(tp, fp, fn, tn)
    known = table.dropna()
    assert ((known["low"] <= known["estimate"]) & (known["estimate"] <= known["high"])).all()
    shares = known.drop(["LR+", "LR-"], errors="ignore")
    assert ((shares["low"] >= 0) & (shares["high"] <= 1) & (shares["low"] < shares["high"])).all()
    swapped = diagnostic_table(tn, fn, fp, tp).rename(
        index={"SENS": "SPEC", "SPEC": "SENS", "PPV": "NPV", "NPV": "PPV"}
    )
    same = ["ACC", "SENS", "SPEC", "PPV", "NPV"]
    pd.testing.assert_frame_equal(table.loc[same], swapped.loc[same])


def test_exact_intervals_are_clopper_and_pearsons() -> None:
    table = diagnostic_table(17, 4, 3, 30, level=0.9)
    for name, count, total in (("ACC", 47, 54), ("SENS", 17, 20), ("SPEC", 30, 34)):
        expected = proportion_confint(count, total, alpha=0.1, method="beta")
        np.testing.assert_allclose(
            table.loc[name, ["low", "high"]].astype(float), expected, atol=1e-12
        )
    assert table.loc["F1", "estimate"] == pytest.approx(2 * 17 / (2 * 17 + 4 + 3))


def test_exact_limits_equal_r() -> None:
    expected = pd.read_csv(Path(__file__).parents[1] / "reference" / "groups.csv").set_index(
        "quantity"
    )["value"]
    accuracy = diagnostic_table(68, 39, 16, 95).loc["ACC"]
    assert [accuracy["low"], accuracy["high"]] == pytest.approx(
        expected[["exact_low", "exact_high"]].tolist(), abs=1e-7
    )
    truth, nobody = np.ones(26, bool), np.zeros(26, bool)
    disagree = mcnemar_test(truth, np.r_[truth[:19], nobody[:7]], np.r_[nobody[:19], truth[:7]])
    assert disagree.p_value == pytest.approx(expected["mcnemar_exact_p"], rel=1e-10)


def test_likelihood_ratios_by_the_log_method() -> None:
    """The worked example of Simel et al. in numbers: sensitivity 0.9, specificity 0.8, a hundred
    cases each."""
    table = diagnostic_table(90, 20, 10, 80)
    error = math.sqrt(1 / 90 - 1 / 100 + 1 / 20 - 1 / 100)
    assert table.loc["LR+", "estimate"] == pytest.approx(4.5)
    assert table.loc["LR+", "low"] == pytest.approx(4.5 * math.exp(-1.959964 * error), rel=1e-6)
    assert table.loc["LR-", "estimate"] == pytest.approx(0.125)
    assert diagnostic_table(5, 0, 1, 9).loc["LR+", "high"] == math.inf
    assert diagnostic_table(5, 0, 1, 9).loc["LR+", "low"] > 0


def test_what_nobody_can_know_is_missing_and_bad_counts_are_refused() -> None:
    table = diagnostic_table(0, 0, 5, 9)
    assert table.loc["PPV"].isna().all()
    assert table.loc["SENS", "high"] < 1
    assert diagnostic_table(5, 0, 2, 0).loc["SPEC"].isna().all()
    for bad in ((-1, 2, 3, 4), (1.5, 2, 3, 4)):
        with pytest.raises(ValueError, match="whole numbers"):
            diagnostic_table(*bad)  # type: ignore[arg-type]


def test_mcnemar_is_statsmodels_exact_test() -> None:
    rng = np.random.default_rng(0)
    truth, a, b = rng.random(150) < 0.4, rng.random(150) < 0.5, rng.random(150) < 0.5
    result = mcnemar_test(truth, a, b)
    right = pd.crosstab(a == truth, b == truth)
    assert result.p_value == pytest.approx(mcnemar(right, exact=True).pvalue)
    assert result.difference == pytest.approx((a == truth).mean() - (b == truth).mean())
    assert result.interval[0] < result.difference < result.interval[1]
    assert (
        result.p_value
        == binomtest(result.only_a_right, result.only_a_right + result.only_b_right).pvalue
    )
    same = mcnemar_test(truth, a, a)
    assert (same.p_value, same.difference) == (1.0, 0.0)
    assert same.interval[0] < 0 < same.interval[1]


def test_calibration_of_right_and_of_too_extreme_probabilities() -> None:
    rng = np.random.default_rng(1)
    score = rng.normal(0, 1, 20_000)
    truth = rng.random(20_000) < 1 / (1 + np.exp(-score))
    right = calibration(truth, 1 / (1 + np.exp(-score)))
    assert right.slope[0] == pytest.approx(1, abs=0.05)
    assert right.slope[1] < 1 < right.slope[2]
    assert right.intercept[0] == pytest.approx(0, abs=0.05)
    assert (
        (right.curve["low"] <= right.curve["predicted"])
        & (right.curve["predicted"] <= right.curve["high"])
    ).sum() > 7
    extreme = calibration(truth, 1 / (1 + np.exp(-2 * score - 0.7)))
    assert extreme.slope[0] == pytest.approx(0.5, abs=0.03)
    assert extreme.intercept[0] < -0.3
    assert extreme.brier > right.brier
    fitted = sm.Logit(truth.astype(float), sm.add_constant(2 * score + 0.7)).fit(disp=0)
    assert extreme.slope[0] == pytest.approx(fitted.params[1], abs=1e-4)
    assert math.isnan(calibration([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8]).slope[0])
    assert math.isnan(calibration([0, 1, 0, 1], [0.3] * 4).slope[0])


def test_net_benefit_counts_who_is_treated() -> None:
    rng = np.random.default_rng(2)
    p = rng.random(300).round(2)
    truth = rng.random(300) < p
    curve = decision_curve(truth, p, thresholds=[0.2, 0.5])
    for row in curve.itertuples():
        treated = p >= row.threshold
        odds = row.threshold / (1 - row.threshold)
        expected = ((treated & truth).sum() - (treated & ~truth).sum() * odds) / 300
        assert row.net_benefit == pytest.approx(expected)
        of_each = treated * np.where(truth, 1.0, -odds)
        limits = ttest_1samp(of_each, 0).confidence_interval(0.95)
        assert (row.net_benefit_low, row.net_benefit_high) == pytest.approx(tuple(limits))
    assert curve["treat_all"].iloc[1] == pytest.approx(2 * truth.mean() - 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        decision_curve(truth, p, thresholds=[1.0])

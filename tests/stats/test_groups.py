from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from morphomil.stats import benjamini_hochberg, compare_categories, compare_groups, holm, mann_whitney
from morphomil.types import RefusedError

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "stats.json").read_text(encoding="utf-8"))
laws = settings(deadline=None, max_examples=60)
values = st.lists(st.integers(-4, 4), min_size=2, max_size=25).map(lambda v: np.array(v, dtype=float))
p_values = st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=12).map(np.array)


def limits(test):
    return test.cliffs_delta, test.low, test.high


def test_mann_whitney_equals_r():
    case = REFERENCE["wilcox.test"]
    test = mann_whitney(case["x"], case["y"])
    assert test.u == case["w"]
    assert round(test.p_value / 2, 4) == case["p_greater"]
    assert test.cliffs_delta == pytest.approx(2 * 35 / 50 - 1, abs=1e-15)


@laws
@given(values, values)
def test_mann_whitney_laws(x, y):
    test, swapped, negated = mann_whitney(x, y), mann_whitney(y, x), mann_whitney(-x, -y)
    dominance = np.sign(x[:, None] - y).mean()
    assert test.cliffs_delta == pytest.approx(dominance, abs=1e-14)
    assert test.u == pytest.approx((dominance + 1) / 2 * len(x) * len(y), abs=1e-9)
    assert -1 <= test.low < test.high <= 1
    assert test.low <= test.cliffs_delta <= test.high
    for other in (swapped, negated):
        assert limits(other) == pytest.approx((-test.cliffs_delta, -test.high, -test.low), abs=1e-12)
        assert other.p_value == pytest.approx(test.p_value, rel=1e-12)
    assert mann_whitney(np.exp(x), np.exp(y)) == test


@pytest.mark.parametrize(
    ("n", "decimals", "method"),
    [(9, 9, "exact"), (49, 9, "exact"), (50, 9, "asymptotic"), (20, 0, "asymptotic")],
)
def test_p_is_exact_without_ties_below_fifty(n, decimals, method):
    rng = np.random.default_rng(n)
    x, y = np.round(rng.normal(0.4, 1, n), decimals), np.round(rng.normal(size=n), decimals)
    assert mann_whitney(x, y).p_value == stats.mannwhitneyu(x, y, method=method).pvalue


def test_exact_p_of_separated_triples_by_hand():
    assert mann_whitney([4, 5, 6], [1, 2, 3]).p_value == pytest.approx(2 / math.comb(6, 3), abs=1e-15)


def test_missing_values_are_left_out_and_counted():
    test = mann_whitney([1, np.nan, 3, 8], [2, 5, np.nan, np.nan])
    expected = mann_whitney([1, 3, 8], [2, 5])
    assert (test.missing, test.n_x, test.n_y) == (3, 3, 2)
    assert (test.u, test.p_value, limits(test)) == (expected.u, expected.p_value, limits(expected))


def test_empty_group_gives_nan_and_constant_values_give_one():
    empty = mann_whitney([np.nan], [1, 2])
    assert np.isnan([empty.u, empty.p_value, *limits(empty)]).all()
    assert (empty.n_x, empty.n_y, empty.missing) == (0, 2, 1)
    constant = mann_whitney([3, 3, 3], [3, 3, 3, 3])
    assert (constant.u, constant.p_value, constant.cliffs_delta) == (6, 1, 0)
    assert -1 < constant.low < -0.5 < 0.5 < constant.high < 1
    single = mann_whitney([2], [1])
    assert (single.p_value, single.cliffs_delta) == (1, 1)
    with pytest.raises(ValueError, match="vectors"):
        mann_whitney([[1, 2]], [1, 2])


def test_delta_of_separated_groups_has_an_interval_with_width():
    assert limits(mann_whitney(np.arange(8, 16), np.arange(8))) == pytest.approx((1, 2 * 0.025 ** (1 / 8) - 1, 1))


@pytest.mark.parametrize("spread", [1, 3])
def test_delta_interval_covers_the_truth_of_eight_against_eight(spread):
    rng = np.random.default_rng(spread)
    truth = 2 * stats.norm.cdf(1 / math.sqrt(1 + spread**2)) - 1
    tests = [mann_whitney(rng.normal(1, spread, 8), rng.normal(size=8)) for _ in range(600)]
    covered = np.mean([test.low <= truth <= test.high for test in tests])
    assert 0.94 < covered < 0.995


def test_delta_of_large_groups_needs_linear_memory():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.3, 1, 100_000), rng.normal(size=100_000)
    mann_whitney(x[:100], y[:100])
    tracemalloc.start()
    test = mann_whitney(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert test.cliffs_delta == pytest.approx(2 * stats.norm.cdf(0.3 / math.sqrt(2)) - 1, abs=0.01)
    assert peak < 400 * 200_000  # bytes; the array of all pairs would take 10 GB


def test_adjusted_p_by_hand():
    p = [0.01, 0.04, np.nan, 0.03, 0.005]
    np.testing.assert_allclose(holm(p), [0.03, 0.06, np.nan, 0.06, 0.02], atol=1e-15)
    np.testing.assert_allclose(benjamini_hochberg(p), [0.02, 0.04, np.nan, 0.04, 0.02], atol=1e-15)


@laws
@given(p_values)
def test_adjusted_p_laws(p):
    known = ~np.isnan(p)
    for adjust in (holm, benjamini_hochberg):
        adjusted = adjust(p)
        np.testing.assert_array_equal(np.isnan(adjusted), ~known)
        np.testing.assert_array_equal(adjusted[known], adjust(p[known]))
        np.testing.assert_array_equal(adjusted[::-1], adjust(p[::-1]))
        assert (adjusted[known] >= p[known]).all()
        assert (adjusted[known] <= 1).all()
        assert (np.diff(adjusted[known][np.argsort(p[known])]) >= 0).all()
    assert (holm(p)[known] >= benjamini_hochberg(p)[known] - 1e-15).all()


@pytest.mark.parametrize("n", [1, 2, 8, 50])
def test_adjusted_p_equals_statsmodels(n):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.round(np.random.default_rng(n).random(n) ** 3, 2)  # with ties
    np.testing.assert_allclose(holm(p), multitest.multipletests(p, method="holm")[1], atol=1e-14)
    np.testing.assert_allclose(benjamini_hochberg(p), multitest.multipletests(p, method="fdr_bh")[1], atol=1e-14)


def test_adjusting_leaves_its_argument_alone_and_rejects_what_is_no_p():
    p = np.array([0.2, 0.01])
    holm(p)
    assert p.tolist() == [0.2, 0.01]
    for adjust in (holm, benjamini_hochberg):
        with pytest.raises(ValueError, match=r"p-values must be in \[0, 1\], got -0.1 to 0.5"):
            adjust([0.5, -0.1])


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "up": [1, 2, 3, 4, 5, 6, 7, 8],
            "down": [9.0, 8, 7, 6, 1, 2, 3, np.nan],
            "flat": [2.0] * 8,
            "absent": [np.nan] * 4 + [1.0, 2, 3, 4],
        },
        index=list("abcdefgh"),
    )


def test_compare_groups_by_hand(table):
    found = compare_groups(table, ["N0"] * 4 + ["N+"] * 4, positive="N+")
    assert list(found) == [
        "feature", "n_positive", "n_reference", "missing", "median_positive", "median_reference", "u", "p_value",
        "p_holm", "p_bh", "cliffs_delta", "cliffs_delta_low", "cliffs_delta_high", "direction",
    ]  # fmt: skip
    found = found.set_index("feature")
    assert found.loc["up", ["n_positive", "n_reference", "missing"]].tolist() == [4, 4, 0]
    assert found.loc["up", ["median_positive", "median_reference", "u", "cliffs_delta"]].tolist() == [6.5, 2.5, 16, 1]
    assert found.loc["down", ["n_positive", "missing", "median_positive", "u"]].tolist() == [3, 1, 2, 0]
    np.testing.assert_allclose(found["p_value"], [2 / 70, 2 / 35, 1, np.nan], atol=1e-15)
    np.testing.assert_allclose(found["p_holm"], [6 / 70, 4 / 35, 1, np.nan], atol=1e-15)
    np.testing.assert_allclose(found["p_bh"], [6 / 70, 6 / 70, 1, np.nan], atol=1e-15)
    assert found["direction"].iloc[:3].tolist() == ["higher", "lower", "equal"]
    assert pd.isna(found.loc["absent", "direction"])
    assert found.loc["absent", ["n_positive", "n_reference", "missing"]].tolist() == [4, 0, 4]


def test_the_other_positive_label_turns_direction_and_delta(table):
    labels = np.array(["N0"] * 4 + ["N+"] * 4)
    forth, back = compare_groups(table, labels, positive="N+"), compare_groups(table, labels, positive="N0")
    np.testing.assert_array_equal(forth["p_value"], back["p_value"])
    np.testing.assert_allclose(forth["cliffs_delta_low"], -back["cliffs_delta_high"], atol=1e-12)
    assert back["direction"].iloc[:3].tolist() == ["lower", "higher", "equal"]


@pytest.mark.parametrize("labels", [[0, 1] * 4, [False, True] * 4, [0.0, 1.0] * 4])
def test_labels_0_and_1_need_no_positive(table, labels):
    expected = compare_groups(table, ["no", "yes"] * 4, positive="yes")
    pd.testing.assert_frame_equal(compare_groups(table, labels), expected)


def test_compare_groups_is_the_same_for_permuted_patients(table):
    labels = pd.Series(["N0"] * 4 + ["N+"] * 4, index=table.index)
    order = list("hcafbged")
    found = compare_groups(table.loc[order], labels.loc[order], positive="N+")
    pd.testing.assert_frame_equal(found, compare_groups(table, labels, positive="N+"))


def test_three_groups_equal_r():
    case = REFERENCE["kruskal.test"]
    numbers = pd.DataFrame({"half": [*case["x"], *case["y"], *case["z"]]})
    row = compare_groups(numbers, ["x"] * 5 + ["y"] * 4 + ["z"] * 5).iloc[0]
    assert round(row["h"], 5) == case["chi_squared"]
    assert round(row["p_value"], 2) == case["p"]
    assert row["epsilon_squared"] == pytest.approx(case["chi_squared"] / 13, abs=1e-6)
    assert row[["n_x", "n_y", "n_z", "missing"]].tolist() == [5, 4, 5, 0]
    assert row[["median_x", "median_y", "median_z"]].tolist() == [2.9, 3.25, 2.8]


def test_three_groups_with_nothing_to_compare(table):
    found = compare_groups(table, ["a"] * 4 + ["b", "b", "c", "c"]).set_index("feature")
    assert found.loc["flat", ["h", "p_value", "epsilon_squared"]].tolist() == [0, 1, 0]
    assert found.loc["absent", ["h", "p_value", "epsilon_squared", "p_holm", "median_a"]].isna().all()
    np.testing.assert_allclose(found.loc[["up", "down", "flat"], "p_holm"], holm(found["p_value"].iloc[:3]))
    assert compare_groups(table[["up"]], [2, 2, 2, 2, 0, 0, 1, 1]).loc[0, ["n_0", "n_1", "n_2"]].tolist() == [2, 2, 4]


def test_one_group_is_refused(table):
    with pytest.raises(RefusedError, match=r"the 8 patients have 1 label\(s\) \['N0'\]; two are needed"):
        compare_groups(table, ["N0"] * 8, positive="N0")


@pytest.mark.parametrize(
    ("labels", "positive", "message"),
    [
        (["N0", "N+"] * 4, None, r"positive must say which of the labels \['N\+', 'N0'\]"),
        (["N0", "N+"] * 4, "N1", r"one of the labels \['N\+', 'N0'\], got 'N1'"),
        (["a", "b", "c", "c"] * 2, "a", "positive is for two groups, got 'a' with 3 groups"),
        (["N0", "N+", "N+"], "N+", r"one label for each of 8 rows, got shape \(3,\)"),
        (["N0", None] * 4, "N0", "must not be missing, got 4 of 8"),
        (pd.Series(["N0", "N+"] * 4), "N+", "must have the table's index"),
    ],
)
def test_groups_are_checked(table, labels, positive, message):
    with pytest.raises(ValueError, match=message):
        compare_groups(table, labels, positive=positive)


def test_columns_are_checked(table):
    with pytest.raises(ValueError, match="columns must be numeric, got grade"):
        compare_groups(table.assign(grade="II"), [0, 1] * 4)
    with pytest.raises(ValueError, match="must have a column"):
        compare_groups(table[[]], [0, 1] * 4)


def test_shuffled_labels_give_uniform_p():
    rng = np.random.default_rng(3)
    features = pd.DataFrame(rng.normal(size=(80, 300)))
    found = compare_groups(features, rng.permutation([0, 1] * 40))
    assert stats.kstest(found["p_value"], "uniform").pvalue > 0.01
    assert (found["p_holm"] > 0.05).all()


def test_a_planted_feature_stands_out():
    rng = np.random.default_rng(4)
    labels = rng.permutation([0, 1] * 40)
    features = pd.DataFrame(rng.normal(size=(80, 8)), columns=list("abcdefgh"))
    features["c"] -= 1.2 * labels
    found = compare_groups(features, labels).set_index("feature")
    assert found["p_value"].idxmin() == "c"
    assert found.loc["c", "p_holm"] < 0.01
    assert found.loc["c", "direction"] == "lower"
    assert found.loc["c", "cliffs_delta_high"] < 0


def test_categories_by_chi_square_and_fisher() -> None:
    from scipy.stats import chi2_contingency, fisher_exact

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    table = pd.DataFrame(
        {
            "grade": rng.integers(1, 4, 300).astype(object),
            "rare": np.where(rng.random(300) < 0.01, "yes", "no"),
            "same": np.where(rng.random(300) < 0.2 + 0.4 * labels, "a", "b"),
            "one": "x",
        }
    )
    table.loc[:9, "grade"] = None
    found = compare_categories(table, labels).set_index("feature")
    counts = pd.crosstab(table["grade"], labels[: len(table)])
    expected = chi2_contingency(counts, correction=False)
    assert found.loc["grade", "p_value"] == pytest.approx(expected.pvalue)
    assert found.loc["grade", ["n", "missing", "degrees", "test"]].tolist() == [290, 10, 2, "chi-square"]
    assert found.loc["rare", "test"] == "Fisher"
    assert found.loc["rare", "p_value"] == pytest.approx(fisher_exact(pd.crosstab(table["rare"], labels))[1])
    assert np.isnan(found.loc["one", "p_value"])
    assert found.loc["same", "p_holm"] == pytest.approx(3 * found.loc["same", "p_value"])
    same = found.loc["same"]
    assert 0 < same["cramers_v_low"] < same["cramers_v"] < same["cramers_v_high"] < 1
    assert found.loc["grade", "cramers_v_low"] == 0


def test_the_interval_of_cramers_v_covers() -> None:
    """Population V of this fourfold table is 0.3."""
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        labels = np.repeat([0, 1], 100)
        values = pd.DataFrame({"x": (rng.random(200) < np.where(labels == 1, 0.65, 0.35)).astype(int)})
        row = compare_categories(values, labels).iloc[0]
        inside += row["cramers_v_low"] <= 0.3 <= row["cramers_v_high"]
    assert 0.92 <= inside / 400 <= 0.98

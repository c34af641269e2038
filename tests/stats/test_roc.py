from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scored_cases import laws, placements, planted, samples
from sklearn import metrics

from morphomil.stats import (
    auc,
    auc_interval,
    average_precision,
    binomial_auc_interval,
    delong_test,
    delong_test_unpaired,
    roc_curve,
    within_fold_auc,
    within_fold_auc_interval,
    youden_cutoff,
)

FOLDER = Path(__file__).parents[1] / "reference"
REFERENCE = json.loads((FOLDER / "stats.json").read_text(encoding="utf-8"))
Z = stats.norm.ppf(0.975)


@laws
@given(samples())
def test_auc_equals_pair_counting_u_and_scikit_learn(sample):
    labels, scores = sample
    expected = placements(labels, scores)[0]
    u = (
        stats.mannwhitneyu(scores[labels], scores[~labels], method="asymptotic").statistic
        if np.ptp(scores)
        else None
    )
    assert auc(labels, scores) == pytest.approx(expected, abs=1e-14)
    assert auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
    assert u is None or auc(labels, scores) == pytest.approx(
        u / (labels.sum() * (~labels).sum()), abs=1e-14
    )


@laws
@given(samples(), st.randoms(use_true_random=False))
def test_auc_laws(sample, random):
    labels, scores = sample
    value = auc(labels, scores)
    order = list(range(len(labels)))
    random.shuffle(order)
    assert value + auc(labels, -scores) == pytest.approx(1, abs=1e-14)
    assert value + auc(~labels, scores) == pytest.approx(1, abs=1e-14)
    assert auc(labels, np.exp(scores / 3) - 7) == value
    assert auc(labels[order], scores[order]) == value
    assert auc(labels.astype(int), pd.Series(scores)) == value


@laws
@given(samples(), st.randoms(use_true_random=False))
def test_curves_cutoffs_and_intervals_follow_the_same_laws(sample, random):
    """Cases in any order, scores on any scale, either class as the positive one; `samples` are full
    of ties."""
    labels, scores = sample
    order = list(range(len(labels)))
    random.shuffle(order)
    other = np.array(random.sample(range(-5, 6), 11))[scores.astype(int) + 5] + scores
    stretched = np.exp(scores / 3) - 7
    for method in ("auto", "delong", "logit-delong", "binomial"):
        area, low, high = auc_interval(labels, scores, method=method)
        turned = auc_interval(~labels, scores, method=method)
        assert turned == pytest.approx((1 - area, 1 - high, 1 - low), abs=1e-9)
        assert auc_interval(labels, stretched, method=method) == (area, low, high)
        assert auc_interval(labels[order], scores[order], method=method) == pytest.approx(
            (area, low, high), abs=1e-12
        )
    test = delong_test(labels, scores, other)
    moved = delong_test(labels[order], stretched[order], 2 * other[order] - 1)
    assert (moved.difference, *moved.interval, moved.p_value) == pytest.approx(
        (test.difference, *test.interval, test.p_value), abs=1e-9, nan_ok=True
    )
    swapped = delong_test_unpaired(labels, other, labels, scores)
    apart = delong_test_unpaired(~labels, scores, ~labels, other)  # turns the sign twice
    assert (apart.difference, apart.p_value) == pytest.approx(
        (swapped.difference, swapped.p_value), abs=1e-9, nan_ok=True
    )
    assert average_precision(labels[order], stretched[order]) == average_precision(labels, scores)
    assert youden_cutoff(labels[order], 3 * scores[order]) == 3 * youden_cutoff(labels, scores)
    curve, mirrored = roc_curve(labels, scores), roc_curve(~labels, -scores)
    np.testing.assert_allclose(mirrored["sensitivity"], curve["specificity"][::-1], atol=1e-12)
    np.testing.assert_array_equal(
        roc_curve(labels[order], stretched[order]).iloc[:, 1:], curve.iloc[:, 1:]
    )


def test_auc_knows_infinite_scores_and_pandas_booleans():
    assert (
        auc(pd.array([True, False, True, False], dtype="boolean"), [np.inf, -np.inf, 1, 1]) == 0.875
    )


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 1, 1], [1, 2, 3], "both classes, got 3 positive and 0 negative"),
        ([], [], "both classes, got 0 positive"),
        ([0, 1, 1], [1, np.nan, 3], "1 NaN of 3"),
        ([0, 1], [1, 2, 3], r"one length, got shapes \(2,\), \(3,\)"),
        ([[0, 1]], [[1, 2]], "vectors"),
        ([0, 1, 2], [1, 2, 3], r"booleans or 0/1, got \[0, 1, 2\]"),
        ([0, 1, np.nan], [1, 2, 3], "booleans or 0/1"),
        (["0", "1"], [1, 2], "booleans or 0/1"),
        (pd.array([True, False, None], dtype="boolean"), [1, 2, 3], "booleans or 0/1"),
    ],
)
def test_auc_rejects_in_one_sentence(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        auc(labels, scores)


def test_delong_interval_equals_stata():
    case = REFERENCE["roctab"]
    ratings = np.arange(1, 6)
    labels = np.repeat([0, 1], [sum(case["normal"]), sum(case["abnormal"])])
    scores = np.r_[np.repeat(ratings, case["normal"]), np.repeat(ratings, case["abnormal"])]
    area, low, high = auc_interval(labels, scores)
    assert (round(area, 4), round((high - low) / 2 / Z, 4)) == (
        case["area"],
        case["standard_error"],
    )
    assert [round(low, 5), round(high, 5)] == case["interval"]


def test_logit_interval_equals_its_formula():
    labels, scores = planted(np.random.default_rng(6), 60)
    area, x, y = placements(labels, scores)
    parts = np.array([x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)])
    degrees = parts.sum() ** 2 / (parts**2 / (np.array([len(x), len(y)]) - 1)).sum()
    t, pairs = stats.t.ppf(0.975, degrees), min(len(x), len(y))
    shrunk = (area * pairs + 1 / 3) / (pairs + 2 / 3)
    wider = parts.sum() + (1 / 3 / (pairs + 2 / 3)) ** 2

    def limit(center, variance, sign):
        error = math.sqrt(variance) / (center * (1 - center))
        return stats.logistic.cdf(stats.logistic.ppf(center) + sign * t * error)

    low = min(limit(area, parts.sum(), -1), limit(shrunk, wider, -1))
    expected = (low, limit(area, parts.sum(), 1))
    found = auc_interval(labels, scores, method="logit-delong")
    assert area > 0.5
    assert found[1:] == pytest.approx(expected, abs=1e-12)
    turned = auc_interval(labels, -scores, method="logit-delong")
    assert turned[1:] == pytest.approx((1 - found.high, 1 - found.low), abs=1e-12)


@pytest.mark.parametrize(("smaller", "method"), [(49, "logit-delong"), (50, "delong")])
def test_auto_interval_changes_at_fifty_cases_of_a_class(smaller, method):
    rng = np.random.default_rng(7)
    labels = np.arange(200) < smaller
    scores = rng.normal(size=200) + labels
    assert auc_interval(labels, scores) == auc_interval(labels, scores, method=method)


@pytest.mark.parametrize(
    ("shift", "method"), [(1.7, "delong"), (2.2, "logit-delong"), (-2.2, "logit-delong")]
)
def test_auto_interval_changes_near_one(shift, method):
    labels, scores = planted(np.random.default_rng(16), 240, shift=shift)
    assert auc_interval(labels, scores) == auc_interval(labels, scores, method=method)
    assert auc_interval(labels, scores, method="delong") != auc_interval(
        labels, scores, method="logit-delong"
    )


@pytest.mark.parametrize(
    ("area", "n", "m"),
    [(0.95, 50, 50), (0.95, 150, 150), (0.9, 79, 131), (0.8, 30, 30), (0.99, 20, 200)],
)
def test_default_interval_holds_as_often_as_it_says(area, n, m):
    rng = np.random.default_rng(n)
    labels, shift = np.arange(n + m) < n, stats.norm.ppf(area) * math.sqrt(2)
    held = 0
    for _ in range(800):
        _, low, high = auc_interval(labels, rng.normal(size=n + m) + shift * labels)
        held += low <= area <= high
    assert 0.93 < held / 800 < 0.99  # a standard error is 0.008


@pytest.mark.parametrize("method", ["auto", "delong", "logit-delong", "bootstrap"])
def test_interval_at_perfect_separation_has_width(method):
    labels = np.arange(30) >= 18
    area, low, high = auc_interval(labels, np.arange(30), method=method, seed=0)
    assert (area, high) == (1, 1)
    assert low == pytest.approx(0.025 ** (1 / 12), rel=1e-12)
    assert auc_interval(labels, -np.arange(30), method=method, seed=0) == pytest.approx(
        (0, 0, 1 - low), abs=1e-12
    )


def test_interval_of_constant_scores_and_of_a_single_positive_says_little():
    _, low, high = auc_interval([0] * 10 + [1] * 10, np.ones(20))
    assert (low, high) == pytest.approx(
        (stats.beta.ppf(0.025, 5, 6), stats.beta.ppf(0.975, 6, 5)), abs=1e-12
    )
    area, low, high = auc_interval([0] * 10 + [1], np.r_[np.arange(10), 7.5])
    assert (area, low < 0.1, high > 0.99) == (0.8, True, True)


@laws
@given(
    samples(),
    st.sampled_from(["delong", "logit-delong", "binomial", "bootstrap"]),
    st.floats(0.5, 0.99),
)
def test_intervals_hold_the_estimate_have_width_and_stay_in_range(sample, method, level):
    area, low, high = auc_interval(*sample, method=method, level=level, seed=1, resamples=50)
    assert 0 <= low < high <= 1
    assert method == "bootstrap" or low <= area <= high


def test_bootstrap_is_seeded_and_agrees_with_delong_on_many_cases():
    labels, scores = planted(np.random.default_rng(8), 600)
    first = auc_interval(labels, scores, method="bootstrap", seed=3)
    assert first == auc_interval(labels, scores, method="bootstrap", seed=3)
    assert first == pytest.approx(auc_interval(labels, scores, method="delong"), abs=0.006)
    with pytest.raises(ValueError, match="needs a seed"):
        auc_interval(labels, scores, method="bootstrap")


def test_interval_covers_the_truth_in_small_samples():
    rng = np.random.default_rng(9)
    truth = stats.norm.cdf(1.2 / math.sqrt(2))
    labels = np.arange(36) < 14
    covered = 0
    for _ in range(600):
        _, low, high = auc_interval(labels, rng.normal(size=36) + 1.2 * labels)
        covered += low <= truth <= high
    assert 0.93 < covered / 600 < 0.985


def test_unknown_method_and_level_are_rejected():
    with pytest.raises(ValueError, match="'hanley'"):
        auc_interval([0, 1], [1, 2], method="hanley")
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        auc_interval([0, 1, 0, 1], [1, 2, 3, 4], level=95)


@pytest.mark.parametrize("k", [0, 3, 20])
def test_binomial_interval_of_whole_counts_is_clopper_pearson(k):
    exact = stats.binomtest(k, 20).proportion_ci(method="exact")
    assert binomial_auc_interval(k / 20, 20) == pytest.approx((exact.low, exact.high), abs=1e-10)


def test_binomial_interval_reproduces_the_paper_and_rejects_nonsense(shared_data):
    rows = pd.read_csv(shared_data / "paper" / "table_rows.csv")
    rows = rows[rows["row"] != "C T"]  # a misprint: it has the interval of another row
    for row in rows.itertuples():
        # AUC is printed to three digits, so the limits are known to about one unit of the last
        expected = pytest.approx((row.auc_low, row.auc_high), abs=0.0015)
        assert binomial_auc_interval(row.auc_est, row.n_pos + row.n_neg) == expected
    for area, n in ((1.2, 10), (math.nan, 10), (0.5, 0)):
        with pytest.raises(ValueError, match="AUC must be in"):
            binomial_auc_interval(area, n)


@laws
@given(samples())
def test_roc_curve_equals_scikit_learn_and_integrates_to_the_auc(sample):
    labels, scores = sample
    curve = roc_curve(labels, scores)
    false_rate, true_rate, cutoffs = metrics.roc_curve(labels, scores, drop_intermediate=False)
    assert list(curve) == ["cutoff", "sensitivity", "specificity"]
    np.testing.assert_array_equal(curve["cutoff"], cutoffs)
    np.testing.assert_allclose(curve["sensitivity"], true_rate, atol=1e-14)
    np.testing.assert_allclose(curve["specificity"], 1 - false_rate, atol=1e-14)
    assert metrics.auc(false_rate, true_rate) == pytest.approx(auc(labels, scores), abs=1e-12)


@laws
@given(samples())
def test_youden_cutoff_is_the_lowest_of_the_best(sample):
    labels, scores = sample
    gain = {
        c: (labels & (scores >= c)).sum() * (~labels).sum()
        - (~labels & (scores >= c)).sum() * labels.sum()
        for c in np.unique(scores)
    }
    assert youden_cutoff(labels, scores) == min(c for c in gain if gain[c] == max(gain.values()))


def test_youden_cutoff_by_hand():
    assert youden_cutoff([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.35  # 0.35 and 0.8 tie at J = 0.5
    assert youden_cutoff([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4]) == 0.1


def folded(rng, n, *, folds, shift=1.0, offset=5.0):
    labels, scores = planted(rng, n, shift=shift, decimals=1)
    fold = rng.integers(folds, size=n)
    return labels, scores + offset * fold, fold


def test_within_fold_auc_counts_no_pair_across_folds():
    labels, scores, fold = folded(np.random.default_rng(10), 150, folds=5)
    won = pairs = 0
    for k in range(5):
        x, y = scores[(fold == k) & labels], scores[(fold == k) & ~labels]
        won += ((x[:, None] > y) + 0.5 * (x[:, None] == y)).sum()
        pairs += len(x) * len(y)
    names = np.array(["a", "b", "c", "d", "e"])[fold]
    assert within_fold_auc(labels, scores, fold) == pytest.approx(won / pairs, abs=1e-14)
    assert within_fold_auc(labels, scores - 5 * fold, names) == pytest.approx(
        won / pairs, abs=1e-14
    )
    assert abs(auc(labels, scores) - won / pairs) > 0.1


def test_folds_with_one_class_have_no_say():
    labels, scores, fold = folded(np.random.default_rng(11), 80, folds=3)
    more = np.r_[labels, [True] * 5], np.r_[scores, np.arange(5)], np.r_[fold, [9] * 5]
    assert within_fold_auc(*more) == within_fold_auc(labels, scores, fold)
    assert within_fold_auc_interval(*more) == within_fold_auc_interval(labels, scores, fold)
    with pytest.raises(ValueError, match="both classes within a fold"):
        within_fold_auc([0, 0, 1, 1], [1, 2, 3, 4], [0, 0, 1, 1])


def test_folds_are_checked():
    with pytest.raises(ValueError, match=r"as long as the 3 scores, got shape \(2,\)"):
        within_fold_auc([0, 1, 1], [1, 2, 3], [0, 0])
    with pytest.raises(ValueError, match="1 missing of 3"):
        within_fold_auc([0, 1, 1], [1, 2, 3], ["a", "a", None])
    with pytest.raises(ValueError, match="influence or bootstrap, got 'delong'"):
        within_fold_auc_interval([0, 1], [1, 2], [0, 0], method="delong")


def test_influence_interval_of_equal_folds_is_ledells_with_degrees_of_freedom():
    rng = np.random.default_rng(12)
    fold = np.repeat(np.arange(5), 40)
    labels = np.tile(np.arange(40) < 20, 5)
    scores = rng.normal(size=200) + labels + 3 * fold
    squares, areas = [], []
    for k in range(5):  # LeDell et al. 2015, section 4.2
        area, x, y = placements(labels[fold == k], scores[fold == k])
        squares.append(np.mean(np.r_[(x - area) / 0.5, (y - area) / 0.5] ** 2))
        areas.append(area)
    error = math.sqrt(np.mean(squares) / 200) * math.sqrt(100 / 95)
    area = float(np.mean(areas))
    expected = (area, area - Z * error, area + Z * error)
    given = within_fold_auc_interval(labels, scores, fold, training_auc=0.5 + 1e-9)
    assert given == pytest.approx(expected, abs=1e-12)
    trained = area + 0.1
    overfitted = within_fold_auc_interval(labels, scores, fold, training_auc=trained)
    for limit, at in ((overfitted.high, area), (overfitted.low, overfitted.low)):
        factor = 2 - stats.norm.ppf(at) / stats.norm.ppf(trained)
        assert abs(limit - area) == pytest.approx(Z * error * math.sqrt(factor), abs=1e-8)
    unknown = within_fold_auc_interval(labels, scores, fold)
    assert unknown.high - unknown.low == pytest.approx(
        math.sqrt(2) * (given.high - given.low), abs=1e-12
    )


def test_one_fold_is_a_plain_sample():
    labels, scores = planted(np.random.default_rng(13), 70)
    assert within_fold_auc_interval(labels, scores, np.zeros(70)) == auc_interval(labels, scores)
    seeded = {"method": "bootstrap", "seed": 4, "resamples": 100}
    assert within_fold_auc_interval(labels, scores, np.zeros(70), **seeded) == auc_interval(
        labels, scores, **seeded
    )


def test_within_fold_bootstrap_agrees_with_the_influence_curve():
    labels, scores, fold = folded(np.random.default_rng(14), 500, folds=4)
    bootstrap = within_fold_auc_interval(labels, scores, fold, method="bootstrap", seed=1)
    given = within_fold_auc_interval(labels, scores, fold, training_auc=0.5 + 1e-9)
    assert bootstrap == pytest.approx(given, abs=0.008)


def test_perfect_folds_have_an_interval_with_width():
    fold = np.repeat([0, 1, 2], [10, 8, 6])
    labels = np.arange(24) % 2 == 0
    for method in ("influence", "bootstrap"):
        found = within_fold_auc_interval(labels, labels + 10.0 * fold, fold, method=method, seed=1)
        pairs = 12 if method == "bootstrap" else 6
        assert found == pytest.approx((1, 0.025 ** (1 / pairs), 1), abs=1e-12)


def test_within_fold_interval_covers_the_truth_of_fixed_scores():
    rng = np.random.default_rng(15)
    truth = stats.norm.cdf(1 / math.sqrt(2))
    labels, fold = np.arange(100) < 35, np.arange(100) % 5
    covered = 0
    for _ in range(500):
        scores = rng.normal(size=100) + labels + rng.normal(size=5)[fold]
        _, low, high = within_fold_auc_interval(labels, scores, fold, training_auc=0.5 + 1e-9)
        covered += low <= truth <= high
    assert 0.925 < covered / 500 < 0.985

"""Three and more groups: tests, effects and areas against independent witnesses."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import fisher_exact, kruskal, mannwhitneyu, somersd

from morphomil.stats import (
    bootstrap_by_patient,
    delong_test,
    delta_interval,
    multiclass_auc,
    resampled_multiclass_auc,
    within_fold_auc,
    within_fold_auc_interval,
)
from morphomil.stats.categories import exact_test_of_shares
from morphomil.stats.combined_auc import (
    compare_combined,
    macro_auc,
    macro_auc_difference,
    macro_auc_interval,
    one_against_one,
    one_against_rest,
)
from morphomil.stats.explained import epsilon_squared
from morphomil.stats.several_groups import jonckheere_terpstra, kruskal_wallis, mean_ranks


@pytest.fixture
def patients():
    """Values with ties and groups of unequal size."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    return np.round(rng.normal(size=60) + 0.4 * labels, 1), labels


@pytest.fixture
def probabilities(patients):
    _, labels = patients
    p = np.random.default_rng(1).dirichlet(np.ones(3), len(labels))
    p[np.arange(len(labels)), labels] += 0.3
    return p / p.sum(axis=1, keepdims=True)


def test_kruskal_wallis_is_scipys_with_epsilon_squared(patients):
    x, labels = patients
    found = kruskal_wallis(x, labels)
    witness = kruskal(*[x[labels == k] for k in range(3)])
    assert found.statistic == pytest.approx(witness.statistic)
    assert found.p_value == pytest.approx(witness.pvalue)
    assert found.effect == pytest.approx(witness.statistic / 59)
    assert found.low <= found.effect <= found.high
    assert (found.low == 0) == (found.p_value > 0.025)
    gone = np.where(np.arange(60) < 5, np.nan, x)
    witness = kruskal(*[x[5:][labels[5:] == k] for k in range(3)])
    assert kruskal_wallis(gone, labels).p_value == pytest.approx(witness.pvalue)
    assert np.isnan(kruskal_wallis(np.full(60, np.nan), labels).p_value)


def test_jonckheere_terpstra_has_the_moments_of_all_orders_and_somers_d(patients):
    x, labels = patients
    assert jonckheere_terpstra(x, labels).effect == pytest.approx(somersd(labels, x).statistic)
    small, groups = np.array([1.0, 1, 2, 3, 3, 5]), np.array([0, 1, 0, 2, 1, 2])

    def count(marks):
        return sum(
            (a < b) + (a == b) / 2
            for a, one in zip(small, marks, strict=True)
            for b, other in zip(small, marks, strict=True)
            if one < other
        )

    every = [count(np.array(marks)) for marks in permutations(groups)]
    z = (count(groups) - np.mean(every)) / np.std(every)
    assert jonckheere_terpstra(small, groups).statistic == pytest.approx(z)


def test_a_trend_of_two_groups_is_mann_whitneys(patients):
    x, labels = patients
    high = labels == 2
    found = jonckheere_terpstra(x, high.astype(int))
    witness = mannwhitneyu(x[high], x[~high], use_continuity=False, method="asymptotic")
    assert found.p_value == pytest.approx(witness.pvalue)
    assert found[2:] == pytest.approx(delta_interval(x, high))
    strata = np.arange(60) % 3
    within = jonckheere_terpstra(x, high.astype(int), strata=strata)
    witness = delta_interval(x, high, strata=strata)  # which pools the strata's variances
    assert within[2:] == pytest.approx(witness, abs=0.03)


def test_mean_ranks_say_who_has_more():
    means = mean_ranks([1, 2, 3, 4, np.nan], [0, 1, 1, 0, 2], classes=3)
    np.testing.assert_allclose(means, [0.5, 0.5, np.nan])


def test_macro_auc_is_the_mean_of_one_against_the_rest(patients, probabilities):
    _, labels = patients
    folds = np.arange(60) % 5
    assert macro_auc(labels, probabilities) == pytest.approx(multiclass_auc(labels, probabilities))
    by_hand = [within_fold_auc(labels == k, probabilities[:, k], folds) for k in range(3)]
    assert macro_auc(labels, probabilities, folds) == pytest.approx(np.mean(by_hand))
    with pytest.raises(ValueError, match="two classes within a fold"):
        macro_auc(labels, probabilities, np.arange(60))


def test_the_macro_aucs_variance_is_that_of_resampled_patients(patients, probabilities):
    _, labels = patients
    drawn = bootstrap_by_patient(
        resampled_multiclass_auc(labels, probabilities),
        np.arange(60),
        seed=0,
        strata=labels,
        resamples=4000,
        vectorized=True,
    )
    error = one_against_rest(labels, probabilities).spread().variance ** 0.5
    assert error == pytest.approx(drawn.replicates.std(), rel=0.06)
    plain, folded = (
        macro_auc_interval(labels, probabilities, folds) for folds in (None, np.arange(60) % 5)
    )
    assert plain.low == pytest.approx(drawn.low, abs=0.04)
    assert plain.high == pytest.approx(drawn.high, abs=0.03)
    assert folded.high - folded.low > plain.high - plain.low
    perfect = macro_auc_interval(labels, np.eye(3)[labels])
    assert perfect.auc == perfect.high == 1 > perfect.low > 0.7


def test_of_two_classes_it_is_the_auc(patients, probabilities):
    _, labels = patients
    two = np.stack([1 - probabilities[:, 2], probabilities[:, 2]], axis=1)
    found = macro_auc_interval(labels == 2, two)
    witness = within_fold_auc_interval(labels == 2, two[:, 1], np.zeros(60))
    assert found == pytest.approx(witness)


def test_a_difference_of_macro_aucs(patients, probabilities):
    _, labels = patients
    noise = np.random.default_rng(2).dirichlet(np.ones(3), 60)
    found = macro_auc_difference(labels, probabilities, noise)
    expected = macro_auc(labels, probabilities) - macro_auc(labels, noise)
    assert found.difference == pytest.approx(expected)
    assert 0 < found.low < found.difference < found.high
    assert macro_auc_difference(labels, noise, noise) == (0, 0, 0)


def test_a_difference_of_two_classes_is_delongs_in_other_folds_too(patients, probabilities):
    _, labels = patients
    positive, other = labels == 2, np.random.default_rng(3).random(60)
    scores = probabilities[:, 2], other
    folds = np.arange(60) % 5, np.arange(60) // 12
    for chosen in ((None, None), folds):
        a, b = (
            one_against_rest(positive, np.stack([1 - x, x], axis=1), fold)
            for x, fold in zip(scores, chosen, strict=True)
        )
        test = compare_combined(a, b)
        witness = delong_test(positive, *scores, folds=chosen[0], folds_b=chosen[1])
        assert (test.auc_a, test.auc_b) == pytest.approx((witness.auc_a, witness.auc_b))
        assert test.p_value == pytest.approx(witness.p_value)
        assert test.interval == pytest.approx(witness.interval)


def test_every_two_classes_are_hand_and_tills(patients, probabilities):
    _, labels = patients
    found = one_against_one(labels, probabilities)
    expected = multiclass_auc(labels, probabilities, method="hand-till")
    assert found.auc == pytest.approx(expected)
    drawn = bootstrap_by_patient(
        resampled_multiclass_auc(labels, probabilities, method="hand-till"),
        np.arange(60),
        seed=0,
        strata=labels,
        resamples=2000,
        vectorized=True,
    )
    assert found.spread().variance ** 0.5 == pytest.approx(drawn.replicates.std(), rel=0.08)


def test_shares_of_groups_are_tested_exactly():
    assert exact_test_of_shares([[3, 9], [8, 2]]) == pytest.approx(
        fisher_exact([[3, 9], [8, 2]])[1]
    )
    assert exact_test_of_shares([[0, 9], [0, 2], [0, 4]]) == 1
    # Freeman and Halton by enumeration: of C(9, 3) = 84 tables' weight, 1 + 1 + 1 are as unlikely.
    assert exact_test_of_shares([[3, 0], [0, 3], [0, 3]]) == pytest.approx(3 / 84, abs=0.006)


def test_the_interval_of_epsilon_squared_is_that_of_the_context_table(patients):
    x, labels = patients
    witness = epsilon_squared(x, labels)
    assert kruskal_wallis(x, labels)[2:] == pytest.approx((witness.effect, *witness[2:4]))
    rng, found = np.random.default_rng(5), []
    for _ in range(300):
        marks = np.arange(60) % 3
        found.append(kruskal_wallis(rng.normal(size=60) + 0.6 * marks, marks))
    marks = np.arange(60_000) % 3
    truth = kruskal_wallis(rng.normal(size=60_000) + 0.6 * marks, marks).effect
    held = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.91 < held < 0.985

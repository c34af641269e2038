"""Van Elteren's test: against every permutation within strata, against Kruskal-Wallis, by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from morphomil.stats import hodges_lehmann, mann_whitney, van_elteren


def drawn(seed, sizes, *, tied):
    rng = np.random.default_rng(seed)
    strata = np.repeat(np.arange(len(sizes)), [m + k for m, k in sizes])
    member = np.concatenate([rng.permutation(np.arange(m + k) < m) for m, k in sizes])
    x = rng.normal(size=len(strata)) + strata + 0.5 * member
    return np.round(x, 0 if tied else 6), member, strata


@pytest.mark.parametrize("tied", [False, True])
def test_mean_and_variance_are_those_of_all_permutations_within_strata(tied):
    """The statistic of every way to choose the groups within the strata, enumerated."""
    x, member, strata = drawn(1, [(2, 3), (3, 2), (1, 3)], tied=tied)

    def statistic(stratum, chosen):
        own = x[strata == stratum]
        rank = stats.rankdata(own)
        return rank[list(chosen)].sum() / (len(own) + 1)

    truth = mean = variance = 0.0
    for stratum in range(3):
        inside = member[strata == stratum]
        every = [
            statistic(stratum, chosen)
            for chosen in combinations(range(len(inside)), int(inside.sum()))
        ]
        truth += statistic(stratum, np.flatnonzero(inside))
        mean, variance = mean + np.mean(every), variance + np.var(every)
    test = van_elteren(x, member, strata)
    assert test.z == pytest.approx((truth - mean) / np.sqrt(variance), rel=1e-12)
    assert test.p_value == pytest.approx(2 * stats.norm.sf(abs(test.z)), rel=1e-12)
    assert (test.n_group, test.n_rest, test.strata) == (6, 8, 3)


@pytest.mark.parametrize("tied", [False, True])
def test_one_stratum_is_kruskal_wallis_and_mann_whitney(tied):
    x, member, strata = drawn(2, [(14, 19)], tied=tied)
    test = van_elteren(x, member, strata)
    assert test.z**2 == pytest.approx(stats.kruskal(x[member], x[~member]).statistic)
    plain = mann_whitney(x[member], x[~member])
    assert test.cliffs_delta == pytest.approx(plain.cliffs_delta, abs=1e-12)
    assert (test.low, test.high) == pytest.approx((plain.low, plain.high), abs=1e-9)
    assert test.shift == pytest.approx(hodges_lehmann(x[member], x[~member]).estimate, abs=1e-9)


def test_the_weights_of_two_strata_by_hand():
    """(3, 1 | 2) and (5 | 4, 6): W / (n + 1) = 4/4 + 2/4, mean 2/2 + 1/2, variance 2 * 2 / (12 *
    4); delta 0 in both."""
    test = van_elteren([3, 1, 2, 5, 4, 6], [1, 1, 0, 1, 0, 0], list("aaabbb"))
    assert (test.z, test.cliffs_delta, test.p_value) == (0, 0, 1)
    """(3, 2 | 1) and (5 | 4, 6): 5/4 + 2/4 - 3/2 = 1/4 over sqrt(1/12)."""
    test = van_elteren([3, 2, 1, 5, 4, 6], [1, 1, 0, 1, 0, 0], list("aaabbb"))
    assert test.z == pytest.approx(0.25 / np.sqrt(1 / 12))
    assert test.cliffs_delta == pytest.approx(0.5)
    assert test.shift == pytest.approx(1)  # of 1, 2 | -1, 1


def test_what_only_strata_differ_in_is_not_found_and_the_shift_is_theirs():
    rng = np.random.default_rng(3)
    site = rng.integers(0, 3, 400)
    label = rng.random(400) < np.array([0.2, 0.5, 0.8])[site]
    x = 2.0 * site + rng.normal(size=400)
    test = van_elteren(x, label, site)
    assert mann_whitney(x[label], x[~label]).p_value < 1e-9
    assert test.p_value > 0.05
    moved = van_elteren(x + 0.7 * label, label, site)
    assert moved.shift_low < 0.7 < moved.shift_high
    assert moved.shift == pytest.approx(test.shift + 0.7, abs=1e-9)


@pytest.mark.parametrize("digits", [0, 1, 8])
def test_the_shift_is_that_of_all_differences_in_a_list(digits):
    """By sorting them with their weights, whatever ties there are within strata and between."""

    def reach(values, weights, bound):
        order = np.argsort(values, kind="stable")
        held = np.cumsum(weights[order]) <= bound * (1 + 1e-12)
        return values[order[max(int(held.sum()) - 1, 0)]]

    for seed in range(60):
        rng = np.random.default_rng(seed)
        sizes = [tuple(rng.integers(1, 9, 2)) for _ in range(rng.integers(1, 5))]
        x, member, strata = drawn(seed, sizes, tied=False)
        x = np.round(x, digits) * (seed % 7 > 0)
        parts = [(x[(strata == s) & member], x[(strata == s) & ~member]) for s in np.unique(strata)]
        differences = np.concatenate([(one[:, None] - rest).ravel() for one, rest in parts])
        weights = np.concatenate(
            [np.full(len(one) * len(rest), 1 / (len(one) + len(rest) + 1)) for one, rest in parts]
        )
        m, k = np.array(sizes, dtype=float).T
        middle = weights.sum() / 2
        bound = middle - 1.959963984540054 * np.sqrt((m * k / (12 * (m + k + 1))).sum())
        test = van_elteren(x, member, strata)
        expected = [
            (reach(differences, weights, middle) - reach(-differences, weights, middle)) / 2,
            reach(differences, weights, bound),
            -reach(-differences, weights, bound),
        ]
        found = (test.shift, test.shift_low, test.shift_high)
        np.testing.assert_allclose(found, expected, atol=1e-12, rtol=0)


def test_strata_of_one_group_and_missing_values_count_nowhere():
    x, member, strata = drawn(4, [(6, 5), (4, 7)], tied=False)
    test = van_elteren(x, member, strata)
    more = van_elteren(
        np.r_[x, 9.0, 8.0, np.nan], np.r_[member, True, True, False], np.r_[strata, 7, 7, 0]
    )
    assert (more.z, more.cliffs_delta, more.strata, more.missing) == (
        test.z,
        test.cliffs_delta,
        2,
        1,
    )
    empty = van_elteren([1.0, 2.0], [True, False], ["a", "b"])
    assert np.isnan(empty.p_value)
    assert empty.strata == 0
    constant = van_elteren(np.ones(6), [1, 0, 1, 0, 1, 0], list("aabbcc"))
    assert (constant.p_value, constant.cliffs_delta) == (1, 0)
    apart = van_elteren([2, 1, 2, 1], [1, 0, 1, 0], list("aabb"))
    assert (apart.cliffs_delta, apart.high) == (1, 1)
    assert apart.low < 0.5


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="vectors of one length"):
        van_elteren([1.0, 2.0], [True], ["a", "b"])

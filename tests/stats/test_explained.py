"""Rank correlation and epsilon squared: against scipy and the noncentral F, and their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from morphomil.stats.explained import epsilon_squared, rank_correlation


def test_rank_correlation_is_scipys_with_an_interval_around_it():
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    y = 0.5 * x + rng.normal(size=50)
    y[3] = np.nan
    found = rank_correlation(x, y)
    witness = stats.spearmanr(np.delete(x, 3), np.delete(y, 3))
    assert (found.n, found.effect) == (49, pytest.approx(witness.statistic))
    assert found.p_value == pytest.approx(witness.pvalue)
    z = np.arctanh(witness.statistic)
    reach = 1.959964 * math.sqrt((1 + witness.statistic**2 / 2) / 46)
    assert (found.low, found.high) == pytest.approx(tuple(np.tanh([z - reach, z + reach])))
    assert math.isnan(rank_correlation(np.ones(9), np.arange(9)).effect)


def test_epsilon_squared_is_the_ranks_share_of_variance_between_groups():
    rng = np.random.default_rng(1)
    group = np.repeat(["a", "b", "c"], 20).astype(object)
    x = rng.normal(size=60) + (group == "c")
    found = epsilon_squared(x, group)
    rank = stats.rankdata(x)
    between = sum(20 * (rank[group == g].mean() - rank.mean()) ** 2 for g in "abc")
    assert found.effect == pytest.approx(between / ((rank - rank.mean()) ** 2).sum())
    assert found.p_value == pytest.approx(stats.kruskal(*(x[group == g] for g in "abc")).pvalue)
    f = stats.f_oneway(*(rank[group == g] for g in "abc")).statistic
    for share, tail in ((found.low, 0.975), (found.high, 0.025)):
        assert stats.ncf.cdf(f, 2, 57, 60 * share / (1 - share)) == pytest.approx(tail, abs=1e-6)
    group[0], x[1] = None, np.nan
    assert epsilon_squared(x, group).n == 58
    assert math.isnan(epsilon_squared(x, np.full(60, "a")).effect)


def test_the_interval_covers_the_share_of_a_large_sample():
    rng = np.random.default_rng(2)

    def draw(n):
        group = np.arange(n) % 3
        return rng.normal(size=n) + 0.6 * group, group

    truth = epsilon_squared(*draw(200_000)).effect
    found = [epsilon_squared(*draw(60)) for _ in range(300)]
    assert np.mean([one.low <= truth <= one.high for one in found]) > 0.92

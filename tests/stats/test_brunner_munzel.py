"""Brunner and Munzel's test: against scipy and R, by brute force, by law, in simulation."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from morphomil.stats import brunner_munzel, mann_whitney

laws = settings(deadline=None, max_examples=15)
values = st.lists(st.integers(-3, 3), min_size=2, max_size=14).map(
    lambda v: np.array(v, dtype=float)
)
PAIN = (
    [1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 1, 1],
    [3, 3, 4, 3, 1, 2, 3, 1, 1, 5, 4],
)
"""Pain scores of Brunner & Munzel (2000, table 1)."""


def test_the_example_of_the_paper_as_r_prints_it():
    """R's lawstat prints 3.1375, df 17.683, p 0.005786, estimate 0.788961."""
    test = brunner_munzel(PAIN[1], PAIN[0])
    assert test.statistic == pytest.approx(3.1375, abs=5e-5)
    assert test.degrees == pytest.approx(17.683, abs=5e-4)
    assert test.p_value == pytest.approx(0.005786, abs=5e-7)
    assert mann_whitney(PAIN[1], PAIN[0]).cliffs_delta == pytest.approx(2 * 0.788961 - 1, abs=2e-6)


@pytest.mark.parametrize(
    ("n", "m", "decimals"), [(10, 10, 9), (10, 60, 9), (60, 10, 1), (40, 30, 0)]
)
def test_it_equals_scipy_in_groups_of_ten_and_more(n, m, decimals):
    rng = np.random.default_rng((n, m))
    x, y = np.round(rng.normal(0.5, 3, n), decimals), np.round(rng.normal(size=m), decimals)
    expected = stats.brunnermunzel(y, x)
    found = brunner_munzel(x, y)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-10)


def studentized(x, y):
    statistic = float(stats.brunnermunzel(y, x).statistic)
    return 0.0 if math.isnan(statistic) else statistic


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("n", "m", "decimals"), [(4, 5, 9), (5, 3, 9), (4, 4, 0), (3, 7, 0)])
def test_small_groups_are_permuted_exactly(n, m, decimals):
    rng = np.random.default_rng((n, m))
    x, y = np.round(rng.normal(1, 2, n), decimals), np.round(rng.normal(size=m), decimals)
    pooled = np.r_[x, y]
    far = []
    for members in combinations(range(n + m), n):
        inside = np.isin(np.arange(n + m), members)
        far.append(abs(studentized(pooled[inside], pooled[~inside])))
    least = abs(studentized(x, y)) - 1e-9
    assert brunner_munzel(x, y).p_value == pytest.approx(np.mean(np.array(far) >= least))


@laws
@given(values, values)
def test_laws(x, y):
    test, swapped, turned = brunner_munzel(x, y), brunner_munzel(y, x), brunner_munzel(-x, -y)
    assert 0 < test.p_value <= 1
    for other in (swapped, turned):
        assert other.statistic == pytest.approx(-test.statistic)
    assert swapped.p_value == pytest.approx(test.p_value)
    assert brunner_munzel(np.exp(x), np.exp(y)) == test


def test_separated_alike_missing_and_too_few_values():
    apart = brunner_munzel(np.arange(10, 22), np.arange(10))
    assert (apart.statistic, apart.p_value) == (math.inf, 2 / math.comb(22, 10))
    assert brunner_munzel([4, 5, 6], [1, 2, 3]).p_value == 2 / math.comb(6, 3)
    assert brunner_munzel([3, 3, 3], [3, 3]).p_value == 1
    assert brunner_munzel([1, 5, np.nan, 2], [2, 4]) == brunner_munzel([1, 5, 2], [2, 4])
    assert math.isnan(brunner_munzel([1], [2, 4]).p_value)
    with pytest.raises(ValueError, match="vectors"):
        brunner_munzel([[1, 2]], [1, 2])


def test_it_holds_its_level_where_the_smaller_group_is_wider():
    rng = np.random.default_rng(0)
    held = {"brunner-munzel": 0, "mann-whitney": 0, "interval": 0}
    for _ in range(800):
        x, y = rng.normal(0, 3, 10), rng.normal(size=60)
        rank_test = mann_whitney(x, y)
        held["brunner-munzel"] += brunner_munzel(x, y).p_value <= 0.05
        held["mann-whitney"] += rank_test.p_value <= 0.05
        held["interval"] += rank_test.low <= 0 <= rank_test.high
    assert held["brunner-munzel"] < 0.07 * 800 < 0.1 * 800 < held["mann-whitney"]
    assert held["interval"] > 0.94 * 800

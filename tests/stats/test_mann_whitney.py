"""The Mann-Whitney test with Cliff's delta: against R, by law and by hand."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from morphomil.stats import mann_whitney

FOLDER = Path(__file__).parents[1] / "reference"
REFERENCE = json.loads((FOLDER / "stats.json").read_text(encoding="utf-8"))
laws = settings(deadline=None, max_examples=60)
values = st.lists(st.integers(-4, 4), min_size=2, max_size=25).map(
    lambda v: np.array(v, dtype=float)
)


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
        assert limits(other) == pytest.approx(
            (-test.cliffs_delta, -test.high, -test.low), abs=1e-12
        )
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
    assert mann_whitney([4, 5, 6], [1, 2, 3]).p_value == pytest.approx(
        2 / math.comb(6, 3), abs=1e-15
    )


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
    assert limits(mann_whitney(np.arange(8, 16), np.arange(8))) == pytest.approx(
        (1, 2 * 0.025 ** (1 / 8) - 1, 1)
    )


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

"""DeLong's tests: against the paper's formulas, R's pROC, and by law."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scored_cases import laws, planted, samples, slow_delong

from morphomil.stats import (
    auc,
    auc_interval,
    delong_test,
    delong_test_unpaired,
)

FOLDER = Path(__file__).parents[1] / "reference"
REFERENCE = json.loads((FOLDER / "stats.json").read_text(encoding="utf-8"))
Z = stats.norm.ppf(0.975)


@laws
@given(samples(), st.integers(0, 2**31))
def test_delong_equals_the_formulas_of_the_paper(sample, seed):
    labels, a = sample
    b = np.round(a / 2 + np.random.default_rng(seed).normal(size=len(a)))
    auc_a, auc_b, error, _ = slow_delong(labels, a, b)
    result = delong_test(labels, a, b)
    assert (result.auc_a, result.auc_b) == pytest.approx((auc_a, auc_b), abs=1e-14)
    assert result.difference == pytest.approx(auc_a - auc_b, abs=1e-14)
    if error > 1e-9:
        assert result.z == pytest.approx((auc_a - auc_b) / error, rel=1e-9, abs=1e-12)
        assert result.p_value == pytest.approx(
            2 * stats.norm.sf(abs(auc_a - auc_b) / error), rel=1e-7
        )
        low, high = auc_a - auc_b - Z * error, auc_a - auc_b + Z * error
        if min(auc_a, auc_b) < 0.1 or max(auc_a, auc_b) > 0.9:
            assert result.interval[0] < result.difference < result.interval[1]
            return
        assert result.interval == pytest.approx((max(-1, low), min(1, high)), abs=1e-12)


def test_delong_swaps_sign_with_its_arguments_and_with_the_classes():
    rng = np.random.default_rng(1)
    labels, a = planted(rng, 90, decimals=1)
    b = np.round(a + rng.normal(size=90), 1)
    forth, back, flipped = (
        delong_test(labels, a, b),
        delong_test(labels, b, a),
        delong_test(~labels, a, b),
    )
    assert (back.z, back.p_value) == pytest.approx((-forth.z, forth.p_value), rel=1e-12)
    assert back.interval == pytest.approx((-forth.interval[1], -forth.interval[0]), abs=1e-14)
    assert (flipped.difference, flipped.z) == pytest.approx((-forth.difference, -forth.z), rel=1e-9)


def test_delong_of_scores_that_rank_alike():
    labels, a = planted(np.random.default_rng(2), 30)
    result = delong_test(labels, a, np.exp(a))
    assert (result.difference, result.interval, result.z, result.p_value) == (0, (0, 0), 0, 1)


def test_delong_of_two_perfect_scores_claims_no_certainty():
    labels = np.arange(20) >= 10
    a = np.arange(20.0)
    b = np.where(labels, 40 - a, a)
    result = delong_test(labels, a, b)
    reach = 1 - 0.025 ** (1 / 10)
    assert (result.z, result.p_value) == (0, 1)
    assert result.interval == pytest.approx((-reach, reach), abs=1e-12)


def test_delong_of_perfect_against_constant_has_no_z():
    labels = np.arange(20) >= 10
    result = delong_test(labels, np.arange(20), np.ones(20))
    assert result.difference == 0.5
    assert math.isnan(result.z)
    assert math.isnan(result.p_value)
    assert 0 < result.interval[0] < 0.5 < result.interval[1] < 1


def test_unpaired_delong_adds_the_variances():
    rng = np.random.default_rng(3)
    (labels_a, a), (labels_b, b) = planted(rng, 60, decimals=1), planted(rng, 45, shift=0.3)
    variance = slow_delong(labels_a, a, a)[3][0, 0] + slow_delong(labels_b, b, b)[3][0, 0]
    result = delong_test_unpaired(labels_a, a, labels_b, b)
    difference = auc(labels_a, a) - auc(labels_b, b)
    assert result.z == pytest.approx(difference / math.sqrt(variance), rel=1e-10)
    reach = np.diff(result.interval)[0] / 2 / variance**0.5
    assert Z < reach < 1.02 * Z  # Student's t of about a hundred degrees of freedom
    assert np.mean(result.interval) == pytest.approx(difference, abs=1e-12)


@pytest.mark.parametrize("name", ["distinct", "tied", "ratings", "small", "chance"])
def test_delong_equals_proc(name):
    cases = pd.read_csv(FOLDER / "roc_cases.csv").query("sample == @name")
    expected = (
        pd.read_csv(FOLDER / "roc.csv").query("sample == @name").set_index("quantity")["value"]
    )
    labels, a, b = (cases[column].to_numpy() for column in ("label", "a", "b"))
    paired = delong_test(labels, a, b)
    odd = np.arange(len(labels)) % 2 == 0
    unpaired = delong_test_unpaired(labels[odd], a[odd], labels[~odd], b[~odd])
    area, low, high = auc_interval(labels, a, method="delong")
    found = {
        "auc_a": area,
        "auc_b": paired.auc_b,
        "low_a": low,
        "high_a": high,
        "paired_z": paired.z,
        "paired_p": paired.p_value,
        "paired_low": paired.interval[0],
        "paired_high": paired.interval[1],
        "unpaired_d": unpaired.z,
        "unpaired_p": unpaired.p_value,
    }
    for quantity, value in found.items():
        assert value == pytest.approx(expected[quantity], abs=1e-9), quantity
    assert (paired.auc_a, ((high - low) / 2 / Z) ** 2) == pytest.approx(
        (area, expected["variance_a"]), abs=1e-9
    )


def test_unpaired_delong_of_two_perfect_groups_claims_no_certainty():
    result = delong_test_unpaired(
        [0, 0, 1, 1], [1, 2, 3, 4], [0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 5, 6]
    )
    assert (result.difference, result.z, result.p_value) == (0, 0, 1)
    assert result.interval == pytest.approx((0.025**0.5 - 1, 1 - 0.025 ** (1 / 3)), abs=1e-12)


def test_delong_needs_two_cases_of_each_class():
    with pytest.raises(ValueError, match="two cases of each class"):
        delong_test([0, 0, 1], [1, 2, 3], [3, 2, 1])


def test_delong_p_is_uniform_without_a_difference():
    rng = np.random.default_rng(4)
    p = []
    for _ in range(400):
        labels, truth = planted(rng, 120)
        p.append(
            delong_test(labels, truth + rng.normal(size=120), truth + rng.normal(size=120)).p_value
        )
    assert stats.kstest(p, "uniform").pvalue > 0.01


def timed(call):
    start = time.process_time()
    call()
    return time.process_time() - start


def test_delong_of_a_million_cases_costs_sorts_not_pairs():
    n = 10**6
    rng = np.random.default_rng(5)
    labels, a = planted(rng, n)
    b = a + rng.normal(size=n)
    argsort = min(timed(lambda: np.argsort(a, kind="stable")) for _ in range(3))
    tracemalloc.start()
    seconds = timed(lambda: delong_test(labels, a, b))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 15 * argsort
    assert peak < 300 * n  # bytes


@pytest.mark.parametrize(("n", "m", "areas"), [(20, 20, (0.99, 0.97)), (20, 200, (0.99, 0.97))])
def test_the_interval_of_a_difference_near_one_holds(n, m, areas):
    rng = np.random.default_rng((n, m))
    labels, held, plain = np.arange(n + m) < n, 0, 0
    for _ in range(300):
        common = rng.normal(size=n + m)
        a, b = (
            np.sqrt(0.5) * (common + rng.normal(size=n + m))
            + stats.norm.ppf(area) * np.sqrt(2) * labels
            for area in areas
        )
        low, high = delong_test(labels, a, b).interval
        held += low <= areas[0] - areas[1] <= high
        one, other = rng.normal(size=(2, n + m)) + 3.29 * labels
        low, high = delong_test_unpaired(labels, one, labels, other).interval
        plain += low <= 0 <= high
    assert held >= 0.93 * 300 and plain >= 0.93 * 300


def test_other_folds_of_the_same_cases_vary_as_the_same_folds():
    rng = np.random.default_rng(5)
    labels, a = planted(rng, 300)
    b, folds = a + rng.normal(size=300), np.arange(300) % 5
    same = delong_test(labels, a, b, folds=folds, training_aucs=(0.7, 0.7))
    renamed = delong_test(labels, a, b, folds=folds, folds_b=4 - folds, training_aucs=(0.7, 0.7))
    other = delong_test(labels, a, b, folds=folds, folds_b=rng.permutation(folds))
    assert renamed.z == pytest.approx(same.z, rel=0.02)
    assert abs(other.difference / other.z) == pytest.approx(
        abs(
            delong_test(labels, a, b, folds=folds).difference
            / delong_test(labels, a, b, folds=folds).z
        ),
        rel=0.15,
    )

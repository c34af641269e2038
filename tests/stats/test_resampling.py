"""Against scipy's BCa for one row per patient; patients stay whole; permutations are exact in a
small case."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import bootstrap

from morphomil.stats import (
    auc,
    bootstrap_by_patient,
    permutation_test,
    resampled_auc,
    resampled_mean,
    within_fold_auc,
)


def test_one_row_per_patient_is_scipys_interval() -> None:
    values = np.random.default_rng(0).exponential(1, 60)
    ours = bootstrap_by_patient(
        lambda rows: float(values[rows].mean()), np.arange(60), seed=1, resamples=20_000
    )
    theirs = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=1
    ).confidence_interval
    assert ours.estimate == values.mean()
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)
    again = bootstrap_by_patient(
        lambda rows: float(values[rows].mean()), np.arange(60), seed=1, resamples=500
    )
    same = bootstrap_by_patient(
        lambda rows: float(values[rows].mean()), np.arange(60), seed=1, resamples=500
    )
    np.testing.assert_array_equal(again.replicates, same.replicates)


def test_patients_stay_whole() -> None:
    """Ten copies of each patient's row say no more than one: the interval is that of the
    patients."""
    values = np.random.default_rng(0).normal(0, 1, 40)
    copies = np.repeat(values, 10)
    one = bootstrap_by_patient(
        lambda rows: float(values[rows].mean()), np.arange(40), seed=0, resamples=4000
    )
    ten = bootstrap_by_patient(
        lambda rows: float(copies[rows].mean()),
        np.repeat(np.arange(40), 10),
        seed=0,
        resamples=4000,
    )
    assert ten.high - ten.low == pytest.approx(one.high - one.low, rel=0.02)


def test_strata_keep_both_classes_and_what_does_not_exist_is_said() -> None:
    rng = np.random.default_rng(3)
    truth = np.r_[np.ones(4), np.zeros(40)].astype(int)
    scores = truth + rng.normal(0, 1, 44)

    def area(rows: np.ndarray) -> float:
        return auc(truth[rows], scores[rows])

    found = bootstrap_by_patient(area, np.arange(44), seed=0, strata=truth)
    assert found.undefined == 0
    assert found.low < found.estimate < found.high <= 1
    assert bootstrap_by_patient(area, np.arange(44), seed=0).undefined > 0
    with pytest.raises(ValueError, match="doesn't exist for these rows"):
        bootstrap_by_patient(lambda rows: float("nan"), np.arange(5), seed=0)
    with pytest.raises(ValueError, match="draw within strata"):
        bootstrap_by_patient(
            lambda rows: 1.0 if 0 in rows and 1 in rows else np.nan, np.arange(9), seed=0
        )
    with pytest.raises(ValueError, match="two strata"):
        bootstrap_by_patient(area, np.zeros(44), seed=0, strata=truth)
    assert np.isnan(bootstrap_by_patient(lambda rows: 3.0, np.arange(9), seed=0).low)


def test_permutations_against_all_of_them() -> None:
    values = np.array([0.1, 0.4, 0.5, 0.9, 1.3, 1.4, 2.0, 2.2])
    labels = np.array([0, 0, 0, 0, 1, 0, 1, 1])

    def difference(marks: np.ndarray) -> float:
        return float(values[marks == 1].mean() - values[marks == 0].mean())

    every = []
    for chosen in combinations(range(8), 3):
        marks = np.zeros(8, int)
        marks[list(chosen)] = 1
        every.append(difference(marks))
    exact = np.mean(np.abs(every) >= abs(difference(labels)) - 1e-12)
    found = permutation_test(difference, labels, seed=0, permutations=9999)
    assert found.p_value == pytest.approx(exact, abs=0.01)
    assert permutation_test(difference, labels, seed=0, permutations=9).p_value >= 0.1
    held = permutation_test(difference, labels, seed=0, strata=labels, permutations=9)
    assert (held.null == held.estimate).all()


def test_blocks_of_draws_equal_single_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same draws whether the statistic takes one or many, and whatever the size of a block."""
    rng = np.random.default_rng(4)
    patients = rng.integers(0, 25, 90)
    labels, folds = patients % 2, patients // 2 % 3
    scores = np.round(labels + rng.normal(0, 1, 90), 1)  # with ties
    for folded in (None, folds):

        def area(rows: np.ndarray, folded: np.ndarray | None = folded) -> float:
            return within_fold_auc(
                labels[rows], scores[rows], np.zeros(90)[rows] if folded is None else folded[rows]
            )

        given = {"patients": patients, "seed": 2, "strata": labels, "resamples": 300}
        single = bootstrap_by_patient(area, **given)
        many = bootstrap_by_patient(resampled_auc(labels, scores, folded), vectorized=True, **given)
        np.testing.assert_allclose(many.replicates, single.replicates, rtol=1e-12)
        assert (many.low, many.high) == pytest.approx((single.low, single.high), rel=1e-12)
    means = bootstrap_by_patient(
        resampled_mean(scores), patients, seed=1, resamples=400, vectorized=True
    )
    monkeypatch.setattr("morphomil.stats.resampling.BLOCK_CELLS", 1000)
    blocks = bootstrap_by_patient(
        lambda rows: float(scores[rows].mean()), patients, seed=1, resamples=400
    )
    np.testing.assert_allclose(means.replicates, blocks.replicates, rtol=1e-12)
    few = resampled_auc([0, 1], [1, 2])(np.array([[2, 0], [1, 3]]))
    assert np.isnan(few[0])
    assert few[1] == 1
    with pytest.raises(ValueError, match="needs resamples"):
        bootstrap_by_patient(area, patients, seed=0, resamples=0)
    with pytest.raises(ValueError, match="with a row"):
        bootstrap_by_patient(area, [], seed=0)


def test_permutations_in_blocks_equal_single_ones() -> None:
    rng = np.random.default_rng(5)
    values, labels, site = rng.normal(size=40), np.arange(40) % 2, np.arange(40) // 20
    given = {"labels": labels, "seed": 3, "strata": site, "permutations": 200}
    single = permutation_test(lambda marks: float(values @ marks), **given)
    many = permutation_test(lambda marks: marks @ values, vectorized=True, **given)
    np.testing.assert_allclose(many.null, single.null, rtol=1e-10)
    assert many.p_value == single.p_value

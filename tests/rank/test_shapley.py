"""Shapley values: textbook games, efficiency, sampled against exact, and the AUC against a count of
every coalition."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from morphomil.rank import contrasts
from morphomil.rank.contrasts import AucContrasts, contrast_log_likelihood
from morphomil.rank.shapley import (
    EXACT_FEATURES,
    Coalitions,
    log_likelihood,
)
from morphomil.stats import within_fold_auc


def by_definition(game, features):
    """The mean gain over all orders, straight from Shapley (1953)."""
    total = np.zeros(features)
    orders = list(permutations(range(features)))
    for order in orders:
        joined = frozenset()
        for feature in order:
            total[feature] += game(joined | {feature}) - game(joined)
            joined |= {feature}
    return total / len(orders)


def values_of(game, coalitions):
    return np.array([game(frozenset(np.flatnonzero(row))) for row in coalitions.members])


def test_exact_values_are_shapleys_definition():
    rng = np.random.default_rng(0)
    table = {frozenset(np.flatnonzero(row)): rng.normal() for row in Coalitions.exact(5).members}
    exact = Coalitions.exact(5)
    np.testing.assert_allclose(
        exact.weights @ values_of(table.get, exact), by_definition(table.get, 5), atol=1e-12
    )


def test_the_glove_game():
    """One left glove, two right ones; a pair is worth 1: the left glove gets 2/3, each right one
    1/6."""
    exact = Coalitions.exact(3)
    values = values_of(lambda s: float(0 in s and len(s) > 1), exact)
    np.testing.assert_allclose(exact.weights @ values, [2 / 3, 1 / 6, 1 / 6])


@pytest.mark.parametrize("features", [1, 2, 8, EXACT_FEATURES])
def test_values_sum_to_the_whole_minus_nothing_and_a_dummy_gets_none(features):
    exact = Coalitions.exact(features)
    assert len(exact.members) == 2**features
    assert not exact.members[0].any()
    assert exact.members[-1].all()
    values = np.random.default_rng(1).normal(size=len(exact.members))
    assert (exact.weights @ values).sum() == pytest.approx(values[-1] - values[0], abs=1e-10)
    without_first = values[np.arange(len(values)) & ~1]  # feature 0 never matters
    assert (exact.weights @ without_first)[0] == pytest.approx(0, abs=1e-12)


def test_sampled_values_approach_the_exact_ones_within_their_standard_error():
    rng = np.random.default_rng(2)
    pair, single = rng.normal(size=(10, 10)), rng.normal(size=10)

    def game(members):
        chosen = sorted(members)
        return np.tanh(single[chosen].sum()) + pair[np.ix_(chosen, chosen)].sum() / 10

    exact = Coalitions.exact(10)
    truth = exact.weights @ values_of(game, exact)
    misses = []
    for seed in range(20):
        sampled = Coalitions.sample(10, seed=seed, orders=50)
        values = values_of(game, sampled)
        estimate = sampled.weights @ values
        assert estimate.sum() == pytest.approx(values[-1] - values[0], abs=1e-10)
        misses.append((estimate - truth) / sampled.standard_error(values))
    assert np.std(misses) == pytest.approx(1, abs=0.25)
    assert abs(np.mean(misses)) < 0.3


def test_more_than_twelve_features_are_sampled():
    coalitions = Coalitions.of(EXACT_FEATURES + 1)
    assert coalitions.steps is not None
    assert not coalitions.members[0].any()
    assert coalitions.members[-1].all()
    assert Coalitions.of(EXACT_FEATURES).steps is None
    additive = coalitions.members @ np.arange(EXACT_FEATURES + 1.0)
    np.testing.assert_allclose(
        coalitions.weights @ additive, np.arange(EXACT_FEATURES + 1), atol=1e-9
    )
    np.testing.assert_allclose(coalitions.standard_error(additive), 0, atol=1e-12)
    with pytest.raises(ValueError, match="1 to 12 features, got 13"):
        Coalitions.exact(13)
    with pytest.raises(ValueError, match="at least 2 pairs"):
        Coalitions.sample(13, seed=0, orders=1)


def test_a_group_is_one_player():
    rng = np.random.default_rng(3)
    exact = Coalitions.exact(5)
    values = rng.normal(size=32)
    groups = [(1, 3), (0,), (4, 2)]

    def game(players):
        return values[sum(1 << feature for player in players for feature in groups[player])]

    np.testing.assert_allclose(exact.group(groups) @ values, by_definition(game, 3), atol=1e-12)
    with pytest.raises(ValueError, match="each of 5 features once"):
        exact.group([(0, 1), (1, 2, 3, 4)])
    with pytest.raises(ValueError, match="need all coalitions"):
        Coalitions.sample(13, seed=0).group([range(13)])


@pytest.fixture(scope="module")
def answers():
    """Probabilities (seeds, coalitions, patients, 2) with ties, labels and folds; feature 0 carries
    the label."""
    rng = np.random.default_rng(4)
    labels = np.arange(60) % 2
    folds = np.repeat(np.array(["a", "b", "c"]), 20)
    exact = Coalitions.exact(3)
    signal = np.stack([labels * 1.5, np.zeros(60), np.zeros(60)]) + rng.normal(size=(3, 60))
    logits = np.round((exact.members @ signal) + 0.1 * rng.normal(size=(4, 8, 60)), 1)
    probability = 1 / (1 + np.exp(-logits))
    probability[:, 0] = 0.5
    return exact, np.stack([1 - probability, probability], axis=-1), labels, folds


def test_auc_is_shared_as_counted_from_every_coalition(answers):
    exact, probability, labels, folds = answers
    areas = np.array(
        [within_fold_auc(labels, row, folds) for row in probability.mean(axis=0)[..., 1]]
    )
    assert areas[0] == 0.5
    shares = AucContrasts(probability, labels, folds, seed=0).estimate(exact.weights)
    np.testing.assert_allclose(shares.value, exact.weights @ areas, atol=1e-10)
    assert shares.value.sum() == pytest.approx(areas[-1] - 0.5, abs=1e-6)
    assert shares.value.argmax() == 0
    assert shares.low[0] > 0.1
    assert ((shares.low < shares.value) & (shares.value < shares.high)).all()
    with pytest.raises(ValueError, match="two classes within a fold"):
        AucContrasts(probability, labels, np.arange(60), seed=0).estimate(exact.weights)


def test_the_interval_of_the_auc_is_that_of_a_resampled_cohort(answers):
    """Against patients really drawn again, one by one, within fold and class."""
    exact, probability, labels, folds = answers
    one = probability[:1]
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(400):
        cases = np.concatenate(
            [
                rng.choice(np.flatnonzero((folds == f) & (labels == k)), size=10)
                for f in ("a", "b", "c")
                for k in (0, 1)
            ]
        )
        areas = [within_fold_auc(labels[cases], row[cases], folds[cases]) for row in one[0, ..., 1]]
        drawn.append(exact.weights @ areas)
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    shares = AucContrasts(one, labels, folds, seed=0).estimate(exact.weights)
    np.testing.assert_allclose(shares.low, low, atol=0.02)
    np.testing.assert_allclose(shares.high, high, atol=0.02)


def test_without_a_list_of_pairs_the_interval_is_nearly_the_same(answers, monkeypatch):
    exact, probability, labels, folds = answers
    listed = AucContrasts(probability, labels, folds, seed=0).estimate(exact.weights)
    monkeypatch.setattr(contrasts, "MANY_PAIRS", 0)
    summed = AucContrasts(probability, labels, folds, seed=0).estimate(exact.weights)
    np.testing.assert_allclose(summed.value, listed.value, atol=1e-12)
    for one, other in ((summed.low, listed.low), (summed.high, listed.high)):
        np.testing.assert_allclose(one, other, atol=0.02)  # of ten patients a fold and class


def test_log_likelihood_is_shared_per_patient_and_on_average(answers):
    exact, probability, labels, _ = answers
    mean = probability.mean(axis=0)
    of_patients = exact.weights @ log_likelihood(mean, labels)
    whole = log_likelihood(mean[-1], labels) - np.log(0.5)
    np.testing.assert_allclose(of_patients.sum(axis=0), whole, atol=1e-9)
    shares = contrast_log_likelihood(probability, labels, exact.weights, seed=0)
    np.testing.assert_allclose(shares.value, of_patients.mean(axis=1))
    assert shares.value.argmax() == 0
    assert ((shares.low < shares.value) & (shares.value < shares.high)).all()
    columns = shares.columns("shapley")
    assert list(columns) == ["shapley", "shapley_low", "shapley_high"]


def test_certainty_about_the_wrong_label_costs_a_finite_amount():
    wrong = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert np.isfinite(log_likelihood(wrong, np.array([1, 0]))).all()

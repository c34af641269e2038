"""The null of permuted labels: standardized attention, the moments it rests on."""

from __future__ import annotations

import numpy as np
import pytest

from morphomil.rank.chance import PooledNull, standardize
from morphomil.rank.folds import NullResult
from morphomil.rank.shapley import Coalitions, pair_wins


def null_of(attention, **sums):
    return PooledNull.of(
        [NullResult(fold, **sums) for fold in attention],
        patients=10,
        pairs=np.array([len(attention) * 6]),
    )


def test_moments_are_those_of_the_permutations_without_the_truth():
    rng = np.random.default_rng(0)
    attention = rng.normal(5, 1, (3, 400, 4)) * [1, 2, 1, 1]
    attention[:, 0] = 1e6
    mean, sd = null_of(attention).attention_moments()
    pooled = attention[:, 1:].sum(axis=0) / 10
    np.testing.assert_allclose(mean, pooled.mean(axis=0), rtol=1e-3)
    np.testing.assert_allclose(sd, pooled.std(axis=0, ddof=1), rtol=0.06)
    with pytest.raises(ValueError, match="2 permutations or more, got 1"):
        null_of(attention[:, :2]).attention_moments()


def test_few_permutations_tell_features_apart_by_their_folds():
    """Of five folds and four permutations, SDs that differ twofold come out in the right order."""
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(200):
        attention = rng.normal(size=(5, 5, 2)) * [1, 2]
        _, sd = null_of(attention).attention_moments()
        ratios.append(sd[1] / sd[0])
    assert 1.2 < np.median(ratios) < 2
    assert np.mean(np.array(ratios) > 1) > 0.9


def test_few_permutations_tell_means_apart_only_beyond_chance():
    """Means that are alike come out nearly alike, of two kinds each about its own."""
    rng = np.random.default_rng(3)
    level = np.array([1.0] * 7 + [0.6])
    spreads, kinds = [], np.array([0] * 7 + [1])
    for _ in range(100):
        attention = level / 5 + rng.normal(0, 0.5, (5, 5, 8)) / np.sqrt(5)
        null = PooledNull(attention, None, None)
        plain = attention[:, 1:].sum(axis=0).mean(axis=0)
        mean = null.attention_moments(kinds).mean
        spreads.append((mean[:7].std(), plain[:7].std()))
        assert mean[:7].mean() == pytest.approx(plain[:7].mean())
        assert mean[7] == pytest.approx(plain[7])
    shrunk, plain = np.mean(spreads, axis=0)
    assert shrunk < 0.1 * plain
    many = PooledNull(rng.normal(np.linspace(1, 2, 8), 0.5, (1, 200, 8)), None, None)
    np.testing.assert_allclose(
        many.attention_moments().mean, many.attention[0, 1:].mean(axis=0), rtol=0.01
    )


def test_scores_are_standardized_with_the_truth_among_them():
    scores = np.array([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0]])
    np.testing.assert_allclose(standardize(scores), [[-np.sqrt(1.5), 0], [0, 0], [np.sqrt(1.5), 0]])


def test_shapley_scores_are_those_of_the_auc():
    coalitions = Coalitions.exact(2)
    rng = np.random.default_rng(2)
    probability, labels = rng.random((4, 5)), np.array([1, 0, 1, 1, 0])
    wins = pair_wins(np.stack([1 - probability, probability], axis=-1), labels)
    by_hand = [
        sum((a > b) + 0.5 * (a == b) for a in row[labels == 1] for b in row[labels == 0])
        for row in probability
    ]
    np.testing.assert_allclose(wins[:, 0], by_hand)
    assert pair_wins(np.full((1, 5, 2), 0.5), labels) == 3
    sums = {"likelihood": rng.random((3, 4)), "wins": rng.random((3, 4, 1))}
    null = null_of(rng.random((2, 3, 2)), **sums)
    scores = null.scores(coalitions.weights)
    np.testing.assert_allclose(
        scores["shapley"], standardize(2 * sums["wins"][..., 0] / 12 @ coalitions.weights.T)
    )
    assert null_of(rng.random((2, 3, 2))).scores(coalitions.weights) == {}

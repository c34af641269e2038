"""The Shapley interaction index: by its definition, by hand, and what is said of a pair."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import pytest

from morphomil.rank.contrasts import AucContrasts
from morphomil.rank.interactions import find_interactions, pair_weights, say_interactions
from morphomil.rank.shapley import Coalitions


def by_definition(value, count, i, j):
    """Grabisch & Roubens 1999, sum over subsets of the others."""
    others = [k for k in range(count) if k not in (i, j)]
    total = 0.0
    for size in range(len(others) + 1):
        for chosen in combinations(others, size):
            share = factorial(size) * factorial(count - size - 2) / factorial(count - 1)
            s = sum(1 << k for k in chosen)
            bi, bj = 1 << i, 1 << j
            total += share * (value[s | bi | bj] - value[s | bi] - value[s | bj] + value[s])
    return total


def test_index_is_that_of_the_definition():
    coalitions = Coalitions.exact(5)
    value = np.random.default_rng(0).normal(size=32)
    index = pair_weights(coalitions) @ value
    witness = [by_definition(value, 5, i, j) for i, j in combinations(range(5), 2)]
    np.testing.assert_allclose(index, witness, atol=1e-12)
    with pytest.raises(ValueError, match="13 features have been sampled"):
        pair_weights(Coalitions.sample(13, seed=0))


def test_games_whose_index_is_known():
    """Of a unanimity game of a pair 1 for the pair and 0 elsewhere; of a sum 0; of "either" -1."""
    coalitions = Coalitions.exact(4)
    members = coalitions.members
    weights = pair_weights(coalitions)
    both = (members[:, 0] & members[:, 2]).astype(float)
    either = (members[:, 0] | members[:, 2]).astype(float)
    pairs = list(combinations(range(4), 2))
    np.testing.assert_allclose(weights @ both, [float(p == (0, 2)) for p in pairs], atol=1e-12)
    np.testing.assert_allclose(weights @ either, [-float(p == (0, 2)) for p in pairs], atol=1e-12)
    np.testing.assert_allclose(weights @ (members @ np.arange(4.0)), 0, atol=1e-12)


def xor_like(patients=60):
    """Probabilities (1, coalitions, patients, 2) that know the label only from features 0 and 1."""
    coalitions = Coalitions.exact(3)
    labels = np.arange(patients) % 2
    noise = np.random.default_rng(1).normal(0, 0.02, (len(coalitions.members), patients))
    knows = coalitions.members[:, 0] & coalitions.members[:, 1]
    probability = 0.5 + noise + 0.4 * knows[:, None] * (2 * labels - 1)
    return coalitions, labels, np.stack([1 - probability, probability], axis=-1)[None]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_pair_that_tells_together_is_first_and_said_so_only_if_it_does(sign):
    coalitions, labels, probability = xor_like()
    folds = np.repeat(np.array(["a", "b"], object), 30)
    rng = np.random.default_rng(2)
    null = 0.5 + rng.normal(0, 0.02, (40, 8))
    known = coalitions.members[:, 0] & coalitions.members[:, 1]
    null[0] = 0.5 + 0.5 * sign * known
    found = find_interactions(
        coalitions,
        ("area_um2", "circularity", "density_per_mm2"),
        AucContrasts(probability if sign > 0 else 1 - probability, labels, folds, seed=0),
        null_auc=null,
    )
    top = found.table.iloc[0]
    assert list(top[["first", "second"]]) == ["area_um2", "circularity"]
    assert top["p_any"] == 1 / 40
    assert top["sign"] == ("synergistic" if sign > 0 else "redundant")
    assert top["low"] <= top["index"] <= top["high"]
    said = "area_um2 and circularity tell together what neither tells alone, p = 0.025"
    assert found.statement.startswith(said) == (sign > 0)
    assert (found.table["p_any"] >= found.table["p"]).all()


def test_what_is_said_without_a_test_without_a_find_and_of_too_many_features():
    coalitions, labels, probability = xor_like()
    folds = np.zeros(60, object)
    names = ("area_um2", "circularity", "density_per_mm2")
    auc = AucContrasts(probability, labels, folds, seed=0)
    quick = find_interactions(coalitions, names, auc, null_auc=None)
    assert quick.table["p_any"].isna().all()
    assert "takes labels permuted through the training" in quick.statement
    nothing = quick.table.assign(p_any=[0.4, 0.9, 1.0])
    assert "the smallest p over all 3 pairs is 0.4" in say_interactions(nothing)
    stand_in = quick.table.assign(p_any=0.01, index=-0.1, sign="redundant", together=0.1)
    said = say_interactions(stand_in.assign(first_alone=0.2, second_alone=0.2))
    assert "one stands in for the other" in said
    many = find_interactions(Coalitions.sample(13, seed=0), ("f",) * 13, auc, null_auc=None)
    assert many.table.empty
    assert isinstance(many.table, pd.DataFrame)
    assert "with 13 features not all coalitions are evaluated" in many.statement

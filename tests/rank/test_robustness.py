"""Concordance, p values under permutation, correlation, agreement and curves: by hand and against
other tools."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import friedmanchisquare

from morphomil.rank.robustness import (
    compare_orders,
    compare_rankings,
    curves_of_removal,
    families_of,
    kendalls_w,
    measure_faithfulness,
    null_p,
    rank_distribution,
    say_agreement,
)
from morphomil.rank.shapley import Coalitions
from morphomil.types import FEATURE_NAMES


def test_families():
    families = families_of(FEATURE_NAMES)
    assert [FEATURE_NAMES[i] for i in families["size"]] == [
        "area_um2",
        "major_axis_um",
        "minor_axis_um",
        "circumference_um",
    ]
    assert sorted(i for members in families.values() for i in members) == list(range(8))
    assert families_of(("area_um2", "circularity")) == {"area_um2": (0,), "circularity": (1,)}


def test_concordance_equals_friedmans_statistic():
    """W = chi2 / (m (n - 1)), with scipy's Friedman test as witness, ties included."""
    scores = np.round(np.random.default_rng(0).normal(size=(7, 5)) + np.arange(5) / 3, 1)
    scores[0, :2] = 0.3
    witness = friedmanchisquare(*scores.T).statistic / (7 * 4)
    assert kendalls_w(scores) == pytest.approx(witness)
    assert kendalls_w(np.tile(np.arange(6.0), (3, 1))) == pytest.approx(1)
    assert kendalls_w(np.array([[1.0, 2, 3], [3, 2, 1]])) == pytest.approx(0)
    assert np.isnan(kendalls_w(np.ones((2, 3))))
    with pytest.raises(ValueError, match="2 judges and 2 items, got 1 and 3"):
        kendalls_w(np.ones((1, 3)))


def test_rank_distribution_by_hand():
    table = rank_distribution(np.array([[3.0, 2, 1], [1, 3, 2]]), ["a", "b", "c"]).set_index(
        "feature"
    )
    assert table.loc["a", ["rank_mean", "top1", "top3", "rank1", "rank2", "rank3"]].tolist() == [
        2,
        0.5,
        1,
        0.5,
        0,
        0.5,
    ]
    assert table["rank_mean"].tolist() == [2, 1.5, 2.5]


def test_p_values_count_permutations_that_score_as_high():
    scores = np.array([[2.0, 5.0], [2.0, 0.0], [1.0, 1.0], [0.0, 6.0]])
    p = null_p(scores)
    np.testing.assert_allclose(p.single, [2 / 4, 2 / 4])
    np.testing.assert_allclose(p.any, [3 / 4, 2 / 4])
    with pytest.raises(ValueError, match="at least 1 permutation"):
        null_p(scores[:1])


def test_p_values_are_uniform_where_the_truth_is_one_of_the_permutations():
    rng = np.random.default_rng(1)
    p = (
        np.concatenate([null_p(rng.normal(size=(20, 4))).any for _ in range(2000)])
        .reshape(2000, 4)
        .min(axis=1)
    )
    for alpha in (0.05, 0.25, 0.5):
        assert (p <= alpha).mean() == pytest.approx(
            alpha, abs=3.5 * np.sqrt(alpha * (1 - alpha) / 2000)
        )


def test_agreement_is_kendalls_tau_of_what_is_known():
    scores = pd.DataFrame(
        {
            "attention": [4, 3, 2, 1],
            "shapley": [4, 3, 1, 2],
            "ablation": np.nan,
            "effect": [1, 2, 3, 4],
        }
    )
    table = compare_rankings(scores)
    assert table[["first", "second"]].to_numpy().tolist() == [
        ["attention", "shapley"],
        ["attention", "effect"],
        ["shapley", "effect"],
    ]
    np.testing.assert_allclose(table["tau"], [2 / 3, -1, -2 / 3])
    # 24 orders of four: the opposite one has p = 2 / 24.
    np.testing.assert_allclose(table["p_value"][1], 2 / 24)
    assert table["agree"].tolist() == ["open"] * 3


def test_orders_agree_only_beyond_chance():
    order = np.arange(12.0)
    near, blocks = order.reshape(-1, 2)[:, ::-1].ravel(), order.reshape(3, 4)[:, ::-1].ravel()
    columns = {"a": order, "near": near, "blocks": blocks, "back": -order}
    table = compare_rankings(pd.DataFrame(columns)).set_index(["first", "second"])
    words = table["agree"]
    assert words["a", "near"] == "yes"
    assert words["a", "blocks"] == "in part"
    assert words["a", "back"] == "no"
    assert (table["p_value"][["a"]] <= 0.05).all()


@pytest.fixture
def additive():
    """Probabilities (coalitions, patients, 2) of three features whose evidence for the label is 3,
    1 and 0."""
    coalitions = Coalitions.exact(3)
    labels = np.arange(40) % 2
    logits = (coalitions.members @ np.array([3.0, 1.0, 0.0]))[:, None] * np.where(
        labels == 1, 1, -1
    )
    return coalitions, 1 / (1 + np.exp(np.stack([logits, -logits], axis=-1))), labels


def test_curves_start_and_end_alike_and_the_right_order_beats_chance(additive):
    coalitions, probability, labels = additive
    right = np.tile([3.0, 1.0, 0.0], (40, 1))
    curves = curves_of_removal(probability, labels, right, coalitions)

    def likelihood(evidence):
        return np.log(1 / (1 + np.exp(-evidence)))

    np.testing.assert_allclose(curves[0, :, 0], likelihood(np.array([4.0, 1, 0, 0])))
    np.testing.assert_allclose(curves[2, :, 0], likelihood(np.array([0.0, 3, 4, 4])))
    np.testing.assert_allclose(curves[1, 1, 0], likelihood(np.array([1.0, 3, 4])).mean())
    np.testing.assert_allclose(curves[1], curves[3, ::-1])
    table = measure_faithfulness(curves, seed=0).set_index("curve")
    assert (table["gain_low"] > 0).all()
    wrong = measure_faithfulness(curves_of_removal(probability, labels, -right, coalitions), seed=0)
    assert (wrong["gain_high"] < 0).all()
    rng = np.random.default_rng(3)
    blind = measure_faithfulness(
        curves_of_removal(probability, labels, rng.normal(size=(40, 3)), coalitions), seed=0
    )
    assert ((blind["gain_low"] < 0) & (blind["gain_high"] > 0)).all()
    with pytest.raises(ValueError, match="13 features have been sampled"):
        curves_of_removal(probability, labels, right, Coalitions.sample(13, seed=0))


def test_the_statement_says_what_ablation_says():
    numbers = {
        "ablation_auc_low": [-0.02, 0.1],
        "ablation_auc": [0.0, 0.2],
        "ablation_auc_high": [0.02, 0.3],
    }
    table = pd.DataFrame(
        {
            "rank": [1, 2],
            "feature": ["area_um2", "circularity"],
            "shapley_rank": [2, 1],
            "attention_z": [3.0, 2.0],
            "attention": [1.5, 1.2],
            "shapley_auc": [0.1, 0.2],
            "cliffs_delta": [0.5, -0.6],
            "verdict": "supported",
            **numbers,
        }
    )
    groups = pd.DataFrame({"group": ["size"], "features": ["area_um2, major_axis_um"]}).assign(
        ablation_auc=0.1, ablation_auc_low=0.05, ablation_auc_high=0.2
    )
    said = say_agreement(table, groups, compare_orders(table))
    assert said == (
        "Attention puts area_um2 first, Shapley values circularity. The 2 supported features stand "
        "in opposite order in the two (Kendall's tau -1.00; so few allow no test). Without "
        "area_um2 the retrained model loses no AUC that could be told from none: 0.000 [-0.020, "
        "0.020]. Without the whole size family it loses AUC: 0.100 [0.050, 0.200]."
    )
    tested = table.assign(rank=[2, 1])
    assert say_agreement(tested, groups, compare_orders(tested)).startswith(
        "Attention puts area_um2 first, Shapley values circularity; by attention and the tests "
        "without a model circularity ranks first. "
    )
    alone = table.assign(
        ablation_auc=np.nan, shapley_rank=[1, 2], verdict=["supported", "inconclusive at this n"]
    )
    assert say_agreement(alone, groups, compare_orders(alone)) == (
        "Attention and Shapley values both put area_um2 first. Whether the two agree on the "
        "further order can't be asked: only one feature is supported, and features without an "
        "effect have no order."
    )


def test_orders_are_compared_among_all_and_among_supported_features():
    rng = np.random.default_rng(4)
    table = pd.DataFrame(rng.normal(size=(6, 4)), columns=["attention_z", "attention", "a", "b"])
    table = table.rename(columns={"a": "shapley_auc", "b": "cliffs_delta"}).assign(
        ablation_auc=np.nan, verdict=["supported"] * 3 + ["not supported"] * 3
    )
    orders = compare_orders(table)
    assert orders["among"].tolist() == ["all features"] * 3 + ["supported"] * 3
    assert (orders.loc[:2, "agree"] == "").all()
    assert (orders.loc[3:, "agree"] == "open").all()
    assert orders["features"].tolist() == [6] * 3 + [3] * 3
    assert len(compare_orders(table.assign(verdict="not supported"))) == 3
    of_six = table.assign(
        verdict="supported",
        rank=range(1, 7),
        shapley_rank=range(1, 7),
        feature=list("abcdef"),
        attention_z=range(6, 0, -1),
        shapley_auc=range(6, 0, -1),
    )
    assert "Over the 6 supported features the two agree (Kendall's tau 1.00, p = 0.003)." in (
        say_agreement(of_six, pd.DataFrame({"features": []}), compare_orders(of_six))
    )

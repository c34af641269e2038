"""Rankings of three and more labels."""

import numpy as np
import pandas as pd
import pytest
from trait_cohort import ONLY_MODELS, synthetic_cohort

from morphomil.errors import InputError
from morphomil.matrix import by_feature
from morphomil.rank.classes import Classes
from morphomil.rank.contrasts import AucContrasts
from morphomil.rank.ranking import rank_nuclei
from morphomil.rank.shapley import Coalitions, log_likelihood, pair_wins
from morphomil.stats import compare_groups
from morphomil.stats.combined_auc import macro_auc
from morphomil.types import RankSettings


def three_labels(seed=1, *, planted=True, names=("low", "mid", "high")):
    """Patients of three labels, of whom the last have other outlines, and the middle ones a
    little."""
    nuclei, cohort = synthetic_cohort(seed, trait="none", patients=45, patches=4, per_patch=20)
    group = np.arange(len(cohort)) % 3
    of_nucleus = nuclei["slide_id"].map(dict(zip(cohort["slide_id"], group, strict=True)))
    if planted:
        moved = nuclei["circularity"] + 0.01 * of_nucleus
        nuclei = nuclei.assign(circularity=moved.clip(0.05, 1))
    return nuclei, cohort.assign(label=np.array(names)[group])


@pytest.fixture(scope="module")
def ranking():
    return rank_nuclei(*three_labels(), seed=0, folds=3, **ONLY_MODELS)


def test_what_one_of_three_groups_has_is_first(ranking):
    first = ranking.table.iloc[0]
    assert first["feature"] == "circularity"
    assert (first["highest"], first["lowest"]) == ("high", "low")
    assert first["epsilon_squared_low"] > 0
    assert first["cliffs_delta_low"] > 0
    assert first["scan_p_any"] < 0.05
    assert first["shapley_rank"] == 1
    assert "in high than in low, the highest and the lowest of 3 groups" in ranking.scan.findings[0]


def test_the_table_is_kruskal_and_walliss(ranking):
    values = by_feature(ranking.patient_values).set_index("patient")
    labels = values.pop("label")
    witness = compare_groups(values, labels).set_index("feature")
    table = ranking.table.set_index("feature").loc[witness.index]
    for name in ("h", "p_value", "p_holm", "p_bh", "epsilon_squared", "n_mid", "median_high"):
        np.testing.assert_allclose(table[name], witness[name], rtol=1e-6)
    assert len(ranking.pairs) == 3 * len(table)


def test_probabilities_of_every_class_are_out_of_fold(ranking):
    predictions = ranking.predictions
    columns = [f"probability_{k}" for k in range(3)]
    np.testing.assert_allclose(predictions[columns].sum(axis=1), 1, atol=1e-9)
    assert (predictions["probability"] == predictions["probability_2"]).all()
    names = np.array(ranking.classes.names)
    assert (names[predictions["label"]] == predictions["group"]).all()
    area = macro_auc(predictions["label"], predictions[columns], predictions["fold"])
    assert ranking.auc.auc == pytest.approx(area)
    assert ranking.auc.low < ranking.auc.auc < ranking.auc.high
    assert ranking.baselines.table["auc"].iloc[0] == pytest.approx(area)
    total = ranking.table["shapley_auc"].sum()
    assert total == pytest.approx(area - 0.5, abs=1e-6)


def test_features_share_the_probability_of_the_patients_own_label(ranking):
    own = ranking.predictions[[f"probability_{k}" for k in range(3)]].to_numpy()
    own = own[np.arange(len(own)), ranking.predictions["label"]]
    shares = ranking.shapley.drop(columns="patient").sum(axis=1)
    assert (own - shares).round(6).nunique() <= 9  # a training prevalence per fold and label
    np.testing.assert_allclose(own - shares, 1 / 3, atol=0.05)


def test_an_order_makes_trends():
    nuclei, cohort = three_labels()
    ranking = rank_nuclei(nuclei, cohort, seed=0, quick=True, ordered="low, mid, high")
    first = ranking.table.iloc[0]
    assert first["feature"] == "circularity"
    assert first["test"] == "Jonckheere-Terpstra"
    assert first["somers_d_low"] > 0
    assert first["direction"] == "higher"
    assert first["verdict"] == "supported"
    assert "the further along low < mid < high (Somers's D" in ranking.scan.findings[0]


def test_nothing_is_found_where_nothing_is():
    ranking = rank_nuclei(*three_labels(3, planted=False), seed=0, quick=True)
    assert ranking.verdict.word != "supported"
    assert ranking.scan.findings[0].startswith(
        "The plain scan finds no feature that differs between high, low and mid"
    )
    assert (ranking.table["p_holm"] > 0.05).all()


def test_labels_that_dont_fit_are_refused_in_a_sentence():
    labels = pd.Series(["1", "2", "10", "1"])
    assert Classes.of(labels, RankSettings(seed=0)).names == ("1", "2", "10")
    ordered = Classes.of(labels, RankSettings(seed=0, ordered="10,2,1"))
    assert (ordered.names, ordered.effect) == (("10", "2", "1"), "somers_d")
    for wrong, said in (
        ({"positive": "1"}, "--positive 1 is for two labels, and the cohort has 3: 1, 2, 10"),
        ({"ordered": "1,2"}, "--ordered 1,2: give each label once, the lowest first"),
    ):
        with pytest.raises(InputError, match=said):
            Classes.of(labels, RankSettings(seed=0, **wrong))
    with pytest.raises(InputError, match="--ordered is for three labels or more"):
        Classes.of(labels[:2], RankSettings(seed=0, ordered="1,2"))
    with pytest.raises(InputError, match="compares two to 6 labels, the cohort has 7"):
        Classes.of(pd.Series(list("abcdefg")), RankSettings(seed=0))


def test_shapley_values_of_three_classes_are_counted_from_every_coalition():
    rng = np.random.default_rng(0)
    exact, labels = Coalitions.exact(3), np.arange(60) % 3
    folds = np.repeat(np.array(["a", "b", "c"]), 20)
    probability = rng.dirichlet(np.ones(3), (2, 8, 60))
    areas = [macro_auc(labels, row, folds) for row in probability.mean(axis=0)]
    found = AucContrasts(probability, labels, folds, seed=0).estimate(exact.weights)
    np.testing.assert_allclose(found.value, exact.weights @ areas, atol=1e-10)
    one = probability[0]
    np.testing.assert_allclose(
        log_likelihood(one, labels), np.log(one[:, np.arange(60), labels]), atol=1e-9
    )
    pairs = np.array([20 * 40] * 3)
    whole = [macro_auc(labels, row) for row in one]
    np.testing.assert_allclose((pair_wins(one, labels) / pairs).mean(axis=-1), whole)

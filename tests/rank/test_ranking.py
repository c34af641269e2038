"""Planted features are found, absent ones are not; who is predicted; what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu
from sklearn.linear_model import LogisticRegression
from trait_cohort import ONLY_MODELS, TRAITS, synthetic_cohort

from morphomil.bags import BAG_SIZE
from morphomil.errors import InputError, RefusedError
from morphomil.matrix import FINE_BINS, by_feature, count_nuclei
from morphomil.rank.ranking import rank_counts, rank_nuclei
from morphomil.rank.representation import VIEWS
from morphomil.stats import compare_groups, within_fold_auc
from morphomil.types import FEATURE_NAMES, SEEDS, RankSettings


@pytest.mark.parametrize("trait", [name for name in TRAITS if name != "outline"])
def test_a_planted_feature_ranks_first(trait):
    nuclei, cohort = synthetic_cohort(2, trait=trait)
    ranking = rank_nuclei(nuclei, cohort, seed=0, **ONLY_MODELS)
    first = ranking.table.iloc[0]
    assert first["feature"] in TRAITS[trait]
    group = ranking.groups.iloc[0]
    assert group["group"] == ("size" if trait == "size" else first["feature"])  # by Shapley value
    assert group["shapley_auc_low"] > 0
    assert first["p_holm"] < 0.01
    assert ranking.auc.auc > 0.65


def test_the_ranking_says_what_was_planted_and_how_surely(outline):
    _, cohort, ranking = outline
    table = ranking.table
    assert list(table["rank"]) == list(range(1, 9))
    assert set(table["feature"]) == set(FEATURE_NAMES)
    assert table["attention"].is_monotonic_decreasing
    assert table["attention"].mean() == pytest.approx(1)
    assert (
        (table["attention_low"] <= table["attention"])
        & (table["attention"] <= table["attention_high"])
    ).all()
    first = table.iloc[0]
    assert first["feature"] == "circularity"
    assert first["attention_low"] > 1
    assert first["direction"] == "lower"  # a rougher outline is less circular
    assert first["median_positive"] < first["median_reference"]
    assert first["cliffs_delta_low"] <= first["cliffs_delta"] <= first["cliffs_delta_high"] < 0
    assert (first["n_positive"], first["n_reference"]) == (
        cohort["label"].sum(),
        (cohort["label"] == 0).sum(),
    )


def test_tests_compare_the_patients_values(outline):
    _, _, ranking = outline
    values, table = by_feature(ranking.patient_values), ranking.table.set_index("feature")
    positive = values["label"] == "1"
    for name in FEATURE_NAMES:
        witness = mannwhitneyu(
            values.loc[positive, name], values.loc[~positive, name], method="asymptotic"
        )
        assert table.loc[name, "p_value"] == pytest.approx(witness.pvalue, rel=1e-6)


def test_every_patient_is_predicted_once_by_a_model_that_did_not_see_it(outline):
    _, cohort, ranking = outline
    assert sorted(ranking.predictions["patient"]) == sorted(cohort["patient"])
    assert ranking.predictions.groupby("fold").size().tolist() == [18] * 5
    assert ranking.predictions["probability"].between(0, 1).all()
    parts = [ranking.predictions[name] for name in ("label", "probability", "fold")]
    assert ranking.auc.auc == pytest.approx(within_fold_auc(*parts))
    assert ranking.attention["patient"].tolist() == ranking.predictions["patient"].tolist()
    np.testing.assert_allclose(ranking.attention[list(FEATURE_NAMES)].sum(axis=1), 1, rtol=1e-6)
    assert len(ranking.models) == 5
    assert all(len(model.weights["prior"]) == SEEDS for model in ranking.models.values())
    assert not ranking.notes
    assert not ranking.failed


def test_the_predicted_patients_shape_neither_edges_nor_weights(outline):
    """Making a test patient's nuclei huge changes nothing in the model that predicts it."""
    nuclei, cohort, ranking = outline
    patient = ranking.predictions.loc[ranking.predictions["fold"] == "fold0", "patient"].iloc[0]
    slide = cohort.loc[cohort["patient"] == patient, "slide_id"].iloc[0]
    harmed = nuclei.copy()
    harmed.loc[harmed["slide_id"] == slide, "area_um2"] = 390.0
    other = rank_nuclei(harmed, cohort, seed=0, **ONLY_MODELS)
    before, after = (r.models["fold0"] for r in (ranking, other))
    assert before.edges == after.edges
    assert all(np.array_equal(value, after.weights[name]) for name, value in before.weights.items())
    assert ranking.models["fold1"].edges != other.models["fold1"].edges


def test_the_order_of_rows_has_no_say(outline):
    nuclei, cohort, ranking = outline
    again = rank_nuclei(
        nuclei.sample(frac=1, random_state=0),
        cohort.sample(frac=1, random_state=1),
        seed=0,
        **ONLY_MODELS,
    )
    pd.testing.assert_frame_equal(again.table, ranking.table, rtol=1e-9)
    pd.testing.assert_frame_equal(again.predictions, ranking.predictions, rtol=1e-9)


def test_shuffled_labels_are_not_called_significant_more_often_than_alpha():
    """Tests of 400 shuffles on the values that a ranking tests: any Holm p below 0.05 in at most 5
    %, within 3 SE."""
    nuclei, cohort = synthetic_cohort(3, patients=40, patches=3, per_patch=12)
    values = by_feature(rank_nuclei(nuclei, cohort, seed=0, quick=True, folds=2).patient_values)
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(400):
        compared = compare_groups(
            values[list(FEATURE_NAMES)], rng.permutation(values["label"]), positive="1"
        )
        found += bool((compared["p_holm"] < 0.05).any())
    assert found / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_without_an_effect_the_model_is_blind():
    nuclei, cohort = synthetic_cohort(4)
    ranking = rank_nuclei(nuclei, cohort, seed=0, quick=True)
    assert ranking.auc.low < 0.5
    assert (ranking.table["p_holm"] > 0.05).all()


def test_more_nuclei_in_one_group_do_not_light_up_orientation():
    """Positive patients' nuclei are denser and three times as many, angles are uniform."""
    nuclei, cohort = synthetic_cohort(7, trait="density", per_patch=24)
    positive = nuclei["slide_id"].isin(cohort.loc[cohort["label"] == 1, "slide_id"])
    third = nuclei.groupby(["slide_id", "patch_id"]).cumcount() < 8
    crowded = nuclei[positive | third].copy()
    crowded["orientation_deg"] = np.random.default_rng(7).uniform(0, 180, len(crowded))
    ranking = rank_nuclei(crowded, cohort, seed=0, **ONLY_MODELS)
    table = ranking.table.set_index("feature")
    assert ranking.table["feature"][0] == table["shapley_auc"].idxmax() == "density_per_mm2"
    assert table.loc["orientation_deg", "p_holm"] > 0.05
    assert (
        table.loc["orientation_deg", "shapley_auc_low"]
        < 0
        < table.loc["density_per_mm2", "shapley_auc_low"]
    )


def test_stored_counts_give_what_nuclei_give(small):
    nuclei, cohort = small
    from_nuclei = rank_nuclei(nuclei, cohort, seed=3, quick=True)
    stored = {name: count_nuclei(part, range(4)) for name, part in nuclei.groupby("slide_id")}
    values = from_nuclei.patient_values.merge(cohort[["patient", "slide_id"]], on="patient")
    names = [name for name in values if name not in ("patient", "label", "slide_id")]
    assert "orientation_polarity" in names
    from_counts = rank_counts(
        stored.__getitem__,
        values[["slide_id", *names]],
        cohort,
        features=FEATURE_NAMES,
        settings=RankSettings(seed=3, quick=True),
    )
    pd.testing.assert_frame_equal(from_counts.table, from_nuclei.table)


def test_patients_weigh_alike_however_many_slides_and_patches_they_have(small):
    """A copy of a patient's slide under another name changes neither its values nor the tests."""
    nuclei, cohort = small
    double = nuclei[nuclei["slide_id"] == "s0"].assign(slide_id="s0-copy")
    row = cohort[cohort["slide_id"] == "s0"].assign(slide_id="s0-copy")
    one = rank_nuclei(nuclei, cohort, seed=0, quick=True)
    two = rank_nuclei(pd.concat([nuclei, double]), pd.concat([cohort, row]), seed=0, quick=True)
    pd.testing.assert_frame_equal(one.patient_values, two.patient_values)
    shared = ["feature", "p_value", "cliffs_delta"]
    pd.testing.assert_frame_equal(
        *(r.table[shared].sort_values("feature", ignore_index=True) for r in (one, two))
    )


def test_slides_without_enough_nuclei_leave_and_are_counted_by_label(small):
    nuclei, cohort = small
    sparse = nuclei[
        ~nuclei["slide_id"].isin(["s0", "s1"])
        | (nuclei.groupby(["slide_id", "patch_id"]).cumcount() < 4)
    ]
    gone = nuclei["slide_id"] == "s2"
    ranking = rank_nuclei(sparse[~gone.reindex(sparse.index)], cohort, seed=0, quick=True)
    assert len(ranking.predictions) == 27
    for note, slides, lack in zip(
        ranking.notes,
        (["s2"], ["s0", "s1"]),
        ("measured nuclei", "a patch of enough measured nuclei"),
        strict=True,
    ):
        labels = cohort.loc[cohort["slide_id"].isin(slides), "label"].value_counts()
        assert note.startswith(f"{len(slides)} slides without {lack} are left out")
        assert all(f"{count} with label {label}" in note for label, count in labels.items())


def test_a_subset_of_features_and_quick_and_progress(small):
    nuclei, cohort = small
    heard = []
    ranking = rank_nuclei(
        nuclei[["slide_id", "patch_id", "area_um2", "rectangularity"]],
        cohort,
        seed=0,
        quick=True,
        folds=3,
        on_fold=lambda *pair: heard.append(pair),
    )
    assert set(ranking.table["feature"]) == {"area_um2", "rectangularity"}
    assert ranking.table["attention"].mean() == pytest.approx(1)
    assert heard == [(1, 3), (2, 3), (3, 3)]
    assert all(
        model.weights["embed"].shape == (3, 2, len(VIEWS), 16) for model in ranking.models.values()
    )


def test_a_given_split_is_kept_and_the_seed_decides_the_rest(small):
    nuclei, cohort = small
    order = cohort.groupby("label").cumcount() % 5
    split = order.map({0: "test", 1: "val"}).fillna("train")
    ranking = rank_nuclei(nuclei, cohort.assign(split=split), seed=0, quick=True)
    assert sorted(ranking.predictions["patient"]) == sorted(cohort.loc[split == "test", "patient"])
    assert len(ranking.patient_values) == 30
    again, other = (rank_nuclei(nuclei, cohort, seed=seed, quick=True) for seed in (8, 9))
    pd.testing.assert_frame_equal(
        again.table, rank_nuclei(nuclei, cohort, seed=8, quick=True).table
    )
    assert not np.allclose(again.predictions["probability"], other.predictions["probability"])


def test_labels_and_direction(small):
    nuclei, cohort = small
    named = cohort.assign(label=cohort["label"].map({0: "N0", 1: "N+"}))
    with pytest.raises(
        InputError,
        match=r"which label is positive\? Say --positive N\+ or "
        r"--positive N0",
    ):
        rank_nuclei(nuclei, named, seed=0)
    with pytest.raises(InputError, match="no slide has the positive label 'N1'"):
        rank_nuclei(nuclei, named, seed=0, positive="N1")
    one, other = (
        rank_nuclei(nuclei, named, seed=0, quick=True, positive=name).table.set_index("feature")
        for name in ("N+", "N0")
    )
    np.testing.assert_allclose(one["cliffs_delta"], -other["cliffs_delta"].reindex(one.index))


def test_what_cannot_be_ranked_is_refused_in_a_sentence(small):
    nuclei, cohort = small
    with pytest.raises(InputError) as caught:
        rank_nuclei(nuclei[["slide_id", "area_um2"]], cohort.drop(columns="patient"), seed=0)
    assert len(caught.value.problems) == 3
    with pytest.raises(RefusedError, match="every patient has the label 1"):
        rank_nuclei(nuclei, cohort.assign(label=1), seed=0)
    with pytest.raises(RefusedError, match="5-fold cross-validation needs at least 5 patients"):
        rank_nuclei(nuclei, cohort.assign(label=[1, 1, 1] + [0] * 27), seed=0)
    with pytest.raises(InputError, match="patient p000 has two labels"):
        rank_nuclei(
            nuclei, cohort.assign(patient=["p000"] * 10 + cohort["patient"].tolist()[10:]), seed=0
        )
    twice = cohort.assign(
        patient=[f"p{i // 2}" for i in range(30)], label=[i // 2 % 2 for i in range(30)]
    )
    with pytest.raises(RefusedError, match="leakage"):
        rank_nuclei(nuclei, twice.assign(split=["train", "test"] * 15), seed=0)
    with pytest.raises(RefusedError, match=f"{BAG_SIZE} patches of 5 nuclei"):
        rank_counts(
            lambda _: np.zeros((8, 2, FINE_BINS), np.uint32),
            cohort[["slide_id"]].assign(**dict.fromkeys(FEATURE_NAMES, 1.0)),
            cohort,
            features=FEATURE_NAMES,
            settings=RankSettings(seed=0),
        )


@pytest.mark.parametrize("trait", ["density", "boxiness"])
def test_a_planted_feature_is_found_and_little_of_it_is_wasted(trait):
    """100 patients per group, Cliff's delta 0.6; the feature alone: logistic regression, same
    folds."""
    nuclei, cohort = synthetic_cohort(
        30, trait=trait, patients=200, patches=10, per_patch=25, shift=1.19
    )
    ranking = rank_nuclei(nuclei, cohort, seed=0, **ONLY_MODELS)
    (name,) = TRAITS[trait]
    assert ranking.table.loc[ranking.table["shapley_rank"] == 1, "feature"].item() == name
    assert ranking.table["feature"][0] == name
    values = nuclei.groupby("slide_id")[name].mean()[cohort["slide_id"]].to_numpy()[:, None]
    values = (values - values.mean()) / values.std()
    fold = ranking.predictions.set_index("patient")["fold"].loc[cohort["patient"]].to_numpy()
    alone = np.zeros(200)
    for one in np.unique(fold):
        fitted = LogisticRegression().fit(values[fold != one], cohort["label"][fold != one])
        alone[fold == one] = fitted.predict_proba(values[fold == one])[:, 1]
    assert ranking.auc.auc > within_fold_auc(cohort["label"], alone, fold) - 0.05


def test_importing_the_module_loads_no_network_library():
    heavy = ("torch", "tensorflow", "matplotlib")
    code = f"import sys, morphomil.rank; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

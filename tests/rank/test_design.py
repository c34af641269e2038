"""Strata, covariates and folds by site: what they do, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from morphomil.cohort.labels import patient_labels
from morphomil.errors import InputError, RefusedError
from morphomil.rank.attribution import attribute_nuclei
from morphomil.rank.classes import Classes
from morphomil.rank.comparison import compare_features
from morphomil.rank.design import Design, check_columns
from morphomil.rank.folds import permute_labels
from morphomil.rank.offset import FoldCovariates
from morphomil.rank.ranking import rank_nuclei
from morphomil.types import RankSettings

BLIND = {"positive": "N+", "seed": 0}


def drawn_cohort(seed=0, *, patients=60, share=(0.2, 0.7)):
    """One slide per patient of site A or B, whose shares of positives differ."""
    rng = np.random.default_rng(seed)
    site = np.arange(patients) % 2
    label = np.where(rng.random(patients) < np.array(share)[site], "N+", "N0")
    names = [f"p{i:03d}" for i in range(patients)]
    return pd.DataFrame(
        {
            "slide_id": names,
            "patient": names,
            "label": label,
            "site": np.array(["A", "B"])[site],
            "age": rng.normal(60, 8, patients).round(1),
        }
    )


def bags_of(cohort):
    patients = tuple(sorted(cohort["patient"]))
    return SimpleNamespace(patients=patients, members=lambda names: np.isin(patients, list(names)))


def test_folds_and_permutations_keep_every_stratum_s_labels():
    cohort = drawn_cohort()
    labels = patient_labels(cohort)
    settings = RankSettings(strata="site", **BLIND)
    design = Design.of(cohort, labels, settings)
    folds = design.make_folds(cohort, settings)
    counts = [
        pd.crosstab(design.strata[list(fold.test)], labels[list(fold.test)]) for fold in folds
    ]
    spread = np.stack([count.to_numpy() for count in counts])
    assert np.ptp(spread, axis=0).max() <= 1
    rows = permute_labels(
        (labels == "N+").to_numpy().astype(np.int64),
        folds,
        bags_of(cohort),
        permutations=30,
        seed=0,
        strata=design.strata.to_numpy(),
    )
    assert len(np.unique(rows, axis=0)) == 31
    for fold in folds:
        for site in "AB":
            inside = labels.index.isin(fold.test) & (design.strata == site).to_numpy()
            assert np.ptp(rows[:, inside].sum(axis=1)) == 0


def test_permutations_beside_a_number_keep_every_stratum_s_labels():
    cohort = drawn_cohort()
    labels = patient_labels(cohort)
    design = Design.of(cohort, labels, RankSettings(strata="site", adjust="age", **BLIND))
    truth = (labels == "N+").to_numpy().astype(np.int64)
    rows = design.labelings(truth, permutations=50, seed=0)
    np.testing.assert_array_equal(rows[0], truth)
    assert len(np.unique(rows, axis=0)) > 25
    for site in np.unique(design.strata):
        inside = (design.strata == site).to_numpy()
        assert (rows[:, inside].sum(axis=1) == truth[inside].sum()).all()


def test_adjusted_categories_are_strata_while_patients_suffice():
    cohort = drawn_cohort().assign(ward=[f"w{i % 10}" for i in range(60)])
    labels = patient_labels(cohort)
    design = Design.of(cohort, labels, RankSettings(adjust="age,site,ward", **BLIND))
    assert design.columns == ("site",)
    assert list(design.covariates.columns) == ["age", "site", "ward"]
    design = Design.of(cohort, labels, RankSettings(strata="site,ward", **BLIND))
    assert sorted(design.strata.unique())[0] == "A, w0"


@pytest.mark.parametrize("ordered", [False, True])
def test_three_labels_are_compared_beside_covariates(ordered):
    cohort = drawn_cohort().assign(label=["low", "mid", "high"] * 20)
    labels = patient_labels(cohort)
    design = Design.of(cohort, labels, RankSettings(adjust="age", **BLIND))
    classes, rng = Classes(("low", "mid", "high"), ordered), np.random.default_rng(9)
    step = labels.map({"low": 0, "mid": 1, "high": 2}).to_numpy()
    columns = {"true": step + rng.normal(size=60), "null": rng.normal(size=60), "constant": 1.0}
    of_patients = pd.DataFrame({"patient": labels.index, "label": labels.to_numpy()} | columns)
    table = compare_features(of_patients, tuple(columns), classes=classes, design=design)
    table = table.set_index("feature")
    assert table.loc["true", "adjusted_p"] < 0.001 < table.loc["null", "adjusted_p"]
    assert table.loc["true", "adjusted_p_holm"] == 2 * table.loc["true", "adjusted_p"]
    assert "constant" in table.loc["constant", "adjusted_problem"]
    assert np.isnan(table.loc["constant", "adjusted_p"])
    assert ("adjusted_odds_ratio_low" in table) == ordered
    effect = "adjusted_odds_ratio" if ordered else "adjusted_explained"
    assert table.loc["true", effect] > table.loc["null", effect] > 0


def test_missing_strata_and_those_of_one_label_are_said():
    cohort = drawn_cohort()
    cohort.loc[cohort["patient"] < "p006", ["site", "label"]] = ["C", "N0"]
    cohort.loc[cohort["patient"] >= "p055", "site"] = None
    cohort.loc[cohort["patient"] >= "p055", "label"] = ["N0", "N+"] * 2 + ["N0"]
    design = Design.of(cohort, patient_labels(cohort), RankSettings(strata="site", **BLIND))
    said = " ".join(design.notes)
    assert "site is missing for 5 of 60 patients" in said
    assert "Of 4 groups by site, 1 have patients of one label only" in said
    assert "C: 6 of N0" in said


def test_leaving_sites_out_predicts_whole_sites():
    cohort = drawn_cohort()
    settings = RankSettings(folds_by="site", **BLIND)
    design = Design.of(cohort, patient_labels(cohort), settings)
    folds = design.make_folds(cohort, settings)
    assert [fold.name for fold in folds] == ["site-A", "site-B"]
    many = cohort.assign(site=[f"s{i % 12}" for i in range(60)])
    folds = design.make_folds(many, settings)
    sites = [set(many.loc[many["patient"].isin(fold.test), "site"]) for fold in folds]
    assert len(folds) == 5
    assert sorted(name for group in sites for name in group) == sorted(many["site"].unique())


def refusal(cohort, **options):
    settings = RankSettings(**BLIND, **options)
    check_columns(cohort, settings)
    design = Design.of(cohort, patient_labels(cohort), settings)
    design.make_folds(cohort, settings)


def test_what_cannot_be_done_is_said():
    cohort = drawn_cohort()
    with pytest.raises(InputError, match=r"--strata ward: the cohort has no such column; it has"):
        refusal(cohort, strata="ward")
    with pytest.raises(InputError, match=r"--folds-by label: the cohort has no such column"):
        refusal(cohort, folds_by="label")
    with pytest.raises(RefusedError, match=r"age has \d+ values for 60 patients"):
        refusal(cohort, strata="age")
    with pytest.raises(InputError, match="leave site out of --adjust"):
        refusal(cohort, folds_by="site", adjust="site")
    alike = cohort.assign(site=np.where(cohort["label"] == "N+", "A", "B"))
    with pytest.raises(RefusedError, match="can't be compared within site"):
        refusal(alike, strata="site")
    with pytest.raises(RefusedError, match="tells the labels apart by itself"):
        refusal(alike, adjust="site")
    four = cohort.assign(site=np.where(cohort["label"] == "N+", "A", "B"))
    four["site"] += (np.arange(60) % 2).astype(str)
    with pytest.raises(RefusedError, match="patients of one label only"):
        refusal(four, folds_by="site")
    torn = pd.concat([cohort, cohort.iloc[:1].assign(slide_id="x", site="B")])
    with pytest.raises(InputError, match="patient p000 has more than one site"):
        refusal(torn, strata="site")


def test_columns_are_checked_before_anything_is_done(small):
    nuclei, cohort = small
    with pytest.raises(InputError, match="it has none"):
        rank_nuclei(nuclei, cohort, seed=0, quick=True, strata="site")


def test_a_stratified_ranking_says_both_tests(small):
    nuclei, cohort = small
    cohort = cohort.assign(site=np.array(["A", "B"])[np.arange(len(cohort)) % 2])
    table = rank_nuclei(nuclei, cohort, seed=0, quick=True, strata="site").table
    plain = rank_nuclei(nuclei, cohort, seed=0, quick=True).table
    assert set(table["test"]) == {"van Elteren"}
    assert (table["strata"] == 2).all()
    known = plain.set_index("feature").loc[table["feature"]]
    np.testing.assert_allclose(table["unstratified_p"], known["p_value"])
    assert (table["cliffs_delta_low"] <= table["cliffs_delta"]).all()


def site_cohort(small):
    nuclei, cohort = small
    rng = np.random.default_rng(1)
    site = np.where(rng.random(len(cohort)) < 0.8, cohort["label"], 1 - cohort["label"])
    return nuclei, cohort.assign(site=np.array(["A", "B"])[site], age=rng.normal(60, 8, len(site)))


@pytest.fixture(scope="module")
def adjusted(small):
    nuclei, cohort = site_cohort(small)
    return cohort, rank_nuclei(nuclei, cohort, seed=0, quick=True, adjust="age,site")


def test_shapley_values_sum_to_what_features_add_to_the_covariates(adjusted):
    _, ranking = adjusted
    assert list(ranking.design.covariates) == ["age", "site"]
    assert ranking.design.columns == ("site",)
    added = ranking.auc.auc - ranking.auc_covariates.auc
    assert ranking.table["shapley_auc"].sum() == pytest.approx(added, abs=1e-9)
    assert ranking.table["adjusted_p"].between(0, 1).all()


def test_what_covariates_say_is_a_regression_on_the_training_patients(adjusted):
    """Of no feature, each patient's probability is that of its fold's regression."""
    _, ranking = adjusted
    predictions = ranking.predictions.set_index("patient")
    whole = ranking.shapley.set_index("patient").sum(axis=1)
    for name, model in ranking.models.items():
        test = predictions.index[predictions["fold"] == name]
        alone = np.exp(model.covariates.log_probability(ranking.design.covariates.loc[test]))[:, 1]
        np.testing.assert_allclose(predictions.loc[test, "probability"] - whole[test], alone)
        site = ranking.design.covariates.loc[test, "site"].to_numpy()
        assert alone[site == "B"].mean() > alone[site == "A"].mean()


def test_a_training_patient_s_offset_does_not_know_its_label(small):
    cohort = site_cohort(small)[1]
    known = cohort.set_index("patient")[["site", "age"]].sort_index()
    labels = cohort.set_index("patient")["label"].sort_index().to_numpy()
    training = np.arange(len(known)) % 4 > 0
    one = FoldCovariates.of(known, training, rng=np.random.default_rng(0))
    turned = labels.copy()
    number = int(np.flatnonzero(training)[0])
    turned[number] = 1 - turned[number]
    offsets = one.offsets(np.stack([labels, turned]))
    assert np.allclose(*offsets[:, number])
    assert not np.allclose(*offsets[:, ~training])
    assert not np.allclose(*offsets[:, training])


def test_nuclei_share_out_what_they_add_to_the_covariates(adjusted, small):
    nuclei, _ = small
    _, ranking = adjusted
    first = ranking.predictions.iloc[0]
    model = ranking.models[first["fold"]]
    slide = site_cohort(small)[1].set_index("patient").loc[first["patient"], "slide_id"]
    part = nuclei[nuclei["slide_id"] == slide]
    with pytest.raises(ValueError, match="give the patient's"):
        attribute_nuclei(part, model)
    shares = attribute_nuclei(
        part, model, covariates=ranking.design.covariates.loc[[first["patient"]]]
    )
    assert shares.probability == pytest.approx(first["probability"], abs=1e-5)
    assert abs(shares.gap) < 1e-3


def test_left_out_sites_may_be_strata(small):
    nuclei, cohort = small
    cohort = cohort.assign(site=np.array(["A", "B"])[np.arange(len(cohort)) % 2])
    ranking = rank_nuclei(nuclei, cohort, seed=0, quick=True, folds_by="site", strata="site")
    assert set(ranking.predictions["fold"]) == {"site-A", "site-B"}

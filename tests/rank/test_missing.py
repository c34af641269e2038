"""A feature that patients lack is filled in so that nobody can tell, counted, and refused where its
absence tells the labels apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact, ks_2samp
from trait_cohort import synthetic_cohort

from morphomil.errors import ExitStatus, InputError, RefusedError
from morphomil.matrix import count_nuclei, fit_edges_to_counts
from morphomil.rank.bags import PatientBags
from morphomil.rank.classes import Classes
from morphomil.rank.missing import (
    compare_missingness,
    fill_absent,
    fill_rows,
    refuse_telling_absence,
)
from morphomil.rank.ranking import rank_nuclei
from morphomil.types import FEATURE_NAMES

DENSITY = "density_per_mm2"


def lacking(seed, share, *, patients=60):
    """A cohort without an effect; this share of the positives has no density."""
    nuclei, cohort = synthetic_cohort(seed, patients=patients, patches=6, per_patch=15)
    positive = cohort.loc[cohort["label"] == 1, "slide_id"].to_numpy()
    gone = np.random.default_rng(seed).permutation(positive)[: round(share * len(positive))]
    nuclei[DENSITY] = nuclei[DENSITY].where(~nuclei["slide_id"].isin(gone))
    return nuclei, cohort


def instances(nuclei, cohort):
    slides = dict(iter(nuclei.groupby("slide_id")))
    cohort = cohort.astype({"label": str})
    bags = PatientBags.collect(lambda name: count_nuclei(slides[name], range(6)), cohort, seed=0)
    edges = fit_edges_to_counts(bags.totals.blocks(), features=FEATURE_NAMES)
    return bags, bags.drawn.instances(edges, "quantiles")


def test_absent_instances_are_those_of_other_patients():
    nuclei, cohort = lacking(0, 0.6)
    _, bags = instances(nuclei, cohort)
    filled = fill_absent(bags, bags, seed_key=(0,))
    feature = FEATURE_NAMES.index(DENSITY)
    gone = ~bags.present
    assert gone[:, feature].sum() > 10
    assert not gone[:, np.arange(8) != feature].any()
    assert filled.present.all()
    np.testing.assert_array_equal(filled.values[~gone], bags.values[~gone])
    donors = {row.tobytes() for row in bags.values[~gone[:, feature], feature]}
    drawn = [row.tobytes() for row in filled.values[gone[:, feature], feature]]
    assert set(drawn) <= donors
    assert len(set(drawn)) > 5
    places = filled.values[:, feature, 0]
    assert ks_2samp(places[gone[:, feature]], places[~gone[:, feature]]).pvalue > 0.01
    again = fill_absent(bags, bags, seed_key=(0,))
    np.testing.assert_array_equal(again.values, filled.values)
    assert (fill_absent(bags, bags, seed_key=(1,)).values != filled.values).any()


def test_donors_are_near_in_what_the_present_features_predict():
    """An area that is drawn for a patient goes with the patient's axes."""
    nuclei, cohort = synthetic_cohort(3, trait="size", patients=60, patches=6, per_patch=15)
    gone = cohort["slide_id"].sample(20, random_state=0)
    full = instances(nuclei, cohort)[1]
    area = nuclei["area_um2"].where(~nuclei["slide_id"].isin(gone))
    _, bags = instances(nuclei.assign(area_um2=area), cohort)
    filled = fill_absent(bags, bags, seed_key=(0,))
    rows = ~bags.present[:, 0]
    drawn, true = (one.values[rows, 0, 0] for one in (filled, full))
    assert np.corrcoef(drawn, true)[0, 1] > 0.5


def test_a_patients_own_slides_are_asked_first():
    nuclei, cohort = synthetic_cohort(1, patients=10, patches=6, per_patch=15)
    cohort["patient"] = [f"p{i // 2}" for i in range(10)]
    density = nuclei[DENSITY].where(nuclei["slide_id"] != "s3")
    _, bags = instances(nuclei.assign(density_per_mm2=density), cohort)
    feature = FEATURE_NAMES.index(DENSITY)
    filled = fill_absent(bags, bags, seed_key=(0,)).values[bags.patient == 1, feature]
    np.testing.assert_array_equal(filled[0], filled[1])


def test_what_no_donor_has_stays_absent():
    nuclei, cohort = lacking(0, 0.5, patients=12)
    _, bags = instances(nuclei.assign(density_per_mm2=np.nan), cohort)
    filled = fill_absent(bags, bags, seed_key=(0,))
    np.testing.assert_array_equal(filled.values, bags.values)


def test_rows_are_filled_from_training_rows_columns_together():
    rng = np.random.default_rng(0)
    training, others = rng.normal(size=(30, 4)), rng.normal(size=(9, 4))
    training[:10, 1:3] = others[:4, 1:3] = np.nan
    training[:, 3] = np.nan
    one, two = fill_rows(training, others, seed_key=(0,))
    donors = {tuple(row) for row in training[10:, 1:3]}
    assert {tuple(row) for row in np.concatenate([one[:10, 1:3], two[:4, 1:3]])} <= donors
    assert np.isnan(one[:, 3]).all()
    np.testing.assert_array_equal(one[10:, :3], training[10:, :3])
    whole = fill_rows(training[:, :1], others[:, :1], seed_key=())
    np.testing.assert_array_equal(whole[0], training[:, :1])


def test_who_lacks_a_feature_is_counted_by_group():
    nuclei, cohort = lacking(2, 0.6)
    bags, _ = instances(nuclei, cohort)
    labels = cohort.set_index("patient")["label"].astype(str).sort_index()
    classes = Classes(("0", "1"))
    table = compare_missingness(bags.nuclei, labels, features=FEATURE_NAMES, classes=classes)
    row = table.set_index("feature").loc[DENSITY]
    n, gone = int(row["n_positive"]), int(row["absent_positive"])
    assert (n, gone, row["absent_reference"]) == ((labels == "1").sum(), round(0.6 * n), 0)
    witness = fisher_exact([[gone, n - gone], [0, len(labels) - n]])[1]
    assert row["p_value"] == pytest.approx(witness)
    assert row["p_holm"] == pytest.approx(8 * witness)
    assert row["lacking_positive"] == pytest.approx(gone / n)
    assert (table["p_value"][table["feature"] != DENSITY] == 1).all()


def test_an_absence_that_tells_the_labels_is_refused_by_name():
    nuclei, cohort = lacking(2, 0.6)
    with pytest.raises(RefusedError, match="--allow-missing density_per_mm2") as refused:
        rank_nuclei(nuclei, cohort, seed=0, quick=True)
    assert refused.value.exit_status == ExitStatus.REFUSED
    assert "density_per_mm2 is missing in 14 of 24 patients with label 1 and in 0 of 36" in str(
        refused.value
    )
    with pytest.raises(InputError, match="--allow-missing density: the features are"):
        rank_nuclei(nuclei, cohort, seed=0, quick=True, allow_missing="density")


def test_a_small_or_even_lack_is_only_said():
    table = pd.DataFrame(
        {"feature": ["a", "b"], "n_positive": 50, "n_reference": 50}
        | {"absent_positive": [20, 0], "absent_reference": [16, 0]}
        | {"p_holm": [0.7, 1.0], "lacking_positive": [0.4, 0.3], "lacking_reference": [0.3, 0.1]}
        | {"lacking_p_holm": [0.7, 0.001]}
    )
    one, two = refuse_telling_absence(table, ("0", "1"), allowed=())
    assert one.startswith("a is missing in 20 of 50 patients with label 1 and in 16 of 50 with")
    assert two.startswith("b has no value in 30% of a patient's nuclei with label 1 and in 10%")
    with pytest.raises(RefusedError, match="b has no value in 30%"):
        refuse_telling_absence(table.assign(lacking_reference=-0.3), ("0", "1"), allowed=["a"])
    nobody = table.assign(absent_positive=[50, 0], absent_reference=[50, 0])
    with pytest.raises(RefusedError, match="a has no value in any patient: leave it out"):
        refuse_telling_absence(nobody, ("0", "1"), allowed=["a"])


def test_numbers_of_patches_that_are_too_few_are_drawn():
    """Density in few nuclei: no patch has five values, so a donor's patches stand in."""
    nuclei, cohort = synthetic_cohort(4, patients=20, patches=6, per_patch=15)
    sparse = nuclei["slide_id"].isin(["s1", "s2"]) & (nuclei.index % 10 != 0)
    nuclei[DENSITY] = nuclei[DENSITY].where(~sparse)
    _, bags = instances(nuclei, cohort)
    feature = FEATURE_NAMES.index(DENSITY)
    unknown = np.isnan(bags.values[:, feature])
    assert bags.present[:, feature].all()
    assert unknown.any(axis=1).sum() == 2
    filled = fill_absent(bags, bags, seed_key=(0,)).values
    assert not np.isnan(filled[:, feature]).any()
    known = ~np.isnan(bags.values)
    np.testing.assert_array_equal(filled[known], bags.values[known])


@pytest.mark.parametrize("share", [0.6, 1.0])
def test_lacking_a_feature_is_no_effect(share):
    """Three cohorts: the model doesn't know the positives by what they lack (unfilled: AUC 0.66 and
    1)."""
    areas = []
    for seed in range(3):
        ranking = rank_nuclei(*lacking(seed, share), seed=0, quick=True, allow_missing=DENSITY)
        areas.append(ranking.auc.auc)
        assert ranking.missing.set_index("feature").loc[DENSITY, "absent_positive"] > 10
        assert any(note.startswith("density_per_mm2 is missing in") for note in ranking.notes)
    assert np.mean(areas) < 0.6

"""Permuted labels: what is kept, and how their models are judged."""

from __future__ import annotations

import numpy as np
from trait_cohort import synthetic_cohort

from morphomil.cohort.labels import patient_labels
from morphomil.cohort.splits import make_folds
from morphomil.matrix import count_nuclei
from morphomil.rank.bags import PatientBags
from morphomil.rank.folds import FoldTask, permute_labels
from morphomil.rank.shapley import Coalitions
from morphomil.types import FEATURE_NAMES


def test_models_of_permuted_labels_are_judged_by_these_labels():
    """With every label turned round, what is planted helps as much as before."""
    nuclei, cohort = synthetic_cohort(
        9, trait="boxiness", patients=80, patches=4, per_patch=25, shift=3
    )
    cohort = cohort.astype({"label": str})
    counts = {name: count_nuclei(part, range(4)) for name, part in nuclei.groupby("slide_id")}
    bags = PatientBags.collect(counts.__getitem__, cohort, seed=0)
    fold = make_folds(cohort, folds=2, seed=0)[0]
    task = FoldTask(fold, bags, patient_labels(cohort) == "1", features=FEATURE_NAMES, seed=0)
    coalitions = Coalitions.exact(8)
    null = task.permute(np.stack([task.labels, 1 - task.labels]), coalitions)
    planted = 2 * [FEATURE_NAMES.index("rectangularity")]
    for sums in (null.likelihood, null.wins[..., 0]):
        assert (sums @ coalitions.weights.T).argmax(axis=1).tolist() == planted
    np.testing.assert_allclose(null.attention.sum(axis=1), task.test.sum(), rtol=1e-5)


def test_permutations_keep_the_classes_of_every_part(small):
    nuclei, cohort = small
    cohort = cohort.astype({"label": str})
    counts = {name: count_nuclei(part, range(4)) for name, part in nuclei.groupby("slide_id")}
    bags = PatientBags.collect(counts.__getitem__, cohort, seed=0)
    truth = (patient_labels(cohort) == "1").to_numpy().astype(np.int64)
    split = cohort.groupby("label").cumcount().mod(5).map({0: "test", 1: "val"}).fillna("train")
    for folds in (
        make_folds(cohort, folds=3, seed=0),
        make_folds(cohort.assign(split=split), folds=3, seed=0),
    ):
        rows = permute_labels(truth, folds, bags, permutations=20, seed=0)
        np.testing.assert_array_equal(rows[0], truth)
        assert len(np.unique(rows, axis=0)) == 21
        for fold in folds:
            for part in (fold.train, fold.val, fold.test):
                inside = bags.members(part)
                assert (rows[:, inside].sum(axis=1) == truth[inside].sum()).all()


def test_a_quick_fold_is_the_same_model_with_permuted_ones_beside(small):
    nuclei, cohort = small
    cohort = cohort.astype({"label": str})
    counts = {name: count_nuclei(part, range(4)) for name, part in nuclei.groupby("slide_id")}
    bags = PatientBags.collect(counts.__getitem__, cohort, seed=0)
    folds = make_folds(cohort, folds=2, seed=0)
    task = FoldTask(folds[0], bags, patient_labels(cohort) == "1", features=FEATURE_NAMES, seed=0)
    rows = permute_labels(task.labels, folds, bags, permutations=3, seed=0)
    coalitions = Coalitions.exact(8)
    alone = task.evaluate(1, coalitions)
    beside, null = task.evaluate_beside(1, rows, coalitions)
    np.testing.assert_allclose(beside.coalitions, alone.coalitions, atol=1e-5)
    np.testing.assert_allclose(null.attention[0], alone.attention[0].sum(axis=0), rtol=1e-4)
    assert beside.model.log["replicate"].unique().tolist() == [0]
    several, null_beside = task.evaluate_beside(2, rows, coalitions)
    np.testing.assert_allclose(
        several.coalitions, task.evaluate(2, coalitions).coalitions, atol=1e-5
    )
    first = several.attention[0].sum(axis=0)
    np.testing.assert_allclose(null_beside.attention[0], first, rtol=1e-4)
    assert several.model.log["replicate"].unique().tolist() == [0, 1]
    assert several.model.weights["prior"].shape[0] == 2
    assert null.attention.shape == (4, 8)
    assert null.wins is None

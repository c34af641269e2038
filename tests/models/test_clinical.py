"""The clinical model: encoders that see training patients only, and the paper's AUC on its own
covariates."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from morphomil.cohort.encoding import ClinicalEncoder, patient_covariates
from morphomil.errors import InputError, RefusedError
from morphomil.models.clinical import LogisticModel
from morphomil.stats import auc, compare_groups, youden_cutoff


@pytest.fixture
def patients():
    return pd.DataFrame(
        {
            "age": [40.0, 50.0, 60.0, np.nan],
            "er": [0, 1, 1, 0],
            "grade": ["1", "2", None, "2"],
            "same": [3, 3, 3, 3],
        },
        index=["a", "b", "c", "d"],
    )


def test_numbers_are_standardized_and_categories_one_hot(patients):
    encoder = ClinicalEncoder.fit(patients)
    assert encoder.columns == ["age", "age missing", "er", "grade=2", "grade=1", "grade=missing"]
    encoded = encoder.encode(patients)
    sd = np.sqrt(200 / 3)
    np.testing.assert_allclose(encoded["age"], [-10 / sd, 0, 10 / sd, 0])
    assert encoded["age missing"].tolist() == [0, 0, 0, 1]
    assert encoded["er"].tolist() == [0, 1, 1, 0]
    assert encoded[["grade=2", "grade=1", "grade=missing"]].to_numpy().tolist() == [
        [0, 1, 0],
        [1, 0, 0],
        [0, 0, 1],
        [1, 0, 0],
    ]
    assert list(encoder.encode_contrasts(patients)) == [
        "age",
        "age missing",
        "er",
        "grade=1",
        "grade=missing",
    ]
    assert [note.split(" is")[0] for note in encoder.notes] == ["age", "grade", "same"]
    assert "1 of 4 training patients" in encoder.notes[0]


def test_only_training_patients_decide_the_encoding(patients):
    encoder = ClinicalEncoder.fit(patients.loc[["a", "b"]].drop(columns="same"))
    others = pd.DataFrame(
        {"age": [90.0, np.nan], "er": [1, np.nan], "grade": ["3", None], "same": [9, 9]}
    )
    encoded = encoder.encode(others)
    assert encoded["age"].tolist() == [9, 0]
    assert encoded["er"].tolist() == [1, 0.5]
    assert encoded[["grade=1", "grade=2"]].to_numpy().sum() == 0
    assert encoder.count_missing(others) == {"age": 1, "er": 1, "grade": 2}


def test_the_encoder_survives_its_file(patients):
    encoder = ClinicalEncoder.fit(patients)
    again = ClinicalEncoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert again == encoder
    pd.testing.assert_frame_equal(again.encode(patients), encoder.encode(patients))


def test_identifiers_and_constants_are_refused():
    with pytest.raises(RefusedError, match="is it an identifier"):
        ClinicalEncoder.fit(pd.DataFrame({"name": [f"patient {i}" for i in range(30)]}))
    with pytest.raises(RefusedError, match="nothing to learn from"):
        ClinicalEncoder.fit(pd.DataFrame({"age": [50, 50, 50]}))


def test_covariates_belong_to_the_patient():
    cohort = pd.DataFrame(
        {"slide_id": list("abc"), "patient": ["p", "p", "q"], "age": [50, 50, 60]}
    )
    assert patient_covariates(cohort, ["age"])["age"].to_dict() == {"p": 50, "q": 60}
    with pytest.raises(InputError, match="patient p has more than one age"):
        patient_covariates(cohort.assign(age=[50, 51, 60]), ["age"])
    with pytest.raises(InputError, match="no covariate er; it has age"):
        patient_covariates(cohort, ["er"])


def test_columns_that_add_up_to_others_are_dropped():
    rng = np.random.default_rng(0)
    known = rng.random(200) > 0.2
    table = pd.DataFrame({"er": np.where(known, "yes", None), "pr": np.where(known, "yes", None)})
    table["age"] = rng.normal(size=200)
    labels = (rng.random(200) < 0.5).astype(np.int64)
    model = LogisticModel.fit(table, labels, names=("0", "1"))
    assert len(model.columns) == 2
    assert np.isfinite(model.predict(table)).all()


def test_three_classes_equal_a_multinomial_regression():
    """Two regressions against the first class come close to the joint fit, within their standard
    error."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(6000, 2))
    logits = np.column_stack([np.zeros(6000), values @ [1, 0.5], values @ [-0.5, 1] - 0.5])
    labels = np.array([rng.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    table = pd.DataFrame(values, columns=["x", "y"])
    model = LogisticModel.fit(table, labels, names=("a", "b", "c"))
    joint = LogisticRegression(C=1e6).fit(values, labels)
    np.testing.assert_allclose(model.predict(table), joint.predict_proba(values), atol=0.03)
    assert model.odds_ratios["class"].tolist() == ["b"] * 3 + ["c"] * 3


PAPER_TABLE_2 = {
    "train": {"acc": (60.24, 67.88), "sens": (58.17, 70.63), "spec": (58.86, 68.62)},
    "val": {"acc": (60.84, 73.90), "sens": (54.29, 76.13), "spec": (60.02, 76.52)},
    "test": {"acc": (55.12, 68.40), "sens": (38.89, 61.11), "spec": (60.86, 77.07)},
}
"""Xu et al. 2021, Table 2, clinical data only: 95% intervals in percent at a cut-off fitted to each
part."""


def test_the_papers_auc_on_its_covariates(shared_data):
    """Xu et al. 2021, clinical data only: AUC 0.661 / 0.709 / 0.613 in training, validation and
    test."""
    table = pd.read_csv(
        shared_data / "bcnb" / "clinical_n0_vs_nplus.csv", dtype={"patient": str}
    ).set_index("patient")
    covariates = table.drop(columns=["label", "split", "n_bags"])
    training = table["split"] == "train"
    model = LogisticModel.fit(
        covariates[training], table.loc[training, "label"].to_numpy(), names=("N0", "N+")
    )
    score = model.predict(covariates)[:, 1]
    for split, paper, tolerance in (
        ("train", 0.661, 0.01),
        ("val", 0.709, 0.01),
        ("test", 0.613, 0.015),
    ):
        own = (table["split"] == split).to_numpy()
        assert auc(table["label"][own], score[own]) == pytest.approx(paper, abs=tolerance)
        own_labels, own_score = table["label"].to_numpy()[own], score[own]
        called = own_score >= youden_cutoff(own_labels, own_score)
        found = {"acc": (called == own_labels).mean(), "sens": called[own_labels == 1].mean()}
        found["spec"] = (~called[own_labels == 0]).mean()
        for name, value in found.items():
            low, high = PAPER_TABLE_2[split][name]
            assert low <= 100 * value <= high, (split, name)
    ratios = model.odds_ratios.set_index("term")
    assert ratios.loc["tumour_size_z", "low"] > 1
    assert (ratios["low"] < ratios["odds_ratio"]).all()
    assert (ratios["odds_ratio"] < ratios["high"]).all()


def test_the_papers_characteristics_of_its_cohorts(shared_data):
    """Table 1's counts and p values, training against test, and the subgroups of supplementary
    Table 5."""
    table = pd.read_csv(shared_data / "bcnb" / "clinical_n0_vs_nplus.csv")
    held = table["split"] == "test"
    assert ((~held).sum(), held.sum(), table["label"].sum()) == (840, 218, 403)
    categories = ["is_er_negative", "is_pr_negative", "is_her2_negative", "label"]
    assert table.loc[~held, categories].sum().tolist() == [175, 207, 623, 319]
    assert table.loc[held, categories].sum().tolist() == [52, 61, 158, 84]
    columns = ["age_z", "tumour_size_z", *categories]
    found = compare_groups(
        table[columns], np.where(held, "test", "training"), categories=categories
    )
    assert found.set_index("feature").loc[columns, "p_value"].round(3).tolist() == [
        *(0.344, 0.898),
        *(0.333, 0.312, 0.613, 0.880),
    ]
    # positives of ER+, PR+, HER2+: the denominators of the sensitivities 89.23 %, 96.61 %, 88.89 %
    positives = [table.loc[held & (table[name] == 0), "label"].sum() for name in categories[:3]]
    assert positives == [65, 59, 18]

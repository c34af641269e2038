"""What the image model looks at: planted and absent associations, and the stored tables."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr, ttest_1samp

from morphomil.cohort.manifest import read_manifest
from morphomil.errors import InputError
from morphomil.run.directory import Run
from morphomil.store import write_parquet
from morphomil.tables.attention import (
    MIN_PATCHES,
    STEMS,
    associate_patches,
    image_models,
    measured_patches,
    pool_associations,
    report_patches,
    write_alongside,
)
from morphomil.types import FEATURE_NAMES

NONE = pd.DataFrame(columns=["model", "part", "fold", "patient", "label", "score"])


def test_patches_without_a_value_count_in_no_correlation():
    rng = np.random.default_rng(3)
    attention = pd.Series(rng.random(40))
    values = pd.DataFrame(
        {"area": rng.normal(size=40), "constant": np.ones(40), "rare": np.full(40, np.nan)}
    )
    values.loc[:4, "area"] = np.nan
    values.loc[: MIN_PATCHES - 2, "rare"] = rng.normal(size=MIN_PATCHES - 1)
    found = associate_patches(attention, values)
    assert found["area"] == pytest.approx(spearmanr(attention[5:], values["area"][5:]).statistic)
    assert found[["constant", "rare"]].isna().all()


def associations(rho: np.ndarray, **more: object) -> pd.DataFrame:
    table = pd.DataFrame(
        {"model": "dl-cnb", "evidence": "attention", "feature": "area_um2", "rho": rho}
    )
    return table.assign(patient=[f"p{i}" for i in range(len(rho))], **more)


def test_pooling_is_a_t_test_of_fishers_z_over_patients():
    rho = np.tanh(np.random.default_rng(4).normal(0.2, 0.3, 25))
    row = pool_associations(associations(rho)).iloc[0]
    witness = ttest_1samp(np.arctanh(rho), 0)
    assert row["p_value"] == pytest.approx(witness.pvalue)
    assert (row["rho_low"], row["rho_high"]) == pytest.approx(
        np.tanh(witness.confidence_interval(0.95))
    )
    assert row["patients"] == 25


def test_a_patient_counts_once_however_many_slides():
    rho = np.array([0.5, 0.3, 0.4, -0.2])
    once = pool_associations(associations(rho))
    often = pool_associations(pd.concat([associations(rho), *[associations(rho).head(1)] * 5]))
    pd.testing.assert_frame_equal(once, often)
    missing = pool_associations(associations(np.append(rho, np.nan)))
    assert missing["rho"].iloc[0] == pytest.approx(once["rho"].iloc[0])
    assert np.isnan(pool_associations(associations(np.array([0.4])))["p_value"].iloc[0])


def test_without_an_association_few_p_values_are_small():
    rng = np.random.default_rng(5)
    small = 0
    for _ in range(300):
        rho = [spearmanr(*rng.normal(size=(2, 30))).statistic for _ in range(20)]
        small += pool_associations(associations(np.array(rho)))["p_value"].iloc[0] < 0.05
    assert 5 <= small <= 28  # 99.9 % of binomial(300, 0.05)


def test_the_report_of_a_slide_goes_by_attention_and_says_which_way():
    patches = pd.DataFrame(
        {"attention": [0.1, 0.6, 0.3], "area": [1.0, 9.0, 2.0], "flat": [1.0, 1.0, 1.0]}
    )
    report = report_patches(patches, ["area", "flat"])
    assert report["attention"].tolist() == [0.6, 0.3, 0.1]
    assert report["relative_attention"].tolist() == pytest.approx([1.8, 0.9, 0.3])
    assert report["area_z"].tolist() == pytest.approx([7 / 1.4826, 0, -1 / 1.4826])
    assert report["flat_z"].isna().all()


def test_attention_that_follows_area_is_found_in_a_run(demo):
    """The demo's nuclei, and attention drawn here: by the patch's median area in all test slides of
    the fold."""
    run = Run.open(demo / "run")
    measured = run.done("featurize")
    home = run.path / "models" / "dl-cnb" / "fold0"
    tables, slides = [], []
    for name in measured:
        patches = run.patches(name).query("kept")
        area = (
            run.nuclei(name)
            .groupby("patch_id")["area_um2"]
            .median()
            .reindex(patches["patch_id"])
            .to_numpy()
        )
        evidence = np.where(np.isnan(area), 0, area)
        own = pd.DataFrame(
            {"slide_id": name, "patch_id": patches["patch_id"], "bag": 0, "bag_attention": 0.1}
        )
        tables.append(own.assign(attention=evidence / evidence.sum(), occlusion=-evidence))
        part = "test" if name != measured[0] else "train"
        slides.append(
            {"slide_id": name, "patient": run.slide(name).patient, "part": part, "score": 0.5}
        )
    try:
        assert image_models(run) == []
        assert write_alongside(run, NONE) == []
        write_parquet(home / "attention.parquet", pd.concat(tables))
        write_parquet(home / "slides.parquet", pd.DataFrame(slides))
        assert [slide.slide_id for slide, _ in measured_patches(run, "dl-cnb")] == measured[1:]
        written = write_alongside(run, NONE)
        assert [path.stem for path in written] == list(STEMS[1:])
        found = pd.read_csv(written[0]).set_index(["evidence", "feature"])
        assert len(found) == 2 * len(FEATURE_NAMES)
        assert found.loc[("attention", "area_um2"), "rho"] > 0.95
        assert found.loc[("occlusion", "area_um2"), "rho"] < -0.95
        assert found.loc[("attention", "area_um2"), "p_holm"] < 1e-6
        shown = pd.read_csv(written[2])
        most, least = (
            shown[shown["end"] == end]["area_um2_z"].median() for end in ("most", "least")
        )
        assert most > 0 > least
    finally:
        shutil.rmtree(home.parent)
        shutil.rmtree(run.path / "alongside", ignore_errors=True)


def test_a_model_without_attention_is_named(demo):
    with pytest.raises(InputError, match="morphomil predict"):
        next(measured_patches(Run.open(demo / "run"), "dl-cnb"))


def test_morphometry_and_clinical_data_in_one_model(demo, tmp_path):
    """Trained and scored by the commands on the demo's slides, with the covariate that the demo's
    manifest has."""
    run = Run(shutil.copytree(demo / "run", tmp_path / "run"))
    run.save_cohort(read_manifest(demo / "cohort" / "cohort.csv", covariates=("age",)).cohort)
    program = Path(sys.executable).with_name("morphomil")

    def morphomil(*words: object) -> str:
        done = subprocess.run(
            [program, *map(str, words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    morphomil("train", run.path, "--model", "morphometry+clinical", "--folds", "2")
    assert "AUC" in morphomil("predict", run.path)
    home = run.path / "models" / "morphometry+clinical"
    table = pd.read_parquet(home / "predictions.parquet")
    assert sorted(table.loc[table["part"] == "test", "patient"]) == sorted(
        run.cohort.table()["patient"]
    )
    assert pd.read_csv(home / "fold0" / "log.csv")["term"].tolist() == [
        "intercept",
        "age",
        "morphometry",
    ]
    first = (home / "fold0" / "predictions.parquet").read_bytes()
    shutil.rmtree(home)
    morphomil("train", run.path, "--model", "morphometry+clinical", "--folds", "2")
    morphomil("predict", run.path)
    assert (home / "fold0" / "predictions.parquet").read_bytes() == first
    assert "scores.csv" in morphomil("compare", run.path)
    pair = pd.read_csv(run.path / "alongside" / "scores.csv").iloc[0]
    assert (pair["model_a"], pair["model_b"], pair["patients"]) == (
        "morphometry+clinical",
        "morphometry",
        24,
    )
    Run.open(run.path).ledger.mark_done(
        "P001", "featurize", "other", outputs=["nuclei.parquet"], figures={"nuclei": 1}
    )
    (home / "test_log.csv").unlink()
    done = subprocess.run(
        [program, "predict", run.path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "has changed since" in done.stderr

"""What figures draw and what `compare` and `rank` write are the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from morphomil.matrix import MIN_NUCLEI, fine_bin
from morphomil.run.directory import Run
from morphomil.stats import performance_table
from morphomil.stats.correlation import correlate_features
from morphomil.tables.correlation import correlation_tables
from morphomil.tables.models import calibration_tables, compare_rocs, decision_table
from morphomil.tables.orientation import turns_in_full_patches
from morphomil.tables.paper import two_class_tables
from morphomil.tables.predictions import two_class_test_part

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def predictions() -> pd.DataFrame:
    """Two models, one of whose scores are no probabilities in validation, and two parts."""
    rng = np.random.default_rng(0)
    tables = []
    for number, model in enumerate(("dl-cnb", "clinical")):
        label = np.arange(120) % 2
        score = 1 / (1 + np.exp(-((1 - number) * (2 * label - 1) + rng.normal(0, 1, 120))))
        part = np.where(np.arange(120) < 40, "val", "test")
        score[part == "val"] += number
        table = pd.DataFrame({"patient": range(120), "label": label, "score": score, "part": part})
        tables.append(table.assign(model=model, fold="split", cutoff=0.5))
    return pd.concat(tables, ignore_index=True)


def of_test(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["part"] == "test"].drop(columns="part").reset_index(drop=True)


def test_calibration_and_net_benefit_are_those_of_the_tables(predictions: pd.DataFrame) -> None:
    written = {stem: table for stem, (_, table, _) in two_class_tables(predictions).items()}
    tested = predictions[predictions["part"] == "test"]
    summary = calibration_tables(tested).summary
    stored = of_test(written["calibration"])
    pd.testing.assert_frame_equal(summary[list(stored)], stored)
    pd.testing.assert_frame_equal(decision_table(tested), of_test(written["net_benefit"]))


def test_delong_s_tests_and_aucs_are_those_of_the_tables(predictions: pd.DataFrame) -> None:
    written = {stem: table for stem, (_, table, _) in two_class_tables(predictions).items()}
    _, aucs, pairs = compare_rocs(predictions)
    stored = written["performance"].query("part == 'test' and measure == 'AUC'")
    assert aucs["estimate"].is_monotonic_decreasing
    pd.testing.assert_frame_equal(
        aucs.sort_values("model").reset_index(drop=True),
        stored.sort_values("model").reset_index(drop=True),
    )
    pd.testing.assert_frame_equal(
        pairs.drop(columns="part"), of_test(written["comparison"]), check_exact=True
    )


def test_scores_beyond_probabilities_have_no_calibration(predictions: pd.DataFrame) -> None:
    tested = predictions[predictions["part"] == "test"].assign(score=lambda t: t["score"] * 3)
    with pytest.raises(ValueError, match=r"no model's scores lie in \[0, 1\]"):
        calibration_tables(tested)
    with pytest.raises(ValueError, match=r"no model's scores lie in \[0, 1\]"):
        decision_table(tested)


def test_the_figure_s_correlations_are_the_ranking_s(demo: Path) -> None:
    run = Run(demo / "run")
    stored = pd.read_csv(run.rank_folder / "correlation.csv").set_index("feature")
    values = pd.read_parquet(run.rank_folder / "patient_values.parquet").set_index("patient")
    rho = correlation_tables(values.drop(columns="label")).rho
    assert list(stored) == list(rho)
    np.testing.assert_array_equal(stored.to_numpy(), rho.to_numpy())


def test_a_constant_feature_stays_in_the_figure_s_correlations_too() -> None:
    values = pd.DataFrame(np.random.default_rng(0).normal(size=(9, 3)), columns=list("abc"))
    values["b"] = 1.0
    assert set(correlation_tables(values).rho) == set(correlate_features(values).rho) == set("abc")
    with pytest.raises(ValueError, match="two features and three patients"):
        correlation_tables(values[["a", "b"]])
    with pytest.raises(ValueError, match="two features and three patients"):
        correlation_tables(values.head(2))


def test_the_rose_turns_by_the_deviations_that_the_histograms_count() -> None:
    rng = np.random.default_rng(0)
    nuclei = pd.DataFrame(
        {"orientation_deg": rng.uniform(0, 180, 300), "patch_id": rng.integers(0, 40, 300)}
    )
    nuclei.loc[rng.random(300) < 0.2, "orientation_deg"] = np.nan
    turns = turns_in_full_patches(
        nuclei["orientation_deg"].to_numpy(), nuclei["patch_id"].to_numpy()
    )
    counts = nuclei.groupby("patch_id")["orientation_deg"].transform("count")
    full = (counts >= MIN_NUCLEI) & nuclei["orientation_deg"].notna()
    np.testing.assert_array_equal(np.isfinite(turns), full)
    assert 0 < full.sum() < 300
    fine = fine_bin(nuclei, "orientation_deg")
    np.testing.assert_array_equal(np.floor(np.abs(turns[full]) / 90 * 1024), fine[full])


def test_predictions_on_test_patients_are_those_of_the_run(demo: Path) -> None:
    tested = two_class_test_part(Run(demo / "run"))
    assert set(tested["part"]) == {"test"}
    assert performance_table(tested)["model"].unique().tolist() == ["morphometry"]

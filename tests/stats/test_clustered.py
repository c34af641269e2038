"""Rows in patients: nlme's mixed model, pairs by hand, levels under simulation, and what is
refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from morphomil.errors import RefusedError
from morphomil.stats import compare_clustered, compare_groups, mann_whitney

FOLDER = Path(__file__).parents[1] / "reference"
R = pd.read_csv(FOLDER / "groups.csv").set_index("quantity")["value"]
NUCLEI = pd.read_csv(FOLDER / "groups_nuclei.csv")


def rows_of_patients(
    seed: int, *, patients: int = 20, shift: float = 0.0, spread: float = 1.0
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(5, 60, patients))
    group = patient % 2
    value = (
        spread * rng.normal(size=patients)[patient] + shift * group + rng.normal(size=len(patient))
    )
    return pd.DataFrame({"patient": patient, "group": group, "value": value})


def compared(rows: pd.DataFrame, **options: object) -> pd.Series:
    return compare_clustered(rows[["value"]], rows["group"], rows["patient"], **options).iloc[0]  # type: ignore[arg-type]


def test_the_mixed_model_equals_nlme() -> None:
    found = compared(NUCLEI, method="mixed")
    half = (found["high"] - found["low"]) / 2 / 2.144787  # Student's t, 14 degrees of freedom
    assert found["estimate"] == pytest.approx(R["mixed_difference"], rel=1e-5)
    assert half == pytest.approx(R["mixed_error"], rel=1e-5)
    assert found["p_value"] == pytest.approx(R["mixed_p"], rel=1e-4)
    assert found["icc"] == pytest.approx(R["mixed_icc"], rel=1e-4)


def test_without_likeness_the_mixed_model_is_students_t() -> None:
    rng = np.random.default_rng(0)
    values = np.tile([-1.0, 1.0, -2.0, 2.0], 10)  # every patient has the same mean
    rows = pd.DataFrame(
        {"patient": np.repeat(np.arange(10), 4), "value": values, "group": np.repeat([0, 1], 20)}
    )
    found = compared(rows, method="mixed")
    assert found["icc"] == 0
    assert found["effective_rows"] == 40
    assert found["estimate"] == pytest.approx(0, abs=1e-12)
    rows["value"] = rng.normal(size=10)[rows["patient"]]  # rows of a patient are copies
    copies = compared(rows, method="mixed")
    assert copies["icc"] == pytest.approx(1, abs=1e-4)
    assert copies["effective_rows"] == pytest.approx(10, abs=0.01)


def test_delta_of_rows_counts_pairs_and_patients_weigh_the_same() -> None:
    rows = rows_of_patients(1, shift=1).assign(value=lambda t: t["value"].round(1))
    found = compared(rows, method="bootstrap", seed=0)
    own = {patient: part["value"].to_numpy() for patient, part in rows.groupby("patient")}
    pairs = [
        np.sign(own[i][:, None] - own[j]).mean() for i in range(1, 20, 2) for j in range(0, 20, 2)
    ]
    assert found["estimate"] == pytest.approx(np.mean(pairs), abs=1e-12)
    assert found["low"] < found["estimate"] < found["high"]
    again = compared(rows, method="bootstrap", seed=0)
    pd.testing.assert_series_equal(found, again)
    turned = compared(rows, method="bootstrap", seed=0, positive=0)
    assert turned["estimate"] == pytest.approx(-found["estimate"], abs=1e-12)
    assert turned["p_value"] == pytest.approx(found["p_value"], abs=0.02)


def test_aggregates_are_compare_groups_on_medians() -> None:
    rows = rows_of_patients(2, shift=0.5)
    found = compared(rows)
    expected = compare_groups(rows[["value"]], rows["group"], patients=rows["patient"]).iloc[0]
    assert found["p_value"] == expected["p_value"]
    assert found["estimate"] == expected["cliffs_delta"]


@pytest.mark.parametrize(
    ("method", "most"), [("aggregate", 0.09), ("bootstrap", 0.09), ("mixed", 0.09)]
)
def test_levels_hold_where_counting_rows_fails(method: str, most: float) -> None:
    rejected = naive = 0
    for seed in range(200):
        rows = rows_of_patients(seed)
        rejected += compared(rows, method=method, seed=seed, resamples=199)["p_value"] <= 0.05
        naive += (
            mann_whitney(*(rows.loc[rows["group"] == g, "value"] for g in (1, 0))).p_value <= 0.05
        )
    assert rejected / 200 < most
    assert naive / 200 > 0.4


def test_the_bootstrap_covers_the_truth() -> None:
    """Delta between N(0.8, 2) and N(0, 2) rows: 2 Phi(0.8 / 2) - 1."""
    inside = 0
    for seed in range(300):
        found = compared(
            rows_of_patients(seed, patients=40, shift=0.8),
            method="bootstrap",
            seed=seed,
            resamples=600,
        )
        inside += found["low"] <= 0.31084 <= found["high"]
    assert 0.90 <= inside / 300 <= 0.985


def test_counting_rows_is_refused_with_the_reason() -> None:
    with pytest.raises(
        RefusedError,
        match=r"104 rows of 16 patients .* correlation of value is "
        r"0\.14, .* as 57 indep",
    ):
        compared(NUCLEI, method="naive")


def test_what_cannot_be_compared() -> None:
    rows = rows_of_patients(3)
    for change, cause in (
        ({"method": "bootstrap"}, "needs a seed"),
        ({"method": "t"}, "method must be"),
        ({"positive": 7}, "positive 7"),
    ):
        with pytest.raises(ValueError, match=cause):
            compared(rows, **change)
    with pytest.raises(ValueError, match="two groups"):
        compared(rows.assign(group=np.arange(len(rows)) % 2))
    with pytest.raises(RefusedError, match="have the label"):
        compared(rows.assign(group=1))
    few = compared(rows.assign(value=rows["value"].where(rows["patient"] < 3)))
    assert (few["patients_positive"], few["patients_reference"]) == (1, 2)
    assert np.isnan(few["p_value"])


def test_values_all_alike_have_no_interval_and_no_warning() -> None:
    patients = np.repeat(np.arange(6), 4)
    for values in (np.ones(24), (patients % 2).astype(float)):
        row = compare_clustered(
            pd.DataFrame({"x": values}), patients % 2, patients, method="mixed"
        ).iloc[0]
        assert row["estimate"] == np.ptp(values)
        assert row[["low", "high", "p_value", "icc"]].isna().all()


def test_memory_is_linear_in_rows() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"patient": np.repeat(np.arange(40), 5000), "value": rng.normal(size=200_000)}
    )
    rows["group"] = rows["patient"] % 2
    tracemalloc.start()
    found = compared(rows, method="bootstrap", seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert abs(found["estimate"]) < 0.02
    assert peak < 150 * 200_000

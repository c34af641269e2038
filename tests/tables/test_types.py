"""Composition by patient and group."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from morphomil.figures.report.tables import types_table
from morphomil.figures.sentences import say_whose
from morphomil.tables.types import types_mean_nothing, types_of_groups, types_of_patients
from morphomil.types import Cohort, ImageSource, Slide


class Measured:
    """A run, as far as the table asks."""

    def figures(self, stage: str) -> pd.DataFrame:
        assert stage == "featurize"
        counts = {"epithelial": 60, "lymphocyte": 20, "stroma": 20, "other": 0}
        more = {"epithelial": 0, "lymphocyte": 100, "stroma": 0, "other": 0}
        return pd.DataFrame(
            {
                "patient": ["a", "a", "b", "c"],
                "label": ["x", "x", "y", "y"],
                "nuclei": [110, 100, 100, 7],
                "types": [counts, more, counts, None],
            }
        )


def test_slides_of_a_patient_are_counted_together() -> None:
    table = types_of_patients(Measured())  # type: ignore[arg-type]
    assert table["patient"].tolist() == ["a", "b"]
    assert table["untyped"].tolist() == [10, 0]
    assert table.loc[0, ["epithelial", "lymphocyte", "stroma", "other"]].tolist() == [
        0.3,
        0.6,
        0.1,
        0,
    ]
    assert say_whose("all", table).startswith("The features are those of all nuclei, whatever")
    said = say_whose("lymphocyte", table)
    assert "lymphocytes alone" in said
    assert "45% epithelial, 40% lymphocytes, 15% stroma, 0% other" in said
    assert "10 of 310 nuclei have no known type" in said
    assert "mean nothing" not in said
    assert say_whose("all", table, meaningless=True).endswith("these nuclei mean nothing.")
    assert say_whose("all", table.iloc[:0]) == ""


@pytest.mark.parametrize("synthetic", [True, False])
def test_types_that_a_network_says_of_painted_nuclei(synthetic: bool, tmp_path: Path) -> None:
    image = tmp_path / "slides" / "P001.tif"
    slide = Slide("P001", "P001", "1", (ImageSource(image),))
    if synthetic:
        (tmp_path / "truth").mkdir()
        (tmp_path / "truth" / "phantom.json").touch()
    for made, network in (
        ({"model": "default"}, True),
        ({"model": "imported"}, False),
        ({"model": "imported", "classify": {"model": "default"}}, True),
    ):
        run = SimpleNamespace(cohort=Cohort((slide,)), segmented_with=partial(dict, made))
        assert types_mean_nothing(run) is (synthetic and network)  # type: ignore[arg-type]


def test_groups_have_intervals() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([5, 2, 2, 1], 40)
    patients = pd.DataFrame(shares, columns=["epithelial", "lymphocyte", "stroma", "other"])
    patients = patients.assign(patient=range(40), label=["x"] * 20 + ["y"] * 19 + ["z"])
    table = types_of_groups(patients).set_index(["label", "type"])
    row = table.loc[("x", "epithelial")]
    assert row["share"] == pytest.approx(shares[:20, 0].mean())
    half = 1.96 * shares[:20, 0].std(ddof=1) / np.sqrt(20)
    assert row["share_high"] - row["share_low"] == pytest.approx(2 * half, rel=0.2)
    assert table.loc[("z", "other")].isna().tolist() == [False, False, True, True]
    printed = types_table(patients)
    assert list(printed) == ["label", "patients", "epithelial", "lymphocyte", "stroma", "other"]
    assert printed["patients"].tolist() == [20, 19, 1]
    assert " [" in printed.loc[0, "epithelial"]
    assert " [" not in printed.loc[2, "epithelial"]

"""Histograms of pictures: shares by hand, and bins that whole numbers of neighbors fill evenly."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from morphomil.matrix import BINS, FINE_BINS, Binning
from morphomil.nuclei.registry import FEATURES
from morphomil.tables.histograms import _edge_values, _inner_edges, histograms_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from morphomil.run.directory import Run


@pytest.mark.parametrize("width", [1, 3, 6, 7, 11, 20])
@pytest.mark.parametrize("first", [0, 40])
def test_bins_of_density_hold_the_same_number_of_neighbors_each(width: int, first: int) -> None:
    entry = FEATURES["density_per_mm2"]
    binning = Binning(entry.low, entry.high, first, width)
    at = _edge_values(binning, _inner_edges(binning, step=entry.step))
    values = np.arange(400) * entry.step
    held = np.histogram(values[(values >= at[0]) & (values <= at[-1])], at)[0]
    assert len(set(held[1:-1])) <= 1
    assert (held[[0, -1]] <= held.max()).all()
    assert (np.diff(at) > 0).all() and len(held) <= BINS + 1


def test_other_features_have_the_bins_of_the_matrices() -> None:
    entry = FEATURES["area_um2"]
    binning = Binning(entry.low, entry.high, 8, 5)
    at = _edge_values(binning, _inner_edges(binning, step=entry.step))
    fine = (entry.high - entry.low) / FINE_BINS
    np.testing.assert_allclose(at, entry.low + fine * (8 + 5 * np.arange(BINS + 1)))


def test_shares_of_a_patient_sum_to_one(make_run: Callable[..., Run], tmp_path: Path) -> None:
    table = histograms_table(make_run(tmp_path / "run", ("a", "b")))
    sums = table.groupby(["patient", "feature"])["share"].sum()
    np.testing.assert_allclose(sums, 1, rtol=1e-6)
    assert (table["low"] < table["high"]).all()


def test_slides_without_a_value_do_not_thin_the_patient(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two slides of a patient one lacks the density: its mean is the other's."""
    run = make_run(tmp_path / "run", ("a", "b"))
    both = [replace(slide, patient="p", label="0") for slide in run.cohort.slides]
    run.save_cohort(replace(run.cohort, slides=tuple(both)))
    read, place = type(run).counts, run.features.index("density_per_mm2")

    def lacking(self: Run, slide_id: str) -> Any:
        found = read(self, slide_id)
        if slide_id == "b":
            found.counts[place] = 0
        return found

    monkeypatch.setattr(type(run), "counts", lacking)
    table = histograms_table(run)
    assert set(table["patient"]) == {"p"}
    np.testing.assert_allclose(table.groupby("feature")["share"].sum(), 1, rtol=1e-6)

"""Each patient's mean histogram of each feature, as the figure of matrices draws them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.matrix import (
    BINS,
    FINE_BINS,
    fit_edges_to_counts,
    has_enough_nuclei,
    mean_rows,
    relative_frequencies,
)
from morphomil.nuclei.registry import FEATURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from morphomil.matrix import Binning
    from morphomil.run.directory import Run


def histograms_table(run: Run) -> pd.DataFrame:
    """Each patient's mean histogram of each feature: `patient, label, feature, low, high, share`.

    `low` and `high` are the bin's edges, fitted to all patients; the folds of a ranking fit their
    own to their training patients. Shares of a patient and feature sum to 1, the mean over patches,
    then slides; where a patient has none there is no row.
    """
    columns = ["patient", "label", "feature", "low", "high", "share"]
    slides = run.cohort.table().astype({"patient": str, "label": str})
    slides = slides[slides["slide_id"].isin(run.done("featurize"))]
    if slides.empty:
        return pd.DataFrame(columns=columns)
    features, patients = run.features, slides.groupby("patient", sort=True)

    def total(names: pd.Series[str]) -> NDArray[np.int64]:
        parts = [_counts(run, name).sum(axis=1, dtype=np.int64) for name in names]
        return np.asarray(np.sum(parts, axis=0))

    edges = fit_edges_to_counts(
        (total(own["slide_id"])[None] for _, own in patients), features=features
    )
    inner = [_inner_edges(edges.bins[name], step=FEATURES[name].step) for name in features]
    tables = [pd.DataFrame(columns=columns)]
    for patient, own in patients:
        means = [_mean_shares(_counts(run, name), inner) for name in own["slide_id"]]
        for name, starts, of_slides in zip(features, inner, zip(*means, strict=True), strict=True):
            present = sum(bool(mean.any()) for mean in of_slides)
            if present:
                at = _edge_values(edges.bins[name], starts)
                shares = np.sum(of_slides, axis=0, dtype=np.float64) / present
                rows = {"feature": name, "low": at[:-1], "high": at[1:], "share": shares}
                about = {"patient": patient, "label": own["label"].iloc[0]}
                tables.append(pd.DataFrame(rows | about))
    return pd.concat(tables[1:] or tables, ignore_index=True)[columns]


def _counts(run: Run, slide_id: str) -> NDArray[Any]:
    """Of a slide's patches with enough nuclei, (features, patches, fine bins)."""
    counts = run.counts(slide_id).counts
    return counts[:, has_enough_nuclei(counts)]


def _inner_edges(binning: Binning, *, step: float) -> NDArray[np.int64]:
    """The fine bins with which the second bin and those after it begin.

    Bins of a feature that most nuclei have in whole `step`s hold so many steps each, and end
    between two of them: else neighbors would hold one and two by turns, a comb.
    """
    last = binning.first + binning.width * BINS
    if not step:
        return np.arange(binning.first + binning.width, last, binning.width)
    fine = step * FINE_BINS / (binning.high - binning.low)
    size = fine * math.ceil(binning.width / fine)
    places = np.arange(math.ceil(last / size) + 1) * size - fine / 2
    inside = np.round(places[(places > binning.first) & (places < last)]).astype(np.int64)
    return np.asarray(inside[(inside > binning.first) & (inside < last)])


def _edge_values(binning: Binning, inner: NDArray[np.int64]) -> NDArray[np.float64]:
    """All edges in the feature's unit; the outermost bins also hold whatever lies beyond."""
    fine = (binning.high - binning.low) / FINE_BINS
    ends = (binning.first, binning.first + binning.width * BINS)
    return np.asarray(binning.low + fine * np.array([ends[0], *inner, ends[1]]))


def _mean_shares(
    counts: NDArray[Any], inner: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.float64]]:
    """Of a slide's counts (features, patches, fine bins): each feature's mean over patches, 0 where
    none has a value."""
    return [
        mean_rows(relative_frequencies(binned)[None])[0]
        for binned in (
            np.add.reduceat(own, [0, *starts], axis=-1, dtype=np.int64)
            for own, starts in zip(counts, inner, strict=True)
        )
    ]

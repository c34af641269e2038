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
    slides = {slide.slide_id: slide for slide in run.cohort.slides}
    counts = {name: run.counts(name) for name in run.done("featurize")}
    kept = {name: own.counts[:, has_enough_nuclei(own.counts)] for name, own in counts.items()}
    kept = {name: own for name, own in kept.items() if own.shape[1]}
    columns = ["patient", "label", "feature", "low", "high", "share"]
    if not kept:
        return pd.DataFrame(columns=columns)
    features = counts[next(iter(kept))].features
    owners = pd.Series({name: slides[name].patient for name in kept})
    patients: dict[str, list[str]] = {str(patient): [] for patient in sorted(set(owners))}
    for name, patient in owners.items():
        patients[str(patient)].append(str(name))
    totals = np.stack(
        [
            np.sum([kept[n].sum(axis=1, dtype=np.int64) for n in names], axis=0)
            for names in patients.values()
        ]
    )
    edges = fit_edges_to_counts([totals], features=features)
    starts = [_inner_edges(edges.bins[name], step=FEATURES[name].step) for name in features]
    tables = []
    for patient, names in patients.items():
        label = str(slides[names[0]].label)
        for number, (name, inner) in enumerate(zip(features, starts, strict=True)):
            shares = _mean_shares([kept[n][number] for n in names], inner)
            if shares.any():
                at = _edge_values(edges.bins[name], inner)
                rows = {"feature": name, "low": at[:-1], "high": at[1:], "share": shares}
                tables.append(pd.DataFrame(rows | {"patient": patient, "label": label}))
    return pd.concat(tables, ignore_index=True)[columns]


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


def _mean_shares(counts: Sequence[NDArray[Any]], inner: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of the slides' counts (patches, fine bins): the mean over patches, then slides; 0 where none
    has a value."""
    means = [
        mean_rows(relative_frequencies(binned)[None])[0]
        for binned in (np.add.reduceat(own, [0, *inner], axis=-1, dtype=np.int64) for own in counts)
    ]
    present = sum(bool(mean.any()) for mean in means)
    return np.asarray(np.sum(means, axis=0, dtype=np.float64) / max(present, 1))

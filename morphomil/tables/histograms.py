"""Each patient's mean histogram of each feature, as the figure of matrices draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.matrix import (
    Edges,
    fit_edges_to_counts,
    has_enough_nuclei,
    mean_rows,
    rebin,
    relative_frequencies,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    edges = fit_edges_to_counts(totals, features=features)
    tables = []
    for patient, names in patients.items():
        means = np.stack(
            [mean_rows(relative_frequencies(rebin(kept[name], edges))) for name in names]
        )
        present = means.any(axis=-1)  # (slides, features)
        mean = means.sum(axis=0) / np.maximum(present.sum(axis=0), 1)[:, None]
        tables.append(
            _histogram_rows(mean, edges).assign(patient=patient, label=str(slides[names[0]].label))
        )
    return pd.concat(tables, ignore_index=True)[columns]


def _histogram_rows(mean: NDArray[Any], edges: Edges) -> pd.DataFrame:
    tables = []
    for shares, name in zip(mean, edges.features, strict=True):
        if shares.any():
            at = edges.values(name)
            tables.append(
                pd.DataFrame({"feature": name, "low": at[:-1], "high": at[1:], "share": shares})
            )
    return (
        pd.concat(tables) if tables else pd.DataFrame(columns=["feature", "low", "high", "share"])
    )

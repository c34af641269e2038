"""ROC curves of out-of-fold predictions, all patients together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.stats.intervals import clopper_pearson_limits
from morphomil.stats.roc import roc_curve, within_fold_auc

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVEL = 0.95
"""Of the band: it holds sensitivity and specificity at a cutoff together."""
GRID = 201
"""The band is told at so many false-positive rates."""


def roc_points(predictions: pd.DataFrame) -> pd.DataFrame:
    """The ROC curve of all patients, one row per cutoff: `cutoff, fpr, tpr`, each rate with `_low`
    and `_high`, exact limits (Clopper & Pearson) of 97.5 %, so that both hold in 95 %.

    `predictions` has one row per patient: label (0 or 1), probability, out of fold. Models of
    different folds are taken to say the same by the same probability; the AUC that stands beside a
    curve takes pairs within folds only (`within_fold_auc`), and may differ from the area.

    Raises:
        ValueError: a label is missing.
    """
    curve = roc_curve(predictions["label"], predictions["probability"])
    positives = int(predictions["label"].sum())
    table = pd.DataFrame(
        {
            "cutoff": curve["cutoff"],
            "fpr": (1 - curve["specificity"]).round(12),
            "tpr": curve["sensitivity"],
        }
    )
    for name, n in (("fpr", len(predictions) - positives), ("tpr", positives)):
        limits = [
            clopper_pearson_limits(round(rate * n), n, level=1 - (1 - LEVEL) / 2)
            for rate in table[name]
        ]
        table[[f"{name}_low", f"{name}_high"]] = np.array(limits)
    return table


def roc_band(points: pd.DataFrame) -> pd.DataFrame:
    """`fpr, low, high`: between which sensitivities the true curve runs, from the limits of
    `roc_points`: it passes through each cutoff's rectangle, and never falls."""
    grid = np.linspace(0, 1, GRID)
    right = points["fpr_high"].to_numpy()[:, None] <= grid
    left = points["fpr_low"].to_numpy()[:, None] >= grid
    low = np.where(right, points["tpr_low"].to_numpy()[:, None], 0.0).max(axis=0)
    high = np.where(left, points["tpr_high"].to_numpy()[:, None], 1.0).min(axis=0)
    return pd.DataFrame({"fpr": grid, "low": low, "high": high})


def class_curves(predictions: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """The curve of each of several groups against the others: `group, n, auc` (pairs within folds),
    `fpr, tpr`.

    `predictions`: fold, label (position in `groups`), `probability_0`, `probability_1`, ...
    """
    curves = []
    for number, name in enumerate(groups):
        label = (predictions["label"] == number).astype(int)
        score = predictions[f"probability_{number}"]
        own = roc_points(pd.DataFrame({"label": label, "probability": score}))[["fpr", "tpr"]]
        area = within_fold_auc(label, score, predictions["fold"])
        curves.append(own.assign(group=name, n=int(label.sum()), auc=area))
    return pd.concat(curves, ignore_index=True)[["group", "n", "auc", "fpr", "tpr"]]


def model_curves(predictions: pd.DataFrame) -> pd.DataFrame:
    """Each model's curve: `model, fpr, tpr`; `predictions`: `model, label, score`."""
    curves = []
    for model, scores in predictions.groupby("model", sort=False):
        points = roc_points(scores.rename(columns={"score": "probability"}))
        curves.append(points[["fpr", "tpr"]].assign(model=model))
    return pd.concat(curves, ignore_index=True)[["model", "fpr", "tpr"]]

"""ROC curves of out-of-fold predictions: each fold's, and their vertical average."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.stats.roc import roc_curve, within_fold_auc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MEAN = "mean"
"""The `fold` of the average curve has this name."""


def roc_points(predictions: pd.DataFrame) -> pd.DataFrame:
    """Corners of each fold's ROC curve and of their vertical average: columns fold, fpr, tpr.

    `predictions` has one row per patient: fold, label (0 or 1), probability. Folds without both
    labels have no curve. The average weighs folds by their numbers of positive-negative pairs and
    keeps the vertical steps, so the area under it is `within_fold_auc`.
    """
    curves, pairs = {}, []
    for fold, part in predictions.groupby("fold"):
        if part["label"].nunique() == 2:
            curve = roc_curve(part["label"], part["probability"])
            fpr = (1 - curve["specificity"]).round(12).to_numpy()
            curves[str(fold)] = (fpr, curve["sensitivity"].to_numpy())
            pairs.append(part["label"].sum() * (part["label"] == 0).sum())
    if not curves:
        raise ValueError("a ROC curve needs a fold with both labels, got none")
    curves[MEAN] = _vertical_average(list(curves.values()), weights=pairs)
    tables = [
        pd.DataFrame({"fold": fold, "fpr": fpr, "tpr": tpr}) for fold, (fpr, tpr) in curves.items()
    ]
    return pd.concat(tables, ignore_index=True)


def class_curves(predictions: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """The average curve of each of several groups against the others: `group, auc, fpr, tpr`.

    `predictions`: fold, label (position in `groups`), `probability_0`, `probability_1`, ...
    """
    curves = []
    for number, name in enumerate(groups):
        own = pd.DataFrame(
            {
                "fold": predictions["fold"],
                "label": (predictions["label"] == number).astype(int),
                "probability": predictions[f"probability_{number}"],
            }
        )
        points = roc_points(own)
        area = within_fold_auc(own["label"], own["probability"], own["fold"])
        mean = points.loc[points["fold"] == MEAN, ["fpr", "tpr"]]
        curves.append(mean.assign(group=name, auc=area))
    return pd.concat(curves, ignore_index=True)[["group", "auc", "fpr", "tpr"]]


def mean_curves(predictions: pd.DataFrame) -> pd.DataFrame:
    """The average curve of each model: `model, fpr, tpr`; `predictions`: `model, fold, label,
    score`."""
    curves = []
    for model, scores in predictions.groupby("model", sort=False):
        points = roc_points(scores.rename(columns={"score": "probability"}))
        curves.append(points.loc[points["fold"] == MEAN, ["fpr", "tpr"]].assign(model=model))
    return pd.concat(curves, ignore_index=True)[["model", "fpr", "tpr"]]


def _vertical_average(
    curves: list[tuple[NDArray[np.float64], NDArray[np.float64]]], *, weights: list[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    grid = np.unique(np.concatenate([fpr for fpr, _ in curves]))
    heights = np.average([_heights(fpr, tpr, grid) for fpr, tpr in curves], axis=0, weights=weights)
    return np.repeat(grid, 2), heights.T.ravel()


def _heights(
    fpr: NDArray[np.float64], tpr: NDArray[np.float64], grid: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper end of the curve at each false-positive rate; they differ where it steps
    up."""
    steps, first, count = np.unique(fpr, return_index=True, return_counts=True)
    bottom, top = tpr[first], tpr[first + count - 1]
    after = np.clip(np.searchsorted(steps, grid, side="right"), 1, len(steps) - 1)
    share = (grid - steps[after - 1]) / (steps[after] - steps[after - 1])
    between = top[after - 1] + share * (bottom[after] - top[after - 1])
    on = np.isin(grid, steps)
    at = np.searchsorted(steps, grid).clip(max=len(steps) - 1)
    return np.where(on, bottom[at], between), np.where(on, top[at], between)

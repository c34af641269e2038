"""ROC curves of out-of-fold predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.figures.labels import MINUS, format_interval, format_ratio
from morphomil.figures.style import BLUE, GRAY, ONE_COLUMN_MM, SKY, new_figure, style
from morphomil.stats.roc import roc_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MEAN = "mean"
"""The `fold` of the average curve."""


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


def roc_plot(
    predictions: pd.DataFrame,
    *,
    auc: float,
    low: float,
    high: float,
    title: str = "",
    width_mm: float = ONE_COLUMN_MM,
) -> Figure:
    """Each fold's curve, their vertical average with the given AUC and interval, and the diagonal
    of chance."""
    points = roc_points(predictions)
    curves = dict(list(points.groupby("fold", sort=False)))
    average = curves.pop(MEAN)
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=width_mm)
        axes = figure.subplots()
        axes.plot(
            [0, 1], [0, 1], color=GRAY, linewidth=0.6, linestyle="--", label="chance: AUC 0.50"
        )
        for number, curve in enumerate(curves.values()):
            label = f"each of {len(curves)} folds" if number == 0 else None
            axes.plot(curve["fpr"], curve["tpr"], color=SKY, linewidth=0.6, alpha=0.9, label=label)
        what = "mean" if len(curves) > 1 else "all"
        text = f"{what}: AUC {format_ratio(auc)} {format_interval(low, high)}"
        axes.plot(average["fpr"], average["tpr"], color=BLUE, linewidth=1.6, label=text)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", title=title)
        axes.set(xlabel=f"1 {MINUS} specificity", ylabel="Sensitivity")
        axes.legend(loc="lower right")
        figure.draw_without_rendering()
        return figure


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

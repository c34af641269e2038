"""The figure of ROC curves of out-of-fold predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphomil.figures.labels import MINUS, format_interval, format_ratio
from morphomil.figures.style import BLUE, GRAY, ONE_COLUMN_MM, SKY, new_figure, style
from morphomil.tables.roc import MEAN

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def roc_plot(
    points: pd.DataFrame,
    *,
    auc: float,
    low: float,
    high: float,
    title: str = "",
    width_mm: float = ONE_COLUMN_MM,
) -> Figure:
    """Each fold's curve, their vertical average with the given AUC and interval, and the diagonal
    of chance; `points` as `roc_points` gives them."""
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

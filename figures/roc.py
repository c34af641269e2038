"""ROC curves of out-of-fold predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from morphomil.figures.drawing import Drawing
from morphomil.figures.labels import MINUS, format_interval, format_ratio, shorten_all
from morphomil.figures.results import read_ranking
from morphomil.figures.style import BLUE, GRAY, ONE_COLUMN_MM, PALETTE, SKY, new_figure, style
from morphomil.tables.roc import MEAN, class_curves, roc_points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run


def draw_roc(run: Run) -> Drawing:
    """Draw the morphometry model's ROC curves.

    Raises:
        AbsentError: nothing is ranked yet.
    """
    _, about = read_ranking(run)
    predictions = pd.read_parquet(run.rank_folder / "predictions.parquet")
    groups = [str(name) for name in about["classes"]]
    summary = pd.DataFrame([{name: about[name] for name in ("auc", "auc_low", "auc_high")}])
    if len(groups) > 2:
        points = class_curves(predictions, groups)
        figure = class_roc_plot(
            points, auc=about["auc"], low=about["auc_low"], high=about["auc_high"]
        )
        caption = (
            "The morphometry model's out-of-fold ROC curves of each group against the others, the "
            "vertical average of the folds. AUC [95 % interval]: the mean of the groups' (macro)."
        )
        return Drawing(figure, points, caption, {"summary": summary})
    points = roc_points(predictions)
    figure = roc_plot(points, auc=about["auc"], low=about["auc_low"], high=about["auc_high"])
    caption = "The morphometry model's out-of-fold ROC curves, AUC [95 % interval]."
    return Drawing(figure, points, caption, {"summary": summary})


def class_roc_plot(
    points: pd.DataFrame, *, auc: float, low: float, high: float, width_mm: float = ONE_COLUMN_MM
) -> Figure:
    """Each group's curve against the others; `points` as `tables.roc.class_curves` gives them."""
    names = shorten_all([str(name) for name in points["group"].unique()], 18)
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=width_mm)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.6, linestyle="--")
        curves = points.groupby("group", sort=False)
        for number, (name, (_, curve)) in enumerate(zip(names, curves, strict=True)):
            label = f"{name}: AUC {format_ratio(curve['auc'].iloc[0])}"
            color = PALETTE[number % len(PALETTE)]
            axes.plot(curve["fpr"], curve["tpr"], color=color, linewidth=1.2, label=label)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set(xlabel=f"1 {MINUS} specificity", ylabel="Sensitivity")
        axes.set_title(f"mean AUC {format_ratio(auc)} {format_interval(low, high)}", loc="left")
        axes.legend(loc="lower right")
        figure.draw_without_rendering()
        return figure


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

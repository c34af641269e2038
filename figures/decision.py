"""Net benefit of every model over thresholds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.labels import model_name, shorten
from morphomil.figures.results import read_binary_predictions
from morphomil.figures.style import (
    GRAY,
    ONE_COLUMN_MM,
    new_figure,
    series_color,
    series_line,
    style,
)
from morphomil.tables.models import decision_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run


def draw_decision(run: Run) -> Drawing:
    """Draw the decision curves of all models on test patients.

    Raises:
        AbsentError: no model has predictions of two classes.
    """
    try:
        table = decision_table(read_binary_predictions(run))
    except ValueError as error:
        raise AbsentError(str(error)) from None
    caption = (
        "Net benefit of treating who has a probability of the threshold or more (Vickers and "
        "Elkin)."
    )
    return Drawing(decision_plot(table), table, caption)


def decision_plot(decision: pd.DataFrame, *, width_mm: float = ONE_COLUMN_MM) -> Figure:
    """Net benefit over thresholds, of each model, of treating all and of treating none.

    `decision`: `model, threshold, net_benefit, treat_all, treat_none`.
    """
    models = decision["model"].unique().tolist()
    with style():
        figure = new_figure(
            width_mm=width_mm, height_mm=width_mm * 0.78 + 3.2 * math.ceil((len(models) + 2) / 2)
        )
        axes = figure.subplots()
        first = decision[decision["model"] == models[0]]
        axes.plot(
            first["threshold"], first["treat_all"], color=GRAY, linewidth=0.8, label="treat all"
        )
        axes.plot(
            first["threshold"],
            first["treat_none"],
            color="black",
            linewidth=0.8,
            label="treat none",
        )
        for number, model in enumerate(models):
            thresholds = decision[decision["model"] == model]
            label = shorten(model_name(model), 24)
            axes.plot(
                thresholds["threshold"],
                thresholds["net_benefit"],
                color=series_color(number),
                linestyle=series_line(number),
                label=label,
            )
        top = float(max(decision["net_benefit"].max(), decision["treat_all"].max(), 0.05))
        axes.set(xlim=(0, 1), ylim=(-0.25 * top, 1.05 * top))
        axes.set(xlabel="Threshold probability", ylabel="Net benefit")
        figure.legend(loc="outside lower center", ncols=2)
        figure.draw_without_rendering()
        return figure

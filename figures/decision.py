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
    model_looks,
    new_figure,
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
        "Elkin), with pointwise 95 % intervals over patients at some thresholds (bars)."
        " Net benefit is in true positives per patient."
    )
    return Drawing(decision_plot(table), table, caption)


def decision_plot(decision: pd.DataFrame, *, width_mm: float = ONE_COLUMN_MM) -> Figure:
    """Net benefit over thresholds, of each model, of treating all and of treating none.

    `decision`: `model, threshold, net_benefit` with `_low` and `_high`, `treat_all, treat_none`.
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
        for number, (model, look) in enumerate(model_looks(models).items()):
            thresholds = decision[decision["model"] == model]
            band = thresholds.iloc[4 + 3 * number :: 15]
            axes.vlines(
                band["threshold"],
                band["net_benefit_low"],
                band["net_benefit_high"],
                color=look.color,
                linewidth=0.7,
                alpha=0.8,
            )
            label = shorten(model_name(model), 24)
            axes.plot(
                thresholds["threshold"],
                thresholds["net_benefit"],
                color=look.color,
                linestyle=look.line,
                marker=look.marker,
                markersize=3,
                markevery=slice(4 + 3 * number, None, 15),
                label=label,
            )
        top = float(max(decision["net_benefit"].max(), decision["treat_all"].max(), 0.05))
        axes.set(xlim=(0, 1), ylim=(-0.25 * top, 1.3 * top))
        axes.set(xlabel="Threshold probability", ylabel="Net benefit")
        figure.legend(loc="outside lower center", ncols=2)
        figure.draw_without_rendering()
        return figure

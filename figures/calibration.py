"""Observed share against predicted probability of every model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.labels import format_estimate, format_ratio, model_name, shorten
from morphomil.figures.results import read_binary_predictions
from morphomil.figures.style import (
    GRAY,
    ONE_AND_A_HALF_COLUMNS_MM,
    model_looks,
    new_figure,
    style,
)
from morphomil.tables.models import calibration_tables

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run


def draw_calibration(run: Run) -> Drawing:
    """Draw the calibration of all models on test patients.

    Raises:
        AbsentError: no model has predictions of two classes.
    """
    try:
        calibration = calibration_tables(read_binary_predictions(run))
    except ValueError as error:
        raise AbsentError(str(error)) from None
    caption = (
        "Observed share of positive patients against the predicted probability, in groups of like "
        "probability: a point is a group of patients, its bar the exact 95 % interval of the share "
        "(Clopper and Pearson). A slope of 1 and an intercept of 0 are right. "
        f"{say_patients(calibration.summary)}"
    )
    return Drawing(
        calibration_plot(calibration.curve, calibration.summary),
        calibration.curve,
        caption,
        {"summary": calibration.summary},
    )


def say_patients(summary: pd.DataFrame) -> str:
    """How many test patients each model has, and what to expect of few; `model, n`."""
    sizes = sorted({int(n) for n in summary["n"]})
    count = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    few = " Of so few patients this shows gross errors only." if sizes[0] < 100 else ""
    return f"{count} test patients.{few}"


def calibration_plot(
    curve: pd.DataFrame, summary: pd.DataFrame, *, width_mm: float = ONE_AND_A_HALF_COLUMNS_MM
) -> Figure:
    """Observed share against predicted probability, with exact intervals; slope, intercept and
    Brier score beside.

    `curve`: `model, predicted, observed, low, high`; `summary`: one row per model:
    `model, slope, slope_low, slope_high, intercept, intercept_low, intercept_high, brier`.
    """
    with style():
        figure = new_figure(
            width_mm=width_mm, height_mm=max(width_mm * 0.62, 12 + 17 * len(summary))
        )
        axes, side = figure.subplots(1, 2, width_ratios=(62, 46))
        axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.6, linestyle=(0, (4, 3)))
        for model, look in model_looks(summary["model"]).items():
            groups = curve[curve["model"] == model]
            axes.vlines(
                groups["predicted"],
                groups["low"],
                groups["high"],
                color=look.color,
                linewidth=0.8,
                alpha=0.7,
            )
            axes.plot(
                groups["predicted"],
                groups["observed"],
                marker=look.marker,
                color=look.color,
                linestyle=look.line,
                markersize=4,
                linewidth=1,
            )
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="N")
        axes.set(xlabel="Predicted probability", ylabel="Observed share [95 % interval]")
        _write_calibration(side, summary)
        figure.draw_without_rendering()
        return figure


def _write_calibration(axes: Axes, summary: pd.DataFrame) -> None:
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(max(4, len(summary)) * 4 + 1, 0))
    looks = model_looks(summary["model"])
    for number, row in enumerate(summary.to_dict("records")):
        top, look = number * 4 + 0.8, looks[row["model"]]
        axes.plot([0.03], [top], look.marker, color=look.color, markersize=4)
        axes.text(
            0.1,
            top,
            shorten(model_name(row["model"]), 24),
            va="center",
            weight="bold",
            fontsize=6.5,
        )
        lines = [
            f"{name.capitalize()} "
            f"{format_estimate(row[name], row[f'{name}_low'], row[f'{name}_high'])}"
            for name in ("slope", "intercept")
        ]
        for at, text in enumerate([*lines, f"Brier score {format_ratio(row['brier'])}"], start=1):
            axes.text(0.1, top + at * 0.9, text, va="center", fontsize=6)

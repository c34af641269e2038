"""Labels against calls of every model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from morphomil.figures.drawing import Drawing
from morphomil.figures.labels import model_name, shorten, shorten_all, turn_crowded_labels
from morphomil.figures.results import read_test_predictions
from morphomil.figures.style import (
    ONE_AND_A_HALF_COLUMNS_MM,
    ONE_COLUMN_MM,
    TWO_COLUMNS_MM,
    new_figure,
    style,
)
from morphomil.tables.models import confusion_tables
from morphomil.tables.predictions import (
    class_names,
    has_several_classes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run


def draw_confusion(run: Run) -> Drawing:
    """Draw labels against calls of all models on test patients.

    Raises:
        AbsentError: no model has predictions.
    """
    tested = read_test_predictions(run)
    table = confusion_tables(tested)
    classes = class_names(run)
    names = table.assign(
        label=table["label"].map(dict(enumerate(classes))),
        call=table["call"].map(dict(enumerate(classes))),
    )
    call = (
        "the most probable class"
        if has_several_classes(tested)
        else "the call at each model's own cutoff"
    )
    caption = f"Test patients by label and by {call}; percentages are of the row. "
    caption += "A cell counts patients."
    return Drawing(confusion_plot(table, classes=classes), names, caption)


def confusion_plot(
    confusion: pd.DataFrame, *, classes: Sequence[str], width_mm: float | None = None
) -> Figure:
    """One matrix per model: labels as rows, calls as columns, counts and the share of the row.

    `confusion`: `model, label, call` (positions in `classes`), `n, share`.
    """
    models = confusion["model"].unique().tolist()
    columns = min(3, math.ceil(math.sqrt(len(models))) if len(models) > 3 else len(models))
    rows = math.ceil(len(models) / columns)
    width = width_mm or (ONE_COLUMN_MM, ONE_AND_A_HALF_COLUMNS_MM, TWO_COLUMNS_MM)[columns - 1]
    names = shorten_all([str(name) for name in classes], 14)
    with style():
        figure = new_figure(width_mm=width, height_mm=rows * (width / columns + 2))
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(models) :]:
            axes.set_axis_off()
        for axes, model in zip(grid.flat, models, strict=False):
            matrix = confusion[confusion["model"] == model]
            _draw_confusion(axes, matrix, names, plain=columns * len(names) > 8)
            axes.set_title(shorten(model_name(model), 26))
        turn_crowded_labels(figure)
        figure.draw_without_rendering()
        return figure


def _draw_confusion(axes: Axes, matrix: pd.DataFrame, names: Sequence[str], *, plain: bool) -> None:
    shares = matrix.pivot_table(index="label", columns="call", values="share").to_numpy()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in matrix.to_dict("records"):
        text = f"{row['n']:,}" if plain else f"{row['n']:,}\n{100 * row['share']:.0f} %"
        dark = row["share"] > 0.6
        color = "white" if dark else "black"
        axes.text(
            row["call"],
            row["label"],
            text,
            ha="center",
            va="center",
            color=color,
            fontsize=6 if plain else 7,
        )
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="Called", ylabel="Label")
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)

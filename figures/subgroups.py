"""AUC in subgroups, with the tests against the other patients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.labels import format_estimate, format_p, model_name, shorten, shorten_all
from morphomil.figures.style import (
    GRAY,
    TWO_COLUMNS_MM,
    ModelLook,
    model_looks,
    new_figure,
    style,
)
from morphomil.tables.models import read_subgroups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run


def draw_subgroups(run: Run) -> Drawing:
    """Draw the AUCs in subgroups.

    Raises:
        AbsentError: `compare` has written no table of them.
    """
    table = read_subgroups(run)
    if table is None:
        raise AbsentError(f"there is no table of subgroups; run: morphomil compare {run.path}")
    models = table["model"].unique().tolist()
    while len(models) > 1 and len(forest_lines(table[table["model"].isin(models)])) > MOST_LINES:
        models.pop()
    left_out = table["model"].nunique() - len(models)
    table = table[table["model"].isin(models)]
    caption = (
        "AUC in subgroups of the test patients; p compares a subgroup with the variable's other "
        "patients (DeLong)."
        + (
            f" {left_out} more models, for which the page has no room: tables/subgroups.csv."
            if left_out
            else ""
        )
    )
    return Drawing(subgroup_forest(table), table, caption)


PAGE_MM = 240.0
"""No figure should be taller than this."""
MOST_LINES = 77
"""The forest of subgroups has so many lines at most, which fit on one page."""


def subgroup_forest(subgroups: pd.DataFrame, *, width_mm: float = TWO_COLUMNS_MM) -> Figure:
    """AUC with interval in every subgroup, by model and variable, with counts and the test against
    the other patients.

    `subgroups`: `model, variable, subgroup, n, positives, auc, low, high, p_value, p_holm`; a
    missing AUC is a dash.
    """
    lines, looks = forest_lines(subgroups), model_looks(subgroups["model"].astype(str))
    line_mm = min(max((PAGE_MM - 16) / len(lines), 2.9), 4.2)
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=16 + line_mm * len(lines))
        names, axes, numbers = figure.subplots(1, 3, width_ratios=(34, 74, 72), sharey=True)
        for side in (names, numbers):
            side.set_axis_off()
            side.set_xlim(0, 1)
        axes.set_ylim(len(lines) - 0.4, -1.4)
        axes.axvline(0.5, color=GRAY, linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
        axes.tick_params(axis="y", left=False, labelleft=False)
        axes.spines["left"].set_visible(False)
        heads = (
            ("n", 0.14),
            ("positive", 0.33),
            ("AUC [95 % interval]", 0.71),
            ("p", 0.86),
            ("p Holm", 1.02),
        )
        for head, at in heads:
            numbers.text(at, -1, head, ha="right", va="center", fontsize=6, weight="bold")
        for row, (text, weight, subgroup) in enumerate(lines):
            names.text(0, row, text, va="center", fontsize=6, weight=weight)
            if subgroup is not None:
                look, places = looks[str(subgroup["model"])], [at for _, at in heads]
                _draw_subgroup(axes, numbers, subgroup, look=look, row=row, places=places)
        axes.set_xlim(right=1.02)
        axes.set_xlabel("AUC [95 % interval]")
        figure.draw_without_rendering()
        return figure


def forest_lines(subgroups: pd.DataFrame) -> list[tuple[str, str, Mapping[Any, Any] | None]]:
    """Text, its weight, and the row of the table unless it is a heading."""
    lines: list[tuple[str, str, Mapping[Any, Any] | None]] = []
    for model, model_rows in subgroups.groupby("model", sort=False):
        lines.append((shorten(model_name(str(model)), 26), "bold", None))
        for variable, part in model_rows.groupby("variable", sort=False):
            lines.append((f"  {shorten(str(variable), 26)}", "normal", None))
            texts = shorten_all([str(name) for name in part["subgroup"]], 22)
            lines += [
                (f"      {t}", "normal", r)
                for t, r in zip(texts, part.to_dict("records"), strict=True)
            ]
    return lines


def _draw_subgroup(
    axes: Axes,
    numbers: Axes,
    subgroup: Mapping[Any, Any],
    *,
    look: ModelLook,
    row: int,
    places: Sequence[float],
) -> None:
    if math.isfinite(subgroup["auc"]):
        size = 2.5 + 2.5 * math.sqrt(subgroup["n"] / (subgroup["n"] + 60))
        axes.plot(
            [subgroup["low"], subgroup["high"]],
            [row, row],
            color=look.color,
            linestyle=look.line,
            linewidth=1,
        )
        axes.plot([subgroup["auc"]], [row], look.marker, color=look.color, markersize=size)
    area = format_estimate(subgroup["auc"], subgroup["low"], subgroup["high"])
    texts = (
        f"{subgroup['n']:,.0f}",
        f"{subgroup['positives']:,.0f}",
        area,
        format_p(subgroup["p_value"]),
        format_p(subgroup["p_holm"]),
    )
    for at, text in zip(places, texts, strict=True):
        numbers.text(at, row, text, ha="right", va="center", fontsize=6)

"""Models side by side: ROC curves with AUCs and tests, confusion, calibration, net benefit,
subgroups."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from morphomil.figures.groups import turn_crowded_labels
from morphomil.figures.labels import (
    MINUS,
    MISSING,
    format_interval,
    format_p,
    format_ratio,
    p_phrase,
    shorten,
    shorten_all,
)
from morphomil.figures.style import (
    BLUE,
    GRAY,
    MARKERS,
    ONE_AND_A_HALF_COLUMNS_MM,
    ONE_COLUMN_MM,
    TWO_COLUMNS_MM,
    new_figure,
    series_look,
    style,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = {
    "clinical": "Clinical",
    "dl-cnb": "DL-CNB",
    "dl-cnb+c": "DL-CNB+C",
    "morphometry": "Morphometry",
    "morphometry+clinical": "Morphometry + clinical",
}
PAGE_MM = 240.0
"""No figure should be taller."""
MOST_LINES = 77
"""Of the forest of subgroups, on one page."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def model_name(model: str) -> str:
    """As papers write it."""
    return _NAMES.get(model, model)


def roc_comparison(
    points: pd.DataFrame,
    aucs: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """ROC curves of several models, their AUCs with intervals, and brackets for the tests between
    pairs.

    Args:
        points: `model, fpr, tpr`, the corners of each model's curve.
        aucs: one row per model, in order: `model, estimate, low, high`.
        pairs: one row per bracket: `model_a, model_b, difference, low, high, p_value`; may be
            empty.
        width_mm: of the figure.
    """
    models = aucs["model"].tolist()
    names = dict(zip(models, shorten_all([model_name(m) for m in models], 22), strict=True))
    height = max(width_mm * 0.46, 20 + 9 * len(models) + 4.5 * len(pairs))
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=height)
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(0.88, 1.12)).flat
        axes = left.subplots()
        axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.6, linestyle=(0, (4, 3)))
        for number, model in enumerate(models):
            curve = points[points["model"] == model]
            axes.plot(
                curve["fpr"],
                curve["tpr"],
                color=_color(number),
                linestyle=_line(number),
                linewidth=1.3,
            )
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set(xlabel=f"1 {MINUS} specificity", ylabel="Sensitivity")
        if len(pairs):
            top, bottom = right.subfigures(
                2, 1, height_ratios=(9 * len(models) + 12, 4.5 * len(pairs) + 6)
            )
            upper, beside = top.subplots(1, 2, width_ratios=(20, max(4, len(pairs))), sharey=True)
            _draw_brackets(beside, pairs, models)
            _write_pairs(bottom.subplots(), pairs, names)
        else:
            upper = right.subplots()
        _draw_aucs(upper, aucs, names)
        figure.draw_without_rendering()
        return figure


def _color(number: int) -> str:
    return series_look(number)[0]


def _line(number: int) -> str:
    return series_look(number)[1]


def _draw_aucs(axes: Axes, aucs: pd.DataFrame, names: Mapping[str, str]) -> None:
    for row, own in enumerate(aucs.to_dict("records")):
        axes.plot(
            [own["low"], own["high"]],
            [row, row],
            color=_color(row),
            linestyle=_line(row),
            linewidth=1.3,
        )
        axes.plot(
            [own["estimate"]],
            [row],
            MARKERS[row % len(MARKERS)],
            color=_color(row),
            markersize=4.5,
            clip_on=False,
        )
    ticks = [
        f"{names[own['model']]}\n{format_ratio(own['estimate'])} "
        f"{format_interval(own['low'], own['high'])}"
        for own in aucs.to_dict("records")
    ]
    axes.set_yticks(range(len(aucs)), ticks)
    axes.set_ylim(len(aucs) - 0.5, -0.5)
    low = float(np.nanmin([0.5, *aucs["low"]]))
    axes.set_xlim(max(0.0, low - 0.03), 1.0)
    axes.axvline(0.5, color=GRAY, linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xlabel("AUC [95 % interval]")
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _draw_brackets(axes: Axes, pairs: pd.DataFrame, models: Sequence[str]) -> None:
    """One bracket per pair, side by side right of the AUCs, each with its letter."""
    axes.set_axis_off()
    axes.set_xlim(-0.6, len(pairs) - 0.4)
    for x, pair in enumerate(pairs.to_dict("records")):
        first, last = sorted((models.index(pair["model_a"]), models.index(pair["model_b"])))
        axes.plot(
            [x - 0.3, x, x, x - 0.3], [first, first, last, last], color="black", linewidth=0.7
        )
        axes.text(x, first - 0.06, _LETTERS[x % 26], ha="center", va="bottom", fontsize=6)


def _write_pairs(axes: Axes, pairs: pd.DataFrame, names: Mapping[str, str]) -> None:
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(len(pairs) + 0.6, -0.6))
    axes.text(
        0,
        0,
        "Difference of AUC [95 % interval], DeLong's test",
        fontsize=6,
        va="center",
        weight="bold",
    )
    for row, pair in enumerate(pairs.to_dict("records"), start=1):
        what = (
            f"{_LETTERS[(row - 1) % 26]}  {names[pair['model_a']]} {MINUS} {names[pair['model_b']]}"
        )
        number = f"{format_ratio(pair['difference'])} {format_interval(pair['low'], pair['high'])}"
        axes.text(0, row, f"{what}: {number}, {p_phrase(pair['p_value'])}", fontsize=6, va="center")


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
            own = confusion[confusion["model"] == model]
            _draw_confusion(axes, own, names, plain=columns * len(names) > 8)
            axes.set_title(shorten(model_name(model), 26))
        turn_crowded_labels(figure)
        figure.draw_without_rendering()
        return figure


def _draw_confusion(axes: Axes, own: pd.DataFrame, names: Sequence[str], *, plain: bool) -> None:
    shares = own.pivot_table(index="label", columns="call", values="share").to_numpy()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in own.to_dict("records"):
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
        for number, model in enumerate(summary["model"]):
            own = curve[curve["model"] == model]
            color, marker = _color(number), MARKERS[number % len(MARKERS)]
            axes.vlines(
                own["predicted"], own["low"], own["high"], color=color, linewidth=0.8, alpha=0.7
            )
            axes.plot(
                own["predicted"],
                own["observed"],
                marker=marker,
                color=color,
                linestyle=_line(number),
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
    for number, row in enumerate(summary.to_dict("records")):
        top = number * 4 + 0.8
        axes.plot([0.03], [top], MARKERS[number % len(MARKERS)], color=_color(number), markersize=4)
        axes.text(
            0.1,
            top,
            shorten(model_name(row["model"]), 24),
            va="center",
            weight="bold",
            fontsize=6.5,
        )
        lines = [
            f"{name.capitalize()} {_estimate(row[name], row[f'{name}_low'], row[f'{name}_high'])}"
            for name in ("slope", "intercept")
        ]
        for at, text in enumerate([*lines, f"Brier score {format_ratio(row['brier'])}"], start=1):
            axes.text(0.1, top + at * 0.9, text, va="center", fontsize=6)


def _estimate(value: float, low: float, high: float) -> str:
    """A number with its interval, or one dash where there is none."""
    return (
        f"{format_ratio(value)} {format_interval(low, high)}" if math.isfinite(value) else MISSING
    )


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
            own = decision[decision["model"] == model]
            label = shorten(model_name(model), 24)
            axes.plot(
                own["threshold"],
                own["net_benefit"],
                color=_color(number),
                linestyle=_line(number),
                label=label,
            )
        top = float(max(decision["net_benefit"].max(), decision["treat_all"].max(), 0.05))
        axes.set(xlim=(0, 1), ylim=(-0.25 * top, 1.05 * top))
        axes.set(xlabel="Threshold probability", ylabel="Net benefit")
        figure.legend(loc="outside lower center", ncols=2)
        figure.draw_without_rendering()
        return figure


def subgroup_forest(subgroups: pd.DataFrame, *, width_mm: float = TWO_COLUMNS_MM) -> Figure:
    """AUC with interval in every subgroup, by model and variable, with counts and the test against
    the other patients.

    `subgroups`: `model, variable, subgroup, n, positives, auc, low, high, p_value, p_holm`; a
    missing AUC is a dash.
    """
    lines = forest_lines(subgroups)
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
        for row, (text, weight, own) in enumerate(lines):
            names.text(0, row, text, va="center", fontsize=6, weight=weight)
            if own is not None:
                _draw_subgroup(axes, numbers, row, own, [at for _, at in heads])
        axes.set_xlim(right=1.02)
        axes.set_xlabel("AUC [95 % interval]")
        figure.draw_without_rendering()
        return figure


def forest_lines(subgroups: pd.DataFrame) -> list[tuple[str, str, Mapping[Any, Any] | None]]:
    """Text, its weight, and the row of the table unless it is a heading."""
    lines: list[tuple[str, str, Mapping[Any, Any] | None]] = []
    for model, own in subgroups.groupby("model", sort=False):
        lines.append((shorten(model_name(str(model)), 26), "bold", None))
        for variable, part in own.groupby("variable", sort=False):
            lines.append((f"  {shorten(str(variable), 26)}", "normal", None))
            texts = shorten_all([str(name) for name in part["subgroup"]], 22)
            lines += [
                (f"      {t}", "normal", r)
                for t, r in zip(texts, part.to_dict("records"), strict=True)
            ]
    return lines


def _draw_subgroup(
    axes: Axes, numbers: Axes, row: int, own: Mapping[Any, Any], places: Sequence[float]
) -> None:
    if math.isfinite(own["auc"]):
        size = 2.5 + 2.5 * math.sqrt(own["n"] / (own["n"] + 60))
        axes.plot([own["low"], own["high"]], [row, row], color=BLUE, linewidth=1)
        axes.plot([own["auc"]], [row], "s", color=BLUE, markersize=size)
    area = _estimate(own["auc"], own["low"], own["high"])
    texts = (
        f"{own['n']:,.0f}",
        f"{own['positives']:,.0f}",
        area,
        format_p(own["p_value"]),
        format_p(own["p_holm"]),
    )
    for at, text in zip(places, texts, strict=True):
        numbers.text(at, row, text, ha="right", va="center", fontsize=6)

"""The ranking of the features: attention beside the difference between the groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D

from morphomil.figures.differences import Held
from morphomil.figures.drawing import Drawing
from morphomil.figures.effects import effect_of, groups_of, say_order
from morphomil.figures.labels import format_p, format_ratio, shorten_all
from morphomil.figures.results import read_ranking
from morphomil.figures.style import (
    BLUE,
    GRAY,
    PALETTE,
    TWO_COLUMNS_MM,
    VERMILION,
    new_figure,
    style,
)
from morphomil.nuclei.quantities import patient_quantity, say_nuclei

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from morphomil.run.directory import Run


def draw_ranking(run: Run) -> Drawing:
    """Draw the ranking.

    Raises:
        AbsentError: nothing is ranked yet.
    """
    ranking, summary = read_ranking(run)
    reference, *_, positive = map(str, summary["classes"])
    whose = say_nuclei(summary["nuclei"]) if "nuclei" in summary else ""
    figure = ranking_plot(ranking, positive=positive, reference=reference, whose=whose)
    effect = effect_of(ranking)
    name = effect.name if effect.signed else effect.name.lower()
    held = Held.of(summary)
    scope = f", {held.scope}" if held.scope else ""
    test = "test of values"
    if "adjusted_p" in ranking:
        test = "regression"
        scope += f"; adj.: p beside {held.beside} (regression of the outcome)"
    caption = f"Features of {whose}. " if whose else ""
    if ranking["feature"].str.startswith("type_").any():
        caption += "Features of the types are of the nuclei in their names. "
    caption += (
        f"Attention relative to an even share and {name}, both with 95 % intervals, and "
        f"{effect.test} p values, also adjusted (Holm; Benjamini and Hochberg){scope}. "
        "z: attention in SD above that under permuted labels. Score, which gives the order: z less "
        f"the natural logarithm of the smaller adjusted p of the {test} (Holm) and the scan, down "
        "to 0.001. Any feature: "
        "p under permuted labels that 5 % holds for all features together, of attention, Shapley "
        "value and the plain scan of ten summaries. Filled squares: supported, p of at most 0.05 "
        "over all of these; open: inconclusive at this number of patients; none: not supported. "
        "Attention is evidence of what the model weighted."
    )
    return Drawing(figure, ranking, caption)


NUMBERS = (
    ("p", "p_value"),
    ("Holm", "p_holm"),
    ("BH", "p_bh"),
    ("adj.", "adjusted_p"),
    ("score", "rank_score"),
    ("z", "attention_z"),
    ("att.", "attention_p_any"),
    ("Shap.", "shapley_p_any"),
    ("scan", "scan_p_any"),
)
"""These columns stand as text, with their heads."""
NO_P_VALUES = ("rank_score", "attention_z")
"""These are numbers of other kinds."""
ANY_FEATURE = ("attention_p_any", "shapley_p_any", "scan_p_any")
"""These p values are over all features."""
SQUARES = {"supported": "black", "inconclusive at this n": "white"}
"""A verdict's square is filled, open or missing."""
HIGHER, LOWER, NEITHER = ("^", VERMILION), ("v", BLUE), ("o", GRAY)
"""A feature's marker and color follow the sign of its effect."""


def ranking_plot(
    ranking: pd.DataFrame,
    *,
    positive: str = "positive",
    reference: str = "reference",
    whose: str = "",
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """Each feature's attention relative to an even share, Cliff's delta, both with intervals, and p
    values.

    `ranking` has one row per feature: rank, feature, attention, attention_low, attention_high,
    cliffs_delta, cliffs_delta_low, cliffs_delta_high, p_value, p_holm, p_bh, and perhaps
    rank_score, attention_z, attention_p_any, shapley_p_any, scan_p_any, verdict; `whose` are the
    nuclei that it is about. Attention 1 is one over the number of features; the effect is that of
    the group `positive` minus `reference`. Of three and more groups the columns are those of
    `rank.several.compare_several`. Missing numbers stay blank, or a dash among p values.
    """
    table = ranking.sort_values("rank", kind="stable")
    positive, reference = shorten_all([positive, reference], 18)
    columns = [
        (head, name) for head, name in NUMBERS if name in table and table[name].notna().any()
    ]
    columns = columns or list(NUMBERS[:3])
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=27 + 6.5 * len(table))
        grid = figure.add_gridspec(1, 3, width_ratios=(5, 4, 0.4 + 0.95 * len(columns)))
        left = figure.add_subplot(grid[0])
        middle = figure.add_subplot(grid[1], sharey=left)
        right = figure.add_subplot(grid[2], sharey=left)
        markers, meanings = _mark(table, positive)
        _draw_intervals(left, table, "attention", markers=markers)
        _draw_intervals(middle, table, effect_of(table).column, markers=markers)
        _finish_attention(left, table)
        left.set_title(f"Features of {whose}" if whose else "", loc="left")
        _finish_effect(middle, table, f"{positive} minus {reference}")
        _write_numbers(right, table, columns)
        handles = _legend(meanings, markers) + _square_legend(table)
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        figure.draw_without_rendering()
        return figure


_Mark = tuple[str, str]
"""Marker and color."""


def _mark(table: pd.DataFrame, positive: str) -> tuple[list[_Mark], dict[_Mark, str]]:
    """Each feature's mark, and what marks mean: the sign of the effect, or of groups without an
    order which one has most."""
    effect, groups = effect_of(table), groups_of(table)
    if effect.signed:
        marks = [
            HIGHER if value > 0 else LOWER if value < 0 else NEITHER
            for value in table[effect.column]
        ]
        where = f"along {say_order(groups)}" if groups else f"in {positive}"
        said = {HIGHER: f"higher {where}", LOWER: f"lower {where}", NEITHER: "no direction"}
        return marks, said
    of_group = {group: ("o", PALETTE[number % len(PALETTE)]) for number, group in enumerate(groups)}
    meanings = {
        mark: f"highest in {name}"
        for mark, name in zip(of_group.values(), shorten_all(groups, 18), strict=True)
    }
    return [of_group.get(str(name), NEITHER) for name in table["highest"]], meanings


def _finish_effect(axes: Axes, table: pd.DataFrame, contrast: str) -> None:
    effect, groups = effect_of(table), groups_of(table)
    below = "of the ranks' variance" if not effect.signed else say_order(groups) or contrast
    axes.set_xlabel(f"{effect.name} [95 % interval]\n{below}")
    if effect.signed:
        axes.set_xlim(-1.05, 1.05)
        axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    else:
        axes.set_xlim(-0.05, 1.05)
        axes.set_xticks([0, 0.5, 1])
    axes.axvline(0, color="black", linewidth=0.6, linestyle="--", zorder=0)
    axes.tick_params(axis="y", left=False, labelleft=False)


def _legend(meanings: dict[_Mark, str], markers: list[_Mark]) -> list[Line2D]:
    return [
        Line2D([], [], linestyle="", marker=m, color=c, markersize=4, label=text)
        for (m, c), text in meanings.items()
        if (m, c) in markers
    ]


def _square_legend(table: pd.DataFrame) -> list[Line2D]:
    verdicts = set(table.get("verdict", []))
    return [
        Line2D(
            [],
            [],
            linestyle="",
            marker="s",
            color="black",
            markersize=4,
            markerfacecolor=fill,
            label=verdict,
        )
        for verdict, fill in SQUARES.items()
        if verdict in verdicts
    ]


def _draw_intervals(
    axes: Axes, table: pd.DataFrame, column: str, *, markers: list[tuple[str, str]]
) -> None:
    columns = [column, f"{column}_low", f"{column}_high"]
    numbers: NDArray[np.float64] = table[columns].to_numpy(float)
    for row, ((middle, low, high), (marker, color)) in enumerate(
        zip(numbers, markers, strict=True)
    ):
        axes.plot([low, high], [row, row], color=color, linewidth=1.2, solid_capstyle="butt")
        (point,) = axes.plot([middle], [row], marker, color=color, markersize=4.5, zorder=3)
        point.set_clip_on(False)  # whole, at the edge too


def _finish_attention(axes: Axes, table: pd.DataFrame) -> None:
    names = [
        f"{r}. {patient_quantity(f).name}"
        for f, r in zip(table["feature"], table["rank"], strict=True)
    ]
    axes.set_yticks(range(len(table)), names)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.axvline(1, color="black", linewidth=0.6, linestyle="--", zorder=0)
    axes.set_xlim(left=min(0.0, float(np.nanmin([0.0, *table["attention_low"]]))))
    axes.set_xlabel(f"Attention [95 % interval]\nrelative to 1/{len(table)}")


def _write_numbers(axes: Axes, table: pd.DataFrame, columns: list[tuple[str, str]]) -> None:
    """z and p values as text, a square for each verdict."""
    axes.set_axis_off()
    axes.set_xlim(0, len(columns) + 0.4)
    for at, (head, column) in enumerate(columns, start=1):
        axes.text(
            at, 1.0, head, transform=axes.get_xaxis_transform(), ha="right", va="bottom", fontsize=6
        )
        write = format_ratio if column in NO_P_VALUES else format_p
        for row, value in enumerate(table[column]):
            axes.text(at, row, write(value), ha="right", va="center", fontsize=6)
    tested = [at for at, (_, column) in enumerate(columns, start=1) if column in ANY_FEATURE]
    if tested:
        axes.text(
            (tested[0] + tested[-1]) / 2 - 0.3,
            1.075,
            "p, any feature",
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=6,
        )
    for row, verdict in enumerate(table.get("verdict", [])):
        if fill := SQUARES.get(verdict):
            axes.plot(
                [len(columns) + 0.25], [row], "s", color="black", markerfacecolor=fill, markersize=4
            )

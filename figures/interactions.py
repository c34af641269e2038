"""Pairs of features: how much more, or less, they tell together, and the first pair's patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.labels import format_ratio, group_name, p_phrase, shorten_all
from morphomil.figures.results import read_patient_values, read_ranking
from morphomil.figures.style import (
    DIVERGING,
    PALETTE,
    TWO_COLUMNS_MM,
    new_figure,
    style,
)
from morphomil.nuclei.quantities import patient_quantity
from morphomil.store import read_csv
from morphomil.tables.pairs import quadrants

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run

MARKERS = ("o", "^", "s", "D", "v", "P")
"""Groups have these markers and the palette's colors."""


def draw_interactions(run: Run) -> Drawing:
    """Draw the interactions of pairs.

    Raises:
        AbsentError: nothing is ranked yet, or too many features for exact interactions.
    """
    ranking, summary = read_ranking(run)
    path = run.rank_folder / "interactions.csv"
    pairs = read_csv(path) if path.is_file() else pd.DataFrame()
    if pairs.empty:
        raise AbsentError(
            f"interactions of pairs are not computed; run: morphomil rank {run.path}"
            if not path.is_file()
            else str(summary.get("interaction", "too many features")).rstrip(".")
        )
    values, labels = read_patient_values(run)
    groups = [str(name) for name in summary["classes"]]
    top = pairs.iloc[0]
    shown, shares = _telling_quadrants(values, labels, (top["first"], top["second"]), groups)
    figure = interaction_plot(
        pairs,
        values,
        labels,
        shares,
        features=ranking["feature"].tolist(),
        groups=groups,
        shown=shown,
    )
    caption = (
        "Shapley interaction index of every pair in units of the AUC: red, the two tell more "
        "together than one by one; blue, one stands in for the other. Squares: p of at most 0.05 "
        "over all pairs under permuted labels. Then the first pair's patients with the medians, "
        f"and the share of patients with {group_name(shown)} on either side of these."
    )
    return Drawing(figure, pairs, caption, {"quadrants": shares})


def _telling_quadrants(
    values: pd.DataFrame, labels: pd.Series[str], pair: tuple[str, str], groups: Sequence[str]
) -> tuple[str, pd.DataFrame]:
    """Of two groups the positive one, of more that whose share differs most between quadrants; and
    its shares."""
    found = {group: quadrants(values, labels == group, pair) for group in groups[-1:]}
    if len(groups) > 2:
        found = {group: quadrants(values, labels == group, pair) for group in groups}
    shown = max(found, key=lambda group: float(np.ptp(found[group]["share"].dropna())))
    return shown, found[shown]


def interaction_plot(
    pairs: pd.DataFrame,
    values: pd.DataFrame,
    labels: pd.Series[str],
    shares: pd.DataFrame,
    *,
    features: Sequence[str],
    groups: Sequence[str],
    shown: str,
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """Every pair's interaction index, the first pair's patients, and the outcome by quadrant.

    `pairs`: `first, second, index, p_any`, the surest first; `values`: one row per patient, a
    column per feature; `labels`: the group of each patient; `shares`: of `tables.pairs.quadrants`
    for the first pair and the group `shown`. Pairs are drawn in the order of `features`.
    """
    first, second = str(pairs["first"].iloc[0]), str(pairs["second"].iloc[0])
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=72)
        grid = figure.add_gridspec(1, 3, width_ratios=(5, 4, 3))
        left, middle, right = (figure.add_subplot(grid[place]) for place in range(3))
        _draw_pairs(left, pairs, features)
        names = dict(zip(groups, shorten_all(groups, 18), strict=True))
        for number, (group, name) in enumerate(names.items()):
            own = values[(labels == group).to_numpy()]
            color, shape = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
            middle.scatter(own[first], own[second], s=8, c=color, marker=shape, label=name, lw=0)
        for line, feature in ((middle.axvline, first), (middle.axhline, second)):
            line(values[feature].median(), color="black", linewidth=0.6, linestyle="--", zorder=0)
        middle.set(xlabel=str(patient_quantity(first)), ylabel=str(patient_quantity(second)))
        p = pairs["p_any"].iloc[0]
        middle.set_title(p_phrase(p) if np.isfinite(p) else "not tested", loc="left")
        _draw_shares(right, shares, first, second, group=names[shown])
        figure.legend(*middle.get_legend_handles_labels(), loc="outside upper right", ncols=3)
        figure.draw_without_rendering()
        return figure


def _draw_pairs(axes: Axes, pairs: pd.DataFrame, features: Sequence[str]) -> None:
    """The lower triangle of the index, squares around the pairs that are sure."""
    place = {name: at for at, name in enumerate(features)}
    cells = np.full((len(features), len(features)), np.nan)
    for row in pairs.to_dict("records"):
        low, high = sorted((place[row["first"]], place[row["second"]]))
        cells[high, low] = row["index"]
        if row["p_any"] <= 0.05:
            axes.plot(low, high, "s", color="black", markerfacecolor="none", markersize=9)
    most = max(float(np.nanmax(np.abs(cells), initial=0)), 0.01)
    image = axes.imshow(
        cells[1:, :-1],
        cmap=DIVERGING,
        vmin=-most,
        vmax=most,
        aspect="auto",
        extent=(-0.5, len(features) - 1.5, len(features) - 0.5, 0.5),
    )
    labels = [patient_quantity(name).name for name in features]
    axes.set_xticks(range(len(features) - 1), labels[:-1], rotation=90)
    axes.set_yticks(range(1, len(features)), labels[1:])
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label="Interaction index (AUC)")


def _draw_shares(axes: Axes, shares: pd.DataFrame, first: str, second: str, *, group: str) -> None:
    """The share of positive patients in each of four quadrants."""
    grid = shares["share"].to_numpy(float).reshape(2, 2).T  # rows: the second feature, low first
    axes.imshow(grid, cmap=DIVERGING, vmin=0, vmax=1, aspect="equal", origin="lower")
    for row in range(4):
        share, count = shares["share"].iloc[row], shares["patients"].iloc[row]
        color = "white" if abs(share - 0.5) > 0.35 else "black"
        axes.text(
            row // 2,
            row % 2,
            f"{format_ratio(share)}\n(n = {count})",
            ha="center",
            va="center",
            fontsize=6,
            color=color,
        )
    axes.set_xticks([0, 1], ["low", "high"])
    axes.set_yticks([0, 1], ["low", "high"])
    axes.tick_params(length=0)
    axes.set(
        xlabel=patient_quantity(first).name,
        ylabel=patient_quantity(second).name,
    )
    axes.set_title(f"Share of {group}", loc="left")

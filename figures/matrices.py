"""Histograms of the features: of every patient, and the groups' means."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import matplotlib
import numpy as np

from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.labels import shorten_all
from morphomil.figures.results import ordered_groups
from morphomil.figures.style import (
    PALETTE,
    SEQUENTIAL,
    TWO_COLUMNS_MM,
    new_figure,
    series_look,
    style,
)
from morphomil.nuclei.quantities import feature_quantity
from morphomil.tables.histograms import histograms_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run


def draw_matrices(run: Run) -> Drawing:
    """Draw the histograms of all measured slides by patient and group.

    Raises:
        AbsentError: no slide is measured yet.
    """
    table = histograms_table(run)
    if table.empty:
        raise AbsentError(f"no slide is measured yet; run: morphomil featurize {run.path}")
    present = set(table["label"])
    figure = feature_matrices(table, [group for group in ordered_groups(run) if group in present])
    caption = (
        "Each patient's mean histogram of each feature, one row per patient, and the groups' "
        "means above."
    )
    return Drawing(figure, table, caption)


def feature_matrices(
    histograms: pd.DataFrame, groups: Sequence[str], *, width_mm: float = TWO_COLUMNS_MM
) -> Figure:
    """Each feature's histograms: the groups' means as lines, and below every patient as a row of
    colors.

    `histograms`: `patient, label, feature, low, high, share`; `groups` in the order of the rows,
    from the top.
    """
    features = histograms["feature"].unique().tolist()
    names = shorten_all([str(group) for group in groups], 16)
    columns = 4
    rows = math.ceil(len(features) / columns)
    norm = matplotlib.colors.Normalize(0, float(np.percentile(histograms["share"], 99)))
    with style():
        figure = new_figure(
            width_mm=width_mm, height_mm=rows * 62 + 14 + 3.5 * math.ceil(len(groups) / 4)
        )
        panels = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=(2, 3) * rows)
        for axes in panels.flat:
            axes.set_axis_off()
        for number, feature in enumerate(features):
            row, column = divmod(number, columns)
            upper, lower = panels[2 * row, column], panels[2 * row + 1, column]
            _draw_histograms(
                upper, lower, histograms[histograms["feature"] == feature], groups, names, norm
            )
            lower.set_xlabel(str(_quantity(feature)))
            if column == 0:
                upper.set_ylabel("Mean share")
        mappable = matplotlib.cm.ScalarMappable(norm, SEQUENTIAL)
        figure.colorbar(
            mappable,
            ax=panels,
            shrink=0.35,
            aspect=30,
            label="Share of nuclei in the bin",
            extend="max",
        )
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(groups), 4))
        figure.draw_without_rendering()
        return figure


def _quantity(feature: str) -> str:
    if feature == "orientation_deg":
        return "Turn from the others' axis (°)"
    return str(feature_quantity(feature))


def _draw_histograms(
    upper: Axes,
    lower: Axes,
    histograms: pd.DataFrame,
    groups: Sequence[str],
    names: Sequence[str],
    norm: Normalize,
) -> None:
    bins = histograms.drop_duplicates("low").sort_values("low")
    edges = np.r_[bins["low"].to_numpy(float), float(bins["high"].max())]
    wide = histograms.pivot_table(index=["label", "patient"], columns="low", values="share")
    sizes = []
    for number, (group, name) in enumerate(zip(groups, names, strict=True)):
        rows = wide[wide.index.get_level_values("label") == group]
        sizes.append(len(rows))
        if len(rows):
            color, line = series_look(number)
            mean = rows.to_numpy(float).mean(axis=0)
            upper.stairs(mean, edges, color=color, linestyle=line, linewidth=1, label=name)
    for axes in (upper, lower):
        axes.set_axis_on()
        axes.set_xlim(edges[0], edges[-1])
    upper.tick_params(axis="x", labelbottom=False)
    upper.set_ylim(bottom=0)
    order = [
        key for group in groups for key in wide.index[wide.index.get_level_values("label") == group]
    ]
    lower.pcolormesh(
        edges,
        np.arange(len(order) + 1),
        wide.loc[order].to_numpy(float),
        cmap=SEQUENTIAL,
        norm=norm,
        rasterized=True,
    )
    lower.set_ylim(len(order), 0)
    lower.set_yticks([])
    lower.spines["left"].set_visible(False)
    ends = np.cumsum([0, *sizes])
    for number, (first, last) in enumerate(itertools.pairwise(ends)):
        lower.plot(
            [-0.03, -0.03],
            [first + 0.1, last - 0.1],
            color=PALETTE[number % len(PALETTE)],
            linewidth=2.5,
            solid_capstyle="butt",
            transform=lower.get_yaxis_transform(),
            clip_on=False,
        )
        if first:
            lower.axhline(first, color="white", linewidth=0.8)

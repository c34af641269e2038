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
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

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
        "Each patient's mean histogram of each feature (over patches, then slides): a row of "
        "colors is a patient, the bar beside the rows its group; above, the mean over the patients "
        "of a group. Bins of density hold whole numbers of neighbors. No test."
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
            of_feature = histograms[histograms["feature"] == feature]
            _draw_means(upper, of_feature, dict(zip(groups, names, strict=True)))
            _draw_patients(lower, of_feature, groups, norm=norm)
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


def _edges(histograms: pd.DataFrame) -> NDArray[np.float64]:
    bins = histograms.drop_duplicates("low").sort_values("low")
    return np.append(bins["low"].to_numpy(float), float(bins["high"].max()))


def _shares_of_groups(histograms: pd.DataFrame, groups: Sequence[str]) -> list[NDArray[np.float64]]:
    """The shares (patients, bins) of each group."""
    wide = histograms.pivot_table(index=["label", "patient"], columns="low", values="share")
    labels = wide.index.get_level_values("label")
    return [wide[labels == group].to_numpy(float) for group in groups]


def _draw_means(axes: Axes, histograms: pd.DataFrame, names: Mapping[str, str]) -> None:
    """The groups' means; `names` by group."""
    edges = _edges(histograms)
    shares_of_groups = _shares_of_groups(histograms, list(names))
    for number, (shares, name) in enumerate(zip(shares_of_groups, names.values(), strict=True)):
        if len(shares):
            color, line = series_look(number)
            axes.stairs(
                shares.mean(axis=0), edges, color=color, linestyle=line, linewidth=1, label=name
            )
    axes.set_axis_on()
    axes.set_xlim(edges[0], edges[-1])
    axes.tick_params(axis="x", labelbottom=False)
    axes.set_ylim(bottom=0)


def _draw_patients(
    axes: Axes, histograms: pd.DataFrame, groups: Sequence[str], *, norm: Normalize
) -> None:
    """One row per patient, and beside the rows the color of their group."""
    edges = _edges(histograms)
    shares = _shares_of_groups(histograms, groups)
    count = sum(map(len, shares))
    axes.set_axis_on()
    axes.set_xlim(edges[0], edges[-1])
    axes.pcolormesh(
        edges,
        np.arange(count + 1),
        np.concatenate(shares),
        cmap=SEQUENTIAL,
        norm=norm,
        rasterized=True,
    )
    axes.set_ylim(count, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    ends = np.cumsum([0, *map(len, shares)])
    for number, (first, last) in enumerate(itertools.pairwise(ends)):
        axes.plot(
            [-0.03, -0.03],
            [first + 0.1, last - 0.1],
            color=PALETTE[number % len(PALETTE)],
            linewidth=2.5,
            solid_capstyle="butt",
            transform=axes.get_yaxis_transform(),
            clip_on=False,
        )
        if first:
            axes.axhline(first, color="white", linewidth=0.8)

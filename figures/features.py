"""Features themselves: how they go together, their histograms by group, and which way nuclei
lie."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import matplotlib
import numpy as np

from morphomil.figures.labels import (
    MINUS,
    MISSING,
    feature_quantity,
    format_ratio,
    patient_quantity,
    shorten_all,
)
from morphomil.figures.style import (
    DIVERGING,
    ONE_AND_A_HALF_COLUMNS_MM,
    PALETTE,
    SEQUENTIAL,
    TWO_COLUMNS_MM,
    new_figure,
    series_look,
    style,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes


RHO = "\N{GREEK SMALL LETTER RHO}"


def correlation_plot(
    rho: pd.DataFrame,
    merges: pd.DataFrame,
    *,
    patients: int,
    width_mm: float = ONE_AND_A_HALF_COLUMNS_MM,
) -> Figure:
    """Correlations of the features in clustered order, with the tree that orders them.

    `rho`: features x features; `merges`: `x1..x4, y1..y4` of each merge, x counting features, y the
    distance 1 - |rho|.
    """
    names = [patient_quantity(str(name)).name for name in rho]
    count = len(names)
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=width_mm * 0.9)
        tree, axes = figure.subplots(2, 1, height_ratios=(1, 6), sharex=True)
        corners = merges.to_numpy(float)
        for row in corners:
            tree.plot(row[:4], row[4:], color="black", linewidth=0.7)
        tree.set_ylim(bottom=0)
        tree.set_ylabel(f"1 {MINUS} |{RHO}|")
        tree.tick_params(axis="x", bottom=False, labelbottom=False)
        tree.spines["bottom"].set_visible(False)
        image = axes.imshow(rho.to_numpy(float), cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto")
        if count <= 12:
            for (row, column), value in np.ndenumerate(rho.to_numpy(float)):
                color = "white" if abs(value) > 0.7 else "black"
                axes.text(
                    column,
                    row,
                    format_ratio(value),
                    ha="center",
                    va="center",
                    color=color,
                    fontsize=6,
                )
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        figure.colorbar(
            image, ax=[tree, axes], shrink=0.7, label=f"Spearman's {RHO}, {patients:,} patients"
        )
        figure.draw_without_rendering()
        return figure


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
    own: pd.DataFrame,
    groups: Sequence[str],
    names: Sequence[str],
    norm: Normalize,
) -> None:
    bins = own.drop_duplicates("low").sort_values("low")
    edges = np.r_[bins["low"].to_numpy(float), float(bins["high"].max())]
    wide = own.pivot_table(index=["label", "patient"], columns="low", values="share")
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


def orientation_rose(
    orientation: pd.DataFrame, groups: Sequence[str], *, width_mm: float | None = None
) -> Figure:
    """Roses of axes: how nuclei turn from the mean axis of their patch's other nuclei, one panel
    per group.

    An axis has no head, so every bin is drawn at both of its ends. The dashed circle is what no
    order would give. `orientation`: `label, patients, polarity, low, high, share`, degrees in [-90,
    90).
    """
    columns = min(len(groups), 5)
    rows = math.ceil(len(groups) / columns)
    width = width_mm or (ONE_AND_A_HALF_COLUMNS_MM if columns < 3 else TWO_COLUMNS_MM)
    names = shorten_all([str(group) for group in groups], 16)
    top = 1.12 * float(orientation["share"].max())
    with style():
        figure = new_figure(width_mm=width, height_mm=rows * (width / columns + 12))
        panels = figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": "polar"})
        for axes in panels.flat[len(groups) :]:
            axes.set_axis_off()
        for number, (axes, group, name) in enumerate(zip(panels.flat, groups, names, strict=False)):
            own = orientation[orientation["label"] == group]
            _draw_rose(axes, own, PALETTE[number % len(PALETTE)], top)
            polarity = format_ratio(float(own["polarity"].iloc[0])) if len(own) else MISSING
            patients = int(own["patients"].iloc[0]) if len(own) else 0
            axes.set_title(f"{name}\nn = {patients}\npolarity {polarity}", fontsize=6.5, pad=4)
        figure.draw_without_rendering()
        return figure


def _draw_rose(axes: PolarAxes, own: pd.DataFrame, color: str, top: float) -> None:
    middle = np.radians((own["low"] + own["high"]).to_numpy(float) / 2)
    width = np.radians((own["high"] - own["low"]).to_numpy(float))
    for turn in (0, np.pi):
        axes.bar(
            middle + turn,
            own["share"],
            width=width,
            color=color,
            alpha=0.55,
            edgecolor="white",
            linewidth=0.4,
        )
    circle = np.linspace(0, 2 * np.pi, 181)
    axes.plot(
        circle,
        np.full(181, 1 / max(len(own), 1)),
        color="black",
        linewidth=0.7,
        linestyle=(0, (4, 3)),
    )
    # 0 degrees to the right and clockwise on screen, as the orientation's definition has it.
    axes.set_theta_direction(-1)
    axes.set_ylim(0, top)
    axes.set_yticks([])
    axes.set_xticks(np.radians([0, 90, 180, 270]), ["0°", "90°", "0°", f"{MINUS}90°"])
    axes.tick_params(axis="x", pad=-2)
    axes.grid(linewidth=0.4)
    axes.spines["polar"].set_linewidth(0.5)

"""Which way nuclei lie: how they turn from the axis of their neighbors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.labels import MINUS, MISSING, format_ratio, shorten_all
from morphomil.figures.results import ordered_groups
from morphomil.figures.style import (
    ONE_AND_A_HALF_COLUMNS_MM,
    PALETTE,
    TWO_COLUMNS_MM,
    new_figure,
    style,
)
from morphomil.tables.orientation import orientation_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes

    from morphomil.run.directory import Run


def draw_orientation(run: Run) -> Drawing:
    """Draw how nuclei turn from the axis of their patch, by group.

    Raises:
        AbsentError: no slide has oriented nuclei.
    """
    table = orientation_table(run)
    if table.empty:
        raise AbsentError(f"no slide has oriented nuclei; run: morphomil featurize {run.path}")
    present = set(table["label"])
    figure = orientation_rose(table, [group for group in ordered_groups(run) if group in present])
    caption = (
        "How nuclei turn from the mean axis of the other nuclei of their patch, the mean of n "
        "patients. Axes have no head: each bin stands at both ends. The dashed circle is no order; "
        "polarity is the median over patients. No test."
    )
    return Drawing(figure, table, caption)


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
            bins = orientation[orientation["label"] == group]
            _draw_rose(axes, bins, color=PALETTE[number % len(PALETTE)], top=top)
            polarity = format_ratio(float(bins["polarity"].iloc[0])) if len(bins) else MISSING
            patients = int(bins["patients"].iloc[0]) if len(bins) else 0
            axes.set_title(f"{name}\nn = {patients}\npolarity {polarity}", fontsize=6.5, pad=4)
        figure.draw_without_rendering()
        return figure


def _draw_rose(axes: PolarAxes, bins: pd.DataFrame, *, color: str, top: float) -> None:
    middle = np.radians((bins["low"] + bins["high"]).to_numpy(float) / 2)
    width = np.radians((bins["high"] - bins["low"]).to_numpy(float))
    for turn in (0, np.pi):
        axes.bar(
            middle + turn,
            bins["share"],
            width=width,
            color=color,
            alpha=0.55,
            edgecolor="white",
            linewidth=0.4,
        )
    circle = np.linspace(0, 2 * np.pi, 181)
    axes.plot(
        circle,
        np.full(181, 1 / max(len(bins), 1)),
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

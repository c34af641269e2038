"""How plausible each slide's numbers are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.style import BLUE, TWO_COLUMNS_MM, VERMILION, new_figure, style
from morphomil.tables.quality import MEASURES, describe_quality, read_quality

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run

NAMES = {
    "tissue_share": "Tissue in regions (share)",
    "analyzed_share": "Analyzed part of regions (share)",
    "nuclei_per_mm2": "Nuclei (1/mm²)",
    "median_area_um2": "Median nuclear area (µm²)",
    "sharpness": "Sharpness at 0.5 µm per pixel",
}
MOST_NAMES = 4
"""So many deviating slides are named in a panel."""


def draw_quality(run: Run) -> Drawing:
    """Draw `tables/quality.csv`.

    Raises:
        AbsentError: nothing is measured yet.
    """
    table = read_quality(run)
    if table.empty:
        raise AbsentError(
            f"the quality of no slide is measured yet; run: morphomil featurize {run.path}"
        )
    caption = " ".join(
        [
            "Each dot is a slide, the line the cohort's median, the band half to twice of it; "
            "slides outside the band are diamonds with their names.",
            *describe_quality(table),
        ]
    )
    return Drawing(quality_plot(table), table, caption)


def quality_plot(table: pd.DataFrame, *, width_mm: float = TWO_COLUMNS_MM) -> Figure:
    """A strip of slides for each measure, on logarithmic axes; `table` as of `quality_table`."""
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=width_mm * 0.45)
        axes = figure.subplots(len(MEASURES), 1)
        for ax, name in zip(axes, MEASURES, strict=True):
            _draw_strip(ax, table[table[name] > 0], name)
    return figure


def _draw_strip(ax: Axes, table: pd.DataFrame, name: str) -> None:
    values = table[name].to_numpy(float)
    far = table["deviates"].str.split(", ").map(lambda names: name in names).to_numpy(bool)
    heights = np.linspace(-0.3, 0.3, 7)[np.arange(len(values)) * 3 % 7]
    if len(values):
        middle = float(np.median(values))
        ax.axvspan(middle / 2, middle * 2, color="0.92", linewidth=0)
        ax.axvline(middle, color="0.5", linewidth=0.8)
    ax.plot(values[~far], heights[~far], "o", color=BLUE, markersize=3)
    ax.plot(values[far], heights[far], "D", color=VERMILION, markersize=4)
    for number in np.flatnonzero(far)[:MOST_NAMES]:
        text = str(table["slide_id"].iloc[number])
        ax.annotate(
            text if len(text) <= 16 else f"{text[:15]}…",
            (values[number], heights[number]),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="x-small",
            parse_math=False,
        )
    ax.set(xscale="log", ylim=(-0.6, 0.6), yticks=[])
    _mark_axis(ax)
    ax.set_ylabel(NAMES[name].replace(" (", "\n("), rotation=0, ha="right", va="center")


def _mark_axis(ax: Axes) -> None:
    """Ticks at 1, 2, 5, 10 and so on, in plain numbers."""
    low, high = ax.get_xlim()
    steps = np.outer(10.0 ** np.arange(-6, 7), [1, 2, 5]).ravel()
    shown = steps[(steps >= low) & (steps <= high)]
    ax.set_xticks(shown, [f"{value:,.10g}" for value in shown])
    ax.set_xticks([], minor=True)
    ax.set_xlim(low, high)

"""Every feature's patient values by group."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.figures.differences import Held
from morphomil.figures.drawing import Drawing
from morphomil.figures.effects import effect_of, groups_of
from morphomil.figures.labels import p_phrase, shorten_all, turn_crowded_labels
from morphomil.figures.results import read_patient_values, read_ranking
from morphomil.figures.style import PALETTE, TWO_COLUMNS_MM, new_figure, style
from morphomil.matrix import by_value
from morphomil.nuclei.quantities import patient_quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from morphomil.run.directory import Run


def draw_features_by_group(run: Run) -> Drawing:
    """Draw the patient values of the ranked features by group.

    Raises:
        AbsentError: nothing is ranked yet.
    """
    ranking, summary = read_ranking(run)
    values, labels = read_patient_values(run)
    figure = feature_groups(values[ranking["feature"].tolist()], labels, ranking)
    scope = f", {held}" if (held := Held.of(summary).scope) else ""
    caption = (
        f"{POINTS} {effect_of(ranking).test} p (two-sided{scope}) and its adjustment after Holm "
        "over the features above; effect sizes with 95 % intervals are in the figure of the "
        "ranking."
    )
    groups = groups_of(ranking) or ["reference", "positive"]
    sizes = [f"n_{group}" for group in groups]
    tests = ranking[["feature", *sizes, "p_value", "p_holm"]]
    table = by_value(values).assign(label=labels).reset_index()
    return Drawing(figure, table, caption, {"tests": tests})


POINTS = (
    "Each point is a patient; box: quartiles with the median as a thick line; whiskers: to the "
    "farthest patient within 1.5 times the interquartile range; violin: kernel density (Gaussian, "
    "Scott's bandwidth) between the extremes, from five patients on."
)
"""What points, boxes and violins of `draw_groups` are."""
GOLDEN = (math.sqrt(5) - 1) / 2


def feature_groups(
    patient_values: pd.DataFrame,
    labels: pd.Series[str],
    comparison: pd.DataFrame,
    *,
    adjustment: str = "Holm",
    adjusted: str = "p_holm",
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """Violin, box and points of each feature by group, with n, p and adjusted p.

    `patient_values` has one row per patient and one column per feature; `labels` the group of each
    patient under the same index, in the order of the categories (reference first) if categorical,
    else sorted; `comparison` one row per
    panel: feature, p_value and the column named by `adjusted`.
    """
    groups = list(
        labels.cat.categories
        if isinstance(labels.dtype, pd.CategoricalDtype)
        else sorted(labels.unique())
    )
    members = labels.reindex(patient_values.index)
    names = shorten_all([str(group) for group in groups], 12)
    columns = 4 if len(groups) <= 3 else 2
    rows = math.ceil(len(comparison) / columns)
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=rows * (48 if columns == 4 else 57))
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat[len(comparison) :]:
            axes.set_axis_off()
        for axes, row in zip(panels.flat, comparison.to_dict("records"), strict=False):
            values = patient_values[row["feature"]]
            samples = [values[(members == g).to_numpy()].dropna().to_numpy(float) for g in groups]
            draw_groups(axes, samples)
            ticks = [
                f"{name}\nn = {len(sample)}" for name, sample in zip(names, samples, strict=True)
            ]
            axes.set_xticks(range(len(groups)), ticks)
            p_values = f"{p_phrase(row['p_value'])}\n{adjustment} {p_phrase(row[adjusted])}"
            axes.set_title(p_values, loc="left", fontsize=6)
            axes.set_ylabel(str(patient_quantity(row["feature"])))
        turn_crowded_labels(figure)
        return figure


def draw_groups(axes: Axes, samples: list[NDArray[np.float64]]) -> None:
    """Violin, box and points of each sample, the first at 0."""
    for at, sample in enumerate(samples):
        color = PALETTE[at % len(PALETTE)]
        if len(sample) >= 5 and np.ptp(sample) > 0:
            violin: dict[str, Any] = axes.violinplot([sample], [at], widths=0.85, showextrema=False)
            for body in violin["bodies"]:
                body.set(facecolor=color, alpha=0.25, edgecolor="none")
        if len(sample):
            line = {"color": "black", "linewidth": 0.7}
            axes.boxplot(
                [sample],
                positions=[at],
                widths=0.22,
                showfliers=False,
                showcaps=False,
                boxprops=line,
                whiskerprops=line,
                medianprops={"color": "black", "linewidth": 1.4},
                manage_ticks=False,
            )
        # The golden ratio's multiples spread evenly: a jitter without chance.
        spread = (np.arange(len(sample)) * GOLDEN % 1 - 0.5) * 0.5
        axes.plot(
            at + spread,
            sample,
            "o",
            color=color,
            markersize=_point_size(len(sample)),
            markeredgewidth=0,
            alpha=0.6,
        )
    axes.set_xlim(-0.6, len(samples) - 0.4)


def _point_size(count: int) -> float:
    return float(np.clip(12 / math.sqrt(max(count, 1)), 0.8, 2.5))

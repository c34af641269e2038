"""Which share of the nuclei is of which type, by group: every patient, means with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import PercentFormatter

from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.labels import shorten_all
from morphomil.figures.results import ordered_groups
from morphomil.figures.style import TWO_COLUMNS_MM, new_figure, style
from morphomil.nuclei.types import TYPE_COLORS
from morphomil.tables.types import types_of_groups, types_of_patients

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run


def draw_composition(run: Run) -> Drawing:
    """Draw the shares of types.

    Raises:
        AbsentError: nobody knows the nuclei's types.
    """
    patients = types_of_patients(run)
    if patients.empty:
        raise AbsentError(
            "the types of the nuclei aren't known; segment with a model that tells types, or "
            "import nuclei with theirs, then run: morphomil featurize"
        )
    patients = patients.astype({"label": str})
    groups = types_of_groups(patients)
    figure = composition_plot(patients, groups, order=ordered_groups(run))
    caption = (
        "Share of each type in a patient's nuclei of known type: dots, patients; bars, mean of the "
        "group with its 95 % interval (bootstrap by patient)."
    )
    return Drawing(figure, groups, caption, {"patients": patients})


def composition_plot(
    patients: pd.DataFrame,
    groups: pd.DataFrame,
    *,
    order: Sequence[str],
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """A panel for each type, its scale from 0.

    `patients`: `label` and a column of shares for each type; `groups`: `label, type, patients,
    share, share_low, share_high`; `order`: the labels from left to right.
    """
    present = [label for label in order if label in set(patients["label"])]
    names = shorten_all(present, 14)
    rng = np.random.default_rng(0)
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=58 if len(present) < 3 else 70)
        panels = figure.subplots(1, len(TYPE_COLORS), squeeze=False)[0]
        for axes, (kind, color) in zip(panels, TYPE_COLORS.items(), strict=True):
            own = groups[groups["type"] == kind].set_index("label")
            for at, label in enumerate(present):
                shares = patients.loc[patients["label"] == label, kind].dropna().to_numpy(float)
                aside = at + rng.uniform(-0.18, 0.18, len(shares))
                axes.plot(aside, shares, "o", markersize=2.5, color=color, alpha=0.6, mew=0)
                mean, low, high = own.loc[label, ["share", "share_low", "share_high"]].astype(float)
                axes.plot([at - 0.28, at + 0.28], [mean, mean], color="black", linewidth=1.2)
                axes.plot([at, at], [low, high], color="black", linewidth=1)
            axes.set_xticks(range(len(present)), names, rotation=90 if len(present) > 2 else 0)
            axes.set_xlim(-0.6, len(present) - 0.4)
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.set_title(kind, loc="left")
        panels[0].set_ylabel("Share of the nuclei")
        figure.draw_without_rendering()
        return figure

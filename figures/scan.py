"""The plain scan: how the groups differ in ten summaries of each feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphomil.figures.cells import draw_cells
from morphomil.figures.differences import Held
from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.effects import effect_of, groups_of, say_order
from morphomil.figures.labels import format_p, shorten_all
from morphomil.figures.results import read_ranking
from morphomil.figures.style import TWO_COLUMNS_MM, new_figure, style
from morphomil.nuclei.quantities import feature_quantity
from morphomil.nuclei.registry import FEATURES
from morphomil.rank.summaries import SUMMARY_TITLES
from morphomil.store import read_csv

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run
ALPHA = 0.05
"""A cell is framed up to this p, for all summaries of all features together."""

LEAST_SCALE = 0.3
"""The scale of colors of an effect without a sign goes up to this at least."""


def draw_scan(run: Run) -> Drawing:
    """Draw the scan.

    Raises:
        AbsentError: nothing is ranked yet, or the ranking is older than the scan.
    """
    ranking, summary = read_ranking(run)
    path = run.rank_folder / "scan.csv"
    if not path.is_file() or "scan_p_any" not in ranking:
        raise AbsentError(f"the features are not scanned yet; run: morphomil rank {run.path}")
    scan = read_csv(path)
    reference, *_, positive = map(str, summary["classes"])
    figure = scan_plot(scan, ranking, positive=positive, reference=reference)
    held = Held.of(summary)
    within = f" and within {' and '.join(held.strata)}" if held.strata else ""
    caption = (
        f"{effect_of(ranking).name} of ten summaries of each feature, each patient one value"
        f"{held.left}{within}: "
        "location, variation of nuclei inside patches, and differences between patches. Framed: p "
        f"at most {ALPHA:g} for all summaries of all features together, by permuted labels "
        "(step-down max-T). Right: p of each feature, for all features together. Of orientation "
        "the deviation from the direction of the patch is summarized."
    )
    return Drawing(figure, scan, caption)


def scan_plot(
    scan: pd.DataFrame,
    features: pd.DataFrame,
    *,
    positive: str = "positive",
    reference: str = "reference",
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """A cell for each feature (rows, those of the smallest p first) and summary.

    `scan` has `feature, summary, delta, p_any`; `features` has `feature, scan_delta, scan_p_any`,
    and the columns that say how many groups there are (`effects.effect_of`). Cells without a value
    stay blank.
    """
    effect, groups = effect_of(features), groups_of(features)
    order = features.assign(size=-features[f"scan_{effect.scanned}"].abs()).sort_values(
        ["scan_p_any", "size"], kind="stable"
    )
    names = order["feature"].astype(str).tolist()
    summaries = [name for name in SUMMARY_TITLES if name in set(scan["summary"])]
    delta, p_any = (
        scan.pivot(index="feature", columns="summary", values=name).loc[names, summaries]
        for name in (effect.scanned, "p_any")
    )
    positive, reference = shorten_all([positive, reference], 18)
    contrast = f", {say_order(groups) if groups else f'{positive} minus {reference}'}"
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=44 + 6.5 * len(names))
        axes = figure.add_subplot()
        values, sure = delta.to_numpy(float), p_any.to_numpy(float) <= ALPHA
        limit = 1.0 if effect.signed else max(LEAST_SCALE, float(np.nanmax(values)))
        image = draw_cells(axes, values, limit=limit, signed=effect.signed, framed=sure)
        axes.set_xticks(
            range(len(summaries)), [_broken(SUMMARY_TITLES[name]) for name in summaries]
        )
        axes.set_yticks(range(len(names)), [_title(name) for name in names])
        right = axes.secondary_yaxis("right")
        right.set_yticks(
            range(len(names)), [f"p {format_p(value)}" for value in order["scan_p_any"]]
        )
        right.tick_params(length=0)
        right.spines["right"].set_visible(False)
        figure.colorbar(
            image,
            ax=axes,
            location="bottom",
            shrink=0.5,
            aspect=40,
            label=f"{effect.name}{contrast if effect.signed else ''}",
        )
        figure.draw_without_rendering()
        return figure


def _title(feature: str) -> str:
    name = feature_quantity(feature).name
    return f"{name} (deviation)" if feature in FEATURES and FEATURES[feature].axial else name


def _broken(title: str) -> str:
    """In lines of a word, as narrow as a column."""
    return title.replace(" ", "\n").replace("of\n", "of ")

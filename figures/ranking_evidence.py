"""What stands behind a ranking: Shapley values, the cost of leaving a feature out, and the places
models give it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.labels import format_p
from morphomil.figures.results import read_ranking
from morphomil.figures.style import BLUE, GRAY, SEQUENTIAL, TWO_COLUMNS_MM, new_figure, style
from morphomil.nuclei.quantities import patient_quantity
from morphomil.store import read_csv

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run


def draw_ranking_evidence(run: Run) -> Drawing:
    """Draw what stands behind the ranking.

    Raises:
        AbsentError: the ranking was quick, or nothing is ranked yet.
    """
    ranking, _ = read_ranking(run)
    path = run.rank_folder / "stability.csv"
    if not path.is_file() or "shapley_auc" not in ranking:
        raise AbsentError(
            f"Shapley values and stability are not computed; run: morphomil rank {run.path}"
        )
    stability = read_csv(path)
    caption = (
        "Each feature's attention, its Shapley value of the AUC, what the AUC loses without it, "
        "all with 95 % intervals, and how stable its place is. Blue: the feature is supported, by "
        "the p values under permuted labels (of any feature, beside the names) and the plain scan; "
        "intervals are no tests."
    )
    return Drawing(evidence_plot(ranking, stability), ranking, caption, {"stability": stability})


def evidence_plot(
    ranking: pd.DataFrame, stability: pd.DataFrame, *, width_mm: float = TWO_COLUMNS_MM
) -> Figure:
    """Each feature's attention, Shapley value of the AUC, the AUC lost without it, and its places
    among the models.

    `ranking` has one row per feature: feature, attention, shapley_auc, ablation_auc, each with _low
    and _high, and perhaps verdict, attention_p_any, shapley_p_any. `stability` has by, feature,
    kendalls_w, rank1, rank2, ...; the rows of Shapley values are shown. What is NaN is not drawn.
    Features are in the order of Shapley values.
    """
    table = ranking.sort_values("shapley_auc", ascending=False, kind="stable", ignore_index=True)
    places = stability[stability["by"] == "shapley"].set_index("feature").loc[table["feature"]]
    columns = [f"rank{place}" for place in range(1, len(table) + 1)]
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=24 + 6.5 * len(table))
        grid = figure.add_gridspec(1, 4)
        left = figure.add_subplot(grid[0])
        shapley, ablation, right = (
            figure.add_subplot(grid[place], sharey=left) for place in (1, 2, 3)
        )
        _draw_estimates(
            left,
            table,
            "attention",
            label=f"Attention, relative to\n1/{len(table)} [95 % interval]",
            none=1,
        )
        _draw_estimates(
            shapley, table, "shapley_auc", label="Shapley value of the\nAUC [95 % interval]"
        )
        _draw_estimates(
            ablation, table, "ablation_auc", label="AUC lost without it,\nretrained [95 % interval]"
        )
        left.set_yticks(range(len(table)), _names(table))
        left.set_ylim(len(table) - 0.4, -0.6)
        cells = right.imshow(
            places[columns].to_numpy(float), cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto"
        )
        right.set_xticks(range(len(columns)), [str(place) for place in range(1, len(columns) + 1)])
        right.set_xlabel(f"Place in one model\n(Kendall's W {places['kendalls_w'].iloc[0]:.2f})")
        figure.colorbar(cells, ax=right, shrink=0.8, label="Share of models")
        for axes in (shapley, ablation, right):
            axes.tick_params(axis="y", left=False, labelleft=False)
        figure.draw_without_rendering()
        return figure


def _names(table: pd.DataFrame) -> list[str]:
    """The features, with the p values of attention and Shapley value over all features."""
    names = [patient_quantity(name).name for name in table["feature"]]
    tests = [name for name in ("attention_p_any", "shapley_p_any") if name in table]
    if not tests or table[tests].isna().all(axis=None):
        return names
    return [
        f"{name}\np {' / '.join(format_p(p) for p in row)}"
        for name, row in zip(names, table[tests].to_numpy(float), strict=True)
    ]


def _draw_estimates(
    axes: Axes, table: pd.DataFrame, column: str, *, label: str, none: float = 0
) -> None:
    """Points with intervals, blue where the feature is supported; `none` is the value of a feature
    that does nothing."""
    verdicts = table["verdict"] if "verdict" in table else [""] * len(table)
    numbers = table[[column, f"{column}_low", f"{column}_high"]].to_numpy(float)
    for row, ((value, low, high), verdict) in enumerate(zip(numbers, verdicts, strict=True)):
        if not np.isfinite(value):
            continue
        color = BLUE if verdict == "supported" else GRAY
        axes.plot([low, high], [row, row], color=color, linewidth=1.2, solid_capstyle="butt")
        axes.plot([value], [row], marker="o", color=color, markersize=4, linestyle="")
    axes.axvline(none, color="black", linewidth=0.6, linestyle="--", zorder=0)
    axes.set_xlabel(label)

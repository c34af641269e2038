"""ROC curves of out-of-fold predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from morphomil.figures.drawing import Drawing
from morphomil.figures.labels import (
    MINUS,
    format_interval,
    format_ratio,
    group_name,
    shorten_all,
)
from morphomil.figures.results import read_ranking
from morphomil.figures.style import (
    GRAY,
    ONE_COLUMN_MM,
    model_looks,
    new_figure,
    series_look,
    style,
)
from morphomil.store import read_parquet
from morphomil.tables.roc import class_curves, roc_band, roc_points

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run


def draw_roc(run: Run) -> Drawing:
    """Draw the morphometry model's ROC curve.

    Raises:
        AbsentError: nothing is ranked yet.
    """
    _, about = read_ranking(run)
    predictions = read_parquet(run.rank_folder / "predictions.parquet")
    groups = [str(name) for name in about["classes"]]
    summary = pd.DataFrame([{name: about[name] for name in ("auc", "auc_low", "auc_high")}])
    counts = predictions["label"].value_counts()
    sizes = {name: int(counts.get(number, 0)) for number, name in enumerate(groups)}
    if len(groups) > 2:
        points = class_curves(predictions, groups)
        figure = class_roc_plot(
            points, auc=about["auc"], low=about["auc_low"], high=about["auc_high"]
        )
        caption = (
            "The morphometry model's out-of-fold ROC curves of each group against the others, all "
            f"patients together ({_say_sizes(sizes)}). AUC [95 % interval]: the mean of the "
            "groups' (macro), from pairs within folds."
        )
        return Drawing(figure, points, caption, {"summary": summary})
    points = roc_points(predictions)
    band = roc_band(points)
    figure = roc_plot(
        points,
        band,
        sizes=sizes,
        auc=about["auc"],
        low=about["auc_low"],
        high=about["auc_high"],
    )
    caption = (
        f"The morphometry model's ROC curve of all patients ({_say_sizes(sizes)}), each predicted "
        "by the model that didn't see the patient. Band: between exact limits of sensitivity and "
        "specificity at each cutoff, which hold together in 95 % (Clopper and Pearson); the "
        "models are taken as given. AUC [95 % interval] from pairs within folds."
    )
    return Drawing(figure, points, caption, {"band": band, "summary": summary})


def _say_sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} with {group_name(name)}" for name, count in sizes.items())


def class_roc_plot(
    points: pd.DataFrame, *, auc: float, low: float, high: float, width_mm: float = ONE_COLUMN_MM
) -> Figure:
    """Each group's curve against the others; `points` as `tables.roc.class_curves` gives them."""
    names = shorten_all([str(name) for name in points["group"].unique()], 18)
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=width_mm)
        axes = _roc_axes(figure)
        curves = points.groupby("group", sort=False)
        for number, (name, (_, curve)) in enumerate(zip(names, curves, strict=True)):
            label = f"{name} (n = {curve['n'].iloc[0]:,}): AUC {format_ratio(curve['auc'].iloc[0])}"
            color, line = series_look(number)
            axes.plot(
                curve["fpr"], curve["tpr"], color=color, linestyle=line, linewidth=1.2, label=label
            )
        axes.set_title(f"mean AUC {format_ratio(auc)} {format_interval(low, high)}", loc="left")
        axes.legend(loc="lower right")
        figure.draw_without_rendering()
        return figure


def roc_plot(
    points: pd.DataFrame,
    band: pd.DataFrame | None = None,
    *,
    sizes: Mapping[str, int],
    auc: float,
    low: float,
    high: float,
    title: str = "",
    width_mm: float = ONE_COLUMN_MM,
) -> Figure:
    """The curve of all patients with its band, the given AUC and interval, and the diagonal of
    chance; `points` and `band` as `tables.roc` gives them, `sizes` the patients of each group."""
    look = model_looks(["morphometry"])["morphometry"]
    names = shorten_all(list(sizes), 18)
    counts = _say_sizes(dict(zip(names, sizes.values(), strict=True)))
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=width_mm)
        axes = _roc_axes(figure)
        if band is not None:
            axes.fill_between(
                band["fpr"],
                band["low"],
                band["high"],
                facecolor=look.color,
                alpha=0.18,
                linewidth=0,
                label="95 % band",
            )
        text = f"AUC {format_ratio(auc)} {format_interval(low, high)}"
        axes.plot(
            points["fpr"],
            points["tpr"],
            color=look.color,
            linestyle=look.line,
            linewidth=1.6,
            label=text,
        )
        axes.set_title(title or counts, loc="left")
        axes.legend(loc="lower right")
        figure.draw_without_rendering()
        return figure


def _roc_axes(figure: Figure) -> Axes:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.6, linestyle="--", label="chance: AUC 0.50")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel=f"1 {MINUS} specificity", ylabel="Sensitivity")
    return axes

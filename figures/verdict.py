"""The verdict as a picture: what is seen, how often chance gives as much, how well it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.figures.differences import Held
from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.features_by_group import POINTS, draw_groups
from morphomil.figures.interactions import MARKERS
from morphomil.figures.labels import format_p, format_ratio, overlap, shorten_all
from morphomil.figures.results import ordered_groups, read_patient_values, read_ranking
from morphomil.figures.sentences import say_statement
from morphomil.figures.style import (
    BLUE,
    GRAY,
    PALETTE,
    TWO_COLUMNS_MM,
    new_figure,
    style,
)
from morphomil.nuclei.quantities import feature_quantity, patient_quantity
from morphomil.rank.summaries import SUMMARY_TITLES
from morphomil.store import read_csv, read_parquet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run
ALPHA = 0.05
"""Up to this p a route finds more than chance."""
_ROUTES = {
    "all": "All together",
    "attention": "Attention",
    "shapley": "Shapley values",
    "scan": "Plain scan",
    "auc": "AUC of the model",
    "pairs": "Pairs of features",
}
_MODELS = {
    "morphometry": "Morphometry model",
    "single_feature": "Single best feature",
    "logistic_medians": "Logistic, medians",
    "logistic_products": "Logistic, products",
    "l1_summaries": "L1, ten summaries",
    "forest_summaries": "Random forest",
}


def draw_verdict(run: Run) -> Drawing:
    """Draw the verdict of the ranking.

    Raises:
        AbsentError: nothing is ranked yet, or the ranking is older than verdicts.
    """
    ranking, about = read_ranking(run)
    verdict, path = about.get("verdict", {}), run.rank_folder / "baselines.csv"
    if not verdict.get("routes") or not path.is_file():
        raise AbsentError(f"the ranking has no verdict; run: morphomil rank {run.path}")
    seen = _pair_seen(run, about) or _feature_seen(run, ranking, verdict, Held.of(about))
    groups = [g for g in ordered_groups(run) if g in set(seen.values["label"])]
    seen.values["label"] = pd.Categorical(seen.values["label"], groups)
    routes = pd.DataFrame(
        [("all", verdict["p_value"]), *verdict["routes"].items()], columns=["route", "p_value"]
    )
    models = read_csv(path)
    figure = verdict_plot(seen, routes, models, word=str(verdict["word"]))
    covariates = about.get("adjusted", [])
    known = f", all with {' and '.join(covariates)}" if covariates else ""
    caption = (
        f"{say_statement(about, ranking, 'verdict')} Left: {seen.caption} Middle: p of each way of "
        "asking for all features together, and of all ways (labels permuted); dashed: 0.05. Right: "
        "out-of-fold AUC [95 % interval] of the morphometry model, of the single feature that fits "
        f"the training patients best, and of plain models{known}; dashed: chance."
    )
    return Drawing(figure, seen.values.reset_index(), caption, {"p": routes, "auc": models})


@dataclass(frozen=True)
class Seen:
    """What the verdict speaks of, patient by patient."""

    values: pd.DataFrame
    """One row per patient: `label` (categorical, in order), and one column, or two of a pair."""
    labels: tuple[str, ...]
    """Of the columns, with their units."""
    title: str
    caption: str = ""


def _feature_seen(run: Run, ranking: pd.DataFrame, verdict: dict[str, Any], held: Held) -> Seen:
    """The feature of the smallest p, in the summary that differs most."""
    order = ranking.sort_values(["verdict_p", "scan_p_any"], kind="stable")
    feature = str(verdict.get("feature", order["feature"].iloc[0]))
    best = order.set_index("feature").loc[feature]
    summary, alone = str(best["scan_summary"]), bool(best["scan_p_any"] <= ALPHA)
    summaries = read_parquet(run.rank_folder / "summaries.parquet").set_index("patient")
    labels = read_parquet(run.rank_folder / "patient_values.parquet").set_index("patient")
    column = f"{feature}.{summary}"
    values = pd.DataFrame(
        {
            "label": labels["label"].astype(str).reindex(summaries.index),
            column: summaries.get(column, np.nan),
        }
    )
    quantity = feature_quantity(feature)
    what = f"{quantity.name}: {SUMMARY_TITLES.get(summary, summary)}"
    unit = f" ({quantity.unit})" if quantity.unit else ""
    by_itself = "" if alone else "; by itself it does not differ for sure"
    return Seen(
        values,
        (what.replace(": ", "\n") + unit,),
        "What differs most surely" if alone else "Not sure by itself",
        f"{what}{held.left}, by group, of the feature of the smallest p (or one of them) the "
        f"summary that differs most{by_itself}. {POINTS}",
    )


def _pair_seen(run: Run, about: dict[str, Any]) -> Seen | None:
    """The surest pair, where features tell together and none differs by itself."""
    path = run.rank_folder / "interactions.csv"
    if about["verdict"].get("alone", True) or not path.is_file():
        return None
    pairs = read_csv(path)
    if pairs.empty or not pairs["p_any"].iloc[0] <= ALPHA:
        return None
    pair = [str(pairs[name].iloc[0]) for name in ("first", "second")]
    values, labels = read_patient_values(run)
    names = [patient_quantity(name).name for name in pair]
    return Seen(
        values[pair].assign(label=labels.astype(str)),
        tuple(str(patient_quantity(name)) for name in pair),
        "What tells together",
        f"each patient's {names[0].lower()} and {names[1].lower()}, the surest pair of features; "
        "dashed: medians.",
    )


def verdict_plot(
    seen: Seen,
    routes: pd.DataFrame,
    models: pd.DataFrame,
    *,
    word: str,
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """Three panels under the verdict's word and the number of patients.

    Args:
        seen: what the verdict speaks of.
        routes: `route, p_value`, "all" first.
        models: `model, auc, low, high`, the morphometry model first.
        word: the verdict.
        width_mm: of the figure.
    """
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=62)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.15, 1.3))
        figure.suptitle(
            f"{word[:1].upper()}{word[1:]} ({len(seen.values):,} patients)", weight="bold"
        )
        _draw_seen(left, seen)
        _draw_p_values(middle, routes)
        _draw_areas(right, models)
        figure.draw_without_rendering()
        if overlap(left.get_xticklabels()):
            left.tick_params(axis="x", labelrotation=90)
            figure.draw_without_rendering()
        return figure


def _draw_seen(axes: Axes, seen: Seen) -> None:
    groups = list(seen.values["label"].cat.categories)
    names = shorten_all([str(group) for group in groups], 12)
    columns = [str(name) for name in seen.values if name != "label"]
    parts = [seen.values.loc[seen.values["label"] == group, columns] for group in groups]
    axes.set_ylabel(seen.labels[-1])
    axes.set_title(seen.title, loc="left")
    if len(columns) == 1:
        samples = [part[columns[0]].dropna().to_numpy(float) for part in parts]
        draw_groups(axes, samples)
        ticks = [f"{name}\nn = {len(sample)}" for name, sample in zip(names, samples, strict=True)]
        axes.set_xticks(range(len(groups)), ticks)
        return
    axes.set_xlabel(seen.labels[0])
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        color, shape = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
        x, y = part.to_numpy(float).T
        axes.scatter(x, y, s=8, c=color, marker=shape, label=name, lw=0)
    for line, column in zip((axes.axvline, axes.axhline), columns, strict=True):
        line(seen.values[column].median(), color="black", linewidth=0.6, linestyle="--", zorder=0)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.32), ncols=len(groups), borderaxespad=0)


def _draw_p_values(axes: Axes, routes: pd.DataFrame) -> None:
    p = routes["p_value"].to_numpy(float)
    least = min(1e-3, float(np.nanmin(p, initial=1.0)) / 2)
    for row, value in enumerate(p):
        color = BLUE if value <= ALPHA else GRAY
        face = color if value <= ALPHA else "white"
        axes.plot([value, 1], [row, row], color=color, linewidth=0.8)
        marker = "s" if row == 0 else "o"
        axes.plot([value], [row], marker, color=color, markerfacecolor=face, markersize=4)
        _write(axes, row, format_p(value))
    axes.axvline(ALPHA, color="black", linewidth=0.6, linestyle="--", zorder=0)
    axes.set_xscale("log")
    axes.set_xlim(least, 1)
    ticks = [1e-4 if least < 1e-3 else 1e-3, 0.05, 1]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(p)), [_ROUTES.get(name, name) for name in routes["route"]])
    axes.set_ylim(len(p) - 0.5, -0.5)
    axes.set_xlabel("p: how often chance gives as much")
    axes.set_title("More than chance?", loc="left")


def _draw_areas(axes: Axes, models: pd.DataFrame) -> None:
    rows: list[dict[Any, Any]] = models.to_dict("records")
    for at, row in enumerate(rows):
        color = BLUE if at == 0 else GRAY
        axes.plot([row["low"], row["high"]], [at, at], color=color, linewidth=1.2)
        marker = "s" if at == 0 else "o"
        axes.plot([row["auc"]], [at], marker, color=color, markersize=4, clip_on=False)
        _write(axes, at, format_ratio(row["auc"]))
    axes.axvline(0.5, color="black", linewidth=0.6, linestyle="--", zorder=0)
    axes.set_xlim(min(0.4, float(np.nanmin(models["low"]))), 1)
    axes.set_yticks(range(len(rows)), [_MODELS.get(r["model"], r["model"]) for r in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("AUC out of fold [95 % interval]")
    axes.set_title("How well it predicts", loc="left")


def _write(axes: Axes, row: int, text: str) -> None:
    """A number right of the panel."""
    axes.text(1.03, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=6)

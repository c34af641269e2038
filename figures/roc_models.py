"""ROC curves of all models, with their AUCs and the tests between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.labels import (
    MINUS,
    format_interval,
    format_ratio,
    model_name,
    p_phrase,
    shorten_all,
)
from morphomil.figures.results import read_compared_predictions
from morphomil.figures.style import (
    GRAY,
    TWO_COLUMNS_MM,
    model_looks,
    new_figure,
    style,
)
from morphomil.tables.models import compare_rocs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run

MOST_MODELS, MOST_PAIRS = 5, 6
"""So many curves, and so many brackets, can be told apart; of more the highest AUCs and the
smallest p values are drawn."""


def draw_roc_models(run: Run) -> Drawing:
    """Draw the ROC curves of all models on test patients.

    Raises:
        AbsentError: there are fewer than two models.
    """
    predictions = read_compared_predictions(run)
    if predictions["model"].nunique() < 2:
        raise AbsentError(
            f"a comparison needs two models; train another with: morphomil train {run.path} "
            "--model MODEL"
        )
    points, aucs, pairs = compare_rocs(predictions)
    shown = set(aucs["model"].head(MOST_MODELS))
    drawn = pairs[pairs["model_a"].isin(shown) & pairs["model_b"].isin(shown)]
    drawn = drawn.sort_values("p_value", kind="stable").head(MOST_PAIRS).sort_index()
    figure = roc_comparison(
        points[points["model"].isin(shown)], aucs[aucs["model"].isin(shown)], drawn
    )
    tested = predictions[predictions["part"] == "test"].drop_duplicates(["model", "patient"])
    caption = (
        f"ROC curves on test patients{_say_sizes(tested)}, AUCs [95 % interval], "
        f"{_say_tests(pairs)}{_say_left_out(aucs, shown, pairs, drawn)}"
    )
    return Drawing(figure, aucs, caption, {"points": points, "pairs": pairs})


def _say_sizes(tested: pd.DataFrame) -> str:
    """Patients of each class, where all models tested the same."""
    counts = tested.groupby("model")["label"].value_counts().unstack(fill_value=0)
    if len(counts.drop_duplicates()) != 1:
        return ""
    negative, positive = (int(counts[label].iloc[0]) for label in (0, 1))
    return f" ({positive:,} positive, {negative:,} negative)"


def _say_left_out(
    aucs: pd.DataFrame, shown: set[str], pairs: pd.DataFrame, drawn: pd.DataFrame
) -> str:
    """What isn't drawn, since it couldn't be told apart."""
    said = ""
    if len(aucs) > len(shown):
        said += f" Shown are the {len(shown)} of {len(aucs)} models with the highest AUC."
    if len(pairs) > len(drawn):
        said += f" Shown are {len(drawn)} of {len(pairs)} tests, those of the smallest p."
    return said


def _say_tests(pairs: pd.DataFrame) -> str:
    """Which test of each pair, of how many patients."""
    crossed = pairs["test"].str.endswith("cross-validated").any()
    how = (
        " with the variance of cross-validation, as the scores are out of fold: approximate"
        if crossed
        else ""
    )
    sizes = sorted(set(pairs["n"]))
    count = " to ".join(f"{n:,}" for n in (sizes if len(sizes) < 2 else (sizes[0], sizes[-1])))
    fewer = (
        "; where a model predicts more, its AUC in a pair is that of the shared ones"
        if (pairs[["n_a", "n_b"]].max(axis=1) > pairs["n"]).any()
        else ""
    )
    return (
        f"DeLong's test of each pair{how} ({count} patients of both models{fewer}), "
        "p adjusted after Holm over all pairs."
    )


def _is_crossed(pairs: pd.DataFrame) -> bool:
    return bool(pairs["test"].str.endswith("cross-validated").any())


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def roc_comparison(
    points: pd.DataFrame,
    aucs: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """ROC curves of several models, their AUCs with intervals, and brackets for the tests between
    pairs.

    Args:
        points: `model, fpr, tpr`, the corners of each model's curve.
        aucs: one row per model, in order: `model, estimate, low, high`.
        pairs: one row per bracket: `model_a, model_b, test, difference, low, high, p_holm`; may
            be empty.
        width_mm: of the figure.
    """
    models = aucs["model"].tolist()
    names = dict(zip(models, shorten_all([model_name(m) for m in models], 22), strict=True))
    height = max(width_mm * 0.46, 20 + 9 * len(models) + 4.5 * len(pairs))
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=height)
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(0.88, 1.12)).flat
        axes = left.subplots()
        axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.6, linestyle=(0, (4, 3)))
        for number, (model, look) in enumerate(model_looks(models).items()):
            curve = points[points["model"] == model]
            axes.plot(
                curve["fpr"],
                curve["tpr"],
                color=look.color,
                linestyle=look.line,
                linewidth=1.3,
                marker=look.marker,
                markersize=3,
                markevery=(0.05 + 0.04 * number, 0.25),
            )
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set(xlabel=f"1 {MINUS} specificity", ylabel="Sensitivity")
        if len(pairs):
            top, bottom = right.subfigures(
                2, 1, height_ratios=(9 * len(models) + 12, 4.5 * len(pairs) + 10)
            )
            upper, beside = top.subplots(1, 2, width_ratios=(20, max(4, len(pairs))), sharey=True)
            _draw_brackets(beside, pairs, models)
            _write_pairs(bottom.subplots(), pairs, names)
        else:
            upper = right.subplots()
        _draw_aucs(upper, aucs, names)
        figure.draw_without_rendering()
        return figure


def _draw_aucs(axes: Axes, aucs: pd.DataFrame, names: Mapping[str, str]) -> None:
    looks = model_looks(aucs["model"])
    for row, part in enumerate(aucs.to_dict("records")):
        look = looks[part["model"]]
        axes.plot(
            [part["low"], part["high"]],
            [row, row],
            color=look.color,
            linestyle=look.line,
            linewidth=1.3,
        )
        axes.plot(
            [part["estimate"]],
            [row],
            look.marker,
            color=look.color,
            markersize=4.5,
            clip_on=False,
        )
    ticks = [
        f"{names[part['model']]}\n{format_ratio(part['estimate'])} "
        f"{format_interval(part['low'], part['high'])}"
        for part in aucs.to_dict("records")
    ]
    axes.set_yticks(range(len(aucs)), ticks)
    axes.set_ylim(len(aucs) - 0.5, -0.5)
    low = float(np.nanmin([0.5, *aucs["low"]]))
    axes.set_xlim(max(0.0, low - 0.03), 1.0)
    axes.axvline(0.5, color=GRAY, linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xlabel("AUC [95 % interval]")
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _draw_brackets(axes: Axes, pairs: pd.DataFrame, models: Sequence[str]) -> None:
    """One bracket per pair, side by side right of the AUCs, each with its letter."""
    axes.set_axis_off()
    axes.set_xlim(-0.6, len(pairs) - 0.4)
    for x, pair in enumerate(pairs.to_dict("records")):
        first, last = sorted((models.index(pair["model_a"]), models.index(pair["model_b"])))
        axes.plot(
            [x - 0.3, x, x, x - 0.3], [first, first, last, last], color="black", linewidth=0.7
        )
        axes.text(x, first - 0.06, _LETTERS[x % 26], ha="center", va="bottom", fontsize=6)


def _write_pairs(axes: Axes, pairs: pd.DataFrame, names: Mapping[str, str]) -> None:
    crossed = ", cross-validated (approximate)" if _is_crossed(pairs) else ""
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(len(pairs) + 0.6, -1.2))
    axes.text(
        0,
        0,
        f"Difference of AUC [95 %], p adjusted (Holm)\nby DeLong's test{crossed}",
        fontsize=6,
        va="center",
        weight="bold",
        in_layout=False,
    )
    for row, pair in enumerate(pairs.to_dict("records"), start=1):
        what = (
            f"{_LETTERS[(row - 1) % 26]}  {names[pair['model_a']]} {MINUS} {names[pair['model_b']]}"
        )
        number = f"{format_ratio(pair['difference'])} {format_interval(pair['low'], pair['high'])}"
        text = f"{what}: {number}, {p_phrase(pair['p_holm'])}"
        axes.text(0, row, text, fontsize=6, va="center", in_layout=False)

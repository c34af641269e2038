"""What the image model looks at, in terms of nuclei: across a cohort, and patch by patch in a
slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphomil.figures.labels import MINUS, feature_quantity, patient_quantity
from morphomil.figures.models import model_name
from morphomil.figures.style import (
    DIVERGING,
    MARKERS,
    TWO_COLUMNS_MM,
    new_figure,
    series_look,
    style,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RHO = "\N{GREEK SMALL LETTER RHO}"
_PANELS = {"attention": "Attention of the patch", "occlusion": "Probability lost without the patch"}
_Z_LIMIT = 3


def morphology_plot(associations: pd.DataFrame, *, width_mm: float = TWO_COLUMNS_MM) -> Figure:
    """Within-slide correlation of the models' evidence with each feature of the patch's nuclei,
    pooled over patients.

    `associations`: `model, evidence, feature, rho, rho_low, rho_high, patients`; filled markers:
    Holm's p below 0.05 (`p_holm`). One panel per kind of evidence, features by the largest
    correlation with attention.
    """
    models = associations["model"].unique().tolist()
    size = associations[associations["evidence"] == "attention"].groupby("feature", sort=False)[
        "rho"
    ]
    features = (
        size.apply(lambda rho: rho.abs().max())
        .sort_values(ascending=False, kind="stable")
        .index.tolist()
    )
    with style():
        figure = new_figure(
            width_mm=width_mm, height_mm=26 + (4 + 2.5 * len(models)) * len(features)
        )
        panels = figure.subplots(1, len(_PANELS), sharey=True, sharex=True)
        for axes, (evidence, title) in zip(panels, _PANELS.items(), strict=True):
            own = associations[associations["evidence"] == evidence]
            _draw_correlations(axes, own, models, features)
            axes.set_title(title, loc="left")
            axes.set_xlabel(f"Within-slide Spearman's {RHO} [95 % interval]")
        panels[0].set_yticks(
            range(len(features)), [patient_quantity(name).name for name in features]
        )
        panels[0].set_ylim(len(features) - 0.5, -0.5)
        reach = np.nanmax(
            np.abs(associations[["rho_low", "rho_high"]].to_numpy(float)), initial=0.2
        )
        panels[0].set_xlim(-1.05 * reach, 1.05 * reach)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(models), 4))
        figure.draw_without_rendering()
        return figure


def _draw_correlations(
    axes: Axes, own: pd.DataFrame, models: Sequence[str], features: Sequence[str]
) -> None:
    axes.axvline(0, color="black", linewidth=0.6, linestyle="--", zorder=0)
    for number, model in enumerate(models):
        color, marker = series_look(number)[0], MARKERS[number % len(MARKERS)]
        table = own[own["model"] == model].set_index("feature").reindex(list(features))
        rows = np.arange(len(features)) + (number - (len(models) - 1) / 2) * 0.5 / max(
            len(models) - 1, 1
        )
        axes.hlines(rows, table["rho_low"], table["rho_high"], color=color, linewidth=1.1)
        sure = (table["p_holm"] < 0.05).to_numpy()
        for chosen, fill in ((sure, color), (~sure, "white")):
            axes.plot(
                table["rho"].to_numpy()[chosen],
                rows[chosen],
                marker,
                color=color,
                markersize=4,
                markerfacecolor=fill,
            )
        axes.plot([], [], marker, color=color, markersize=4, label=model_name(model))


def patches_plot(
    patches: pd.DataFrame,
    features: Sequence[str],
    *,
    title: str = "",
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """A slide's patches of most and least attention, and how their nuclei differ from the slide's
    other patches.

    `patches`: `end` (most, least), `patch_id`, `relative_attention`, and `FEATURE_z` of each
    feature (robust SDs from the slide's median; colors end at 3).
    """
    table = patches.sort_values("relative_attention", ascending=False, kind="stable")
    z = table[[f"{name}_z" for name in features]].to_numpy(float)
    names = [feature_quantity(name).name for name in features]
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=40 + 4 * len(table))
        left, right = figure.subplots(1, 2, width_ratios=(2, 5), sharey=True)
        rows = np.arange(len(table))
        left.barh(rows, table["relative_attention"], color=series_look(0)[0], height=0.7)
        left.axvline(1, color="black", linewidth=0.6, linestyle="--")
        left.set_xlabel("Attention, relative\nto an even share")
        left.set_yticks(rows, [f"patch {number}" for number in table["patch_id"]])
        left.set_ylim(len(table) - 0.4, -0.6)
        left.set_title(title, loc="left")
        image = right.imshow(z, cmap=DIVERGING, vmin=-_Z_LIMIT, vmax=_Z_LIMIT, aspect="auto")
        for (row, column), value in np.ndenumerate(z):
            if np.isfinite(value):
                color = "white" if abs(value) > 0.7 * _Z_LIMIT else "black"
                right.text(
                    column, row, _signed(value), ha="center", va="center", color=color, fontsize=6
                )
        right.axhline((table["end"] == "most").sum() - 0.5, color="black", linewidth=1)
        right.set_xticks(range(len(names)), names, rotation=90)
        right.tick_params(length=0, labelleft=False)
        right.spines[["left", "bottom"]].set_visible(False)
        label = "Robust SDs from the slide's median"
        figure.colorbar(image, ax=right, shrink=0.7, extend="both", label=label)
        figure.draw_without_rendering()
        return figure


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", MINUS)  # never -0.0

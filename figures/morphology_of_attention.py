"""What image models look at, in terms of nuclei, across a cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphomil.figures.drawing import Drawing
from morphomil.figures.labels import RHO, model_name
from morphomil.figures.results import read_attention_table
from morphomil.figures.style import TWO_COLUMNS_MM, model_looks, new_figure, style
from morphomil.nuclei.quantities import patient_quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run


def draw_morphology_of_attention(run: Run) -> Drawing:
    """Draw what the image models look at across the cohort.

    Raises:
        AbsentError: `compare` hasn't set attention beside the nuclei.
    """
    table = read_attention_table(run, "morphology_of_attention")
    caption = (
        "What the image models look at, in terms of nuclei: Spearman correlation between patches "
        "inside each slide, of the model's evidence with the patch's nuclear features, pooled over "
        "test patients (95 % interval). Filled markers: p below 0.05 after Holm's adjustment over "
        "the features."
    )
    return Drawing(morphology_plot(table), table, caption)


_PANELS = {"attention": "Attention of the patch", "occlusion": "Probability lost without the patch"}


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
            correlations = associations[associations["evidence"] == evidence]
            _draw_correlations(axes, correlations, models=models, features=features)
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
    axes: Axes, correlations: pd.DataFrame, *, models: Sequence[str], features: Sequence[str]
) -> None:
    axes.axvline(0, color="black", linewidth=0.6, linestyle="--", zorder=0)
    for number, (model, look) in enumerate(model_looks(models).items()):
        color, marker = look.color, look.marker
        table = (
            correlations[correlations["model"] == model]
            .set_index("feature")
            .reindex(list(features))
        )
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

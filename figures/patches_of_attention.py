"""Patches of most and least attention of one slide, and how their nuclei differ from the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphomil.figures.cells import draw_cells
from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.labels import MINUS, model_name
from morphomil.figures.results import read_attention_table, typical_slides
from morphomil.figures.style import TWO_COLUMNS_MM, new_figure, series_look, style
from morphomil.nuclei.quantities import feature_quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run


def draw_patches_of_attention(run: Run) -> Drawing:
    """Draw the patches of most and least attention of the typical positive patient's slide.

    Raises:
        AbsentError: `compare` hasn't set attention beside the nuclei.
    """
    table = read_attention_table(run, "patches_of_attention")
    slide, _ = typical_slides(run)[-1]
    shown = table[
        (table["slide_id"] == slide.slide_id) & (table["model"] == table["model"].iloc[0])
    ]
    if shown.empty:
        raise AbsentError(f"slide {slide.slide_id} has no patches scored by an image model")
    names = [name.removesuffix("_z") for name in shown if str(name).endswith("_z")]
    title = f"{slide.slide_id}: {model_name(str(shown['model'].iloc[0]))}"
    caption = (
        f"Patches of slide {slide.slide_id} with most and least attention, and how their nuclei "
        "differ from the slide's others, in robust standard deviations. All slides: "
        "alongside/patches_of_attention.csv."
    )
    return Drawing(patches_plot(shown, names, title=title), shown, caption)


_Z_LIMIT = 3


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
        image = draw_cells(right, z, limit=_Z_LIMIT, write=_signed)
        right.axhline((table["end"] == "most").sum() - 0.5, color="black", linewidth=1)
        right.set_xticks(range(len(names)), names, rotation=90)
        right.tick_params(labelleft=False)
        label = "Robust SDs from the slide's median"
        figure.colorbar(image, ax=right, shrink=0.7, extend="both", label=label)
        figure.draw_without_rendering()
        return figure


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", MINUS)  # never -0.0

"""Where an image model looks on a slide, beside what its prediction rests on; patches with most and least attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from morphomil.figures.labels import shorten
from morphomil.figures.slides import COLOR_BAR_MM, draw_scale_bar, pale, squares
from morphomil.figures.style import SEQUENTIAL, TWO_COLUMNS_MM, new_figure, style

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

DIVERGING = "PuOr_r"
"""Color map of values around zero, which people with any common color blindness can read."""


def attention_map(
    thumbnail: NDArray[np.uint8],
    patches: pd.DataFrame,
    *,
    cells: pd.DataFrame | None = None,
    level0_px_per_thumb_px: float,
    mpp: float,
    regions: Iterable[BaseGeometry] = (),
    title: str = "",
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """Attention of every patch on the left, on the right the drop of the probability without it.

    `patches` has the schema PATCHES with `relative_attention` (1: an even share) and `occlusion` (NaN: none). Where the
    panels disagree, attention isn't what the prediction rests on. `cells` stand for the patches in the left panel:
    `x_px`, `y_px`, `side_px`, `relative_attention`.
    """
    attended = patches if cells is None else cells
    rows, columns = thumbnail.shape[:2]
    extent = (0, columns * level0_px_per_thumb_px, rows * level0_px_per_thumb_px, 0)
    polygons = [part for region in regions for part in getattr(region, "geoms", [region])]
    outlines = [np.asarray(ring.coords)[:, :2] for p in polygons for ring in (p.exterior, *p.interiors)]
    largest = max(patches["occlusion"].abs().dropna(), default=1e-9) or 1e-9
    panels = (
        ("relative_attention", "Attention (1: even share)", SEQUENTIAL, Normalize(0, _top(attended))),
        ("occlusion", "Probability lost without the patch", DIVERGING, Normalize(-largest, largest)),
    )
    with style():
        height = min((width_mm / 2 - COLOR_BAR_MM) * rows / columns, 1.2 * width_mm) + 14
        figure = new_figure(width_mm=width_mm, height_mm=height)
        for axes, (name, label, colors, norm) in zip(figure.subplots(1, 2), panels, strict=True):
            axes.imshow(pale(thumbnail), extent=extent)
            axes.set_xlim(min(0, patches["x_px"].min()), max(extent[1], (patches["x_px"] + patches["side_px"]).max()))
            axes.set_ylim(max(extent[2], (patches["y_px"] + patches["side_px"]).max()), min(0, patches["y_px"].min()))
            axes.set_axis_off()
            shown = attended if name == "relative_attention" else patches[np.isfinite(patches[name])]
            cells = squares(
                shown, array=shown[name].to_numpy(float), cmap=colors, norm=norm, edgecolor="none", alpha=0.8
            )
            axes.add_collection(cells)
            if outlines:
                axes.add_collection(LineCollection(outlines, color="black", linewidth=0.8), autolim=False)
            draw_scale_bar(axes, width=columns * level0_px_per_thumb_px, um_per_unit=mpp)
            figure.colorbar(cells, ax=axes, shrink=0.8, label=label)
        figure.suptitle(shorten(title, round(width_mm * 0.7)), x=0.01, ha="left")
        if outlines:
            line = Line2D([], [], color="black", linewidth=0.8, label=f"region ({len(polygons)})")
            figure.legend(handles=[line], loc="outside lower center")
        figure.draw_without_rendering()
        return figure


def _top(patches: pd.DataFrame) -> float:
    return max(float(patches["relative_attention"].max()), 1.0)


@dataclass(frozen=True)
class ScoredPatch:
    """A patch to show: uint8 (H, W, 3), and what stands above it."""

    rgb: NDArray[np.uint8]
    title: str


def patch_sheet(
    most: Sequence[ScoredPatch], least: Sequence[ScoredPatch], *, mpp: float, width_mm: float = TWO_COLUMNS_MM
) -> Figure:
    """Patches with most attention, then those with least, each with a scale bar; `mpp` is um per patch pixel."""
    if not most or not least:
        raise ValueError("a sheet needs patches of both kinds")
    columns = min(6, max(len(most), len(least)))
    groups = [("Most attention", most), ("Least attention", least)]
    rows = [math.ceil(len(shown) / columns) for _, shown in groups]
    side = width_mm / columns
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=sum(rows) * (side + 5) + 10)
        parts = figure.subfigures(2, 1, height_ratios=rows)
        for part, count, (name, shown) in zip(parts, rows, groups, strict=True):
            part.suptitle(name, x=0.01, ha="left")
            grid = part.subplots(count, columns, squeeze=False)
            for axes in grid.flat:
                axes.set_axis_off()
            for axes, patch in zip(grid.flat, shown, strict=False):
                axes.imshow(patch.rgb)
                axes.set_title(shorten(patch.title, round(side * 0.7)), loc="left", pad=2)
                draw_scale_bar(axes, width=patch.rgb.shape[1], um_per_unit=mpp)
        figure.draw_without_rendering()
        return figure

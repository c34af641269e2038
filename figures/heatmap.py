"""Where an image model looks on a slide, beside what its prediction rests on; patches with most and
least attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from morphomil.figures.labels import shorten
from morphomil.figures.slides import (
    COLOR_BAR_MM,
    draw_regions,
    draw_scale_bar,
    pale,
    show_all,
    squares,
)
from morphomil.figures.style import SEQUENTIAL, TWO_COLUMNS_MM, new_figure, style

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
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

    `patches` has the schema PATCHES with `relative_attention` (1: an even share) and `occlusion`
    (NaN: none). Where the panels disagree, attention isn't what the prediction rests on. `cells`
    stand for the patches in the left panel: `x_px`, `y_px`, `side_px`, `relative_attention`.
    """
    attended = patches if cells is None else cells
    rows, columns = thumbnail.shape[:2]
    extent = (0, columns * level0_px_per_thumb_px, rows * level0_px_per_thumb_px, 0)
    polygons = [part for region in regions for part in getattr(region, "geoms", [region])]
    outlines = [
        np.asarray(ring.coords)[:, :2] for p in polygons for ring in (p.exterior, *p.interiors)
    ]
    largest = max(patches["occlusion"].abs().dropna(), default=1e-9) or 1e-9
    panels = (
        (
            "relative_attention",
            "Attention (1: even share)",
            SEQUENTIAL,
            Normalize(0, _top(attended)),
        ),
        (
            "occlusion",
            "Probability lost without the patch",
            DIVERGING,
            Normalize(-largest, largest),
        ),
    )
    with style():
        height = min((width_mm / 2 - COLOR_BAR_MM) * rows / columns, 1.2 * width_mm) + 14
        figure = new_figure(width_mm=width_mm, height_mm=height)
        for axes, (name, label, colors, norm) in zip(figure.subplots(1, 2), panels, strict=True):
            axes.imshow(pale(thumbnail), extent=extent)
            axes.set_xlim(
                min(0, patches["x_px"].min()),
                max(extent[1], (patches["x_px"] + patches["side_px"]).max()),
            )
            axes.set_ylim(
                max(extent[2], (patches["y_px"] + patches["side_px"]).max()),
                min(0, patches["y_px"].min()),
            )
            axes.set_axis_off()
            shown = (
                attended if name == "relative_attention" else patches[np.isfinite(patches[name])]
            )
            colored = squares(
                shown,
                array=shown[name].to_numpy(float),
                cmap=colors,
                norm=norm,
                edgecolor="none",
                alpha=0.8,
            )
            axes.add_collection(colored)
            if outlines:
                axes.add_collection(
                    LineCollection(outlines, color="black", linewidth=0.8), autolim=False
                )
            draw_scale_bar(axes, width=columns * level0_px_per_thumb_px, um_per_unit=mpp)
            figure.colorbar(colored, ax=axes, shrink=0.8, label=label)
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
    most: Sequence[ScoredPatch],
    least: Sequence[ScoredPatch],
    *,
    mpp: float,
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """Patches with most attention, then those with least, each with a scale bar; `mpp` is um per
    patch pixel."""
    if not most or not least:
        raise ValueError("a sheet needs patches of both kinds")
    columns = min(6, max(len(most), len(least)))
    groups = [("Most attention", most), ("Least attention", least)]
    rows = [math.ceil(len(shown) / columns) for _, shown in groups]
    side = width_mm / columns
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=sum(rows) * (side + 5) + 10)
        parts = figure.subfigures(2, 1, squeeze=False, height_ratios=rows).flat
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


def attention_plate(
    thumbnail: NDArray[np.uint8],
    patches: pd.DataFrame,
    top: Sequence[ScoredPatch],
    *,
    top_mpp: float,
    level0_px_per_thumb_px: float,
    mpp: float,
    regions: Sequence[BaseGeometry] = (),
    title: str = "",
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """The slide, beside it the attention of its patches, and below the patches with most of it,
    framed in the slide.

    Args:
        thumbnail: of the slide's image.
        patches: schema PATCHES with `relative_attention` (1: an even share), most attention first.
        top: the first of these patches, with pixels.
        top_mpp: um per pixel of those.
        level0_px_per_thumb_px: of the thumbnail.
        mpp: um per level-0 pixel.
        regions: outlined; polygons in level-0 pixels.
        title: of the slide.
        width_mm: of the figure.
    """
    rows, columns = thumbnail.shape[:2]
    size = (columns * level0_px_per_thumb_px, rows * level0_px_per_thumb_px)
    slide_mm = min((width_mm - COLOR_BAR_MM) / 2 * rows / columns, 0.8 * width_mm)
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=slide_mm + width_mm / len(top) + 26)
        upper, lower = figure.subfigures(
            2, 1, squeeze=False, height_ratios=(slide_mm + 16, width_mm / len(top) + 8)
        ).flat
        upper.suptitle(shorten(title, round(width_mm * 0.55)), x=0.01, ha="left")
        left, right = upper.subplots(1, 2)
        for axes, image in ((left, thumbnail), (right, pale(thumbnail))):
            axes.imshow(image, extent=(0, size[0], size[1], 0))
            axes.autoscale(False)
            axes.set_axis_off()
            show_all(axes, patches)
        norm = Normalize(0, _top(patches))
        values = patches["relative_attention"].to_numpy(float)
        cells = squares(
            patches, array=values, cmap=SEQUENTIAL, norm=norm, edgecolor="none", alpha=0.8
        )
        right.add_collection(cells)
        for axes in (left, right):
            handles = draw_regions(axes, regions)
            draw_scale_bar(axes, width=size[0], um_per_unit=mpp)
        upper.colorbar(cells, ax=right, shrink=0.8, label="Attention (1: even share)")
        if handles:
            upper.legend(handles=handles, loc="outside lower center")
        for axes, patch in zip(lower.subplots(1, len(top), squeeze=False)[0], top, strict=True):
            axes.imshow(patch.rgb)
            axes.set_axis_off()
            axes.set_title(patch.title, loc="left", pad=2)
            draw_scale_bar(axes, width=patch.rgb.shape[1], um_per_unit=top_mpp)
        figure.draw_without_rendering()
        _number_patches(left, patches.head(len(top)))
        figure.draw_without_rendering()
        return figure


def _number_patches(axes: Axes, patches: pd.DataFrame) -> None:
    """Frames with numbers from 1; a number that would cover another one moves away, on a line."""
    placed: list[Text] = []
    for number, patch in enumerate(patches.to_dict("records"), start=1):
        x, y, side = patch["x_px"], patch["y_px"], patch["side_px"]
        axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor="black", linewidth=1))
        text = axes.annotate(
            str(number),
            (x + side / 2, y + side / 2),
            (0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            weight="bold",
            path_effects=[withStroke(linewidth=2, foreground="white")],
            annotation_clip=False,
        )
        for step in range(1, 2 * len(patches)):
            box = text.get_window_extent().padded(1)
            if not any(box.overlaps(other.get_window_extent()) for other in placed):
                break
            text.set_position((6 * step, 6 * step))
        line = {"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
        if text.get_position() != (0, 0):
            axes.annotate(
                "", text.xy, text.get_position(), textcoords="offset points", arrowprops=line
            )
        placed.append(text)

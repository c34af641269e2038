"""Patches with the outlines of their nuclei, colored by a value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from contourpy import contour_generator
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from scipy import ndimage

from morphomil.figures.labels import shorten
from morphomil.figures.patch_examples import PatchExample
from morphomil.figures.slides import COLOR_BAR_MM, bar_extend, color_norm, draw_scale_bar
from morphomil.figures.style import (
    GRAY,
    GREEN,
    ONE_COLUMN_MM,
    SEQUENTIAL,
    TWO_COLUMNS_MM,
    YELLOW,
    new_figure,
    style,
)
from morphomil.nuclei.quantities import Quantity
from morphomil.nuclei.types import TYPE_COLORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


def contours(
    rgb: NDArray[np.uint8],
    labels: NDArray[np.int32],
    *,
    mpp: float,
    values: Mapping[int, float] | None = None,
    label: str = "",
    unit: str = "",
    title: str = "",
    width_mm: float = ONE_COLUMN_MM,
) -> Figure:
    """One patch with the outlines of its nuclei, colored by `values` (label of the nucleus to
    number) if given."""
    example = PatchExample(rgb, labels, title=title, values=values)
    return contact_sheet([example], mpp=mpp, label=label, unit=unit, columns=1, width_mm=width_mm)


def contact_sheet(
    examples: Sequence[PatchExample],
    *,
    mpp: float,
    label: str = "",
    unit: str = "",
    limits: tuple[float, float] | None = None,
    columns: int = 4,
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """Several patches with nuclear outlines, the same color for the same value in all; `mpp` is um
    per patch pixel."""
    if not examples:
        raise ValueError("a contact sheet needs at least one patch, got none")
    columns = min(columns, len(examples))
    rows = math.ceil(len(examples) / columns)
    tallest = max(e.rgb.shape[0] / e.rgb.shape[1] for e in examples)
    known = np.array([v for e in examples for v in (e.values or {}).values() if math.isfinite(v)])
    norm = color_norm(known, limits) if len(known) else None
    image_mm = (width_mm - (COLOR_BAR_MM if norm else 0)) / columns
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=rows * (image_mm * tallest + 5))
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, example in zip(grid.flat, examples, strict=False):
            draw_outlines(axes, example, norm, line_width=min(max(image_mm / 75, 0.5), 1))
            draw_scale_bar(axes, width=example.rgb.shape[1], um_per_unit=mpp)
            axes.set_title(shorten(example.title, round(image_mm * 0.7)), loc="left", pad=2)
        if any(example.types for example in examples):
            handles = type_handles()
            figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        elif norm:
            mappable = ScalarMappable(norm, SEQUENTIAL)
            figure.colorbar(
                mappable,
                ax=grid,
                shrink=0.8,
                label=str(Quantity(label, unit)),
                extend=bar_extend(norm, known),
            )
        figure.draw_without_rendering()
        return figure


def outline_nuclei(labels: NDArray[np.int32]) -> dict[int, NDArray[np.float64]]:
    """The outer outline of every label as (n, 2) x, y in pixels, centers of pixels at whole
    numbers."""
    outlines = {}
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is not None:
            mask = np.pad(labels[window] == number, 1).astype(float)
            rings = [np.asarray(ring) for ring in contour_generator(z=mask).lines(0.5)]
            outlines[number] = max(rings, key=len) + np.array(
                [window[1].start - 1, window[0].start - 1]
            )
    return outlines


def type_handles() -> list[Line2D]:
    """What the colors of types mean."""
    return [
        Line2D([], [], color=color, linewidth=1.5, label=name)
        for name, color in (*TYPE_COLORS.items(), ("unknown", "black"))
    ]


def draw_outlines(
    axes: Axes, example: PatchExample, norm: Normalize | None, *, line_width: float
) -> None:
    """A patch with the outlines of its nuclei, colored by the example's types (black where
    unknown) or else by its values if there are some and a norm, and those of objects that are no
    nuclei in green dashes."""
    axes.imshow(example.rgb)
    outlines = outline_nuclei(example.labels)
    if example.types is not None:
        names = [example.types.get(number) for number in outlines]
        colors_of = [TYPE_COLORS.get(str(name), "black") for name in names]
        lines = LineCollection(list(outlines.values()), colors=colors_of)
        casing = withStroke(linewidth=2 * line_width, foreground="white")
    elif norm and example.values is not None:
        numbers = [example.values.get(number, math.nan) for number in outlines]
        colors = matplotlib.colormaps[SEQUENTIAL].with_extremes(bad=GRAY)
        lines = LineCollection(list(outlines.values()), array=numbers, cmap=colors, norm=norm)
        casing = withStroke(linewidth=2 * line_width, foreground="white")
    else:
        lines = LineCollection(list(outlines.values()), color=YELLOW)
        casing = withStroke(linewidth=2 * line_width, foreground="black")
    lines.set(linewidth=line_width, path_effects=[casing])
    axes.add_collection(lines, autolim=False)
    if others := [np.concatenate([ring, ring[:1]]) for ring in example.implausible]:
        dashed = LineCollection(others, color=GREEN, linewidth=line_width, linestyle="--")
        axes.add_collection(dashed, autolim=False)

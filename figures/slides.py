"""Pictures of one slide: its regions and patches, and a value of each patch as a heatmap."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import Normalize, to_rgba
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnchoredOffsetbox, AuxTransformBox, TextArea, VPacker
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from morphomil.figures.labels import shorten
from morphomil.figures.style import (
    BLUE,
    DIVERGING,
    GRAY,
    ONE_COLUMN_MM,
    ORANGE,
    SEQUENTIAL,
    new_figure,
    style,
)
from morphomil.nuclei.quantities import Quantity
from morphomil.nuclei.types import TYPE_COLORS
from morphomil.tables.slides import region_rings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

COLOR_BAR_MM = 17.0
"""A color bar with its numbers and label is this wide."""
OUTLINED_FROM_MM = 1.5
"""Patches that are printed smaller, those of whole slides, are tinted: their outlines would cover
the tissue."""
SHOWN_NUCLEI = 20_000
"""So many nuclei are drawn in a map of types."""
_NO_VALUE: dict[str, Any] = {
    "facecolor": "none",
    "edgecolor": GRAY,
    "hatch": "xxxx",
    "linewidth": 0.4,
}


# Kept patches, then dropped ones.
_OUTLINED: tuple[dict[str, Any], dict[str, Any]] = (
    {"facecolor": "none", "edgecolor": BLUE, "linewidth": 0.6},
    {"facecolor": "#ffffff40", "edgecolor": GRAY, "linewidth": 0.4, "hatch": "xxxx"},
)
_TINTED: tuple[dict[str, Any], dict[str, Any]] = (
    {"facecolor": f"{BLUE}50", "edgecolor": "none", "antialiased": False},
    {"facecolor": f"{ORANGE}a0", "edgecolor": "none", "antialiased": False},
)
# Beside nuclei in the colors of their types.
_COLORLESS: tuple[dict[str, Any], dict[str, Any]] = (
    {"facecolor": "#ffffff30", "edgecolor": "#00000060", "linewidth": 0.2},
    {"facecolor": "#76767660", "edgecolor": "none", "hatch": "////"},
)
_UNKNOWN_TYPE = "black"


def overview(
    thumbnail: NDArray[np.uint8],
    patches: pd.DataFrame,
    *,
    level0_px_per_thumb_px: float,
    mpp: float,
    regions: Iterable[BaseGeometry] = (),
    implausible: NDArray[np.float64] | None = None,
    types: NDArray[np.int8] | None = None,
    title: str = "",
    width_mm: float = ONE_COLUMN_MM,
) -> Figure:
    """The thumbnail of one image with region outlines, kept and dropped patches and a scale bar.

    `patches` is a PATCHES table of this image, `regions` polygons in its level-0 pixels, `mpp` is
    um per such pixel; `implausible` are x and y (n, 2) of objects that are no nuclei. `types`
    (`slides.masks.outlined_types` of the whole image) draws nuclei's outlines in the colors of
    their types.
    """
    with style():
        figure, axes = _slide_axes(
            thumbnail, scale=level0_px_per_thumb_px, mpp=mpp, title=title, width_mm=width_mm
        )
        kept, dropped = patches[patches["kept"]], patches[~patches["kept"]]
        side_mm = (
            patches["side_px"].max() / (thumbnail.shape[1] * level0_px_per_thumb_px) * width_mm
        )
        kept_look, dropped_look = _TINTED if side_mm < OUTLINED_FROM_MM else _OUTLINED
        if types is not None:
            kept_look, dropped_look = _COLORLESS
        axes.add_collection(squares(dropped, **dropped_look))
        axes.add_collection(squares(kept, **kept_look))
        show_all(axes, patches)
        handles: list[Artist] = [
            Patch(**kept_look, label=f"kept patch ({len(kept):,})"),
            Patch(**dropped_look, label=f"dropped patch ({len(dropped):,})"),
        ]
        if types is not None:
            height, width = (side * level0_px_per_thumb_px for side in thumbnail.shape[:2])
            handles += _draw_types(axes, types, extent=(0, width, height, 0))
        handles += draw_regions(axes, regions)
        if implausible is not None and len(implausible):
            handles += axes.plot(
                *implausible.T,
                "x",
                markersize=1.5,
                markeredgewidth=0.4,
                color="black",
                label=f"object, no nucleus ({len(implausible):,})",
            )
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        figure.draw_without_rendering()
        return figure


def _draw_types(
    axes: Axes, types: NDArray[np.int8], *, extent: tuple[float, float, float, float]
) -> list[Artist]:
    """Cells of the image in the colors of types; the legend's handles of those that occur."""
    names = [*TYPE_COLORS, "unknown"]
    colors = [to_rgba(color) for color in (*TYPE_COLORS.values(), _UNKNOWN_TYPE)]
    picture = np.array([*colors, (0, 0, 0, 0)], dtype=np.float32)[types]
    axes.imshow(picture, extent=extent, interpolation="nearest")
    return [
        Line2D([], [], color=colors[number], linewidth=1.5, label=names[number])
        for number in np.unique(types[types >= 0]).tolist()
    ]


def _color_cells(
    axes: Axes,
    patches: pd.DataFrame,
    numbers: NDArray[np.float64],
    limits: tuple[float, float] | None,
    diverging: bool,
    *,
    label: str,
) -> None:
    """Patches in the colors of their numbers, with a bar."""
    if diverging and limits is None:
        reach = float(np.abs(numbers).max())
        limits = (-reach, reach)
    norm = color_norm(numbers, limits)
    cells = squares(
        patches,
        array=numbers,
        cmap=DIVERGING if diverging else SEQUENTIAL,
        norm=norm,
        edgecolor="none",
        alpha=0.8,
    )
    axes.add_collection(cells)
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(cells, ax=axes, shrink=0.8, label=label, extend=bar_extend(norm, numbers))
    if diverging:
        bar.ax.axhline(0, color="black", linewidth=1)


def slide_heatmap(
    thumbnail: NDArray[np.uint8],
    patches: pd.DataFrame,
    values: Sequence[float] | NDArray[np.float64] | pd.Series[float],
    *,
    level0_px_per_thumb_px: float,
    mpp: float,
    label: str,
    unit: str,
    limits: tuple[float, float] | None = None,
    diverging: bool = False,
    regions: Iterable[BaseGeometry] = (),
    title: str = "",
    width_mm: float = ONE_COLUMN_MM,
) -> Figure:
    """One value per patch (NaN: none) as colors over the paled thumbnail, with color bar and scale
    bar.

    `values` follow the rows of `patches`; `limits` gives several slides the same colors;
    `diverging`: red above and blue below 0, which is marked on the bar.
    """
    numbers = np.asarray(values, dtype=float)
    if len(numbers) != len(patches):
        raise ValueError(
            f"values must have one number per patch, got {len(numbers)} for {len(patches)} patches"
        )
    known = np.isfinite(numbers)
    with style():
        paled = pale(thumbnail)
        figure, axes = _slide_axes(
            paled,
            scale=level0_px_per_thumb_px,
            mpp=mpp,
            title=title,
            width_mm=width_mm,
            bar_mm=COLOR_BAR_MM,
        )
        show_all(axes, patches)
        handles = draw_regions(axes, regions)
        if not known.all():
            axes.add_collection(squares(patches[~known], **_NO_VALUE))
            handles.append(Patch(**_NO_VALUE, label="patch without a value"))
        if known.any():
            said = str(Quantity(label, unit))
            _color_cells(axes, patches[known], numbers[known], limits, diverging, label=said)
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=3)
        figure.draw_without_rendering()
        return figure


def type_map(
    thumbnail: NDArray[np.uint8],
    nuclei: pd.DataFrame,
    *,
    level0_px_per_thumb_px: float,
    mpp: float,
    regions: Iterable[BaseGeometry] = (),
    title: str = "",
    width_mm: float = ONE_COLUMN_MM,
) -> Figure:
    """The nuclei of one image (`x_px, y_px, type`) as dots in their types' colors over the paled
    thumbnail; of more than `SHOWN_NUCLEI` evenly chosen ones. The legend counts all."""
    shown = nuclei.iloc[:: -(-len(nuclei) // SHOWN_NUCLEI)] if len(nuclei) else nuclei
    with style():
        figure, axes = _slide_axes(
            pale(thumbnail), scale=level0_px_per_thumb_px, mpp=mpp, title=title, width_mm=width_mm
        )
        handles = draw_regions(axes, regions)
        for name, color in TYPE_COLORS.items():
            own = shown[shown["type"] == name]
            axes.plot(own["x_px"], own["y_px"], ".", markersize=1.2, color=color, rasterized=True)
            count = int((nuclei["type"] == name).sum())
            handles += axes.plot([], [], "o", ms=3, color=color, label=f"{name} ({count:,})")
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        figure.draw_without_rendering()
        return figure


def _slide_axes(
    image: NDArray[np.uint8],
    *,
    scale: float,
    mpp: float,
    title: str,
    width_mm: float,
    bar_mm: float = 0,
) -> tuple[Figure, Axes]:
    """A figure as tall as the image needs, whose one axes shows the image in level-0 pixels with a
    scale bar.

    `bar_mm` is the room beside the image for a color bar.
    """
    rows, columns = image.shape[:2]
    figure = new_figure(
        width_mm=width_mm, height_mm=min((width_mm - bar_mm) * rows / columns, 1.5 * width_mm) + 12
    )
    axes = figure.subplots()
    axes.imshow(image, extent=(0, columns * scale, rows * scale, 0))
    axes.autoscale(False)
    axes.set_axis_off()
    axes.set_title(shorten(title, round(width_mm * 0.7)), loc="left")
    draw_scale_bar(axes, width=columns * scale, um_per_unit=mpp)
    return figure, axes


def draw_scale_bar(axes: Axes, *, width: float, um_per_unit: float) -> None:
    """A bar of 1, 2 or 5 times a power of ten um, at most a quarter of the image's width, on a
    white ground."""
    room_um = width * um_per_unit / 4
    power = 10.0 ** math.floor(math.log10(room_um))
    length_um = power * max(step for step in (1, 2, 5) if step * power <= room_um)
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    bar = AuxTransformBox(axes.transData)
    bar.add_artist(
        Rectangle(
            (0, 0), length_um / um_per_unit, 0, facecolor="black", edgecolor="black", linewidth=1.5
        )
    )
    stack = VPacker(children=[bar, TextArea(text)], align="center", pad=0, sep=2)
    box = AnchoredOffsetbox("lower right", child=stack, pad=0.3, borderpad=0.4, frameon=True)
    box.patch.set(facecolor="white", alpha=0.85, edgecolor="none")
    axes.add_artist(box)


def draw_regions(axes: Axes, regions: Iterable[BaseGeometry]) -> list[Artist]:
    """Outlines, holes too, of all regions; the legend's handles for them."""
    count, rings = region_rings(regions)
    if not rings:
        return []
    casing = [withStroke(linewidth=2, foreground="white")]
    axes.add_collection(
        LineCollection(rings, color="black", linewidth=1, path_effects=casing), autolim=False
    )
    return [Line2D([], [], color="black", linewidth=1, label=f"region ({count})")]


def show_all(axes: Axes, patches: pd.DataFrame) -> None:
    """Widen the view to patches that reach past the image."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y, side = (patches[name] for name in ("x_px", "y_px", "side_px"))
    axes.set_xlim(min([left, *x]), max([right, *(x + side)]))
    axes.set_ylim(max([bottom, *(y + side)]), min([top, *y]))


def squares(patches: pd.DataFrame, **options: Any) -> PolyCollection:
    """The patches as squares in level-0 pixels."""
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    origin = patches[["x_px", "y_px"]].to_numpy(float)
    vertices = origin[:, None, :] + corners * patches["side_px"].to_numpy(float)[:, None, None]
    return PolyCollection(vertices, **options)


def pale(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The thumbnail in light gray, so that the only colors are those of the color bar."""
    gray = thumbnail[..., :3].mean(axis=2, keepdims=True)
    return np.repeat(255 - 0.5 * (255 - gray), 3, axis=2).astype(np.uint8)


def color_norm(values: NDArray[np.float64], limits: tuple[float, float] | None) -> Normalize:
    """The scale of colors: from the lowest to the highest value unless limits are given."""
    low, high = limits or (float(values.min()), float(values.max()))
    return Normalize(low, high) if low < high else Normalize(low - 0.5, high + 0.5)


def bar_extend(norm: Normalize, values: NDArray[np.float64]) -> str:
    """Which ends of the color bar get an arrow: those that values lie beyond."""
    scaled = np.asarray(norm(values), dtype=float)
    below, above = bool(scaled.min() < 0), bool(scaled.max() > 1)
    return "both" if below and above else "min" if below else "max" if above else "neither"

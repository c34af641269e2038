"""An image model's maps of a slide: attention beside what its prediction rests on, and the patches
with most and least attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from morphomil.figures.labels import shorten
from morphomil.figures.slide_image import OpenedImage, open_image_of, thumbnail_scale
from morphomil.figures.slides import (
    COLOR_BAR_MM,
    draw_scale_bar,
    pale,
    show_all,
    squares,
)
from morphomil.figures.style import (
    SEQUENTIAL,
    TWO_COLUMNS_MM,
    new_figure,
    render,
    save_figure,
    style,
)
from morphomil.store import write_bytes, write_table_csv
from morphomil.tables.slides import region_rings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from morphomil.models.maps import SlideMap
    from morphomil.run.directory import Run
    from morphomil.slides.image import SlideImage

SHOWN = 6
"""So many patches with most attention are shown, and as many with least."""
PATCH_PX = 256
"""A patch is shown with sides of this many pixels."""
OCCLUSION_COLORS = "PuOr_r"
"""The colors of values around zero can be told apart with any common color blindness."""
_COLUMNS = [
    "patch_id",
    "x_px",
    "y_px",
    "side_px",
    "attention",
    "relative_attention",
    "occlusion",
]


def draw_map(run: Run, model: str, slide_map: SlideMap) -> list[Path]:
    """Draw a slide's maps and its contact sheet into `figures/models/MODEL/SLIDE`; returns the
    paths.

    Raises:
        SlideError: the slide can no longer be read.
    """
    slide = run.slide(slide_map.slide_id)
    folder = run.map_figures_folder(model, slide_map.slide_id)
    patches = slide_map.patches.assign(
        relative_attention=slide_map.patches["attention"] * len(slide_map.patches)
    )
    title = (
        f"{slide.slide_id} ({slide.label}): {model}, {slide_map.fold}, probability "
        f"{slide_map.probability:.3f}"
    )
    ranked = patches.sort_values("attention", ascending=False)
    count = min(SHOWN, len(ranked) // 2)
    chosen = pd.concat([ranked.head(count), ranked.tail(count)])
    paths: list[Path] = []
    scored: dict[int, ScoredPatch] = {}
    for number in sorted(patches["image"].unique().tolist()):
        stem = folder / ("attention" if number == 0 else f"attention-{number}")
        windows = slide_map.cells
        if windows is not None:
            windows = windows[windows["image"] == number]
        with open_image_of(run, slide, number) as opened:
            image_patches = patches[patches["image"] == number]
            paths += _save_map(opened, image_patches, windows, stem=stem, title=title)
            for patch in chosen[chosen["image"] == number].to_dict("records"):
                scored[patch["patch_id"]] = _read_patch(opened.image, patch)
    if count:
        shown = [scored[name] for name in chosen["patch_id"]]
        side_um = float(ranked["side_px"].iloc[0]) * opened.image.mpp
        sheet = patch_sheet(shown[:count], shown[count:], mpp=side_um / PATCH_PX)
        paths.append(folder / "patches.png")
        write_bytes(paths[-1], render(sheet, "png", dpi=200))
    return paths


def _save_map(
    opened: OpenedImage,
    patches: pd.DataFrame,
    windows: pd.DataFrame | None,
    *,
    stem: Path,
    title: str,
) -> list[Path]:
    thumbnail = opened.image.thumbnail()
    figure = attention_map(
        thumbnail,
        patches,
        cells=windows,
        level0_px_per_thumb_px=thumbnail_scale(opened.image, thumbnail),
        mpp=opened.image.mpp,
        regions=opened.regions,
        title=title,
    )
    paths = list(save_figure(figure, stem, formats=("png", "pdf"), table=patches[_COLUMNS]))
    if windows is not None:
        paths.append(stem.with_name(f"{stem.name}-windows.csv"))
        write_table_csv(paths[-1], windows)
    return paths


def _read_patch(image: SlideImage, patch: Mapping[Any, Any]) -> ScoredPatch:
    downsample = patch["side_px"] / PATCH_PX
    rgb = image.read(patch["x_px"], patch["y_px"], PATCH_PX, PATCH_PX, downsample=downsample)
    return ScoredPatch(rgb, f"patch {patch['patch_id']}: {patch['relative_attention']:.2g} x")


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
    width_px, height_px = columns * level0_px_per_thumb_px, rows * level0_px_per_thumb_px
    count, rings = region_rings(regions)
    known = patches[np.isfinite(patches["occlusion"])]
    largest = max(known["occlusion"].abs(), default=1e-9) or 1e-9
    attention = {"cmap": SEQUENTIAL, "norm": Normalize(0, attention_limit(attended))}
    occlusion = {"cmap": OCCLUSION_COLORS, "norm": Normalize(-largest, largest)}
    panels = (
        ("relative_attention", "Attention (1: even share)", attended, attention),
        ("occlusion", "Probability lost without the patch", known, occlusion),
    )
    with style():
        height = min((width_mm / 2 - COLOR_BAR_MM) * rows / columns, 1.2 * width_mm) + 14
        figure = new_figure(width_mm=width_mm, height_mm=height)
        for axes, (name, label, shown, colors) in zip(figure.subplots(1, 2), panels, strict=True):
            axes.imshow(pale(thumbnail), extent=(0, width_px, height_px, 0))
            show_all(axes, patches)
            axes.set_axis_off()
            values = shown[name].to_numpy(float)
            colored = squares(shown, array=values, edgecolor="none", alpha=0.8, **colors)
            axes.add_collection(colored)
            if rings:
                outlines = LineCollection(rings, color="black", linewidth=0.8)
                axes.add_collection(outlines, autolim=False)
            draw_scale_bar(axes, width=width_px, um_per_unit=mpp)
            figure.colorbar(colored, ax=axes, shrink=0.8, label=label)
        figure.suptitle(shorten(title, round(width_mm * 0.7)), x=0.01, ha="left")
        if rings:
            line = Line2D([], [], color="black", linewidth=0.8, label=f"region ({count})")
            figure.legend(handles=[line], loc="outside lower center")
        figure.draw_without_rendering()
        return figure


def attention_limit(patches: pd.DataFrame) -> float:
    """The upper end of the colors of relative attention; 1, an even share, is never beyond it."""
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

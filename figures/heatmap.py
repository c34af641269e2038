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
from morphomil.figures.slides import COLOR_BAR_MM, draw_scale_bar, pale, squares
from morphomil.figures.style import (
    SEQUENTIAL,
    TWO_COLUMNS_MM,
    new_figure,
    render,
    save_figure,
    style,
)
from morphomil.store import write_bytes, write_table_csv
from morphomil.tables.slides import image_regions

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
"""Patches with most attention, and as many with least."""
PATCH_PX = 256


def draw_map(run: Run, model: str, found: SlideMap) -> list[Path]:
    """Draw a slide's maps and its contact sheet into `figures/models/MODEL/SLIDE`; returns the
    paths.

    Raises:
        SlideError: the slide can no longer be read.
    """
    slide = run.slide(found.slide_id)
    folder = run.map_figures_folder(model, found.slide_id)
    patches = found.patches.assign(
        relative_attention=found.patches["attention"] * len(found.patches)
    )
    paths: list[Path] = []
    pixels: dict[int, NDArray[np.uint8]] = {}
    ranked = patches.sort_values("attention", ascending=False)
    count = min(SHOWN, len(ranked) // 2)
    chosen = pd.concat([ranked.head(count), ranked.tail(count)])
    for number in range(len(slide.images)):
        image_patches = patches[patches["image"] == number]
        if image_patches.empty:
            continue
        with run.open_image(slide.slide_id, number) as image:
            thumbnail = image.thumbnail()
            figure = attention_map(
                thumbnail,
                image_patches,
                cells=None if found.cells is None else found.cells[found.cells["image"] == number],
                level0_px_per_thumb_px=max(image.width, image.height) / max(thumbnail.shape[:2]),
                mpp=image.mpp,
                regions=image_regions(run, slide.slide_id, number),
                title=f"{slide.slide_id} ({slide.label}): {model}, {found.fold}, probability "
                f"{found.probability:.3f}",
            )
            stem = folder / ("attention" if number == 0 else f"attention-{number}")
            table = image_patches[
                [
                    "patch_id",
                    "x_px",
                    "y_px",
                    "side_px",
                    "attention",
                    "relative_attention",
                    "occlusion",
                ]
            ]
            paths += save_figure(figure, stem, formats=("png", "pdf"), table=table)
            if found.cells is not None:
                paths.append(stem.with_name(f"{stem.name}-windows.csv"))
                write_table_csv(paths[-1], found.cells[found.cells["image"] == number])
            for patch in chosen[chosen["image"] == number].to_dict("records"):
                pixels[patch["patch_id"]] = _read_patch(image, patch)
    if count:
        side_um = float(ranked["side_px"].iloc[0]) * image.mpp
        titles = {
            p["patch_id"]: f"patch {p['patch_id']}: {p['relative_attention']:.2g} x"
            for p in chosen.to_dict("records")
        }
        shown = [ScoredPatch(pixels[name], titles[name]) for name in chosen["patch_id"]]
        sheet = patch_sheet(shown[:count], shown[count:], mpp=side_um / PATCH_PX)
        paths.append(folder / "patches.png")
        write_bytes(paths[-1], render(sheet, "png", dpi=200))
    return paths


def _read_patch(image: SlideImage, patch: Mapping[Any, Any]) -> NDArray[np.uint8]:
    return image.read(
        patch["x_px"], patch["y_px"], PATCH_PX, PATCH_PX, downsample=patch["side_px"] / PATCH_PX
    )


OCCLUSION_COLORS = "PuOr_r"
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
            Normalize(0, attention_limit(attended)),
        ),
        (
            "occlusion",
            "Probability lost without the patch",
            OCCLUSION_COLORS,
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

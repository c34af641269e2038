"""The pictures of `morphomil heatmap`: reads a run's images and hands them to the drawing
functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.figures.heatmap import ScoredPatch, attention_map, patch_sheet
from morphomil.figures.style import render, save_figure
from morphomil.store import write_bytes, write_table_csv
from morphomil.tables.slides import image_regions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from morphomil.models.fits import SlideMap
    from morphomil.run.directory import Run
    from morphomil.slides.image import SlideImage

SHOWN = 6
"""Patches with most attention, and as many with least."""


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
        own = patches[patches["image"] == number]
        if own.empty:
            continue
        with run.open_image(slide.slide_id, number) as image:
            thumbnail = image.thumbnail()
            figure = attention_map(
                thumbnail,
                own,
                cells=None if found.cells is None else found.cells[found.cells["image"] == number],
                level0_px_per_thumb_px=max(image.width, image.height) / max(thumbnail.shape[:2]),
                mpp=image.mpp,
                regions=image_regions(run, slide.slide_id, number),
                title=f"{slide.slide_id} ({slide.label}): {model}, {found.fold}, probability "
                f"{found.probability:.3f}",
            )
            stem = folder / ("attention" if number == 0 else f"attention-{number}")
            table = own[
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


PATCH_PX = 256


def _read_patch(image: SlideImage, patch: Mapping[Any, Any]) -> NDArray[np.uint8]:
    return image.read(
        patch["x_px"], patch["y_px"], PATCH_PX, PATCH_PX, downsample=patch["side_px"] / PATCH_PX
    )

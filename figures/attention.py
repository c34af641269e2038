"""Where an image model looks: slide, attention of its patches, and the patches with most of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.heatmap import ScoredPatch, attention_limit
from morphomil.figures.labels import group_name, model_name, shorten
from morphomil.figures.results import read_test_predictions
from morphomil.figures.slide_image import open_image_of, thumbnail_scale
from morphomil.figures.slides import (
    COLOR_BAR_MM,
    draw_regions,
    draw_scale_bar,
    pale,
    show_all,
    squares,
)
from morphomil.figures.style import SEQUENTIAL, TWO_COLUMNS_MM, new_figure, style
from morphomil.tables.attention import attended_patches, image_models
from morphomil.tables.typical import typical_patient

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from morphomil.run.directory import Run

TOP_PATCHES = 5
"""So many patches with most attention stand below the slide."""


def draw_attention(run: Run) -> Drawing:
    """Draw the slide of the typical positive patient with an image model's attention.

    Raises:
        AbsentError: no image model has predicted.
    """
    model, table = _attention_of_typical_patient(run)
    slide = run.slide(str(table["slide_id"].iloc[0]))
    number = int(table["image"].iloc[0])
    table = table[table["image"] == number].reset_index(drop=True)
    frame = run.masks(slide.slide_id)[int(table["region"].iloc[0])].frame
    with open_image_of(run, slide, number) as opened:
        thumbnail = opened.image.thumbnail()
        top = [
            ScoredPatch(
                frame.read_patch(opened.image, patch["x_px"], patch["y_px"]),
                f"{place}  patch {patch['patch_id']}: {patch['relative_attention']:.2g} x",
            )
            for place, patch in enumerate(table.head(TOP_PATCHES).to_dict("records"), start=1)
        ]
        figure = attention_plate(
            thumbnail,
            table,
            top,
            top_mpp=frame.mpp,
            level0_px_per_thumb_px=thumbnail_scale(opened.image, thumbnail),
            mpp=opened.image.mpp,
            regions=opened.regions,
            title=f"{slide.slide_id} ({group_name(slide.label)}): {model_name(model)}",
        )
    columns = [
        "slide_id",
        "image",
        "patch_id",
        "fold",
        "x_px",
        "y_px",
        "side_px",
        "attention",
        "relative_attention",
    ]
    caption = (
        f"Attention of {model_name(model)} on the slide of the patient whose probability is the "
        f"median of the group {slide.label}, by the model that did not see the patient; framed and "
        "below: the patches with most of it. Attention is evidence of what the model weighted, no "
        "explanation."
    )
    return Drawing(figure, table[columns], caption)


def _attention_of_typical_patient(run: Run) -> tuple[str, pd.DataFrame]:
    """The first image model, and the patches of its typical positive patient, most attention
    first."""
    models = image_models(run)
    if not models:
        raise AbsentError(
            f"no image model has said where it looks; run: morphomil train {run.path} --model "
            f"dl-cnb, then morphomil predict {run.path}"
        )
    tested, name = read_test_predictions(run), models[0]
    positives = tested[(tested["model"] == name) & (tested["label"] == tested["label"].max())]
    patient = typical_patient(positives.rename(columns={"score": "probability"}))
    table = attended_patches(run, name, patient)
    if table.empty:
        raise AbsentError(
            f"{name} has no attention stored for patient {patient}; run: morphomil "
            f"predict {run.path}"
        )
    return name, table


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
        norm = Normalize(0, attention_limit(patches))
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

"""A plate of two patients: slide with a heatmap, segmented patch, and the most relevant features by
group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from morphomil.figures.contours import draw_outlines
from morphomil.figures.drawing import Drawing
from morphomil.figures.effects import effect_of, groups_of, say_effect
from morphomil.figures.features_by_group import POINTS, draw_groups
from morphomil.figures.labels import group_name, p_phrase, shorten, shorten_all
from morphomil.figures.patch_examples import PatchExample, read_slide_example
from morphomil.figures.results import read_patient_values, read_ranking, typical_slides
from morphomil.figures.slide_image import thumbnail_scale
from morphomil.figures.slides import draw_scale_bar, pale, squares
from morphomil.figures.style import SEQUENTIAL, TWO_COLUMNS_MM, new_figure, style
from morphomil.matrix import by_feature, by_value, patch_values
from morphomil.nuclei.quantities import Quantity, feature_quantity, patient_quantity
from morphomil.tables.typical import typical_patches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from morphomil.run.directory import Run
    from morphomil.types import Slide

SHOWN_FEATURES = 3
"""So many features stand at the foot of the plate of two patients."""


def draw_plate(run: Run) -> Drawing:
    """Draw the typical patient of each group with the first features of the ranking.

    Raises:
        AbsentError: nothing is ranked yet.
    """
    ranking, _ = read_ranking(run)
    values, labels = read_patient_values(run)
    shown = ranking.sort_values("rank", kind="stable").head(SHOWN_FEATURES)
    feature = str(shown["feature"].iloc[0])
    plates, tables = [], []
    for slide, group in _two_of(typical_slides(run), shown):
        plate, table = _read_patient_plate(run, slide, feature, group=group)
        plates.append(plate)
        tables.append(table.assign(slide_id=slide.slide_id, patient=slide.patient, label=group))
    figure = patient_plate(
        plates,
        values,
        labels,
        shown,
        patch_quantity=patient_quantity(feature),
        nucleus_quantity=feature_quantity(feature),
    )
    caption = (
        "Two patients, each the one whose out-of-fold probability is the median of its group: the "
        "slide with the first feature of the ranking by patch, a patch (frame) with its nuclei, "
        f"and the first features by group, with effect size [95 % interval], "
        f"{effect_of(ranking).test} p and its adjustment after Holm. {POINTS}"
    )
    groups = by_value(values[shown["feature"].tolist()]).assign(label=labels).reset_index()
    return Drawing(figure, shown, caption, {"patches": pd.concat(tables), "patients": groups})


def _two_of(slides: list[tuple[Slide, str]], shown: pd.DataFrame) -> list[tuple[Slide, str]]:
    """Of three and more groups those that have least and most of the first feature, where they
    were predicted; else the first and the last."""
    if not groups_of(shown):
        return slides
    first = shown.iloc[0]
    chosen = [one for name in ("lowest", "highest") for one in slides if one[1] == first[name]]
    return chosen if len(chosen) == len(slides[:2]) else [slides[0], slides[-1]]


def _read_patient_plate(
    run: Run, slide: Slide, feature: str, *, group: str
) -> tuple[PatientPlate, pd.DataFrame]:
    measured = patch_values(run.counted_nuclei(slide.slide_id), run.patches(slide.slide_id))
    values = by_feature(measured)
    patch = typical_patches(values, feature, count=1).to_dict("records")[0]
    title = f"patch {patch['patch_id']}"
    example, example_mpp = read_slide_example(run, slide, patch, feature=feature, title=title)
    patches = values[values["image"] == patch["image"]]
    with run.open_image(slide.slide_id, patch["image"]) as image:
        thumbnail = image.thumbnail()
        plate = PatientPlate(
            title=f"{slide.patient} ({group_name(group)})",
            thumbnail=thumbnail,
            level0_px_per_thumb_px=thumbnail_scale(image, thumbnail),
            mpp=image.mpp,
            patches=patches,
            values=patches[feature].to_numpy(float),
            example=example,
            example_mpp=example_mpp,
            example_at=(patch["x_px"], patch["y_px"], patch["side_px"]),
        )
    columns = ["image", "patch_id", "x_px", "y_px", "side_px", "nuclei", feature]
    return plate, by_value(patches[columns])


LETTERS = "ABCDEFG"


@dataclass(frozen=True)
class PatientPlate:
    """One patient of the plate.

    `patches` (columns of PATCHES) and `values` (one per patch) lie over `thumbnail`; `example` is
    one segmented patch of them with `example_mpp` um per pixel, outlined in the slide where its
    corner `example_at` (level-0 pixels) is.
    """

    title: str
    thumbnail: NDArray[np.uint8]
    level0_px_per_thumb_px: float
    mpp: float
    patches: pd.DataFrame
    values: NDArray[np.float64]
    example: PatchExample
    example_mpp: float
    example_at: tuple[float, float, float]  # x, y, side


def patient_plate(
    patients: Sequence[PatientPlate],
    patient_values: pd.DataFrame,
    labels: pd.Series[str],
    ranking: pd.DataFrame,
    *,
    patch_quantity: Quantity,
    nucleus_quantity: Quantity,
    width_mm: float = TWO_COLUMNS_MM,
) -> Figure:
    """Two patients side by side, each with slide and segmentation; below, the given features by
    group.

    Args:
        patients: two, in the order of the groups.
        patient_values: index patient, one column per feature.
        labels: the group of each patient, categorical: reference first.
        ranking: one row per feature that is shown:
            `feature, p_value, p_holm, cliffs_delta, cliffs_delta_low, cliffs_delta_high`.
        patch_quantity: what the slides' colors mean.
        nucleus_quantity: what the nuclei's colors mean.
        width_mm: of the figure.
    """
    with style():
        side = (width_mm - 22) / 4
        figure = new_figure(width_mm=width_mm, height_mm=side + 16 + 58)
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(side + 16, 58)).flat
        _draw_patients(upper, patients, slide=patch_quantity, nuclei=nucleus_quantity)
        _draw_features(lower, patient_values, labels, ranking=ranking)
        figure.draw_without_rendering()
        return figure


def _draw_patients(
    figure: Any, patients: Sequence[PatientPlate], *, slide: Quantity, nuclei: Quantity
) -> None:
    panels = figure.subplots(1, 2 * len(patients), squeeze=False)[0]
    slide_norm = _norm(np.concatenate([p.values for p in patients]), (2, 98))
    known = np.array([v for p in patients for v in (p.example.values or {}).values()], dtype=float)
    nuclei_norm = _norm(known, (2, 98))
    for number, patient in enumerate(patients):
        left, right = panels[2 * number : 2 * number + 2]
        _draw_slide(left, patient, slide_norm)
        left.set_title(f"{LETTERS[2 * number]}  {shorten(patient.title, 26)}", loc="left")
        draw_outlines(right, patient.example, nuclei_norm, line_width=0.8)
        draw_scale_bar(right, width=patient.example.rgb.shape[1], um_per_unit=patient.example_mpp)
        right.set_axis_off()
        for axes in (left, right):
            axes.set_anchor("N")
        right.set_title(
            f"{LETTERS[2 * number + 1]}  {shorten(patient.example.title, 26)}", loc="left"
        )
    for norm, text, at in (
        (slide_norm, f"Patches: {slide}", 0),
        (nuclei_norm, f"Nuclei: {nuclei}", 1),
    ):
        half = panels[at * len(patients) : (at + 1) * len(patients)].tolist()
        figure.colorbar(
            ScalarMappable(norm, SEQUENTIAL),
            ax=half,
            location="bottom",
            panchor=False,
            shrink=0.6,
            aspect=30,
            extend="both",
            label=text,
        )


def _norm(values: NDArray[np.float64], percentiles: tuple[int, int]) -> Normalize:
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, percentiles) if len(known) else (0.0, 1.0)
    return (
        Normalize(float(low), float(high))
        if high > low
        else Normalize(float(low) - 0.5, float(low) + 0.5)
    )


def _draw_slide(axes: Axes, patient: PatientPlate, norm: Normalize) -> None:
    rows, columns = patient.thumbnail.shape[:2]
    scale = patient.level0_px_per_thumb_px
    axes.imshow(pale(patient.thumbnail), extent=(0, columns * scale, rows * scale, 0))
    axes.autoscale(False)
    axes.set_axis_off()
    known = np.isfinite(patient.values)
    cells = squares(
        patient.patches[known],
        array=patient.values[known],
        cmap=matplotlib.colormaps[SEQUENTIAL],
        norm=norm,
        edgecolor="none",
        alpha=0.8,
    )
    axes.add_collection(cells)
    x, y, side = patient.example_at
    axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor="black", linewidth=1.2))
    draw_scale_bar(axes, width=columns * scale, um_per_unit=patient.mpp)


def _draw_features(
    figure: Any, values: pd.DataFrame, labels: pd.Series[str], *, ranking: pd.DataFrame
) -> None:
    panels = figure.subplots(1, len(ranking), squeeze=False)[0]
    groups = list(labels.cat.categories)
    names = shorten_all([str(group) for group in groups], 16)
    members = labels.reindex(values.index)
    for number, (axes, row) in enumerate(zip(panels, ranking.to_dict("records"), strict=True)):
        column = values[row["feature"]]
        samples = [column[(members == g).to_numpy()].dropna().to_numpy(float) for g in groups]
        draw_groups(axes, samples)
        axes.set_xticks(
            range(len(groups)), [f"{n}\nn = {len(s)}" for n, s in zip(names, samples, strict=True)]
        )
        axes.set_ylabel(str(patient_quantity(row["feature"])))
        effect = say_effect(row, effect_of(ranking))
        title = f"{effect}\n{p_phrase(row['p_value'])}, Holm {p_phrase(row['p_holm'])}"
        letter = LETTERS[number + 4]
        axes.set_title(f"{letter}  {title}", loc="left", fontsize=6)

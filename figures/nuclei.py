"""Outlines of nuclei, colored by the first feature of the ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from morphomil.figures.contours import contact_sheet
from morphomil.figures.drawing import Drawing
from morphomil.figures.labels import group_name
from morphomil.figures.patch_examples import read_slide_example
from morphomil.figures.results import read_ranking, typical_slides
from morphomil.matrix import by_feature, patch_values
from morphomil.nuclei.quantities import feature_quantity
from morphomil.tables.typical import typical_patches

if TYPE_CHECKING:
    from morphomil.run.directory import Run

PATCHES_PER_PATIENT = 2
"""So many patches of each patient are shown."""


def draw_nuclei(run: Run) -> Drawing:
    """Draw typical patches of each group's typical patient, their nuclei colored by the first
    feature.

    Raises:
        AbsentError: nothing is ranked yet.
    """
    feature = str(read_ranking(run)[0]["feature"].iloc[0])
    examples, rows, mpp = [], [], 0.5
    for slide, group in typical_slides(run):
        measured = patch_values(run.counted_nuclei(slide.slide_id), run.patches(slide.slide_id))
        values = by_feature(measured)
        patches = typical_patches(values, feature, count=PATCHES_PER_PATIENT)
        for patch in patches.to_dict("records"):
            example, mpp = read_slide_example(
                run,
                slide,
                patch,
                feature=feature,
                title=f"{slide.slide_id} ({group_name(group)}), patch {patch['patch_id']}",
            )
            examples.append(example)
            identity = {
                "slide_id": slide.slide_id,
                "patient": slide.patient,
                "label": group,
                "patch_id": patch["patch_id"],
            }
            rows += [
                identity | {"nucleus": number, feature: value}
                for number, value in (example.values or {}).items()
            ]
    quantity = feature_quantity(feature)
    figure = contact_sheet(examples, mpp=mpp, label=quantity.name, unit=quantity.unit)
    caption = (
        "Outlines of nuclei, colored by the first feature of the ranking, in patches of typical "
        "value of the patient whose out-of-fold probability is its group's median; gray: no value."
    )
    return Drawing(figure, pd.DataFrame(rows), caption)

"""A cohort as a stored table, and back."""

from __future__ import annotations

from typing import Any

import pandas as pd

from morphomil.places import read_place
from morphomil.types import Cohort, ImageSource, Slide

BASE_COLUMNS = ("slide_id", "patient", "label", "split", "site", "slide", "annotation", "mpp")

ORIGIN = "annotation_origin"
"""This column stands in the table of a cohort where the manifest says it of any image."""


def cohort_table(cohort: Cohort) -> pd.DataFrame:
    """One row per image file: the manifest's columns, with absolute paths, then the covariates."""
    stated = any(image.annotation_origin for slide in cohort.slides for image in slide.images)
    rows = [
        {
            "slide_id": slide.slide_id,
            "patient": slide.patient,
            "label": slide.label,
            "split": slide.split,
            "site": slide.site,
            "slide": str(image.path),
            "annotation": None if image.annotation is None else str(image.annotation),
            "mpp": image.mpp,
        }
        | ({ORIGIN: image.annotation_origin} if stated else {})
        | slide.covariates
        for slide in cohort.slides
        for image in slide.images
    ]
    return pd.DataFrame(rows).astype({"mpp": "float64"})


def cohort_from_table(table: pd.DataFrame) -> Cohort:
    """The cohort that `cohort_table` made the table of, exactly."""
    if missing := [name for name in BASE_COLUMNS if name not in table.columns]:
        raise ValueError(f"cohort table lacks {', '.join(missing)}")
    covariates = [name for name in table.columns if name not in (*BASE_COLUMNS, ORIGIN)]
    slides = []
    for _, rows in table.groupby("slide_id", sort=False):
        columns = {name: [_plain(value) for value in rows[name]] for name in table.columns}
        origins = columns.get(ORIGIN, [None] * len(rows))
        paths = zip(columns["slide"], columns["annotation"], columns["mpp"], origins, strict=True)
        images = tuple(
            ImageSource(read_place(path), note and read_place(note), mpp, origin)
            for path, note, mpp, origin in paths
        )
        first = {name: values[0] for name, values in columns.items()}
        slide = Slide(
            first["slide_id"],
            first["patient"],
            first["label"],
            images,
            split=first["split"],
            site=first["site"],
            covariates={name: first[name] for name in covariates},
        )
        slides.append(slide)
    return Cohort(tuple(slides))


def _plain(value: Any) -> Any:
    """A cell as a plain Python value, None where it is missing."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value

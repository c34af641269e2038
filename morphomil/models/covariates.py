"""The covariates that a model of a run reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphomil.cohort.encoding import MANIFEST_COLUMNS, patient_covariates
from morphomil.errors import InputError, RefusedError

if TYPE_CHECKING:
    from typing import Any

    import pandas as pd

    from morphomil.models.labeled import LabeledCohort
    from morphomil.models.settings import TrainSettings

FEW_PATIENTS = 10
"""Among fewer a covariate of two values may go with the label by chance (1 of 512 for 10)."""


def read_covariates(cohort: LabeledCohort, settings: TrainSettings) -> pd.DataFrame:
    """Covariates by patient, in the order of the cohort's labels.

    Args:
        cohort: whose slides carry them.
        settings: name them, else they are all that the cohort has, and those among them that may
            say the label.

    Raises:
        InputError: there are none, or a name can't be one.
        RefusedError: one is the label itself, or says it in other words.
    """
    slides, model = cohort.slides, settings.model
    names = settings.covariates or tuple(
        name for name in slides.columns if name not in MANIFEST_COLUMNS
    )
    if not names:
        raise InputError(
            f"{model} needs covariates, and the cohort has none; name the manifest's columns when "
            "segmenting: morphomil segment --covariates NAME,NAME"
        )
    if reserved := [name for name in names if name in MANIFEST_COLUMNS]:
        raise InputError(f"{', '.join(reserved)} can't be a covariate")
    table = patient_covariates(slides, names)
    labels = slides.groupby("patient", sort=True)["label"].first()
    for name in names:
        if name not in settings.allow_leakage and says_label(table[name], labels):
            raise RefusedError(
                f"covariate {name} is the label itself, or the label in other words: each of its "
                f"values goes with one label; leave it out, or insist: --allow-leakage {name}"
            )
    return table.loc[cohort.labels.index]


def says_label(values: pd.Series[Any], labels: pd.Series[Any]) -> bool:
    """Whether a covariate tells the label, value by value: it has the same text, or of
    `FEW_PATIENTS` or more who have both it has as many values as there are labels, each with one of
    them.

    Args:
        values: by patient; missing ones are left out.
        labels: by patient.
    """
    if values.astype(str).equals(labels.astype(str)):
        return True
    known = values.dropna()
    stated = labels[known.index]
    pairs = len(set(zip(known.astype(str), stated.astype(str), strict=True)))
    return len(known) >= FEW_PATIENTS and pairs == known.nunique() == stated.nunique() > 1

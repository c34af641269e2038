"""The covariates that a model of a run reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphomil.cohort.encoding import MANIFEST_COLUMNS, patient_covariates
from morphomil.errors import InputError, RefusedError

if TYPE_CHECKING:
    import pandas as pd

    from morphomil.models.labeled import LabeledCohort


def read_covariates(cohort: LabeledCohort, names: tuple[str, ...], *, model: str) -> pd.DataFrame:
    """Covariates by patient, in the order of the cohort's labels.

    Args:
        cohort: whose slides carry them.
        names: of the covariates; empty: all that the cohort has.
        model: which needs them, for the messages.

    Raises:
        InputError: there are none, or a name can't be one.
        RefusedError: one is the label itself.
    """
    slides = cohort.slides
    names = names or tuple(name for name in slides.columns if name not in MANIFEST_COLUMNS)
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
        if table[name].astype(str).equals(labels):
            raise RefusedError(f"covariate {name} is the label itself; leave it out")
    return table.loc[cohort.labels.index]

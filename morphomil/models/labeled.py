"""The slides that a model can read, and the classes of their patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from morphomil.cohort.labels import patient_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    OnEpoch = Callable[[int, int], None]
    """Hears the finished epochs and the most there can be."""


@dataclass(frozen=True)
class LabeledCohort:
    """The slides that a model can read, and the classes of their patients."""

    slides: pd.DataFrame
    """One row per slide, sorted by patient and slide id."""
    classes: tuple[str, ...]
    labels: pd.Series[int]
    """Number of each patient's class, by patient, sorted; -1 where the label is none of the
    classes."""
    notes: tuple[str, ...] = ()
    """On slides that are left out."""

    @classmethod
    def of(
        cls, slides: pd.DataFrame, classes: tuple[str, ...], *, notes: tuple[str, ...] = ()
    ) -> LabeledCohort:
        """The cohort of some slides: `slide_id, patient, label` and covariates."""
        slides = slides.sort_values(["patient", "slide_id"], ignore_index=True)
        numbers = {name: number for number, name in enumerate(classes)}
        labels = patient_labels(slides).map(numbers).fillna(-1).astype("int64")
        return cls(slides, classes, labels, notes)

    def numbers_of(self, patients: Sequence[str]) -> NDArray[np.int64]:
        """Numbers of patients, in the order of the labels."""
        place = {str(name): number for number, name in enumerate(self.labels.index)}
        return np.array([place[name] for name in patients], dtype=np.int64)

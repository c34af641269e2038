"""What every model is: it reads inputs of a run, is fitted on a fold, and predicts patients.

A model (`clinical`, `image`, `morphometry`, `stacked`) is a frozen value made from the settings;
`registry` names them. Training, prediction and maps know models by this protocol alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import pandas as pd

from morphomil.cohort.labels import patient_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.models.fold import Fitted, Parts, TrainedFold
    from morphomil.run.directory import Run

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


class Inputs(Protocol):
    """What a model reads of a run."""

    @property
    def cohort(self) -> LabeledCohort:
        """Whom it can read."""

    @property
    def key_parts(self) -> tuple[Any, ...]:
        """What a fold's model depends on, beside settings, split and labels."""

    @property
    def data_parts(self) -> tuple[Any, ...]:
        """What the prediction of another cohort depends on, beside weights and labels."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of patients; models that see no patches leave slides and patches empty."""

    probability: pd.DataFrame
    """One row per patient, perhaps of more than were asked for; one column per class."""
    slides: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    """`slide_id`, `patient` and a column per class."""
    patches: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    """`slide_id, patch_id, bag` (-1: in none), `bag_attention, attention, occlusion`."""


Read = TypeVar("Read", bound=Inputs)


class Model(Protocol[Read]):
    """A kind of model with its settings."""

    def inputs(self, run: Run, slides: pd.DataFrame, classes: tuple[str, ...]) -> Read:
        """What it reads of those of the slides that it can read.

        Raises:
            InputError: there is nothing to learn from.
            RefusedError: a covariate is the label.
        """

    def fit(
        self, inputs: Read, parts: Parts, *, folder: Path, on_epoch: OnEpoch | None = None
    ) -> Fitted:
        """Train on a fold's training patients; validation patients decide when to stop.

        Args:
            inputs: of all patients of the fold.
            parts: who trains, who decides, who is predicted.
            folder: of the fold, whose name goes into the seed; a checkpoint may be kept there.
            on_epoch: hears how far it is.

        Raises:
            TrainingError: the loss is not a number.
            RefusedError: too few patients.
        """

    def predict(self, fold: TrainedFold, inputs: Read, patients: Collection[str]) -> Prediction:
        """What a trained fold says of patients that it wasn't trained on.

        Raises:
            InputError: the inputs aren't what it was trained on.
        """

    def differences(self, run: Run, origin: Run) -> list[str]:
        """How what it reads in a run was made otherwise than in the run it was trained in."""

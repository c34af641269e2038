"""What every model is: it reads inputs of a run, is fitted on a fold, and predicts patients.

A model (`clinical`, `image`, `morphometry`, `stacked`) is a frozen value made from the settings;
`registry` names them. Training, prediction and maps know models by this protocol alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from morphomil.models.fold import Fitted, Parts, TrainedFold
    from morphomil.models.labeled import LabeledCohort
    from morphomil.run.directory import Run

    OnEpoch = Callable[[int, int], None]
    """Hears the finished epochs and the most there can be."""


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

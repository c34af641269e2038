"""Morphometry + clinical: the morphometry model's score as one more covariate of a logistic
regression.

A training patient's score comes from a model that didn't see that patient (cross-fitting within the
training patients, stacked generalization, Wolpert 1992), else the regression would trust a score
that knows the label by heart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.cohort.splits import Fold, make_folds
from morphomil.errors import InputError
from morphomil.models.clinical import fit_logistic, predict_logistic
from morphomil.models.covariates import read_covariates
from morphomil.models.fold import fold_seed
from morphomil.models.morphometry import check_histograms, check_registered, score_patients
from morphomil.models.protocol import Prediction
from morphomil.rank.folds import FoldTask
from morphomil.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from morphomil.models.fold import Fitted, Parts, TrainedFold
    from morphomil.models.labeled import LabeledCohort
    from morphomil.models.morphometry import Morphometry, MorphometryInputs
    from morphomil.models.protocol import OnEpoch
    from morphomil.models.settings import TrainSettings
    from morphomil.rank.folds import FoldModel
    from morphomil.run.directory import Run
SCORE = "morphometry"
"""The covariate with the log odds has this name."""
INNER_FOLDS = 5
"""The training patients are scored in at most this many folds."""
SEEDS = 3
"""The probabilities of this many models are averaged."""
FLOOR = 1e-3
"""Probabilities are kept this far from 0 and 1 before their log odds are taken."""


@dataclass(frozen=True)
class StackedInputs:
    """Histograms of slides, and covariates by patient."""

    morphometry: MorphometryInputs
    covariates: pd.DataFrame

    @property
    def cohort(self) -> LabeledCohort:
        """Whom it can read."""
        return self.morphometry.cohort

    @property
    def key_parts(self) -> tuple[Any, ...]:
        """The morphometry model's, and the covariates."""
        return (*self.morphometry.key_parts, self.covariates.to_json())

    @property
    def data_parts(self) -> tuple[Any, ...]:
        """Measured slides and covariates."""
        return self.morphometry.data_parts[0], self.covariates.to_json()


@dataclass(frozen=True)
class Stacked:
    """Morphometry + clinical (`protocol.Model`)."""

    morphometry: Morphometry

    @property
    def settings(self) -> TrainSettings:
        """Those of the morphometry model."""
        return self.morphometry.settings

    def inputs(self, run: Run, slides: pd.DataFrame, classes: tuple[str, ...]) -> StackedInputs:
        """Histograms and covariates.

        Raises:
            InputError: there are more than two labels, which the regression can't tell apart.
        """
        if len(classes) != 2:
            raise InputError(
                f"{self.settings.model} tells two labels apart, the cohort has {len(classes)}; "
                f"{SCORE} takes more"
            )
        morphometry, settings = self.morphometry.inputs(run, slides, classes), self.settings
        table = read_covariates(morphometry.cohort, settings)
        return StackedInputs(morphometry, table)

    def fit(
        self, inputs: StackedInputs, parts: Parts, *, folder: Path, on_epoch: OnEpoch | None = None
    ) -> Fitted:
        """Score all patients, then fit the regression to the training patients."""
        check_registered(inputs.morphometry.features)
        seed = fold_seed(self.settings.seed, folder.name)
        score, model = cross_fit_score(inputs.morphometry, parts["train"], seed=seed)
        fitted = fit_logistic(inputs.cohort, inputs.covariates, parts["train"], score=score)
        arrays = {f"{SCORE}/{name}": array for name, array in model.weights.items()}
        facts = replace(fitted.facts, edges=model.edges)
        return replace(fitted, arrays=fitted.arrays | arrays, facts=facts)

    def predict(
        self, fold: TrainedFold, inputs: StackedInputs, patients: Collection[str]
    ) -> Prediction:
        """Probability of all patients."""
        bags, edges = inputs.morphometry.bags, fold.record.edges
        check_histograms(inputs.morphometry.features, edges.features, "this cohort")
        weights = {
            name.removeprefix(f"{SCORE}/"): array
            for name, array in fold.weights.items()
            if name.startswith(f"{SCORE}/")
        }
        score = _log_odds(score_patients(bags, edges, weights)[1])
        return Prediction(predict_logistic(fold, inputs.covariates.join(score)))

    def differences(self, run: Run, origin: Run) -> list[str]:
        """As the morphometry model."""
        return self.morphometry.differences(run, origin)


def cross_fit_score(
    inputs: MorphometryInputs, train: Sequence[str], *, seed: int
) -> tuple[pd.Series[float], FoldModel]:
    """Score every patient by morphometry models trained on `train`, whose members are scored by
    models that didn't see them.

    Args:
        inputs: histograms of all patients.
        train: patients to learn from.
        seed: of inner folds and training.

    Returns:
        Log odds of the positive label by patient, and the model that scores whom it wasn't trained
        on.

    Raises:
        RefusedError: too few patients of a class for two inner folds.
    """
    slides, bags, positive = inputs.cohort.slides, inputs.bags, inputs.cohort.labels
    training = slides[slides["patient"].isin(train)].assign(split=None)
    count = max(2, min(INNER_FOLDS, int(positive[list(train)].value_counts().min())))
    inner = make_folds(training, folds=count, seed=int(generator("inner", seed).integers(2**31)))
    known = set(train)
    others = Fold(
        "others", tuple(train), (), tuple(name for name in bags.patients if name not in known)
    )

    def score(fold: Fold) -> tuple[pd.Series[float], FoldModel]:
        task = FoldTask(fold, bags, positive, features=inputs.features, seed=seed)
        return task.score(SEEDS)

    scores = [score(fold)[0] for fold in inner]
    of_others, model = score(others)
    return _log_odds(pd.concat([*scores, of_others])).loc[list(bags.patients)], model


def _log_odds(probability: pd.Series[float]) -> pd.Series[float]:
    inside = probability.clip(FLOOR, 1 - FLOOR)
    return pd.Series(np.log(inside / (1 - inside)), index=inside.index, name=SCORE)

"""Histograms of nuclear features -> probability of patients: the morphometry model of a fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.cohort.encoding import as_text, patient_covariates
from morphomil.cohort.labels import describe_losses
from morphomil.cohort.splits import Fold
from morphomil.errors import InputError
from morphomil.models.fold import Facts, Fitted
from morphomil.models.labeled import LabeledCohort
from morphomil.models.protocol import Prediction
from morphomil.nuclei.registry import FEATURES
from morphomil.rank.bags import LEFT_OUT_WITHOUT, NOT_MEASURED, PatientBags, class_means
from morphomil.rank.folds import FoldTask
from morphomil.rank.offset import CovariateModel
from morphomil.types import SEEDS

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.matrix import Edges
    from morphomil.models.fold import Parts, TrainedFold
    from morphomil.models.protocol import OnEpoch
    from morphomil.models.settings import TrainSettings
    from morphomil.run.directory import Run

COEFFICIENTS = "covariate_coefficients"
"""Among a fold's weights, those of the regression on covariates that its models add to."""


@dataclass(frozen=True)
class MorphometryInputs:
    """The histograms of every slide with enough measured nuclei."""

    cohort: LabeledCohort
    bags: PatientBags
    features: tuple[str, ...]
    key_parts: tuple[Any, ...]
    data_parts: tuple[Any, ...]


@dataclass(frozen=True)
class Morphometry:
    """The morphometry model (`protocol.Model`), as a ranking trains it."""

    settings: TrainSettings

    def inputs(self, run: Run, slides: pd.DataFrame, classes: tuple[str, ...]) -> MorphometryInputs:
        """The bags of the slides that are measured and have a patch of enough nuclei."""
        measured = slides[slides["slide_id"].isin(run.done("featurize"))]
        if measured.empty:
            raise InputError(
                f"{run.path} has no measured slides; run: morphomil featurize {run.path}"
            )
        features = run.counts(measured["slide_id"].iloc[0]).features

        def load(slide_id: str) -> NDArray[Any]:
            stored = run.counts(slide_id)
            check_histograms(stored.features, features, f"{run.path}: slide {slide_id}")
            return stored.counts

        bags = PatientBags.collect(load, measured, seed=self.settings.seed)
        usable = slides[slides["slide_id"].isin(bags.slides)]
        notes = describe_losses(slides, measured, NOT_MEASURED)
        notes += describe_losses(measured, usable, LEFT_OUT_WITHOUT)
        cohort = LabeledCohort.of(usable, classes, notes=notes)
        key = [[name, run.ledger.outputs(name, "featurize")] for name in cohort.slides["slide_id"]]
        return MorphometryInputs(cohort, bags, features, tuple(key), (run.measured_key(), None))

    def fit(
        self,
        inputs: MorphometryInputs,
        parts: Parts,
        *,
        folder: Path,
        on_epoch: OnEpoch | None = None,
    ) -> Fitted:
        """As many models as a ranking trains; the validation patients end their training."""
        check_registered(inputs.features)
        fold = Fold(folder.name, parts["train"], parts["val"], parts["test"])
        task = FoldTask(
            fold,
            inputs.bags,
            inputs.cohort.labels,
            features=inputs.features,
            seed=self.settings.seed,
        )
        model = task.train(SEEDS)
        probability = score_patients(inputs.bags, model.edges, model.weights)
        return Fitted(dict(model.weights), model.log, Facts(edges=model.edges), probability)

    def predict(
        self, fold: TrainedFold, inputs: MorphometryInputs, patients: Collection[str]
    ) -> Prediction:
        """The mean of the fold's models, for all patients; beside their covariates, where a ranking
        was adjusted for them.

        Raises:
            InputError: other features were measured, or patients lack a covariate of the model.
        """
        edges, weights = fold.record.edges, dict(fold.weights)
        check_histograms(inputs.features, edges.features, "this cohort")
        offset = None
        if (facts := fold.record.facts.covariates) is not None:
            model = CovariateModel(facts.encoder, facts.columns, weights.pop(COEFFICIENTS))
            known = _covariates_of(inputs, model)
            offset = pd.DataFrame(model.log_probability(known), index=known.index)
        return Prediction(score_patients(inputs.bags, edges, weights, offset=offset))

    def differences(self, run: Run, origin: Run) -> list[str]:
        """Whose nuclei were counted; features that differ are told by their names (`predict`)."""
        return [] if run.whose == origin.whose else [f"nuclei {run.whose}"]


def _covariates_of(inputs: MorphometryInputs, model: CovariateModel) -> pd.DataFrame:
    """By patient, those that the model was adjusted for.

    Raises:
        InputError: the cohort lacks one, or patients have a level that no training patient had.
    """
    slides = inputs.cohort.slides
    if absent := [name for name in model.names if name not in slides]:
        raise InputError(
            f"the model was adjusted for {', '.join(model.names)}, and the cohort has no "
            f"{', '.join(absent)}; keep the manifest's columns: morphomil segment --covariates "
            f"{','.join(absent)}"
        )
    known = patient_covariates(slides, model.names)
    for part in model.encoder.categories:
        levels = as_text(known[part.name])
        if strange := sorted(set(levels) - set(part.levels)):
            raise InputError(
                f"the model was adjusted for {part.name} and knows {', '.join(part.levels)}; "
                f"{int(levels.isin(strange).sum())} patients have {', '.join(strange[:5])}. Rank "
                f"without {part.name} in --adjust to predict other cohorts (--strata {part.name} "
                "may stay)"
            )
    return known


def score_patients(
    bags: PatientBags,
    edges: Edges,
    weights: dict[str, NDArray[Any]],
    *,
    offset: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Probability of each class (columns 0, 1, ...) by patient, the mean over the models of a fold.

    `offset`, by patient: what is added to the logits of the classes.
    """
    from morphomil.rank.model import restore_morphometry

    trained = restore_morphometry(weights)
    instances = bags.whole.instances(edges, trained.scaler.reading)
    shift = None
    if offset is not None:
        of_patients = offset.loc[list(bags.patients)].to_numpy(np.float64)
        shift = of_patients[None, instances.patient]
    prediction = trained.predict(instances.values, offset=shift)
    probability = class_means(prediction.probability, instances).mean(axis=0)
    return pd.DataFrame(probability, index=pd.Index(bags.patients, dtype=object))


def check_registered(features: tuple[str, ...]) -> None:
    """Make sure that features to learn from are registered, so that their range is known.

    Raises:
        InputError: they aren't.
    """
    if unknown := [name for name in features if name not in FEATURES]:
        raise InputError(
            f"the run was measured with {', '.join(unknown)}, which no file has registered; "
            "measure it without them: morphomil featurize"
        )


def check_histograms(given: tuple[str, ...], wanted: tuple[str, ...], where: str) -> None:
    """Make sure that histograms are of the features that a model reads, in its order.

    Raises:
        InputError: they aren't.
    """
    if given != wanted:
        raise InputError(
            f"{where} was measured with the features {', '.join(given)}, and the model reads "
            f"{', '.join(wanted)}; run morphomil featurize with the same features"
        )

"""Covariates -> logistic regression: the clinical model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.cohort.encoding import ClinicalEncoder, independent_columns
from morphomil.errors import RefusedError
from morphomil.models.covariates import read_covariates
from morphomil.models.fold import CovariateFacts, Facts, Fitted
from morphomil.models.labeled import LabeledCohort
from morphomil.models.protocol import Prediction
from morphomil.stats.models import logistic_model

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.models.fold import Parts, TrainedFold
    from morphomil.models.protocol import OnEpoch
    from morphomil.models.settings import TrainSettings
    from morphomil.run.directory import Run


@dataclass(frozen=True)
class LogisticModel:
    """Logistic regression on encoded covariates; with three classes each against the first (Begg &
    Gray 1984).

    `odds_ratios` has one row per class beyond the first and term: `class`, `term`, `coefficient`,
    `odds_ratio`, `low`, `high`, `z`, `p_value`. A number's odds ratio is per SD of the training
    patients, a level's against the most frequent one.
    """

    encoder: ClinicalEncoder
    coefficients: NDArray[np.float64]  # (classes - 1, 1 + columns), intercept first
    columns: tuple[str, ...]
    odds_ratios: pd.DataFrame = field(repr=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls, training: pd.DataFrame, labels: NDArray[np.int64], *, names: Sequence[str]
    ) -> LogisticModel:
        """Fit to training patients: covariates (one row each), class numbers from 0 and the
        classes' names.

        Raises:
            RefusedError: fewer patients than coefficients, or columns that can't be told apart.
        """
        encoder = ClinicalEncoder.fit(training)
        columns = independent_columns(encoder.encode_contrasts(training))
        notes = list(encoder.notes)
        tables, rows = [], []
        for number, name in enumerate(names[1:], start=1):
            chosen = np.isin(labels, (0, number))
            of_pair = columns[chosen]
            varied = of_pair.loc[:, np.ptp(of_pair.to_numpy(), axis=0) > 0]
            try:
                fitted = logistic_model(varied, labels[chosen] == number)
            except ValueError as error:
                raise RefusedError(f"the clinical model can't be fitted: {error}") from error
            if fitted.separated:
                notes.append(f"covariates separate {names[0]} from {name}; estimates are Firth's")
            table = fitted.summary.reset_index().rename(columns={"index": "term"})
            tables.append(table.assign(**{"class": name}))
            coefficient = fitted.summary["coefficient"]
            rows.append(
                [float(coefficient.get(term, 0.0)) for term in ("intercept", *columns.columns)]
            )
        merged = pd.concat(tables, ignore_index=True)
        merged = merged[["class", *(column for column in merged if column != "class")]]
        return cls(encoder, np.array(rows), tuple(columns.columns), merged, tuple(notes))

    def predict(self, patients: pd.DataFrame) -> NDArray[np.float64]:
        """Probability (n, classes)."""
        values = self.encoder.encode_contrasts(patients)[list(self.columns)].to_numpy()
        logits = (
            self.coefficients[:, :1].T + values @ self.coefficients[:, 1:].T
        )  # (n, classes - 1)
        logits = np.column_stack([np.zeros(len(values)), logits])
        exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class ClinicalInputs:
    """Covariates by patient."""

    cohort: LabeledCohort
    covariates: pd.DataFrame

    @property
    def key_parts(self) -> tuple[Any, ...]:
        """The covariates."""
        return (self.covariates.to_json(),)

    @property
    def data_parts(self) -> tuple[Any, ...]:
        """No features, the covariates."""
        return None, self.covariates.to_json()


@dataclass(frozen=True)
class Clinical:
    """The clinical model (`protocol.Model`)."""

    settings: TrainSettings

    def inputs(self, run: Run, slides: pd.DataFrame, classes: tuple[str, ...]) -> ClinicalInputs:
        """Covariates of all patients."""
        cohort = LabeledCohort.of(slides, classes)
        return ClinicalInputs(cohort, read_covariates(cohort, self.settings))

    def fit(
        self, inputs: ClinicalInputs, parts: Parts, *, folder: Path, on_epoch: OnEpoch | None = None
    ) -> Fitted:
        """Logistic regression on the training patients' covariates; nothing is drawn."""
        return fit_logistic(inputs.cohort, inputs.covariates, parts["train"])

    def predict(
        self, fold: TrainedFold, inputs: ClinicalInputs, patients: Collection[str]
    ) -> Prediction:
        """Probability of all patients."""
        return Prediction(predict_logistic(fold, inputs.covariates))

    def differences(self, run: Run, origin: Run) -> list[str]:
        """None: covariates are what the manifest says."""
        return []


def fit_logistic(
    cohort: LabeledCohort,
    covariates: pd.DataFrame,
    train: Sequence[str],
    *,
    score: pd.Series[float] | None = None,
) -> Fitted:
    """A regression on the training patients' covariates; its log are the odds ratios.

    Args:
        cohort: whose labels are told apart.
        covariates: one row per patient.
        train: patients to learn from.
        score: by patient, of another model, as one more covariate.
    """
    table = covariates if score is None else covariates.join(score)
    names = list(train)
    labels = np.asarray(cohort.labels[names], np.int64)
    model = LogisticModel.fit(table.loc[names], labels, names=cohort.classes)
    facts = CovariateFacts(
        tuple(str(name) for name in covariates.columns),
        model.encoder,
        model.encoder.count_missing(table),
        model.columns,
    )
    probability = pd.DataFrame(model.predict(table), index=table.index)
    arrays = {"coefficients": model.coefficients}
    return Fitted(arrays, model.odds_ratios, Facts(covariates=facts), probability, model.notes)


def predict_logistic(fold: TrainedFold, covariates: pd.DataFrame) -> pd.DataFrame:
    """Probability by patient, from a fold that `fit_logistic` gave."""
    facts = fold.record.covariates
    model = LogisticModel(
        facts.encoder, fold.weights["coefficients"], facts.columns, pd.DataFrame()
    )
    return pd.DataFrame(model.predict(covariates), index=covariates.index)

"""What covariates alone say of a patient: the offset to which the morphometry model adds.

A ridge regression on the training patients' covariates gives each patient the log probability of
every class. It enters the model's logits as it is, in training and in prediction, so that the model
learns, attends to and is credited with what features say beyond the covariates; without any
feature it says what the covariates say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.cohort.encoding import ClinicalEncoder, as_text, independent_columns
from morphomil.stats.ridge import fit_ridge, ridge_log_probability

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
PARTS = 10
"""A training patient's offset comes from a regression on the other nine parts of ten: one that
knew the patient's label would leave too little to learn."""


@dataclass(frozen=True)
class CovariateModel:
    """A fold's regression on covariates, as prediction needs it."""

    encoder: ClinicalEncoder
    columns: tuple[str, ...]
    """Of the encoded covariates, those that the others don't add up to."""
    coefficients: NDArray[np.float64]
    """(classes - 1, 1 + columns), the intercept first; class 0 is the reference."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the covariates."""
        return tuple(part.name for part in self.encoder.parts)

    def log_probability(self, covariates: pd.DataFrame) -> NDArray[np.float64]:
        """(n, classes), of patients with their covariates, one row each.

        Raises:
            InputError: a covariate is missing from the table.
        """
        values = ridge_log_probability(self._design(covariates), self.coefficients[None])
        return np.asarray(values[0])

    def _design(self, covariates: pd.DataFrame) -> NDArray[np.float64]:
        encoded = self.encoder.encode_contrasts(covariates)[list(self.columns)]
        return encoded.to_numpy(np.float64)


@dataclass(frozen=True)
class FoldCovariates:
    """The covariates of all patients, encoded as a fold's training patients have it."""

    encoder: ClinicalEncoder
    columns: tuple[str, ...]
    design: NDArray[np.float64]  # (patients, columns)
    training: NDArray[np.bool_]  # (patients,)
    part: NDArray[np.int64]  # (patients,): of `PARTS`

    @classmethod
    def of(
        cls, covariates: pd.DataFrame, training: NDArray[np.bool_], *, rng: np.random.Generator
    ) -> FoldCovariates | None:
        """Means, levels and columns come from the training patients; `rng` deals them into parts.
        None where no covariate differs between training patients, as where they are of one site.

        Raises:
            RefusedError: a covariate is an identifier.
        """
        if all(as_text(values).nunique() < 2 for _, values in covariates[training].items()):
            return None
        encoder = ClinicalEncoder.fit(covariates[training])
        columns = independent_columns(encoder.encode_contrasts(covariates[training])).columns
        design = encoder.encode_contrasts(covariates)[list(columns)].to_numpy(np.float64)
        part = np.zeros(len(covariates), np.int64)
        part[training] = rng.permutation(np.arange(int(training.sum())) % PARTS)
        return cls(encoder, tuple(map(str, columns)), design, training, part)

    def offsets(self, labels: NDArray[np.int64], *, classes: int = 2) -> NDArray[np.float64]:
        """Log probability by the covariates, (labelings, patients, classes), for labels
        (labelings, patients): of training patients by the other parts, of all others by the
        training patients."""
        offset = self.predicted(labels, classes=classes)
        for number in range(PARTS):
            held = self.training & (self.part == number)
            if held.any():
                learned = self._predict(labels, self.training & ~held, held, classes)
                offset[:, held] = learned[:, held]
        return offset

    def predicted(self, labels: NDArray[np.int64], *, classes: int = 2) -> NDArray[np.float64]:
        """As `offsets` by the regression on all training patients; theirs are 0."""
        return self._predict(labels, self.training, ~self.training, classes)

    def model(self, labels: NDArray[np.int64], *, classes: int = 2) -> CovariateModel:
        """The regression on all training patients; `labels` (patients,)."""
        fitted = fit_ridge(
            self.design[self.training], labels[None, self.training], classes=classes
        )[0]
        return CovariateModel(self.encoder, self.columns, fitted)

    def _predict(
        self, labels: NDArray[Any], learn: NDArray[np.bool_], ask: NDArray[np.bool_], classes: int
    ) -> NDArray[np.float64]:
        fitted = fit_ridge(self.design[learn], labels[:, learn], classes=classes)
        predicted = np.zeros((len(labels), len(self.design), classes))
        predicted[:, ask] = ridge_log_probability(self.design[ask], fitted)
        return predicted

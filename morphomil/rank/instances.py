"""The morphometry model's bags, and how their numbers are brought to one scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from morphomil.rank.representation import POOLED, barycenter, histogram_l_moments, reading_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.types import Reading

STEP_PATIENTS = 2000
"""A step takes so many training patients at most, drawn anew where there are more; of validation
patients so many bags are looked at together."""
_AT_ONCE = 1024  # bags that are read together, which bounds memory


@dataclass(frozen=True)
class InstanceBags:
    """The morphometry model's bags: what it reads of each feature, over the bag's patches.

    Bags are sorted by patient (a number from 0); a patient's weights sum to 1, so that it counts as
    much as any other.
    """

    values: NDArray[np.float32]
    """(bags, features, columns): the numbers of `representation.VIEWS`, or cumulative shares of the
    histogram without the last one, always 1. NaN: not known."""
    present: NDArray[np.bool_]
    """(bags, features): which instances have a nucleus with a value; the others are NaN."""
    histograms: NDArray[np.float32]
    """(bags, features, bins): mean over the bag's patches; a row of zeros is an absent instance."""
    patient: NDArray[np.int64]  # (bags,)
    weight: NDArray[np.float64]  # (bags,)

    def __post_init__(self) -> None:
        """Refuse bags out of order and weights that don't sum to 1."""
        if (np.diff(self.patient) < 0).any():
            raise ValueError("bags must be sorted by patient")
        total = np.bincount(self.patient, self.weight)
        if not np.allclose(total[np.unique(self.patient)], 1):
            raise ValueError(
                f"weights of a patient's bags must sum to 1, got {total.min():g} to {total.max():g}"
            )

    @classmethod
    def of(
        cls,
        histograms: NDArray[np.float32],
        patches: NDArray[np.float64] | None,
        *,
        patient: NDArray[np.int64],
        weight: NDArray[np.float64],
    ) -> InstanceBags:
        """Bags of mean histograms (bags, features, bins), read as quantile functions with the views
        of their patches (bags, features, views), or as histograms without."""
        values = [
            read_instances(
                histograms[start : start + _AT_ONCE],
                None if patches is None else patches[start : start + _AT_ONCE],
            ).astype(np.float32)
            for start in range(0, max(len(histograms), 1), _AT_ONCE)
        ]
        return cls(
            np.concatenate(values),
            np.asarray(np.any(histograms, axis=-1)),
            histograms,
            patient,
            weight,
        )

    def of_patients(self, chosen: NDArray[np.bool_]) -> InstanceBags:
        """The bags of some patients, whose numbers stay."""
        kept = chosen[self.patient]
        return InstanceBags(
            self.values[kept],
            self.present[kept],
            self.histograms[kept],
            self.patient[kept],
            self.weight[kept],
        )


def read_instances(
    histograms: NDArray[np.floating], patches: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """`InstanceBags.values` of mean histograms (..., bins), with views of patches (..., views) or
    as the plain reading, cumulative shares."""
    if patches is not None:
        return np.concatenate([histogram_l_moments(histograms), patches], axis=-1)
    shares = np.cumsum(histograms, axis=-1, dtype=np.float64)[..., :-1]
    present = np.asarray(histograms).any(axis=-1, keepdims=True)
    return np.asarray(np.where(present, shares, np.nan))


@dataclass(frozen=True)
class Scaler:
    """What is read of instances -> standardized by feature and column.

    Cumulative shares of neighboring bins move together when a distribution shifts: they become
    cosine coefficients (`smooth`).
    """

    mean: NDArray[np.float32]  # (features, columns)
    sd: NDArray[np.float32]  # (features, columns)
    typical: NDArray[np.float32]
    """(features, bins): the histogram of a typical training patient, at whose reading the
    attribution of nuclei begins."""

    LIMIT: ClassVar[float] = 5.0
    """Standardized values are clipped to plus or minus this many SD."""

    @property
    def reading(self) -> Reading:
        """How instances are read."""
        return reading_of(self.mean.shape[1])

    @property
    def baseline(self) -> NDArray[np.float64]:
        """What is read of the typical patient, (features, columns)."""
        baseline = self.mean.astype(np.float64)
        if self.reading == "quantiles":
            baseline[:, :POOLED] = histogram_l_moments(self.typical)
        return baseline

    @classmethod
    def fit(cls, bags: InstanceBags) -> Scaler:
        """Mean and SD over bags, every patient with the same weight; what is not known is left
        out."""
        known = ~np.isnan(bags.values)
        weight = bags.weight[:, None, None] * known  # (bags, features, columns)
        weight = weight / np.maximum(weight.sum(axis=0), 1e-12)
        values = np.where(known, bags.values, 0).astype(np.float64)
        mean = (weight * values).sum(axis=0)
        sd = np.sqrt((weight * (values - mean) ** 2).sum(axis=0))
        if reading_of(mean.shape[1]) == "histograms":
            ends = np.zeros((len(mean), 1)), np.ones((len(mean), 1))
            typical = np.diff(np.concatenate([ends[0], mean, ends[1]], axis=1), axis=1)
        else:
            typical = _typical_patient(bags)
        sd = np.where(sd > 1e-6, sd, 1)
        return cls(*(array.astype(np.float32) for array in (mean, sd, typical)))

    def standardize(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(bags, features, columns), same shape; what is not known becomes the training mean, 0."""
        scaled = np.clip((values - self.mean) / self.sd, -self.LIMIT, self.LIMIT)
        return np.asarray(np.nan_to_num(scaled), dtype=np.float32)


def _typical_patient(bags: InstanceBags) -> NDArray[np.float64]:
    """Barycenter of the patients' mean histograms, (features, bins)."""
    _, starts = np.unique(bags.patient, return_index=True)
    of_patients = np.add.reduceat(bags.histograms * bags.weight[:, None, None], starts, axis=0)
    total = of_patients.sum(axis=-1, keepdims=True)
    of_patients = of_patients / np.where(total > 0, total, 1)
    weight = np.ones(len(starts))
    return np.stack([barycenter(rows, weight) for rows in np.moveaxis(of_patients, 1, 0)])

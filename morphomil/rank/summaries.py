"""Histogram counts of slides -> ten plain numbers per patient and feature.

They come from the stored counts, so they are the same for nuclei given as a table and for a run:
location and spread of the nuclei, and how patches differ. Patches of a slide weigh alike, and so do
a patient's slides, as in the model's bags; patches of fewer than 5 nuclei are left out.

Of an axis (orientation) the counts, and so the summaries, hold the deviation from the mean
direction of the patch's other nuclei. Such deviations depend on each other within a patch, the more
the fewer nuclei it has, so their spread within and between patches would tell crowded from sparse
patches: those four summaries are missing of an axis.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.matrix import FINE_BINS, MIN_NUCLEI
from morphomil.nuclei.registry import FEATURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from morphomil.rank.patch_sums import SlideSums

QUANTILES = {"q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9}
TAIL = 0.1
"""The summaries of the lowest and of the highest patches stand at this share and at 1 minus it."""
SUMMARY_TITLES = {
    "mean": "Mean",
    "median": "Median",
    "q10": "10th percentile",
    "q25": "25th percentile",
    "q75": "75th percentile",
    "q90": "90th percentile",
    "sd_within": "SD within patches",
    "sd_between": "SD between patches",
    "patches_low": "10th percentile of patch means",
    "patches_high": "90th percentile of patch means",
}
"""The ten summaries by name: mean and percentiles of a patient's nuclei, the SD of nuclei inside
patches (pooled), and how the patches' means are spread."""
SUMMARIES = tuple(SUMMARY_TITLES)
OF_PATCHES = ("sd_within", "sd_between", "patches_low", "patches_high")
"""Axes don't have these."""


@dataclass(frozen=True)
class _SlideSummary:
    """What a slide adds to its patient's summaries, in fine bins."""

    pooled: NDArray[np.float64]  # (features, fine bins): mean of the patches' shares, 0 if absent
    n: NDArray[np.float64]  # (features, patches): values
    mean: NDArray[np.float64]  # (features, patches)
    variance: NDArray[np.float64]  # (features, patches), over n - 1


class PatientSummaries:
    """The summaries of patients, from their slides as they are read one by one."""

    def __init__(self, features: Sequence[str], cohort: pd.DataFrame) -> None:
        """`features` are the names of those that are counted; `cohort` has `slide_id` and
        `patient`."""
        self.features = tuple(features)
        self.patient = dict(zip(cohort["slide_id"].astype(str), cohort["patient"], strict=True))
        self.awaited = Counter(self.patient.values())
        self.slides: dict[str, dict[str, _SlideSummary]] = {}
        self.patients: dict[str, NDArray[np.float64]] = {}

    def add(self, slide_id: str, read: SlideSums) -> None:
        """A slide of the cohort; each comes once."""
        patient = self.patient[str(slide_id)]
        own = self.slides.setdefault(patient, {})
        if read.patches:
            own[str(slide_id)] = _summarize_slide(read)
        self.awaited[patient] -= 1
        if not self.awaited[patient]:
            self._summarize(patient)

    def _summarize(self, patient: str) -> None:
        """Only the ten numbers of a patient whose slides are known stay in memory."""
        if slides := self.slides.pop(patient):
            self.patients[patient] = _summarize_patient([slides[name] for name in sorted(slides)])

    def of_patients(self) -> pd.DataFrame:
        """The summaries of the slides that have come: a row per patient, sorted, columns
        `FEATURE.SUMMARY`.

        In the features' units; NaN where a patient has no value, of summaries between patches fewer
        than two patches of 5 values, and where a feature is an axis and the summary one of
        `OF_PATCHES`.
        """
        for patient in list(self.slides):
            self._summarize(patient)
        patients = sorted(self.patients)
        rows = [self.patients[patient] for patient in patients]
        low, high = np.array([_range(name) for name in self.features]).T[:, None, :, None]
        is_sd = np.isin(SUMMARIES, ("sd_within", "sd_between"))
        values = np.stack(rows) * ((high - low) / FINE_BINS) + np.where(is_sd, 0.0, low)
        axial = np.array([FEATURES[name].axial for name in self.features])
        values[:, axial[:, None] & np.isin(SUMMARIES, OF_PATCHES)] = np.nan
        return pd.DataFrame(
            values.reshape(len(rows), -1),
            index=pd.Index(patients, name="patient"),
            columns=summary_columns(self.features),
        )


def summary_columns(features: Sequence[str]) -> list[str]:
    """The names of the summaries' columns, a feature's together."""
    return [f"{feature}.{summary}" for feature in features for summary in SUMMARIES]


def _range(feature: str) -> tuple[float, float]:
    entry = FEATURES[feature]
    return float(entry.low), float(entry.high)


def _summarize_slide(read: SlideSums) -> _SlideSummary:
    n = read.sums.n
    mean = read.sums.total / np.maximum(n, 1)
    variance = (read.sums.squares - n * mean**2).clip(0) / np.maximum(n - 1, 1)
    return _SlideSummary(read.pooled, n, mean, variance)


def _summarize_patient(slides: list[_SlideSummary]) -> NDArray[np.float64]:
    """(features, summaries), in fine bins."""
    present = np.stack([slide.pooled.any(axis=1) for slide in slides]).sum(axis=0)
    pooled = np.sum([slide.pooled for slide in slides], axis=0) / np.maximum(present, 1)[:, None]
    values = {"mean": pooled @ (np.arange(FINE_BINS) + 0.5)}
    values |= {name: _quantile(pooled, share) for name, share in QUANTILES.items()}
    n, mean, variance = (
        np.concatenate([getattr(slide, part) for slide in slides], axis=1)
        for part in ("n", "mean", "variance")
    )
    enough = [slide.n >= MIN_NUCLEI for slide in slides]
    weight = np.concatenate(
        [own / np.maximum(own.sum(axis=1), 1)[:, None] for own in enough], axis=1
    )
    weight /= np.maximum(weight.sum(axis=1), 1e-12)[:, None]
    values |= _between_patches(weight, n, mean, variance)
    table = np.stack([values[name] for name in SUMMARIES], axis=1)
    return np.where(present[:, None] > 0, table, np.nan)


def _between_patches(
    weight: NDArray[np.float64],
    n: NDArray[np.float64],
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> dict[str, NDArray[np.float64]]:
    """The summaries of patches, (features,) each, from those of weight above 0.

    Patch means scatter also because a patch has few nuclei. That share, the mean of variance / n,
    is subtracted from the variance between patches, and percentiles are drawn toward the mean by
    the ratio of the SD with and without it; so patches of few nuclei don't look more different.
    What is left may be negative, and then so is the SD, as a signed root: clipped at 0 it would
    have no order there.
    """
    used = weight > 0
    several = used.sum(axis=1) > 1
    within = (weight * variance).sum(axis=1)
    center = (weight * mean).sum(axis=1)
    deviation = np.where(used, mean - center[:, None], 0.0)
    # Of weights that sum to 1, as n - 1 of equal ones.
    freedom = np.where(several, 1 - (weight**2).sum(axis=1), 1.0)
    observed = (weight * deviation**2).sum(axis=1) / freedom
    chance = (weight * variance / np.maximum(n, 1)).sum(axis=1)
    between = observed - chance
    shrink = np.sqrt(
        np.divide(between.clip(0), observed, out=np.zeros_like(between), where=observed > 0)
    )
    tails = {
        name: center + shrink * _weighted_quantile(deviation, weight, share)
        for name, share in (("patches_low", TAIL), ("patches_high", 1 - TAIL))
    }
    signed = np.sign(between) * np.sqrt(np.abs(between))
    found = {"sd_between": signed} | tails
    single = np.where(used.any(axis=1), np.sqrt(within), np.nan)
    return {"sd_within": single} | {
        name: np.where(several, values, np.nan) for name, values in found.items()
    }


def _quantile(pooled: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Of (features, fine bins) that sum to 1, nuclei spread evenly inside a bin."""
    below = np.cumsum(pooled, axis=1)
    at = (below < share - 1e-9).sum(axis=1).clip(max=FINE_BINS - 1)
    rows = np.arange(len(pooled))
    own = pooled[rows, at]
    part = np.divide(share - (below[rows, at] - own), own, out=np.zeros_like(own), where=own > 0)
    return np.asarray(at + part.clip(0, 1))


def _weighted_quantile(
    values: NDArray[np.float64], weight: NDArray[np.float64], share: float
) -> NDArray[np.float64]:
    """Of each row, linear between the middles of the values' weights (Hazen's for equal ones)."""
    used = weight > 0
    order = np.argsort(np.where(used, values, np.inf), axis=1, kind="stable")
    x, w = np.take_along_axis(values, order, axis=1), np.take_along_axis(weight, order, axis=1)
    middle = np.cumsum(w, axis=1) - w / 2
    last = np.maximum(used.sum(axis=1) - 1, 0)
    high = np.minimum((middle < share).sum(axis=1), last)
    low = np.maximum(high - 1, 0)
    rows = np.arange(len(values))
    step = middle[rows, high] - middle[rows, low]
    part = np.divide(share - middle[rows, low], step, out=np.zeros_like(step), where=step > 0)
    part = part.clip(0, 1)
    return np.asarray((1 - part) * x[rows, low] + part * x[rows, high])

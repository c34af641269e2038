"""Areas under the curve of several comparisons taken together: of each class against the rest, or
of every two ordered groups.

Such an area is a sum of wins over pairs of cases, and how much it moves with a case's weight is the
case's share of the wins. Cases are drawn within class and fold, so its variance is the sum of those
shares' variances within class and fold (the infinitesimal jackknife; of two classes DeLong's).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from morphomil.stats.intervals import tail_share
from morphomil.stats.ordering import DELONG_AUC, DELONG_CASES, Ordering, Spread
from morphomil.stats.roc import AucInterval, binomial_auc_interval, logit_interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

ROUNDING = 1e-9
"""A standard error, or what a case moves, is none below this."""


@dataclass(frozen=True)
class CombinedAuc:
    """A mean of AUCs, and what each case moves."""

    auc: float
    influence: NDArray[np.float64]
    """(cases,): the derivative of the AUC by a case's weight, not centered."""
    block: NDArray[np.intp]
    """(cases,): class and fold, within which cases are drawn."""
    labels: NDArray[np.int64]  # (cases,)
    disjoint_pairs: int
    """So many pairs of the comparison that has fewest have no case in common."""
    folds: int
    """So many folds have pairs."""

    @property
    def factor(self) -> float:
        """How many times the variance of given scores is that of a cross-validated AUC whose
        training isn't known (`roc.training_factor`)."""
        return 1.0 if self.folds < 2 else 2.0

    @property
    def needs_logit(self) -> bool:
        """Whether the plain interval would hold too rarely (as `Ordering.needs_logit`)."""
        few = int(np.bincount(self.labels).min()) < DELONG_CASES
        return few or not 1 - DELONG_AUC <= self.auc <= DELONG_AUC

    def spread(self, influence: NDArray[np.float64] | None = None) -> Spread:
        """Variance with Satterthwaite's degrees of freedom, each class having its own variance;
        `influence` may be a difference of two."""
        moved = self.influence if influence is None else influence
        size = np.bincount(self.block)
        mean = np.bincount(self.block, moved) / np.maximum(size, 1)
        centered = moved - mean[self.block]
        variance = parts = 0.0
        for label in np.unique(self.labels):
            own = self.labels == label
            freedom = int(own.sum()) - len(np.unique(self.block[own]))
            if freedom > 0:
                part = float((centered[own] ** 2).sum() * own.sum() / freedom)
                variance, parts = variance + part, parts + part**2 / freedom
        return Spread(variance, variance**2 / parts if parts else math.inf)

    def interval(self, *, level: float, on_logit: bool, factor: float = 1.0) -> AucInterval:
        """As `roc.normal_interval`."""
        spread = self.spread()
        if spread.variance < ROUNDING**2:
            pairs = max(1.0, self.disjoint_pairs / factor)
            return AucInterval(self.auc, *binomial_auc_interval(self.auc, pairs, level=level))
        widened = Spread(factor * spread.variance, spread.degrees)
        if on_logit:
            return logit_interval(self.auc, widened, pairs=self.disjoint_pairs, level=level)
        reach = -float(ndtri(tail_share(level))) * math.sqrt(widened.variance)
        return AucInterval(self.auc, max(0.0, self.auc - reach), min(1.0, self.auc + reach))


class AucDifference(NamedTuple):
    """The difference of two AUCs of the same cases."""

    difference: float
    low: float
    high: float


def one_against_rest(
    labels: ArrayLike, probabilities: ArrayLike, folds: ArrayLike | None = None
) -> CombinedAuc:
    """The mean over classes of the AUC of a class against all others (macro), pairs within folds
    (`roc.within_fold_auc`); a class without a pair is left out.

    Raises:
        ValueError: shapes differ, or no fold has two classes.
    """
    truth = np.asarray(labels, dtype=np.int64)
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 2 or truth.shape != values.shape[:1]:
        raise ValueError(
            f"probabilities must be (n, classes) for n labels, got {values.shape} and {truth.shape}"
        )
    areas, moved, disjoint = [], np.zeros(len(truth)), []
    fold = _codes(folds, n=len(truth))
    for label in range(values.shape[1]):
        if not _has_pairs(truth == label, fold):
            continue
        ordering = Ordering.of(truth == label, values[:, label], fold)
        areas.append(ordering.auc)
        moved += ordering.wins / ordering.pairs.sum()
        disjoint.append(ordering.disjoint_pairs)
    if not areas:
        raise ValueError("AUC needs two classes within a fold, got none such")
    return CombinedAuc(
        float(np.mean(areas)),
        moved / len(areas),
        _blocks(truth, fold),
        truth,
        min(disjoint),
        len({number for number in np.unique(fold) if len(np.unique(truth[fold == number])) > 1}),
    )


def ordered_pairs(
    labels: ArrayLike, values: ArrayLike, strata: ArrayLike | None = None
) -> CombinedAuc:
    """The share of pairs within a stratum, of cases of two groups, in which the case of the higher
    group has the higher value, ties half: Jonckheere-Terpstra's statistic over its pairs.

    Somers's D of values given groups is twice this less 1. Values must not be missing.

    Raises:
        ValueError: no stratum has two groups.
    """
    truth, x = np.asarray(labels, dtype=np.int64), np.asarray(values, dtype=np.float64)
    stratum = _codes(strata, n=len(truth))
    wins, pairs, disjoint = np.zeros(len(truth)), 0.0, []
    names = np.unique(truth)
    for place, low in enumerate(names):
        for high in names[place + 1 :]:
            some = np.flatnonzero((truth == low) | (truth == high))
            if not _has_pairs(truth[some] == high, stratum[some]):
                continue
            ordering = Ordering.of(truth[some] == high, x[some], stratum[some])
            wins[some] += ordering.wins
            pairs += float(ordering.pairs.sum())
            disjoint.append(ordering.disjoint_pairs)
    if not pairs:
        raise ValueError("a trend needs two groups within a stratum, got none such")
    return CombinedAuc(
        float(wins.sum() / 2 / pairs),
        wins / pairs,
        _blocks(truth, stratum),
        truth,
        min(disjoint),
        len(np.unique(stratum)),
    )


def macro_auc(labels: ArrayLike, probabilities: ArrayLike, folds: ArrayLike | None = None) -> float:
    """See `one_against_rest`."""
    return one_against_rest(labels, probabilities, folds).auc


def macro_auc_interval(
    labels: ArrayLike,
    probabilities: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> AucInterval:
    """`macro_auc` of out-of-fold probabilities (n, classes) with its interval, by the rules of
    `roc.within_fold_auc_interval`: of models trained in this way, whose training isn't known."""
    area = one_against_rest(labels, probabilities, folds)
    return area.interval(level=level, on_logit=area.needs_logit, factor=area.factor)


def macro_auc_difference(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> AucDifference:
    """First minus second of two `macro_auc` of the same cases, with its normal interval; variances
    as `macro_auc_interval`. Without variance the limits are missing, unless nothing differs."""
    a, b = (one_against_rest(labels, values, folds) for values in (first, second))
    difference = a.auc - b.auc
    moved = a.influence - b.influence
    variance = a.factor * a.spread(moved).variance
    if np.abs(moved).max() < ROUNDING:
        return AucDifference(difference, 0.0, 0.0)
    if variance < ROUNDING**2:
        return AucDifference(difference, math.nan, math.nan)
    reach = -float(ndtri(tail_share(level))) * math.sqrt(variance)
    return AucDifference(difference, max(-1.0, difference - reach), min(1.0, difference + reach))


def _codes(names: ArrayLike | None, *, n: int) -> NDArray[np.intp]:
    if names is None:
        return np.zeros(n, np.intp)
    return np.asarray(np.unique(np.asarray(names).astype(str), return_inverse=True)[1])


def _has_pairs(mark: NDArray[np.bool_], fold: NDArray[np.intp]) -> bool:
    return bool((np.bincount(fold, mark) * np.bincount(fold, ~mark)).any())


def _blocks(labels: NDArray[np.int64], fold: NDArray[np.intp]) -> NDArray[Any]:
    return np.asarray(np.unique(np.stack([labels, fold]), axis=1, return_inverse=True)[1]).ravel()

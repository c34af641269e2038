"""Areas under the curve of several comparisons taken together: of each class against the rest, of
every two classes, or of every two ordered groups.

Such an area is a sum of wins over pairs of cases, and how much it moves with a case's weight is the
case's share of the wins. Cases are drawn within class and fold, so its variance is the sum of those
shares' variances within class and fold (the infinitesimal jackknife; of two classes DeLong's).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from morphomil.stats.delong import DelongResult
from morphomil.stats.intervals import tail_share
from morphomil.stats.ordering import DELONG_AUC, DELONG_CASES, Ordering, Spread
from morphomil.stats.roc import AucInterval, binomial_auc_interval, logit_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    @property
    def centered(self) -> NDArray[np.float64]:
        """The influence less its mean within class and fold."""
        mean = np.bincount(self.block, self.influence) / np.maximum(np.bincount(self.block), 1)
        return np.asarray(self.influence - mean[self.block])

    def spread(self, less: CombinedAuc | None = None) -> Spread:
        """Variance with Satterthwaite's degrees of freedom, each class having its own variance; of
        the difference from another area of the same cases, whose folds may be others."""
        moved = self.centered if less is None else self.centered - less.centered
        blocks = [self.block] if less is None else [self.block, less.block]
        variance = parts = 0.0
        for label in np.unique(self.labels):
            own = self.labels == label
            freedom = int(own.sum()) - max(len(np.unique(block[own])) for block in blocks)
            if freedom > 0:
                part = float((moved[own] ** 2).sum() * own.sum() / freedom)
                variance, parts = variance + part, parts + part**2 / freedom
        return Spread(variance, variance**2 / parts if parts else math.inf)

    def own_interval(self, *, level: float = 0.95) -> AucInterval:
        """By the rules of `roc.within_fold_auc_interval`: of models trained in this way, whose
        training isn't known."""
        return self.interval(level=level, on_logit=self.needs_logit, factor=self.factor)

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
    truth, values = _checked(labels, probabilities)
    everyone = np.arange(len(truth))
    parts = [(everyone, truth == label, values[:, label]) for label in range(values.shape[1])]
    return _mean_of_parts(truth, folds, parts)


def one_against_one(
    labels: ArrayLike, probabilities: ArrayLike, folds: ArrayLike | None = None
) -> CombinedAuc:
    """The mean over pairs of classes, each seen by both classes' probabilities (Hand & Till 2001),
    pairs of cases within folds; two classes that no fold has both of are left out.

    Raises:
        ValueError: as `one_against_rest`.
    """
    truth, values = _checked(labels, probabilities)
    parts: list[_Part] = []
    for pair in combinations(range(values.shape[1]), 2):
        cases = np.flatnonzero(np.isin(truth, pair))
        parts += [(cases, truth[cases] == label, values[cases, label]) for label in pair]
    return _mean_of_parts(truth, folds, parts)


_Part = tuple["NDArray[np.intp]", "NDArray[np.bool_]", "NDArray[np.float64]"]
"""Which cases, who is positive among them, their scores."""


def _checked(
    labels: ArrayLike, probabilities: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    truth = np.asarray(labels, dtype=np.int64)
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 2 or truth.shape != values.shape[:1]:
        raise ValueError(
            f"probabilities must be (n, classes) for n labels, got {values.shape} and {truth.shape}"
        )
    return truth, values


def _mean_of_parts(
    truth: NDArray[np.int64], folds: ArrayLike | None, parts: Sequence[_Part]
) -> CombinedAuc:
    areas, moved, disjoint = [], np.zeros(len(truth)), []
    fold = _codes(folds, n=len(truth))
    for cases, positive, scores in parts:
        if not _has_pairs(positive, fold[cases]):
            continue
        ordering = Ordering.of(positive, scores, fold[cases])
        areas.append(ordering.auc)
        moved[cases] += ordering.wins / ordering.pairs.sum()
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
    group has the higher value, ties half: Jonckheere-Terpstra's statistic over its pairs. A pair
    counts 1 / (n + 1), n being the cases of its stratum, as in van Elteren's test.

    Somers's D of values given groups is twice this less 1. Values must not be missing.

    Raises:
        ValueError: no stratum has two groups.
    """
    truth, x = np.asarray(labels, dtype=np.int64), np.asarray(values, dtype=np.float64)
    stratum = _codes(strata, n=len(truth))
    size = np.bincount(stratum)
    weight = (size.min() + 1) / (size + 1)
    wins, pairs, disjoint = np.zeros(len(truth)), 0.0, []
    names = np.unique(truth)
    for place, low in enumerate(names):
        for high in names[place + 1 :]:
            some = np.flatnonzero((truth == low) | (truth == high))
            if not _has_pairs(truth[some] == high, stratum[some]):
                continue
            ordering = Ordering.of(truth[some] == high, x[some], stratum[some])
            wins[some] += weight[stratum[some]] * ordering.wins
            of_strata = [
                np.bincount(stratum[truth == one], minlength=len(weight)) for one in (low, high)
            ]
            pairs += float(weight @ (of_strata[0] * of_strata[1]))
            disjoint.append(ordering.disjoint_pairs)
    if not pairs:
        raise ValueError("a trend needs two groups within a stratum, got none such")
    return CombinedAuc(
        min(1.0, float(wins.sum() / 2 / pairs)),
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
    """`macro_auc` of out-of-fold probabilities (n, classes) with `CombinedAuc.own_interval`."""
    return one_against_rest(labels, probabilities, folds).own_interval(level=level)


def compare_combined(a: CombinedAuc, b: CombinedAuc, *, level: float = 0.95) -> DelongResult:
    """a minus b, of the same cases, with the normal interval and test of their influences, as
    `delong.delong_test`; variances as `CombinedAuc.own_interval`.

    Areas that every case moves alike have the interval (0, 0) and p 1; without variance limits, z
    and p are else missing.
    """
    difference, factor = a.auc - b.auc, max(a.factor, b.factor)
    if np.abs(a.influence - b.influence).max() < ROUNDING:
        return DelongResult(a.auc, b.auc, 0.0, (0.0, 0.0), 0.0, 1.0)
    error = math.sqrt(factor * a.spread(b).variance)
    if error < ROUNDING:
        return DelongResult(a.auc, b.auc, difference, (math.nan, math.nan), math.nan, math.nan)
    reach, z = -float(ndtri(tail_share(level))) * error, difference / error
    limits = max(-1.0, difference - reach), min(1.0, difference + reach)
    return DelongResult(a.auc, b.auc, difference, limits, z, 2 * float(ndtr(-abs(z))))


def macro_auc_difference(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> AucDifference:
    """First minus second of two `macro_auc` of the same cases, by `compare_combined`."""
    a, b = (one_against_rest(labels, values, folds) for values in (first, second))
    test = compare_combined(a, b, level=level)
    return AucDifference(test.difference, *test.interval)


def _codes(names: ArrayLike | None, *, n: int) -> NDArray[np.intp]:
    if names is None:
        return np.zeros(n, np.intp)
    return np.asarray(np.unique(np.asarray(names).astype(str), return_inverse=True)[1])


def _has_pairs(mark: NDArray[np.bool_], fold: NDArray[np.intp]) -> bool:
    return bool((np.bincount(fold, mark) * np.bincount(fold, ~mark)).any())


def _blocks(labels: NDArray[np.int64], fold: NDArray[np.intp]) -> NDArray[Any]:
    return np.asarray(np.unique(np.stack([labels, fold]), axis=1, return_inverse=True)[1]).ravel()

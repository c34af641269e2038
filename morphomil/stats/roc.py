"""ROC analysis: AUC with intervals, DeLong's tests, within-fold AUC of cross-validation, curve and
cutoff.

Labels are boolean or 0/1 (1: positive), one row per patient; a higher score speaks for the positive
class; a score tied between a positive and a negative counts half. Everything costs one sort: O(n
log n) time, O(n) memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import betaincinv, expit, logit, ndtr, ndtri, stdtr, stdtrit

from morphomil.stats.resampling import Vectorized, drawn_counts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

AucMethod = Literal["auto", "delong", "logit-delong", "binomial", "bootstrap"]

DELONG_CASES = 50
"""Cases per class from which the plain DeLong interval is used; below, DeLong's variance on the
logit scale."""
DELONG_AUC = 0.9
"""Up to this AUC, and down to 1 minus it. Beyond, the plain interval holds 90 to 93 % at 50 to 150
cases per class."""


class AucInterval(NamedTuple):
    """An AUC and its confidence limits."""

    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class DelongResult:
    """Two AUCs compared: `difference` is a minus b, `interval` its confidence limits, `p_value`
    two-sided."""

    auc_a: float
    auc_b: float
    difference: float
    interval: tuple[float, float]
    z: float
    p_value: float


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the share of positive-negative pairs that the scores order rightly,
    ties half.

    Raises:
        ValueError: one class only, a missing score, labels other than 0/1, or lengths that differ.
    """
    return _Ordering.of(labels, scores).auc


def within_fold_auc(labels: ArrayLike, scores: ArrayLike, folds: ArrayLike) -> float:
    """Cross-validated AUC: of all positive-negative pairs *within* a fold, the share ordered
    rightly, ties half.

    Scores of different folds come from different models and are never compared. This is the mean of
    the folds' AUCs weighted by their numbers of pairs, so a fold with few cases of a class has
    little say and a fold with one class none; in stratified folds of equal size it is the plain
    mean (as in LeDell 2015).

    Raises:
        ValueError: as `auc`, or no fold has both classes.
    """
    return _Ordering.of(labels, scores, folds).auc


def resampled_auc(
    labels: ArrayLike, scores: ArrayLike, folds: ArrayLike | None = None
) -> Vectorized:
    """The AUC (`within_fold_auc` with `folds`) for `bootstrap_by_patient(..., vectorized=True)`.

    Returns:
        A function of how often each case is drawn, (draws, cases), giving (draws,); NaN where a
        class is missing.

    Raises:
        ValueError: as `auc`.
    """
    return _Ordering.of(labels, scores, folds).resampled


def auc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    method: AucMethod = "auto",
    level: float = 0.95,
    seed: int | None = None,
    resamples: int = 2000,
) -> AucInterval:
    """AUC with a confidence interval.

    `delong`: normal, DeLong's variance (DeLong et al. 1988, by midranks as Sun & Xu 2014).
    `logit-delong`: the same variance on the logit scale (Pepe 2003), better in small samples and
    near 1. `auto`: `delong` from 50 cases per class on, `logit-delong` below, and where the AUC is
    above 0.9 or below 0.1 (docs: coverage). `bootstrap`: percentiles, resampled within each class;
    needs `seed`. `binomial`: see `binomial_auc_interval`, n being all cases.

    Where the data show no variance (AUC 0 or 1, all scores tied, a class of one case), every method
    but `binomial` gives the exact binomial interval with n = the cases of the smaller class: so
    many disjoint, hence independent, positive-negative pairs there are. At an AUC of 1 its lower
    limit is (alpha / 2) ** (1 / n).
    """
    ordering = _Ordering.of(labels, scores)
    if method == "binomial":
        return AucInterval(
            ordering.auc, *binomial_auc_interval(ordering.auc, len(ordering.labels), level=level)
        )
    if method == "bootstrap":
        return _bootstrap_interval(ordering, level=level, seed=seed, resamples=resamples)
    if method not in ("auto", "delong", "logit-delong"):
        raise ValueError(
            f"method must be auto, delong, logit-delong, binomial or bootstrap, got {method!r}"
        )
    on_logit = method == "logit-delong" or (method == "auto" and ordering.needs_logit)
    return _normal_interval(ordering, level=level, on_logit=on_logit)


def within_fold_auc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    folds: ArrayLike,
    *,
    method: Literal["influence", "bootstrap"] = "influence",
    level: float = 0.95,
    seed: int | None = None,
    resamples: int = 2000,
) -> AucInterval:
    """`within_fold_auc` with a confidence interval; rows are patients.

    `influence`: from the variance of the influence curve (LeDell et al. 2015, doi
    10.1214/15-EJS1035), here divided by cases minus folds in each class, and on the logit scale
    where `auc_interval` takes it; with one fold it is that. `bootstrap`: percentiles, patients
    resampled within each fold and class; needs `seed`; narrower than it should be where folds hold
    few cases of a class. Without variance the rule of `auc_interval` holds, the smaller classes'
    cases added up over folds.

    Both take the fitted models as given. As the models share training patients, coverage of a 95 %
    interval falls where they overfit: in simulation 0.94 to 0.98 for fixed scores with fold
    offsets, 0.89 for linear discriminants of ten features on 140 patients in five folds, 0.83 when
    all ten were noise. A claim against chance needs permutations.
    """
    ordering = _Ordering.of(labels, scores, folds)
    if method == "bootstrap":
        return _bootstrap_interval(ordering, level=level, seed=seed, resamples=resamples)
    if method != "influence":
        raise ValueError(f"method must be influence or bootstrap, got {method!r}")
    return _normal_interval(ordering, level=level, on_logit=ordering.needs_logit)


def binomial_auc_interval(auc: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) limits of an AUC taken as a binomial proportion of n, as MedCalc's
    tables give.

    The number of successes auc * n needn't be whole: the limits are beta quantiles. It treats cases
    as if they were independent pairs, so its coverage is poor; use it to reproduce published
    tables.
    """
    if not (0 <= auc <= 1 and n >= 1):
        raise ValueError(f"AUC must be in [0, 1] and n at least 1, got {auc} and {n}")
    tail = _tail(level)
    k = auc * n
    low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high


def delong_test(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    *,
    folds: ArrayLike | None = None,
    level: float = 0.95,
) -> DelongResult:
    """DeLong's test of two AUCs on the same cases (DeLong et al. 1988, by midranks as Sun & Xu
    2014).

    It belongs to a fixed test set. With `folds` it compares within-fold AUCs (`within_fold_auc`) of
    out-of-fold scores, by the same influence curve as their interval: approximate, since models
    share training cases.

    Convention where the difference has no variance (both AUCs 1, a perfect score against a constant
    one, ...): z 0 and p 1 if the AUCs are equal, else both NaN, as DeLong's theory then says
    nothing. The interval is then (0, 0) for scores that rank the cases alike, else Zou and Donner's
    (2008) combination of the single intervals, which without their correlation is conservative.

    Raises:
        ValueError: as `auc`, or a class of one case.
    """
    a, b = _Ordering.of(labels, scores_a, folds), _Ordering.of(labels, scores_b, folds)
    _need_two_cases(a)
    if a.ranks_like(b):
        return DelongResult(a.auc, b.auc, 0.0, (0.0, 0.0), 0.0, 1.0)
    return _compare(a, b, variance=a.variance_of(a.wins - b.wins), level=level)


def delong_test_unpaired(
    labels_a: ArrayLike,
    scores_a: ArrayLike,
    labels_b: ArrayLike,
    scores_b: ArrayLike,
    *,
    folds_a: ArrayLike | None = None,
    folds_b: ArrayLike | None = None,
    level: float = 0.95,
) -> DelongResult:
    """DeLong's test of the AUCs of two independent groups of cases, such as two subgroups.

    `z` is the difference over its standard error. As in R's pROC it refers to Student's t
    distribution with Welch and Satterthwaite's degrees of freedom, each group having cases - 1;
    MedCalc takes the normal distribution, whose p is smaller in small groups. Without variance in
    either group: the convention of `delong_test`, the interval always being Zou and Donner's. With
    folds it compares within-fold AUCs of out-of-fold scores: approximate.

    Raises:
        ValueError: as `auc`, or a class of one case.
    """
    a, b = _Ordering.of(labels_a, scores_a, folds_a), _Ordering.of(labels_b, scores_b, folds_b)
    _need_two_cases(a)
    _need_two_cases(b)
    first, second = a.variance_of(a.wins), b.variance_of(b.wins)
    parts = first**2 / (len(a.labels) - 1) + second**2 / (len(b.labels) - 1)
    freedom = (first + second) ** 2 / parts if parts > 0 else math.inf
    return _compare(a, b, variance=first + second, level=level, freedom=freedom)


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> pd.DataFrame:
    """The ROC curve: `cutoff`, `sensitivity`, `specificity` of calling `score >= cutoff` positive.

    One row per distinct score, from the highest down, after a first row with cutoff infinity
    (nobody positive).
    """
    ordering = _Ordering.of(labels, scores)
    cutoffs, true_positives, false_positives = ordering.called_positive()
    return pd.DataFrame(
        {
            "cutoff": np.r_[np.inf, cutoffs],
            "sensitivity": np.r_[0, true_positives] / true_positives[-1],
            "specificity": 1 - np.r_[0, false_positives] / false_positives[-1],
        }
    )


def youden_cutoff(labels: ArrayLike, scores: ArrayLike) -> float:
    """The observed score with the largest sensitivity + specificity - 1 when `score >= cutoff` is
    called positive.

    Of cutoffs that tie (compared in whole numbers) the lowest, hence most sensitive, is taken; so
    scores without any use get a cutoff that calls everybody positive.
    """
    cutoffs, true_positives, false_positives = _Ordering.of(labels, scores).called_positive()
    youden = true_positives * false_positives[-1] - false_positives * true_positives[-1]
    return float(cutoffs[np.flatnonzero(youden == youden.max())[-1]])


@dataclass(frozen=True)
class _Ordering:
    """Cases sorted by score within folds; a plain sample is one fold.

    `tie` numbers each case's block of equal scores, ascending within folds; `tie_fold` is the fold
    of a block.
    """

    labels: NDArray[np.bool_]  # (cases,)
    scores: NDArray[np.float64]  # (cases,)
    fold: NDArray[np.intp]  # (cases,)
    tie: NDArray[np.intp]  # (cases,)
    tie_fold: NDArray[np.intp]  # (blocks,)

    @classmethod
    def of(cls, labels: ArrayLike, scores: ArrayLike, folds: ArrayLike | None = None) -> _Ordering:
        positive, values = _checked(labels, scores)
        fold = (
            np.zeros(len(values), np.intp) if folds is None else _fold_codes(folds, n=len(values))
        )
        order = np.argsort(values) if folds is None else np.lexsort((values, fold))
        v, f = values[order], fold[order]
        first = np.r_[True, (v[1:] != v[:-1]) | (f[1:] != f[:-1])]
        tie = np.empty(len(values), np.intp)
        tie[order] = np.cumsum(first) - 1
        ordering = cls(positive, values, fold, tie, f[first])
        if not ordering.pairs.any():
            raise ValueError(
                f"AUC needs both classes within a fold, got none such in {fold.max() + 1} folds"
            )
        return ordering

    @cached_property
    def positives(self) -> NDArray[np.float64]:
        """Per fold."""
        return _sums(self.fold, self.labels)

    @cached_property
    def negatives(self) -> NDArray[np.float64]:
        """Per fold."""
        return _sums(self.fold, ~self.labels)

    @cached_property
    def pairs(self) -> NDArray[np.float64]:
        """Per fold."""
        return self.positives * self.negatives

    @property
    def smaller_class(self) -> int:
        """Cases of the rarer class, in folds that have both."""
        both = self.pairs > 0
        return int(min(self.positives[both].sum(), self.negatives[both].sum()))

    @property
    def needs_logit(self) -> bool:
        """Whether the plain interval would hold too rarely."""
        return self.smaller_class < DELONG_CASES or not 1 - DELONG_AUC <= self.auc <= DELONG_AUC

    @cached_property
    def auc(self) -> float:
        positive, negative = self._block_counts
        return float(positive @ self._below(negative) / self.pairs.sum())

    def resampled(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """AUC of each draw (draws,), which holds each case `counts` (draws, cases) times; NaN
        without pairs."""
        order, starts = self._blocks
        cases, positive = counts[:, order], self.labels[order]
        above, below = (
            np.add.reduceat(cases * own, starts, axis=1, dtype=float)
            for own in (positive, ~positive)
        )
        fold_starts = np.flatnonzero(np.r_[True, self.tie_fold[1:] != self.tie_fold[:-1]])
        positives, negatives = (
            np.add.reduceat(blocks, fold_starts, axis=1) for blocks in (above, below)
        )
        before = (np.cumsum(negatives, axis=1) - negatives)[:, self.tie_fold]
        wins = (above * (np.cumsum(below, axis=1) - below / 2 - before)).sum(axis=1)
        pairs = (positives * negatives).sum(axis=1)
        area: NDArray[np.float64] = np.divide(
            wins, pairs, out=np.full(len(counts), np.nan), where=pairs > 0
        )
        return area

    @cached_property
    def _blocks(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Cases in the order of their blocks, and where each block starts."""
        size = np.bincount(self.tie)
        return np.argsort(self.tie, kind="stable"), np.cumsum(size) - size

    @cached_property
    def _block_counts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positives and negatives per block."""
        blocks = len(self.tie_fold)
        return _sums(self.tie, self.labels, blocks), _sums(self.tie, ~self.labels, blocks)

    def _below(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many of `counts` (per block) lie below each block in its fold, its own counting
        half."""
        in_fold = _sums(self.tie_fold, counts)
        before = np.cumsum(in_fold) - in_fold
        return np.cumsum(counts) - counts / 2 - before[self.tie_fold]

    @cached_property
    def wins(self) -> NDArray[np.float64]:
        """For each case, how many cases of the other class in its fold it is ordered rightly
        against, ties half."""
        positive, negative = self._block_counts
        above = self.positives[self.tie_fold] - self._below(positive)
        return np.where(self.labels, self._below(negative)[self.tie], above[self.tie])

    def variance_of(self, wins: NDArray[np.float64]) -> float:
        """DeLong's variance of the AUC, or of an AUC difference, whose `wins` these are; 0 if a
        class can't show any.

        Each fold's placements (wins / cases of the other class) vary about the fold's own mean; the
        two classes' variances are pooled over folds. Sums of half numbers are exact, so a true zero
        is zero.
        """
        positives, negatives = self.positives, self.negatives
        both = self.pairs > 0
        weight = self.pairs / self.pairs.sum()
        variance = 0.0
        for members, own, other in (
            (self.labels, positives, negatives),
            (~self.labels, negatives, positives),
        ):
            kept = members & both[self.fold]
            fold = self.fold[kept]
            mean = _sums(fold, wins[kept], len(own)) / np.maximum(own, 1)
            placement = (wins[kept] - mean[fold]) / other[fold]
            freedom = len(fold) - both.sum()
            if freedom == 0:
                return 0.0
            variance += placement @ placement / freedom * (weight[both] ** 2 / own[both]).sum()
        return float(variance)

    def ranks_like(self, other: _Ordering) -> bool:
        return np.array_equal(self.tie, other.tie)

    def called_positive(
        self,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Distinct scores from the highest down, with the positives and negatives at or above
        each."""
        positive, negative = self._block_counts
        cutoffs = np.empty(len(positive))
        cutoffs[self.tie] = self.scores
        return cutoffs[::-1], np.cumsum(positive[::-1]), np.cumsum(negative[::-1])


def _sums(index: NDArray[np.intp], values: NDArray[Any], length: int = 0) -> NDArray[np.float64]:
    """Sum of `values` per index; exact for whole and half numbers."""
    return np.bincount(index, weights=values, minlength=length).astype(np.float64, copy=False)


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    marks, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if marks.ndim != 1 or marks.shape != values.shape:
        raise ValueError(
            "labels and scores must be vectors of one length, got shapes "
            f"{marks.shape}, {values.shape}"
        )
    if np.isnan(values).any():
        raise ValueError(
            f"scores must not be missing, got {np.isnan(values).sum()} NaN of {len(values)}"
        )
    if pd.isna(marks).any() or not ((marks == 0) | (marks == 1)).all():
        raise ValueError(f"labels must be booleans or 0/1, got {pd.unique(marks)[:5].tolist()}")
    positive = (marks == 1).astype(np.bool_)
    if positive.all() or not positive.any():
        raise ValueError(
            f"AUC needs both classes, got {positive.sum()} positive and {(~positive).sum()} "
            "negative cases"
        )
    return positive, values


def _fold_codes(folds: ArrayLike, *, n: int) -> NDArray[np.intp]:
    names = np.asarray(folds)
    if names.shape != (n,):
        raise ValueError(
            f"folds must be a vector as long as the {n} scores, got shape {names.shape}"
        )
    codes, _ = pd.factorize(names)
    if (codes < 0).any():
        raise ValueError(f"folds must not be missing, got {(codes < 0).sum()} missing of {n}")
    return codes.astype(np.intp)


def _tail(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    return (1 - level) / 2


def _need_two_cases(ordering: _Ordering) -> None:
    if ordering.smaller_class < 2:
        raise ValueError("DeLong's test needs two cases of each class, got one")


def _no_variance_interval(ordering: _Ordering, *, level: float) -> AucInterval:
    """Exact binomial limits, n = disjoint positive-negative pairs (see `auc_interval`)."""
    pairs = int(np.minimum(ordering.positives, ordering.negatives).sum())
    return AucInterval(ordering.auc, *binomial_auc_interval(ordering.auc, pairs, level=level))


def _normal_interval(ordering: _Ordering, *, level: float, on_logit: bool) -> AucInterval:
    area, error = ordering.auc, math.sqrt(ordering.variance_of(ordering.wins))
    reach = -ndtri(_tail(level)) * error
    if reach == 0:
        return _no_variance_interval(ordering, level=level)
    if on_logit:
        center, reach = logit(area), reach / (area * (1 - area))
        return AucInterval(area, float(expit(center - reach)), float(expit(center + reach)))
    return AucInterval(area, max(0.0, float(area - reach)), min(1.0, float(area + reach)))


def _bootstrap_interval(
    ordering: _Ordering, *, level: float, seed: int | None, resamples: int
) -> AucInterval:
    if seed is None:
        raise ValueError("the bootstrap needs a seed, got None")
    tail, rng = _tail(level), np.random.default_rng(seed)
    if ordering.variance_of(ordering.wins) == 0:
        return _no_variance_interval(ordering, level=level)
    stratum = ordering.fold * 2 + ordering.labels
    areas = [
        ordering.resampled(counts) for counts in drawn_counts(stratum, rng, resamples=resamples)
    ]
    low, high = np.quantile(np.concatenate(areas), (tail, 1 - tail))
    return AucInterval(ordering.auc, float(low), float(high))


def _compare(
    a: _Ordering, b: _Ordering, *, variance: float, level: float, freedom: float = math.inf
) -> DelongResult:
    """`freedom`: degrees of a t distribution; infinite ones are the normal distribution."""
    difference = a.auc - b.auc
    if variance > 0:
        z = difference / math.sqrt(variance)
        reach = -_t_quantile(freedom, _tail(level)) * math.sqrt(variance)
        low, high = float(difference - reach), float(difference + reach)
    else:
        z = 0.0 if difference == 0 else math.nan
        first, second = (_normal_interval(o, level=level, on_logit=True) for o in (a, b))
        low = difference - math.hypot(first.auc - first.low, second.high - second.auc)
        high = difference + math.hypot(first.high - first.auc, second.auc - second.low)
    below = ndtr(-abs(z)) if math.isinf(freedom) else stdtr(freedom, -abs(z))
    return DelongResult(
        a.auc, b.auc, difference, (max(-1.0, low), min(1.0, high)), z, float(2 * below)
    )


def _t_quantile(freedom: float, share: float) -> float:
    return float(ndtri(share) if math.isinf(freedom) else stdtrit(freedom, share))

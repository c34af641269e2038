"""DeLong's tests: are two AUCs alike, of the same cases or of independent ones?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from morphomil.stats.intervals import tail_share
from morphomil.stats.ordering import Ordering
from morphomil.stats.roc import normal_interval, training_factor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


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


def delong_test(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    *,
    folds: ArrayLike | None = None,
    folds_b: ArrayLike | None = None,
    training_aucs: tuple[float | None, float | None] = (None, None),
    level: float = 0.95,
) -> DelongResult:
    """DeLong's test of two AUCs on the same cases (DeLong et al. 1988, by midranks as Sun & Xu
    2014).

    It belongs to a fixed test set. With `folds` it compares within-fold AUCs (`within_fold_auc`) of
    out-of-fold scores, each model in its own folds (`folds_b`, if they aren't the same), by the
    influence curve, with the variance times the larger one of the models' factors
    (`training_factor`): it tests that models trained so have one expected AUC, and holds its level
    where DeLong's plain test rejects 8 to 19 % at 5 % (docs: level). `training_aucs`: as in
    `within_fold_auc_interval`.

    Where an AUC lies above 0.9 or below 0.1 the interval is Zou and Donner's (2008) combination of
    the single intervals (`auc_interval`, `logit-delong`) with their correlation by DeLong: the
    plain one, which is pROC's, holds 83 to 92 % there (docs: coverage). z and p are DeLong's
    everywhere, so that near 1 an interval may hold 0 where p is below 1 - level.

    Convention where the difference has no variance (both AUCs 1, a perfect score against a constant
    one, ...): z 0 and p 1 if the AUCs are equal, else both NaN, as DeLong's theory then says
    nothing. The interval is then (0, 0) for scores that rank the cases alike, else the combination
    without correlation, which is conservative.

    Raises:
        ValueError: as `auc`, or a class of one case.
    """
    a = Ordering.of(labels, scores_a, folds)
    b = Ordering.of(labels, scores_b, folds if folds_b is None else folds_b)
    _need_two_cases(a)
    if a.ranks_like(b):
        return DelongResult(a.auc, b.auc, 0.0, (0.0, 0.0), 0.0, 1.0)
    first, second = a.variance_of(a.wins), b.variance_of(b.wins)
    variance = _variance_of_difference(a, b)
    scale = 2 * math.sqrt(first * second)
    common = (first + second - variance) / scale if scale > 0 and variance > 0 else 0.0
    factor = max(
        training_factor(own, area) for own, area in zip((a, b), training_aucs, strict=True)
    )
    return _compare(
        a,
        b,
        variance=factor * variance,
        level=level,
        correlation=max(-1.0, min(1.0, common)),
        factor=factor,
    )


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
    MedCalc takes the normal distribution, whose p is smaller in small groups. The interval near 1,
    and without variance in either group, is that of `delong_test` without correlation. With
    folds it compares within-fold AUCs of out-of-fold scores: approximate.

    Raises:
        ValueError: as `auc`, or a class of one case.
    """
    a, b = Ordering.of(labels_a, scores_a, folds_a), Ordering.of(labels_b, scores_b, folds_b)
    _need_two_cases(a)
    _need_two_cases(b)
    first, second = a.variance_of(a.wins), b.variance_of(b.wins)
    parts = first**2 / (len(a.labels) - 1) + second**2 / (len(b.labels) - 1)
    freedom = (first + second) ** 2 / parts if parts > 0 else math.inf
    return _compare(a, b, variance=first + second, level=level, freedom=freedom)


def _variance_of_difference(a: Ordering, b: Ordering) -> float:
    """Of two AUCs of the same cases; of other folds by the sum of squared differences of
    influence, over cases minus folds."""
    if np.array_equal(a.fold, b.fold):
        return a.variance_of(a.wins - b.wins)
    variance = 0.0
    for members in (a.labels, ~a.labels):
        moved = a.influence(members) - b.influence(members)
        freedom = len(moved) - max(len(a.pairs), len(b.pairs))
        if freedom <= 0:
            return 0.0
        variance += float(moved @ moved) * len(moved) / freedom
    return variance


def _need_two_cases(ordering: Ordering) -> None:
    if ordering.smaller_class < 2:
        raise ValueError("DeLong's test needs two cases of each class, got one")


def _compare(
    a: Ordering,
    b: Ordering,
    *,
    variance: float,
    level: float,
    correlation: float = 0.0,
    factor: float = 1.0,
    freedom: float = math.inf,
) -> DelongResult:
    """`correlation`: of the two AUCs; `factor`: of their variances; `freedom`: degrees of a t
    distribution, infinite ones are the normal distribution."""
    difference = a.auc - b.auc
    z = 0.0 if difference == 0 else math.nan
    if variance > 0:
        z = difference / math.sqrt(variance)
    if variance > 0 and not (a.is_extreme or b.is_extreme):
        reach = -_t_quantile(freedom, tail_share(level)) * math.sqrt(variance)
        low, high = float(difference - reach), float(difference + reach)
    else:
        low, high = _combined_limits(a, b, level=level, correlation=correlation, factor=factor)
    below = ndtr(-abs(z)) if math.isinf(freedom) else stdtr(freedom, -abs(z))
    return DelongResult(
        a.auc, b.auc, difference, (max(-1.0, low), min(1.0, high)), z, float(2 * below)
    )


def _combined_limits(
    a: Ordering, b: Ordering, *, level: float, correlation: float, factor: float
) -> tuple[float, float]:
    """Zou and Donner's (2008) limits of a difference, from the limits of both AUCs."""
    first, second = (normal_interval(o, level=level, on_logit=True, factor=factor) for o in (a, b))

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(one**2 + other**2 - 2 * correlation * one * other, 0.0))

    difference = a.auc - b.auc
    return (
        difference - reach(first.auc - first.low, second.high - second.auc),
        difference + reach(first.high - first.auc, second.auc - second.low),
    )


def _t_quantile(freedom: float, share: float) -> float:
    return float(ndtri(share) if math.isinf(freedom) else stdtrit(freedom, share))

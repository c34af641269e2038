"""DeLong's tests: are two AUCs alike, of the same cases or of independent ones?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.special import ndtr, ndtri, stdtr, stdtrit

from morphomil.stats.intervals import tail_share
from morphomil.stats.ordering import Ordering
from morphomil.stats.roc import normal_interval

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
    a, b = Ordering.of(labels, scores_a, folds), Ordering.of(labels, scores_b, folds)
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
    a, b = Ordering.of(labels_a, scores_a, folds_a), Ordering.of(labels_b, scores_b, folds_b)
    _need_two_cases(a)
    _need_two_cases(b)
    first, second = a.variance_of(a.wins), b.variance_of(b.wins)
    parts = first**2 / (len(a.labels) - 1) + second**2 / (len(b.labels) - 1)
    freedom = (first + second) ** 2 / parts if parts > 0 else math.inf
    return _compare(a, b, variance=first + second, level=level, freedom=freedom)


def _need_two_cases(ordering: Ordering) -> None:
    if ordering.smaller_class < 2:
        raise ValueError("DeLong's test needs two cases of each class, got one")


def _compare(
    a: Ordering, b: Ordering, *, variance: float, level: float, freedom: float = math.inf
) -> DelongResult:
    """`freedom`: degrees of a t distribution; infinite ones are the normal distribution."""
    difference = a.auc - b.auc
    if variance > 0:
        z = difference / math.sqrt(variance)
        reach = -_t_quantile(freedom, tail_share(level)) * math.sqrt(variance)
        low, high = float(difference - reach), float(difference + reach)
    else:
        z = 0.0 if difference == 0 else math.nan
        first, second = (normal_interval(o, level=level, on_logit=True) for o in (a, b))
        low = difference - math.hypot(first.auc - first.low, second.high - second.auc)
        high = difference + math.hypot(first.high - first.auc, second.auc - second.low)
    below = ndtr(-abs(z)) if math.isinf(freedom) else stdtr(freedom, -abs(z))
    return DelongResult(
        a.auc, b.auc, difference, (max(-1.0, low), min(1.0, high)), z, float(2 * below)
    )


def _t_quantile(freedom: float, share: float) -> float:
    return float(ndtri(share) if math.isinf(freedom) else stdtrit(freedom, share))

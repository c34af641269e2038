"""ROC analysis: AUC with intervals, within-fold AUC of cross-validation, curve and cutoff.

Labels are boolean or 0/1 (1: positive), one row per patient; a higher score speaks for the positive
class; a score tied between a positive and a negative counts half. Everything costs one sort: O(n
log n) time, O(n) memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, logit, ndtri, stdtrit

from morphomil.stats.intervals import clopper_pearson_limits, tail_share
from morphomil.stats.ordering import Ordering, Spread
from morphomil.stats.resampling import Vectorized, drawn_counts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

AucMethod = Literal["auto", "delong", "logit-delong", "binomial", "bootstrap"]
_SETTLED = 1e-9
UNSEEN = 1 / 3
"""So much of a pair ordered rightly and so much of one ordered wrongly is added to the disjoint
pairs for the limit nearer 1/2: near 1 the few cases that would be ordered wrongly are often not in
the sample, whose variance is then far too small (docs/decisions/0037)."""


class AucInterval(NamedTuple):
    """An AUC and its confidence limits."""

    auc: float
    low: float
    high: float


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the share of positive-negative pairs that the scores order rightly,
    ties half.

    Raises:
        ValueError: one class only, a missing score, labels other than 0/1, or lengths that differ.
    """
    return Ordering.of(labels, scores).auc


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
    return Ordering.of(labels, scores, folds).auc


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
    return Ordering.of(labels, scores, folds).resampled


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
    near 1, with Student's t of Brunner and Munzel's (2000) degrees of freedom, and the limit nearer
    1/2 moved by what cases that weren't seen may say (`UNSEEN`). `auto`: `delong` from 50 cases per
    class on, `logit-delong` below, and where the AUC is above 0.9 or below 0.1 (docs: coverage).
    `bootstrap`: percentiles, resampled within each class; needs `seed`. `binomial`: see
    `binomial_auc_interval`, n being all cases.

    Where the data show no variance (AUC 0 or 1, all scores tied, a class of one case), every method
    but `binomial` gives the exact binomial interval with n = the cases of the smaller class: so
    many disjoint, hence independent, positive-negative pairs there are. At an AUC of 1 its lower
    limit is (alpha / 2) ** (1 / n).
    """
    ordering = Ordering.of(labels, scores)
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
    return normal_interval(ordering, level=level, on_logit=on_logit)


def within_fold_auc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    folds: ArrayLike,
    *,
    method: Literal["influence", "bootstrap"] = "influence",
    training_auc: float | None = None,
    level: float = 0.95,
    seed: int | None = None,
    resamples: int = 2000,
) -> AucInterval:
    """`within_fold_auc` with a confidence interval; rows are patients.

    `influence`: from the variance of the influence curve (LeDell et al. 2015, doi
    10.1214/15-EJS1035), here divided by cases minus folds in each class, times the factor of
    `training_factor`, and on the logit scale where `auc_interval` takes it; with one fold it is
    that. The lower limit has the factor of an AUC as low as itself, as one that is high by chance
    would make its own too small. Without variance the rule of `auc_interval` holds, the smaller
    classes' cases added up over folds and divided by the factor. It holds the expected AUC of
    models trained so, over training sets and patients, and the mean true AUC of the models at hand
    at least as often (docs: coverage).

    `bootstrap`: percentiles, patients resampled within each fold and class; needs `seed`. It takes
    the scores as given: too narrow for models that were trained on the other folds, and where folds
    hold few cases of a class.

    A claim against chance needs permutations.

    Args:
        labels: as `auc`.
        scores: out of fold.
        folds: one per patient.
        method: as above.
        training_auc: that of the folds' models on the patients they were trained on, pairs within
            folds; None if it isn't known.
        level: of the interval.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    ordering = Ordering.of(labels, scores, folds)
    if method == "bootstrap":
        return _bootstrap_interval(ordering, level=level, seed=seed, resamples=resamples)
    if method != "influence":
        raise ValueError(f"method must be influence or bootstrap, got {method!r}")
    above = _within_folds(ordering, ordering.auc, training_auc, level=level)
    low, previous = 0.0, -1.0
    while low - previous > _SETTLED:
        previous = low
        low = _within_folds(ordering, previous, training_auc, level=level).low
    return AucInterval(ordering.auc, min(low, above.low), above.high)


def _within_folds(
    ordering: Ordering, area: float, training_auc: float | None, *, level: float
) -> AucInterval:
    """With the factor that this AUC would have."""
    factor = training_factor(ordering, training_auc, area=area)
    return normal_interval(ordering, level=level, on_logit=ordering.needs_logit, factor=factor)


def training_factor(
    ordering: Ordering, training_auc: float | None, *, area: float | None = None
) -> float:
    """How many times the variance of given scores is that of a cross-validated AUC: 1 to 2.

    A patient counts in a fold's test and in the others' training. Of a linear model the AUC of a
    fold rests on the product of two differences of class means, the test patients' and the training
    patients'; what is noise in both comes twice, for fold i tested after training on j and for j
    after i. So the variance of noise doubles, that of an effect known beforehand stays, and between
    them the factor is 2 - s, s being the share of the weights that isn't noise: the ratio of
    probits of the AUC out of fold (`area`, if it is another than the ordering's) and in training (0
    to 1). 1 with one fold; 2 where training isn't known or is perfect (docs/decisions/0036).
    """
    reached = ordering.auc if area is None else area
    if (ordering.pairs > 0).sum() < 2:
        return 1.0
    if training_auc is None or not 0.5 < training_auc < 1 or reached <= 0.5:
        return 2.0
    return 2.0 - min(1.0, float(ndtri(reached) / ndtri(training_auc)))


def binomial_auc_interval(auc: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) limits of an AUC taken as a binomial proportion of n, as MedCalc's
    tables give.

    The number of successes auc * n needn't be whole: the limits are beta quantiles. It treats cases
    as if they were independent pairs, so its coverage is poor; use it to reproduce published
    tables.
    """
    if not (0 <= auc <= 1 and n >= 1):
        raise ValueError(f"AUC must be in [0, 1] and n at least 1, got {auc} and {n}")
    return clopper_pearson_limits(auc * n, n, level=level)


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> pd.DataFrame:
    """The ROC curve: `cutoff`, `sensitivity`, `specificity` of calling `score >= cutoff` positive.

    One row per distinct score, from the highest down, after a first row with cutoff infinity
    (nobody positive).
    """
    ordering = Ordering.of(labels, scores)
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
    cutoffs, true_positives, false_positives = Ordering.of(labels, scores).called_positive()
    youden = true_positives * false_positives[-1] - false_positives * true_positives[-1]
    return float(cutoffs[np.flatnonzero(youden == youden.max())[-1]])


def _no_variance_interval(ordering: Ordering, *, level: float, factor: float = 1.0) -> AucInterval:
    """Exact binomial limits, n = disjoint positive-negative pairs (see `auc_interval`)."""
    pairs = max(1.0, ordering.disjoint_pairs / factor)
    return AucInterval(ordering.auc, *binomial_auc_interval(ordering.auc, pairs, level=level))


def normal_interval(
    ordering: Ordering, *, level: float, on_logit: bool, factor: float = 1.0
) -> AucInterval:
    """By DeLong's variance times the factor, on the logit scale or plain; without variance the
    exact binomial limits."""
    variance, degrees = ordering.spread_of(ordering.wins)
    if variance == 0:
        return _no_variance_interval(ordering, level=level, factor=factor)
    if on_logit:
        spread = Spread(factor * variance, degrees)
        return logit_interval(ordering.auc, spread, pairs=ordering.disjoint_pairs, level=level)
    area = ordering.auc
    reach = -ndtri(tail_share(level)) * math.sqrt(factor * variance)
    return AucInterval(area, max(0.0, float(area - reach)), min(1.0, float(area + reach)))


def logit_interval(area: float, spread: Spread, *, pairs: int, level: float) -> AucInterval:
    """An AUC with the limits of Student's t on the logit scale; the limit nearer 1/2 as `UNSEEN`
    says, by the number of disjoint pairs."""
    variance, degrees = spread
    t = -float(stdtrit(degrees, tail_share(level)))
    low, high = _logit_limits(area, variance, t)
    total = pairs + 2 * UNSEEN
    nearer = _logit_limits((area * pairs + UNSEEN) / total, variance + (UNSEEN / total) ** 2, t)
    low = min(low, nearer[0]) if area >= 0.5 else low
    high = max(high, nearer[1]) if area <= 0.5 else high
    return AucInterval(area, low, high)


def _logit_limits(area: float, variance: float, t: float) -> tuple[float, float]:
    center, reach = logit(area), t * math.sqrt(variance) / (area * (1 - area))
    return float(expit(center - reach)), float(expit(center + reach))


def _bootstrap_interval(
    ordering: Ordering, *, level: float, seed: int | None, resamples: int
) -> AucInterval:
    if seed is None:
        raise ValueError("the bootstrap needs a seed, got None")
    tail, rng = tail_share(level), np.random.default_rng(seed)
    if ordering.variance_of(ordering.wins) == 0:
        return _no_variance_interval(ordering, level=level)
    stratum = ordering.fold * 2 + ordering.labels
    areas = [
        ordering.resampled(counts) for counts in drawn_counts(stratum, rng, resamples=resamples)
    ]
    low, high = np.quantile(np.concatenate(areas), (tail, 1 - tail))
    return AucInterval(ordering.auc, float(low), float(high))

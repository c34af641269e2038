"""Diagnostic performance at a cutoff: accuracy to likelihood ratios with intervals, McNemar,
calibration, net benefit.

Net reclassification is left out on purpose: it can improve when a useless marker is added (Pepe et
al. 2014, Hilden & Gerds 2014). The difference of AUCs (`delong_test`) and of net benefit
(`decision_curve`) answer its question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import expit, logit, ndtri, stdtrit
from scipy.stats import binomtest

from morphomil.stats.intervals import check_level, clopper_pearson_limits, tail_share

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def diagnostic_table(tp: int, fp: int, fn: int, tn: int, *, level: float = 0.95) -> pd.DataFrame:
    """Performance of a test at one cutoff, from its four counts.

    ACC, SENS, SPEC: exact intervals (Clopper & Pearson 1934). PPV, NPV: Mercaldo's logit interval
    at the sample's prevalence (Mercaldo et al. 2007), as MedCalc; where sensitivity or specificity
    is 0 or 1 it doesn't exist and the exact interval of the called cases is given. F1: exact
    interval of tp / (tp + fp + fn), of which it is a function. LR+, LR-: log method (Simel et al.
    1991); where a count that it divides by is 0, with 0.5 added to all four counts, and the limit
    on the estimate's side is the estimate.

    Returns:
        Index ACC, SENS, SPEC, PPV, NPV, F1, LR+, LR-; columns `estimate`, `low`, `high`, fractions
        (ratios for LR). NaN where nothing is known: PPV if nobody is called positive, LR- and SPEC
        without negatives, and so on.

    Raises:
        ValueError: a count is negative or not whole, all are 0, or the level is not in (0, 1).
    """
    counts = (tp, fp, fn, tn)
    if any(not float(count).is_integer() or count < 0 for count in counts):
        raise ValueError(
            f"counts must be whole numbers from 0, got tp={tp}, fp={fp}, fn={fn}, tn={tn}"
        )
    tp, fp, fn, tn = map(int, counts)
    if tp + fp + fn + tn == 0:
        raise ValueError("a diagnostic table needs at least one case, got none")
    ill, well = tp + fn, fp + tn
    jaccard = _exact(tp, tp + fp + fn, level)
    rows = {
        "ACC": _exact(tp + tn, ill + well, level),
        "SENS": _exact(tp, ill, level),
        "SPEC": _exact(tn, well, level),
        "PPV": _mercaldo(tp, fp, (fn, tp), (tn, fp), level),
        "NPV": _mercaldo(tn, fn, (fp, tn), (tp, fn), level),
        "F1": tuple(2 * share / (1 + share) for share in jaccard),
        "LR+": _ratio(tp, ill, fp, well, level),
        "LR-": _ratio(fn, ill, tn, well, level),
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["estimate", "low", "high"])


def exact_interval(count: int, total: int, *, level: float = 0.95) -> tuple[float, float, float]:
    """A share with Clopper and Pearson's limits; NaN of nothing.

    Raises:
        ValueError: the count isn't from 0 to the total.
    """
    if not 0 <= count <= total:
        raise ValueError(f"a share needs a count from 0 to its total, got {count} of {total}")
    return _exact(count, total, level)


def _exact(count: int, total: int, level: float) -> tuple[float, float, float]:
    """Share and Clopper-Pearson limits."""
    check_level(level)
    if total == 0:
        return math.nan, math.nan, math.nan
    return (count / total, *clopper_pearson_limits(count, total, level=level))


def _mercaldo(
    right: int, wrong: int, own: tuple[int, int], other: tuple[int, int], level: float
) -> tuple[float, float, float]:
    """A predictive value with its limits.

    The variance of its logit is the odds missed / hit of the own class per case plus right / wrong
    of the other class per case; `own` and `other` are these pairs of counts.
    """
    if 0 in (*own, *other):
        return _exact(right, right + wrong, level)
    center = right / (right + wrong)
    variance = own[0] / own[1] / sum(own) + other[0] / other[1] / sum(other)
    reach = -ndtri(tail_share(level)) * math.sqrt(variance)
    return center, float(expit(logit(center) - reach)), float(expit(logit(center) + reach))


def _ratio(a: int, of_a: int, b: int, of_b: int, level: float) -> tuple[float, float, float]:
    """(a / of_a) / (b / of_b) with limits."""
    if of_a == 0 or of_b == 0 or a == b == 0:
        return math.nan, math.nan, math.nan
    estimate = a / of_a / (b / of_b) if b else math.inf
    x, n, y, m = (a, of_a, b, of_b) if a and b else (a + 0.5, of_a + 1, b + 0.5, of_b + 1)
    center = math.log(x / n / (y / m))
    reach = -ndtri(tail_share(level)) * math.sqrt(1 / x - 1 / n + 1 / y - 1 / m)
    return (
        estimate,
        0.0 if a == 0 else math.exp(center - reach),
        math.inf if b == 0 else math.exp(center + reach),
    )


@dataclass(frozen=True)
class McnemarResult:
    """Two classifiers' accuracies on the same cases: `difference` is a minus b, `p_value` exact and
    two-sided."""

    accuracy_a: float
    accuracy_b: float
    difference: float
    interval: tuple[float, float]
    only_a_right: int
    only_b_right: int
    p_value: float


def mcnemar_test(
    labels: ArrayLike, calls_a: ArrayLike, calls_b: ArrayLike, *, level: float = 0.95
) -> McnemarResult:
    """McNemar's exact test: of the cases that one classifier alone gets right, is the share a's a
    half?

    The interval of the difference is Agresti and Min's (2005): Wald with 0.5 added to each of the
    four cells. Without a case that the classifiers disagree on, p is 1.

    Raises:
        ValueError: lengths differ, there is no case, or a value is missing.
    """
    truth, a, b = (np.asarray(values) for values in (labels, calls_a, calls_b))
    if truth.ndim != 1 or not truth.shape == a.shape == b.shape or not len(truth):
        raise ValueError(
            f"labels and calls must be vectors of one length, got {truth.shape}, "
            f"{a.shape}, {b.shape}"
        )
    if any(pd.isna(values).any() for values in (truth, a, b)):
        raise ValueError("labels and calls must not be missing")
    right_a, right_b, n = a == truth, b == truth, len(truth)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    p, q = (only_a + 0.5) / (n + 2), (only_b + 0.5) / (n + 2)
    reach = -float(ndtri(tail_share(level))) * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return McnemarResult(
        float(right_a.mean()),
        float(right_b.mean()),
        (only_a - only_b) / n,
        (max(-1.0, p - q - reach), min(1.0, p - q + reach)),
        only_a,
        only_b,
        p_value,
    )


@dataclass(frozen=True)
class Calibration:
    """Agreement of probabilities with outcomes.

    `slope` (1: right; below: too extreme) and `intercept` (0: right; calibration in the large, with
    the slope held at 1) are (estimate, low, high); `brier` is the mean squared error,
    `scaled_brier` 1 - brier / that of the prevalence. `curve`: one row per group of cases of like
    probability: `n`, `predicted` (mean), `observed`, `low`, `high`.
    """

    slope: tuple[float, float, float]
    intercept: tuple[float, float, float]
    brier: float
    scaled_brier: float
    curve: pd.DataFrame


def calibration(
    labels: ArrayLike, probabilities: ArrayLike, *, groups: int = 10, level: float = 0.95
) -> Calibration:
    """Calibration slope and intercept (Cox 1958), Brier score, and the calibration curve.

    Probabilities are kept from 0 and 1 by 1e-6 before their logit is taken. Groups are quantiles of
    the probability; equal probabilities share a group. The curve's intervals are exact. Where
    probabilities separate the classes or are all equal the slope doesn't exist and is NaN.

    Raises:
        ValueError: one class only, a probability outside [0, 1] or missing, or lengths that differ.
    """
    from morphomil.stats.models import fit_logistic

    truth, p = _checked(labels, probabilities)
    score = logit(np.clip(p, 1e-6, 1 - 1e-6))
    z = -ndtri(tail_share(level))
    ones = np.ones((len(truth), 1))
    large = fit_logistic(ones, truth, offset=score)
    slope = (math.nan, math.nan, math.nan)
    if np.ptp(score) > 0:
        fitted = fit_logistic(np.column_stack([ones, score]), truth)
        if not fitted.separated:
            slope = _limits(fitted.coefficients[1], fitted.errors[1], z)
    prevalence = truth.mean()
    brier = float(((p - truth) ** 2).mean())
    edges = np.unique(np.quantile(p, np.linspace(0, 1, groups + 1)))
    group = np.searchsorted(edges[1:-1], p, side="right")
    rows = []
    for number in np.unique(group):
        own = group == number
        observed, low, high = _exact(int(truth[own].sum()), int(own.sum()), level)
        rows.append((int(own.sum()), float(p[own].mean()), observed, low, high))
    curve = pd.DataFrame(rows, columns=["n", "predicted", "observed", "low", "high"])
    intercept = _limits(large.coefficients[0], large.errors[0], z)
    return Calibration(slope, intercept, brier, 1 - brier / (prevalence * (1 - prevalence)), curve)


def _limits(center: float, error: float, z: float) -> tuple[float, float, float]:
    return float(center), float(center - z * error), float(center + z * error)


def decision_curve(
    labels: ArrayLike, probabilities: ArrayLike, *, thresholds: ArrayLike | None = None
) -> pd.DataFrame:
    """Net benefit of treating who has a probability of a threshold or more (Vickers & Elkin 2006).

    Returns:
        `threshold`, `net_benefit` (true positives - false positives x odds of the threshold, per
        case) with `_low` and `_high`, pointwise 95 % limits by Student's t: it is a mean over
        cases; `treat_all`, `treat_none` (0).

    Raises:
        ValueError: as `calibration`, or a threshold not in (0, 1).
    """
    truth, p = _checked(labels, probabilities)
    at = np.arange(0.01, 1.0, 0.01) if thresholds is None else np.asarray(thresholds, dtype=float)
    if ((at <= 0) | (at >= 1)).any():
        raise ValueError("thresholds must lie between 0 and 1")
    order = np.argsort(p)
    first = np.searchsorted(p[order], at, side="left")
    positives_below = np.r_[0, np.cumsum(truth[order])]
    true = truth.sum() - positives_below[first]
    false = (len(p) - first) - true
    odds, n = at / (1 - at), len(p)
    treat_all = truth.mean() - (1 - truth.mean()) * odds
    benefit = (true - false * odds) / n
    variance = ((true + false * odds**2) / n - benefit**2) / (n - 1)
    reach = -stdtrit(n - 1, 0.025) * np.sqrt(np.maximum(variance, 0))
    return pd.DataFrame(
        {
            "threshold": at,
            "net_benefit": benefit,
            "net_benefit_low": benefit - reach,
            "net_benefit_high": benefit + reach,
            "treat_all": treat_all,
            "treat_none": 0.0,
        }
    )


def _checked(
    labels: ArrayLike, probabilities: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    truth, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != p.shape:
        raise ValueError(
            f"labels and probabilities must be vectors of one length, got {truth.shape} and "
            f"{p.shape}"
        )
    if pd.isna(truth).any() or not ((truth == 0) | (truth == 1)).all() or len(np.unique(truth)) < 2:
        raise ValueError("labels must be 0/1 and of both classes")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("probabilities must lie in [0, 1] and not be missing")
    return truth.astype(np.float64), p

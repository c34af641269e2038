"""Bootstrap and permutation by patient: any statistic, seeded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr, ndtri

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Statistic = Callable[["NDArray[np.intp]"], float]
"""Rows, repeated ones counting as often as they stand -> a number."""


@dataclass(frozen=True)
class BootstrapResult:
    """An estimate with its limits; `replicates` holds the statistic of every resample that had one."""

    estimate: float
    low: float
    high: float
    replicates: NDArray[np.float64]
    undefined: int
    """Resamples without the statistic (one class only, say); they are left out."""


def bootstrap_by_patient(
    statistic: Statistic,
    patients: ArrayLike,
    *,
    seed: int,
    strata: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> BootstrapResult:
    """Bias-corrected and accelerated interval (Efron 1987), all rows of a patient drawn together.

    Args:
        statistic: of rows, by their numbers; may raise ValueError or give NaN where it doesn't exist.
        patients: (rows,) of each row.
        seed: of the draws.
        strata: (rows,), the same for all rows of a patient; patients are drawn within strata, say labels.
        resamples: how many.
        level: of the interval.

    The acceleration comes from leaving out one patient at a time, or one of 200 groups of patients where there are
    more. Where all resamples agree the interval has no width, and its limits are NaN: the bootstrap then says nothing.

    Raises:
        ValueError: the statistic doesn't exist for the rows themselves or for a tenth of the resamples; lengths differ;
            a patient stands in two strata.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    rows, stratum = _rows_of_patients(patients, strata)
    rng = np.random.default_rng(seed)
    estimate = _value(statistic, np.concatenate(rows))
    if math.isnan(estimate):
        raise ValueError("the statistic doesn't exist for these rows")
    members = [np.flatnonzero(stratum == s) for s in np.unique(stratum)]
    values = []
    for _ in range(resamples):
        drawn = np.concatenate([m[rng.integers(len(m), size=len(m))] for m in members])
        values.append(_value(statistic, np.concatenate([rows[i] for i in drawn])))
    found = np.array(values)
    replicates = np.sort(found[~np.isnan(found)])
    undefined = resamples - len(replicates)
    if undefined > resamples / 10:
        raise ValueError(f"the statistic doesn't exist in {undefined} of {resamples} resamples; draw within strata")
    low, high = bca_limits(estimate, replicates, _left_out(statistic, rows), level=level)
    return BootstrapResult(estimate, low, high, replicates, undefined)


JACKKNIFE_GROUPS = 200


def bca_limits(
    estimate: float, replicates: NDArray[np.float64], left_out: NDArray[np.float64], *, level: float
) -> tuple[float, float]:
    """Efron's bias-corrected and accelerated limits; NaN where all replicates agree.

    Args:
        estimate: of the whole sample.
        replicates: (resamples,) of the statistic.
        left_out: (patients,) the statistic without each patient in turn, for the acceleration; NaN are skipped.
        level: of the interval.
    """
    if replicates.min() == replicates.max():
        return math.nan, math.nan
    below = ((replicates < estimate).sum() + (replicates == estimate).sum() / 2) / len(replicates)
    bias = float(ndtri(np.clip(below, 0.5 / len(replicates), 1 - 0.5 / len(replicates))))
    away = np.nanmean(left_out) - left_out[~np.isnan(left_out)]
    spread = float((away**2).sum())
    acceleration = float((away**3).sum() / (6 * spread**1.5)) if spread > 0 else 0.0
    shares = [
        float(ndtr(bias + (bias + z) / (1 - acceleration * (bias + z))))
        for z in (ndtri((1 - level) / 2), ndtri((1 + level) / 2))
    ]
    low, high = np.quantile(replicates, shares)
    return float(low), float(high)


def _left_out(statistic: Statistic, rows: list[NDArray[np.intp]]) -> NDArray[np.float64]:
    """The statistic without each patient, or each of `JACKKNIFE_GROUPS` groups of them."""
    groups = np.array_split(np.arange(len(rows)), min(len(rows), JACKKNIFE_GROUPS))
    values = []
    for left_out in groups:
        kept = np.setdiff1d(np.arange(len(rows)), left_out)
        values.append(_value(statistic, np.concatenate([rows[i] for i in kept])) if len(kept) else math.nan)
    return np.array(values)


@dataclass(frozen=True)
class PermutationResult:
    """`p_value` is (b + 1) / (B + 1), b of B permutations being at least as far from the null's center."""

    estimate: float
    p_value: float
    null: NDArray[np.float64]


def permutation_test(
    statistic: Callable[[NDArray[Any]], float],
    labels: ArrayLike,
    *,
    seed: int,
    strata: ArrayLike | None = None,
    permutations: int = 999,
    center: float = 0.0,
) -> PermutationResult:
    """Two-sided test of a statistic of the patients' labels against shuffled labels (within strata, if given).

    Args:
        statistic: of the labels (patients,), one per patient.
        labels: one per patient.
        seed: of the shuffles.
        strata: (patients,), such as site: labels change places within a stratum only.
        permutations: how many.
        center: the statistic's value where there is no association, from which distance is measured (0.5 for an AUC).

    Raises:
        ValueError: lengths differ, or fewer than one permutation is asked for.
    """
    marks = np.asarray(labels)
    stratum = np.zeros(len(marks), int) if strata is None else np.unique(np.asarray(strata), return_inverse=True)[1]
    if stratum.shape != marks.shape or marks.ndim != 1:
        raise ValueError(f"strata must be as long as the {len(marks)} labels, got {stratum.shape}")
    if permutations < 1:
        raise ValueError(f"a permutation test needs permutations, got {permutations}")
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(stratum == s) for s in np.unique(stratum)]
    null = np.empty(permutations)
    for number in range(permutations):
        shuffled = marks.copy()
        for own in members:
            shuffled[own] = marks[rng.permutation(own)]
        null[number] = statistic(shuffled)
    estimate = float(statistic(marks))
    as_far = int((np.abs(null - center) >= abs(estimate - center) - 1e-12).sum())
    return PermutationResult(estimate, (as_far + 1) / (permutations + 1), null)


def _rows_of_patients(patients: ArrayLike, strata: ArrayLike | None) -> tuple[list[NDArray[np.intp]], NDArray[np.intp]]:
    """Row numbers of each patient, and each patient's stratum."""
    _, number = np.unique(np.asarray(patients), return_inverse=True)
    order = np.argsort(number, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(number))[:-1])
    if strata is None:
        return rows, np.zeros(len(rows), np.intp)
    names = np.asarray(strata)
    if names.shape != number.shape:
        raise ValueError(f"strata must be as long as the {len(number)} rows, got {names.shape}")
    codes = np.unique(names, return_inverse=True)[1]
    if any(np.ptp(codes[own]) for own in rows):
        raise ValueError("a patient's rows stand in two strata")
    return rows, np.array([codes[own[0]] for own in rows], dtype=np.intp)


def _value(statistic: Statistic, rows: NDArray[np.intp]) -> float:
    try:
        return float(statistic(rows))
    except ValueError:
        return math.nan

"""Bootstrap and permutation by patient: any statistic, seeded; whole blocks of draws at once where
it can take them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from scipy.special import ndtr, ndtri

from morphomil.stats.intervals import check_level

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

Statistic = Callable[["NDArray[np.intp]"], float]
"""Rows, repeated ones counting as often as they stand -> a number."""
Vectorized = Callable[["NDArray[np.int64]"], "NDArray[np.float64]"]
"""(draws, rows), how often each row is drawn -> (draws,), NaN where it doesn't exist."""

BLOCK_CELLS = 2**21
"""Draws x rows that are held at once."""


@dataclass(frozen=True)
class BootstrapResult:
    """An estimate with its limits; `replicates` holds the statistic of every resample that had
    one."""

    estimate: float
    low: float
    high: float
    replicates: NDArray[np.float64]
    undefined: int
    """Resamples without the statistic (one class only, say); they are left out."""


@overload
def bootstrap_by_patient(
    statistic: Statistic,
    patients: ArrayLike,
    *,
    seed: int,
    strata: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    vectorized: Literal[False] = False,
) -> BootstrapResult: ...
@overload
def bootstrap_by_patient(
    statistic: Vectorized,
    patients: ArrayLike,
    *,
    seed: int,
    strata: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    vectorized: Literal[True],
) -> BootstrapResult: ...
def bootstrap_by_patient(
    statistic: Any,
    patients: ArrayLike,
    *,
    seed: int,
    strata: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    vectorized: bool = False,
) -> BootstrapResult:
    """Bias-corrected and accelerated interval (Efron 1987), all rows of a patient drawn together.

    Args:
        statistic: of rows, by their numbers; may raise ValueError or give NaN where it doesn't
            exist.
        patients: (rows,) of each row.
        seed: of the draws.
        strata: (rows,), the same for all rows of a patient; patients are drawn within strata, say
            labels.
        resamples: how many.
        level: of the interval.
        vectorized: `statistic` takes how often each row is drawn, (draws, rows), and gives one
            value per draw, as `resampled_mean` and `resampled_auc` make them: no loop over draws.
            The draws are the same either way.

    The acceleration comes from leaving out one patient at a time, or one of 200 groups of patients
    where there are more. Where all resamples agree the interval has no width, and its limits are
    NaN: the bootstrap then says nothing.

    Raises:
        ValueError: the statistic doesn't exist for the rows themselves or for a tenth of the
            resamples; lengths differ; there is no row; a patient stands in two strata; or there are
            no resamples.
    """
    check_level(level)
    if resamples < 1:
        raise ValueError(f"a bootstrap needs resamples, got {resamples}")
    of_row, stratum = _patients(patients, strata)
    of_counts: Vectorized = statistic if vectorized else _one_by_one(statistic)
    rng = np.random.default_rng(seed)
    estimate = float(of_counts(np.ones((1, len(of_row)), np.int64))[0])
    if math.isnan(estimate):
        raise ValueError("the statistic doesn't exist for these rows")
    blocks = drawn_counts(stratum, rng, resamples=resamples, width=len(of_row))
    found = np.concatenate([of_counts(counts[:, of_row]) for counts in blocks])
    replicates = np.sort(found[~np.isnan(found)])
    undefined = resamples - len(replicates)
    if undefined > resamples / 10:
        raise ValueError(
            f"the statistic doesn't exist in {undefined} of {resamples} resamples; "
            "draw within strata"
        )
    low, high = bca_limits(estimate, replicates, _left_out(of_counts, of_row), level=level)
    return BootstrapResult(estimate, low, high, replicates, undefined)


def resampled_mean(values: ArrayLike) -> Vectorized:
    """Mean of values (rows,) for `bootstrap_by_patient(..., vectorized=True)`.

    Raises:
        ValueError: not a vector, or a value is missing.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or np.isnan(numbers).any():
        raise ValueError(f"values must be a vector without missing ones, got shape {numbers.shape}")

    def mean(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return np.asarray(counts @ numbers / counts.sum(axis=1))

    return mean


def drawn_counts(
    strata: NDArray[np.intp], rng: np.random.Generator, *, resamples: int, width: int = 0
) -> Iterator[NDArray[np.int64]]:
    """How often each member is drawn, with replacement within strata: blocks (draws, members),
    `resamples` in all.

    Args:
        strata: (members,), numbers from 0.
        rng: of the draws.
        resamples: how many.
        width: columns that the caller makes of a draw, if more than the members; blocks are the
            shorter.
    """
    n = len(strata)
    members = np.argsort(strata, kind="stable")
    size = np.bincount(strata)
    start, among = np.repeat(np.cumsum(size) - size, size), np.repeat(size, size)
    most = max(1, BLOCK_CELLS // max(n, width))
    for done in range(0, resamples, most):
        draws = min(most, resamples - done)
        drawn = members[start + rng.integers(among, size=(draws, n))]
        cells = (drawn + n * np.arange(draws)[:, None]).ravel()
        yield np.bincount(cells, minlength=draws * n).reshape(draws, n)


JACKKNIFE_GROUPS = 200


def bca_limits(
    estimate: float, replicates: NDArray[np.float64], left_out: NDArray[np.float64], *, level: float
) -> tuple[float, float]:
    """Efron's bias-corrected and accelerated limits; NaN where all replicates agree.

    Args:
        estimate: of the whole sample.
        replicates: (resamples,) of the statistic.
        left_out: (patients,) the statistic without each patient in turn, for the acceleration; NaN
            are skipped.
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


def _left_out(statistic: Vectorized, of_row: NDArray[np.intp]) -> NDArray[np.float64]:
    """The statistic without each patient, or each of `JACKKNIFE_GROUPS` groups of them."""
    patients = int(of_row.max()) + 1
    groups = min(patients, JACKKNIFE_GROUPS)
    if groups < 2:
        return np.array([math.nan])
    group = np.repeat(
        np.arange(groups), [len(part) for part in np.array_split(np.arange(patients), groups)]
    )[of_row]
    most = max(1, BLOCK_CELLS // len(of_row))
    blocks = np.split(np.arange(groups), range(most, groups, most))
    return np.concatenate([statistic((group != own[:, None]).astype(np.int64)) for own in blocks])


def _one_by_one(statistic: Statistic) -> Vectorized:
    """Any statistic of rows, asked for each draw of a block."""

    def of_counts(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        rows = np.arange(counts.shape[1])
        return np.array([_value(statistic, np.repeat(rows, times)) for times in counts])

    return of_counts


@dataclass(frozen=True)
class PermutationResult:
    """`p_value` is (b + 1) / (B + 1), b of B permutations being at least as far from the null's
    center."""

    estimate: float
    p_value: float
    null: NDArray[np.float64]


def permutation_test(
    statistic: Callable[[NDArray[Any]], Any],
    labels: ArrayLike,
    *,
    seed: int,
    strata: ArrayLike | None = None,
    permutations: int = 999,
    center: float = 0.0,
    vectorized: bool = False,
) -> PermutationResult:
    """Two-sided test of a statistic of the patients' labels against shuffled labels (within strata,
    if given).

    Args:
        statistic: of the labels (patients,), one per patient.
        labels: one per patient.
        seed: of the shuffles.
        strata: (patients,), such as site: labels change places within a stratum only.
        permutations: how many.
        center: the statistic's value where there is no association, from which distance is measured
            (0.5 for an AUC).
        vectorized: `statistic` takes labels (permutations, patients) and gives one value per
            permutation.

    Raises:
        ValueError: lengths differ, or fewer than one permutation is asked for.
    """
    marks = np.asarray(labels)
    stratum = (
        np.zeros(len(marks), int)
        if strata is None
        else np.unique(np.asarray(strata), return_inverse=True)[1]
    )
    if stratum.shape != marks.shape or marks.ndim != 1:
        raise ValueError(f"strata must be as long as the {len(marks)} labels, got {stratum.shape}")
    if permutations < 1:
        raise ValueError(f"a permutation test needs permutations, got {permutations}")
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(stratum == s) for s in np.unique(stratum)]
    most = max(1, BLOCK_CELLS // max(1, len(marks)))
    null = []
    for done in range(0, permutations, most):
        shuffled = np.tile(marks, (min(most, permutations - done), 1))
        for own in members:
            shuffled[:, own] = rng.permuted(shuffled[:, own], axis=1)
        null.append(
            statistic(shuffled)
            if vectorized
            else np.array([float(statistic(row)) for row in shuffled])
        )
    values = np.concatenate(null)
    estimate = float(statistic(marks[None, :])[0] if vectorized else statistic(marks))
    as_far = int((np.abs(values - center) >= abs(estimate - center) - 1e-12).sum())
    return PermutationResult(estimate, (as_far + 1) / (permutations + 1), values)


def _patients(
    patients: ArrayLike, strata: ArrayLike | None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Each row's patient, numbered, and each patient's stratum."""
    _, number = np.unique(np.asarray(patients), return_inverse=True)
    if number.ndim != 1 or not len(number):
        raise ValueError(f"patients must be a vector with a row, got shape {number.shape}")
    if strata is None:
        return number, np.zeros(number.max() + 1, np.intp)
    names = np.asarray(strata)
    if names.shape != number.shape:
        raise ValueError(f"strata must be as long as the {len(number)} rows, got {names.shape}")
    codes = np.unique(names, return_inverse=True)[1]
    of_patient = np.empty(number.max() + 1, np.intp)
    of_patient[number] = codes
    if (of_patient[number] != codes).any():
        raise ValueError("a patient's rows stand in two strata")
    return number, of_patient


def _value(statistic: Statistic, rows: NDArray[np.intp]) -> float:
    try:
        return float(statistic(rows))
    except ValueError:
        return math.nan

"""Rows that belong to patients (nuclei, patches, slides) compared between groups of patients.

Rows of a patient are alike: a thousand nuclei of one patient say little more than a hundred. Three
ways count the patients; the one that counts the rows is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import stdtr, stdtrit

from morphomil.errors import RefusedError
from morphomil.stats.adjustment import with_adjusted
from morphomil.stats.categories import sorted_labels
from morphomil.stats.groups import aggregate_to_patients
from morphomil.stats.mann_whitney import mann_whitney
from morphomil.stats.resampling import bca_limits

if TYPE_CHECKING:
    from collections.abc import Hashable

    from numpy.typing import ArrayLike, NDArray

ClusterMethod = Literal["aggregate", "bootstrap", "mixed", "naive"]
LEAST_PATIENTS = 2
"""Each group needs so many patients with a value."""


def compare_clustered(
    table: pd.DataFrame,
    groups: ArrayLike,
    patients: ArrayLike,
    *,
    method: ClusterMethod = "aggregate",
    positive: Hashable | None = None,
    seed: int | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> pd.DataFrame:
    """Each numeric column of many rows per patient, compared between two groups of patients.

    `aggregate`: Mann-Whitney test and Cliff's delta of the patients' medians, which is what
    `compare_groups` does.

    `bootstrap`: Cliff's delta of rows, every patient weighing the same: how much more probable a
    row of a random positive patient is above one of a random reference patient than below. BCa
    interval, patients resampled within groups, NaN where all resamples agree; p from permutations
    of the patients' labels, (b + 1) / (B + 1). Needs `seed`. Memory is patients x patients beside
    the rows.

    `mixed`: difference of means in a linear model with a random intercept per patient (REML),
    Student's t with patients - 2 degrees of freedom (as R's nlme). It takes normal patients' means
    and one variance.

    `naive` is refused: see the message.

    Args:
        table: (rows, columns) of numbers; NaN are left out.
        groups: (rows,) one of two labels, the same in all rows of a patient.
        patients: (rows,) whose a row is.
        method: as above.
        positive: which label the effect refers to; by default the last in sorted order.
        seed: of resamples and permutations.
        resamples: so many of each.
        level: of the intervals.

    Returns:
        `feature, method, rows, missing, patients_positive, patients_reference`, `icc` (intraclass
        correlation: the share of variance that lies between patients of a group), `effective_rows`
        (so many independent rows would say as much), `effect` (its name), `estimate, low, high,
        p_value, p_holm, p_bh, positive`. NaN with fewer than two patients in a group.

    Raises:
        RefusedError: there is one group, or the method is naive.
        ValueError: lengths differ, a column isn't numeric, a patient stands in two groups, there
            are three groups, or the bootstrap has no seed.
    """
    _check_request(table, method, seed)
    medians, labels = aggregate_to_patients(table, groups, patients)
    chosen = _positive_of_two(labels, positive)
    in_positive = (labels == chosen).to_numpy()
    owner = pd.Index(labels.index).get_indexer(pd.Index(np.asarray(patients)))
    rows: list[dict[str, Any]] = []
    for name, values in table.items():
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        known = ~np.isnan(numbers)
        clusters = Clusters.of(numbers[known], owner[known], in_positive)
        n, m = int(clusters.positive.sum()), int((~clusters.positive).sum())
        row: dict[str, Any] = {"feature": name, "method": method, "rows": int(known.sum())}
        row |= {"missing": int((~known).sum()), "patients_positive": n, "patients_reference": m}
        if min(n, m) < LEAST_PATIENTS:
            rows.append(row | {"effect": "none", **dict.fromkeys(_NUMBERS, math.nan)})
            continue
        mixed = fit_random_intercept(clusters, level=level)
        row |= {"icc": mixed.icc, "effective_rows": clusters.effective_rows(mixed.icc)}
        if method == "naive":
            raise RefusedError(_say_why_rows_are_refused(name, clusters, mixed.icc))
        if method == "aggregate":
            of_patients = medians[name].to_numpy(dtype=np.float64, na_value=np.nan)
            test = mann_whitney(of_patients[in_positive], of_patients[~in_positive], level=level)
            effect = _Effect(
                "Cliff's delta of medians", test.cliffs_delta, test.low, test.high, test.p_value
            )
        elif method == "bootstrap":
            rng = np.random.default_rng(seed)
            effect = _Effect(
                "Cliff's delta of rows",
                *_bootstrap(clusters, rng, resamples=resamples, level=level),
            )
        else:
            effect = _Effect(
                "difference of means", mixed.difference, mixed.low, mixed.high, mixed.p_value
            )
        rows.append(row | effect._asdict())
    return with_adjusted(pd.DataFrame(rows)).assign(positive=chosen)


def _check_request(table: pd.DataFrame, method: str, seed: int | None) -> None:
    if method not in get_args(ClusterMethod):
        raise ValueError(f"method must be aggregate, bootstrap or mixed, got {method!r}")
    if method == "bootstrap" and seed is None:
        raise ValueError("the bootstrap needs a seed, got None")
    if other := [
        str(name) for name, values in table.items() if not pd.api.types.is_numeric_dtype(values)
    ]:
        raise ValueError(f"columns must be numeric, got {', '.join(other)}")


def _positive_of_two(labels: pd.Series[Any], positive: Hashable | None) -> Any:
    """The label that the effect refers to."""
    names = sorted_labels(labels)
    if len(names) < 2:
        raise RefusedError(
            f"groups can't be compared: all {len(labels)} patients have the label {names}"
        )
    if len(names) > 2 or (positive is not None and positive not in names):
        raise ValueError(
            f"clustered rows are compared between two groups, got {names} and positive {positive!r}"
        )
    return names[-1] if positive is None else positive


def _say_why_rows_are_refused(name: Hashable, clusters: Clusters, icc: float) -> str:
    return (
        f"{len(clusters.values)} rows of {len(clusters.positive)} patients are not independent: "
        f"the intraclass correlation of {name} is {icc:.2f}, so they say as much as "
        f"{clusters.effective_rows(icc):.0f} independent rows, and a p value that counts rows is "
        "far too small. Use the method aggregate, bootstrap or mixed, which count patients"
    )


_NUMBERS = ("icc", "effective_rows", "estimate", "low", "high", "p_value")


class _Effect(NamedTuple):
    effect: str
    estimate: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Clusters:
    """Values sorted by patient; `size` rows of each patient, who is in the positive group or
    not."""

    values: NDArray[np.float64]  # (rows,)
    size: NDArray[np.int64]  # (patients,)
    positive: NDArray[np.bool_]  # (patients,)

    @classmethod
    def of(
        cls, values: NDArray[np.float64], owner: NDArray[np.intp], in_positive: NDArray[np.bool_]
    ) -> Clusters:
        """Of values (no NaN) with their patients' numbers; patients without values are left out."""
        size = np.bincount(owner, minlength=len(in_positive))
        return cls(values[np.argsort(owner, kind="stable")], size[size > 0], in_positive[size > 0])

    @property
    def means(self) -> NDArray[np.float64]:
        """(patients,)."""
        return np.asarray(
            np.add.reduceat(self.values, np.cumsum(self.size) - self.size) / self.size
        )

    def effective_rows(self, icc: float) -> float:
        """Independent rows that would say as much (Kish's design effect)."""
        n = len(self.values)
        return n / (1 + (float((self.size**2).sum()) / n - 1) * icc)

    def dominance(self) -> NDArray[np.float64]:
        """(patients, patients): how much more often a row of one patient is above than below one of
        another."""
        starts = np.cumsum(self.size) - self.size
        result = np.empty((len(self.size), len(self.size)))
        for j, own in enumerate(np.split(self.values, starts[1:])):
            ordered = np.sort(own)
            balance = np.searchsorted(ordered, self.values, "left") + np.searchsorted(
                ordered, self.values, "right"
            )
            result[:, j] = np.add.reduceat(balance / len(own) - 1, starts) / self.size
        return result


def _bootstrap(
    clusters: Clusters, rng: np.random.Generator, *, resamples: int, level: float
) -> tuple[float, float, float, float]:
    """Delta, its BCa limits, and the permutation p value."""
    above, positive = clusters.dominance(), clusters.positive
    of_pairs = above[np.ix_(positive, ~positive)]
    n, m = of_pairs.shape
    estimate = float(of_pairs.mean())
    first = rng.multinomial(n, np.full(n, 1 / n), size=resamples)  # how often each patient is drawn
    second = rng.multinomial(m, np.full(m, 1 / m), size=resamples)
    replicates = ((first @ of_pairs) * second).sum(axis=1) / (n * m)
    by_row, by_column = of_pairs.sum(axis=1), of_pairs.sum(axis=0)
    total = of_pairs.sum()
    left_out = np.r_[(total - by_row) / ((n - 1) * m), (total - by_column) / (n * (m - 1))]
    low, high = bca_limits(estimate, replicates, left_out, level=level)
    shuffled = rng.permuted(np.tile(positive, (resamples, 1)), axis=1).astype(np.float64)
    null = ((shuffled @ above) * (1 - shuffled)).sum(axis=1) / (n * m)
    as_far = int((np.abs(null) >= abs(estimate) - 1e-12).sum())
    return estimate, low, high, (as_far + 1) / (resamples + 1)


class RandomIntercept(NamedTuple):
    """Difference of means, positive - reference, in a model with a random intercept per patient."""

    difference: float
    low: float
    high: float
    t: float
    degrees: int
    p_value: float
    icc: float


def fit_random_intercept(clusters: Clusters, *, level: float = 0.95) -> RandomIntercept:
    """Restricted maximum likelihood; the ratio of variances is found in one dimension, everything
    else is closed form.

    Without any variance the difference is exact and its interval, t and p are NaN.
    """
    size, means, positive = clusters.size, clusters.means, clusters.positive
    degrees, freedom = len(size) - 2, len(clusters.values) - 2
    within = float(((clusters.values - np.repeat(means, size)) ** 2).sum())

    def at(ratio: float) -> tuple[float, float, float, float]:
        """-2 log restricted likelihood, difference, its variance and the residual variance."""
        weight = size / (1 + size * ratio)
        totals = [float(weight[side].sum()) for side in (positive, ~positive)]
        centers = [
            float(weight[s] @ means[s]) / t
            for s, t in zip((positive, ~positive), totals, strict=True)
        ]
        away = means - np.where(positive, *centers)
        residual = (within + float(weight @ away**2)) / freedom
        if residual <= 0:
            return math.inf, centers[0] - centers[1], 0.0, 0.0
        deviance = (
            freedom * math.log(residual)
            + float(np.log1p(size * ratio).sum())
            + math.log(math.prod(totals))
        )
        return deviance, centers[0] - centers[1], residual * sum(1 / t for t in totals), residual

    if within == 0 and not any(np.ptp(means[side]) for side in (positive, ~positive)):
        difference = at(0.0)[1]
        return RandomIntercept(
            difference, math.nan, math.nan, math.nan, degrees, math.nan, math.nan
        )
    found = minimize_scalar(
        lambda x: at(math.exp(x))[0], bounds=(-15, 15), method="bounded", options={"xatol": 1e-9}
    )
    ratio = math.exp(float(found.x))
    ratio = 0.0 if at(0.0)[0] <= at(ratio)[0] else ratio
    _, difference, variance, _ = at(ratio)
    if variance <= 0 or degrees < 1:
        return RandomIntercept(
            difference, math.nan, math.nan, math.nan, degrees, math.nan, math.nan
        )
    t = difference / math.sqrt(variance)
    reach = float(stdtrit(degrees, (1 + level) / 2)) * math.sqrt(variance)
    p_value = 2 * float(stdtr(degrees, -abs(t)))
    return RandomIntercept(
        difference, difference - reach, difference + reach, t, degrees, p_value, ratio / (1 + ratio)
    )

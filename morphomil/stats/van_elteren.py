"""Two groups compared within strata (van Elteren), so that what only the strata differ in says
nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri
from scipy.stats import norm, rankdata

from morphomil.stats.intervals import clopper_pearson_limits, tail_share
from morphomil.stats.ordering import Spread
from morphomil.stats.roc import logit_interval

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class VanElteren:
    """A Wilcoxon test within strata, with effects of which each stratum gives its part.

    `z` is positive where the group is higher. `cliffs_delta` is the strata's deltas with weights
    m k / (m + k + 1), the same as the test's; `shift` the weighted median of the differences within
    strata. `missing` values and those of strata with one group only count nowhere.
    """

    z: float
    p_value: float
    cliffs_delta: float
    low: float
    high: float
    shift: float
    shift_low: float
    shift_high: float
    n_group: int
    n_rest: int
    strata: int
    """So many strata hold both groups."""
    missing: int


def van_elteren(
    values: ArrayLike, in_group: ArrayLike, strata: ArrayLike, *, level: float = 0.95
) -> VanElteren:
    """Van Elteren's test (1960) of a group against the rest, two-sided, normal with ties corrected.

    Each stratum's rank sum W counts with weight 1 / (n + 1): T = sum W / (n + 1), with the mean
    sum m / 2 and the variance sum m k (n + 1 - ties) / (12 (n + 1)^2) of permutations within strata
    (Lehmann 1975, section 3.3; SAS's PROC FREQ CMH2 SCORES=MODRIDIT). With one stratum it is
    Wilcoxon's test without continuity correction.

    Delta's interval is on the logit scale of the AUC, from DeLong's placements, whose variances
    are pooled over strata, so that strata of a few patients have one too; without variance the
    rule of `auc_interval` holds. The shift's interval holds the shifts that the test wouldn't
    reject at 1 - level.

    Args:
        values: (n,), NaN where missing.
        in_group: (n,), boolean.
        strata: (n,), a label each.
        level: of the intervals.

    Raises:
        ValueError: shapes differ.
    """
    x, member, stratum = np.asarray(values, np.float64), np.asarray(in_group), np.asarray(strata)
    if x.ndim != 1 or member.shape != x.shape or stratum.shape != x.shape:
        raise ValueError(
            "values, groups and strata must be vectors of one length, got shapes "
            f"{x.shape}, {member.shape}, {stratum.shape}"
        )
    known = ~np.isnan(x)
    missing = int((~known).sum())
    parts = list(_strata(x[known], member[known].astype(bool), stratum[known]))
    if not parts:
        nothing = (np.nan,) * 8
        return VanElteren(*nothing, 0, 0, 0, missing)
    tested = [_stratum_moments(part) for part in parts]
    excess, variance = (float(sum(column)) for column in zip(*tested, strict=True))
    z = excess / math.sqrt(variance) if variance > 0 else 0.0
    return VanElteren(
        z,
        float(2 * norm.sf(abs(z))) if variance > 0 else 1.0,
        *_delta(parts, level=level),
        *_shift(parts, level=level),
        sum(len(group) for group, _ in parts),
        sum(len(rest) for _, rest in parts),
        len(parts),
        missing,
    )


Part = tuple["NDArray[np.float64]", "NDArray[np.float64]"]
"""The values of a stratum's group, and those of its rest."""


def _strata(
    x: NDArray[np.float64], member: NDArray[np.bool_], stratum: NDArray[np.generic]
) -> Iterator[Part]:
    """Values in the group and beside it, of every stratum that has both."""
    for name in np.unique(stratum):
        group, rest = x[(stratum == name) & member], x[(stratum == name) & ~member]
        if len(group) and len(rest):
            yield group, rest


def _stratum_moments(part: Part) -> tuple[float, float]:
    """(W - mean) / (n + 1) and its variance, of one stratum."""
    group, rest = part
    m, k = len(group), len(rest)
    n = m + k
    rank = rankdata(np.concatenate(part))
    spread = float(((rank - (n + 1) / 2) ** 2).sum())
    excess = (float(rank[:m].sum()) - m * (n + 1) / 2) / (n + 1)
    return excess, m * k * spread / (n * (n - 1) * (n + 1) ** 2)


def _delta(parts: list[Part], *, level: float) -> tuple[float, float, float]:
    """Weighted Cliff's delta with the interval that one stratum has (`roc.logit_interval`)."""
    placed = [_placements(*part) for part in parts]
    m, k = (np.array([len(one[side]) for one in parts]) for side in (0, 1))
    weight = m * k / (m + k + 1)
    weight = weight / weight.sum()
    area = float(weight @ [group.mean() for group, _ in placed])
    degrees = np.maximum([(m - 1).sum(), (k - 1).sum()], 1)
    of_sides = np.array(
        [
            _pooled_variance([one[side] for one in placed]) * float((weight**2 / count).sum())
            for side, count in enumerate((m, k))
        ]
    )
    variance, pairs = float(of_sides.sum()), int(np.minimum(m, k).sum())
    if variance > 0 and 0 < area < 1:
        spread = Spread(variance, variance**2 / float((of_sides**2 / degrees).sum()))
        _, low, high = logit_interval(area, spread, pairs=pairs, level=level)
    else:
        low, high = clopper_pearson_limits(area * pairs, pairs, level=level)
    return 2 * area - 1, 2 * low - 1, 2 * high - 1


def _placements(group: NDArray[np.float64], rest: NDArray[np.float64]) -> Part:
    """The share of the rest below each of the group, and of the group above each of the rest."""
    m, k = len(group), len(rest)
    both = rankdata(np.concatenate([group, rest]))
    return (both[:m] - rankdata(group)) / k, 1 - (both[m:] - rankdata(rest)) / m


def _pooled_variance(samples: list[NDArray[np.float64]]) -> float:
    """Within samples, one degree of freedom less for each; 0 where all have one value."""
    degrees = sum(len(sample) - 1 for sample in samples)
    squares = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples)
    return squares / degrees if degrees else 0.0


def _shift(parts: list[Part], *, level: float) -> tuple[float, float, float]:
    """Weighted median of the differences within strata, and the limits that the test leaves."""
    difference, weight, variance = [], [], 0.0
    for group, rest in parts:
        m, k = len(group), len(rest)
        difference.append((group[:, None] - rest).ravel())
        weight.append(np.full(m * k, 1 / (m + k + 1)))
        variance += m * k / (12 * (m + k + 1))
    differences, weights = np.concatenate(difference), np.concatenate(weight)
    middle = weights.sum() / 2
    bound = middle + float(ndtri(tail_share(level))) * math.sqrt(variance)
    center = (_reach(differences, weights, middle) - _reach(-differences, weights, middle)) / 2
    low, high = (sign * _reach(sign * differences, weights, bound) for sign in (1, -1))
    return center, low, high


def _reach(values: NDArray[np.float64], weights: NDArray[np.float64], bound: float) -> float:
    """The largest of the smallest values whose weights add up to the bound at most; the smallest if
    none does."""
    order = np.argsort(values, kind="stable")
    held = np.cumsum(weights[order]) <= bound * (1 + 1e-12)
    return float(values[order[max(int(held.sum()) - 1, 0)]])

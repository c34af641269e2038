"""Two groups compared within strata (van Elteren), so that what only the strata differ in says
nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri
from scipy.stats import norm, rankdata

from morphomil.compiled import compiled
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
    sizes = np.array([(len(group), len(rest)) for group, rest in parts], dtype=np.float64)
    m, k = sizes.T
    middle = float((m * k / (m + k + 1)).sum()) / 2
    variance = float((m * k / (12 * (m + k + 1))).sum())
    bound = middle + float(ndtri(tail_share(level))) * math.sqrt(variance)
    up = _Differences.of(parts)
    down = _Differences.of([(rest, group) for group, rest in parts])
    return (up.reach(middle) - down.reach(middle)) / 2, up.reach(bound), -down.reach(bound)


@dataclass(frozen=True)
class _Differences:
    """All differences between the two samples of each stratum, which are never listed."""

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    """Sorted within strata: the differences are first - second."""
    ends: NDArray[np.int64]
    """(strata, 2): where each one's values end in the two."""
    weight: NDArray[np.float64]  # (strata,), of a difference

    @classmethod
    def of(cls, parts: list[Part]) -> _Differences:
        first, second = (np.concatenate([np.sort(part[side]) for part in parts]) for side in (0, 1))
        sizes = np.array([(len(one), len(other)) for one, other in parts])
        return cls(first, second, np.cumsum(sizes, axis=0), 1 / (sizes.sum(axis=1) + 1))

    def reach(self, bound: float) -> float:
        """The largest of the smallest differences whose weights add up to the bound at most; the
        smallest if none does. By bisection; of a difference that is there several times the first
        stratum's decides whether it still fits."""
        limit = bound * (1 + 1e-12)
        _, _, least, _ = self._split(-math.inf)
        held, most, _, _ = self._split(math.inf)
        if held <= limit:
            return most
        low, high = least, most  # differences up to `high` weigh too much
        while True:
            center = low + (high - low) / 2
            if center == high:  # the two are neighbors
                center = low
            held, below, above, stratum = self._split(center)
            if held > limit:
                high = below
                if high == least:
                    return least
            elif above == high:
                return above if held + self.weight[stratum] <= limit else below
            else:
                low = center

    def _split(self, limit: float) -> tuple[float, float, float, int]:
        """The weight of the differences up to a limit, the largest of them, the smallest beyond and
        its first stratum."""
        counts, below, above, stratum = _split(self.first, self.second, self.ends, limit)
        return float(self.weight @ counts), below, above, stratum


@compiled(nogil=True)
def _split(
    first: NDArray[np.float64], second: NDArray[np.float64], ends: NDArray[np.int64], limit: float
) -> tuple[NDArray[np.int64], float, float, int]:
    counts = np.zeros(len(ends), np.int64)
    below, above, stratum = -np.inf, np.inf, 0
    start, begin = 0, 0
    for s in range(len(ends)):
        stop, end = ends[s]
        j = begin  # the first of `second` that is large enough; it grows with i
        for i in range(start, stop):
            while j < end and first[i] - second[j] > limit:
                j += 1
            counts[s] += end - j
            if j < end:
                below = max(below, first[i] - second[j])
            if j > begin and first[i] - second[j - 1] < above:
                above, stratum = first[i] - second[j - 1], s
        start, begin = stop, end
    return counts, below, above, stratum

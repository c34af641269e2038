"""Brunner and Munzel's test: is a value of one group as often above as below one of the other,
whatever the groups' spreads?"""

from __future__ import annotations

import math
from itertools import chain, combinations, islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import stdtr

from morphomil.stats.ordering import Ordering

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

PERMUTED_BELOW = 10
"""Where a group has fewer values than this, p comes from permutations of the studentized
statistic."""
MOST_ARRANGEMENTS = 20_000
"""Up to so many arrangements of two groups are all looked at, of more a drawn sample."""
DRAWN_ARRANGEMENTS = 9_999
"""So many arrangements are drawn, beside the one at hand."""
BLOCK = 2**20
"""Arrangements are looked at in blocks of about so many places."""


class BrunnerMunzel(NamedTuple):
    """The studentized distance of P(X > Y) + P(X = Y) / 2 from 1/2, positive where x is higher, its
    degrees of freedom, and a two-sided p value."""

    statistic: float
    degrees: float
    p_value: float


def brunner_munzel(x: ArrayLike, y: ArrayLike) -> BrunnerMunzel:
    """Brunner and Munzel's (2000) test that P(X > Y) + P(X = Y) / 2 is 1/2, ties and unequal
    spreads allowed.

    Student's t with Satterthwaite's degrees of freedom (scipy's `brunnermunzel(y, x)`); where a
    group has fewer than ten values the permutation distribution of the studentized statistic
    (Neubert & Brunner 2007), all arrangements or 9,999 drawn ones with p = (b + 1) / (B + 1). Where
    every value of one group lies above all of the other the statistic is infinite, and p is the
    share of such arrangements: 2 / C(n + m, n). Mann-Whitney's test supposes one distribution and
    rejects too often where the smaller group has the larger spread. NaN are left out; a group of
    fewer than two values gives NaN, values all alike give statistic 0 and p 1.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"groups must be vectors, got shapes {a.shape}, {b.shape}")
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    n, m = len(a), len(b)
    if min(n, m) < 2:
        return BrunnerMunzel(math.nan, math.nan, math.nan)
    values = np.concatenate([a, b])
    ordering = Ordering.of(np.arange(n + m) < n, values)
    distance, spread = ordering.auc - 0.5, ordering.spread_of(ordering.wins)
    if spread.variance == 0:
        if distance == 0:
            return BrunnerMunzel(0.0, math.nan, 1.0)
        return BrunnerMunzel(math.copysign(math.inf, distance), math.nan, 2 / math.comb(n + m, n))
    statistic = distance / math.sqrt(spread.variance)
    if min(n, m) < PERMUTED_BELOW:
        p_value = _permuted(values, statistic, smaller=min(n, m))
    else:
        p_value = 2 * float(stdtr(spread.degrees, -abs(statistic)))
    return BrunnerMunzel(statistic, spread.degrees, p_value)


def _permuted(values: NDArray[np.float64], statistic: float, *, smaller: int) -> float:
    """The share of arrangements with a statistic as far from 0."""
    ordered, least = np.sort(values), abs(statistic) * (1 - 1e-9)
    count = far = 0
    for inside in _arrangements(len(values), smaller):
        count += len(inside)
        far += int((np.abs(_statistics(ordered, inside)) >= least).sum())
    if math.comb(len(values), smaller) <= MOST_ARRANGEMENTS:
        return far / count
    return (far + 1) / (count + 1)


def _arrangements(total: int, smaller: int) -> Iterator[NDArray[np.bool_]]:
    """Who is in the smaller group, (arrangements, total) in blocks."""
    rng, count = np.random.default_rng((total, smaller)), math.comb(total, smaller)
    rows, every = max(1, BLOCK // total), count <= MOST_ARRANGEMENTS
    places = combinations(range(total), smaller)
    for done in range(0, count if every else DRAWN_ARRANGEMENTS, rows):
        block = min(rows, (count if every else DRAWN_ARRANGEMENTS) - done)
        if every:
            taken = chain.from_iterable(islice(places, block))
            members = np.fromiter(taken, np.intp).reshape(block, smaller)
        else:
            members = rng.random((block, total)).argpartition(smaller, axis=1)[:, :smaller]
        inside = np.zeros((block, total), np.bool_)
        np.put_along_axis(inside, members, True, axis=1)
        yield inside


def _statistics(ordered: NDArray[np.float64], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The studentized statistic of each arrangement, (arrangements,), of sorted values."""
    first = np.searchsorted(ordered, ordered, "left")
    past = np.searchsorted(ordered, ordered, "right")
    size = int(inside[0].sum())
    sizes = (size, len(ordered) - size)
    placements, variance = [], np.zeros(len(inside))
    for own, other, n, m in ((inside, ~inside, *sizes), (~inside, inside, *sizes[::-1])):
        below = np.cumsum(np.pad(other, ((0, 0), (1, 0))), axis=1)
        placed = np.where(own, below[:, first] + below[:, past], 0) / (2 * m)
        mean = placed.sum(axis=1) / n
        variance += ((placed**2).sum(axis=1) - n * mean**2).clip(0) / (n * (n - 1))
        placements.append(mean)
    distance = placements[0] - 0.5
    variance[variance < 1e-12] = 0  # rounding of squares
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / np.sqrt(variance))

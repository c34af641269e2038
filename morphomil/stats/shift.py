"""Hodges and Lehmann's shift between two samples, without the table of all differences."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtri

from morphomil.stats.intervals import check_level

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

EXACT_BELOW = 50
"""Without ties, ranks of the limits are exact when both samples have fewer values (as R's
wilcox.test)."""


class Shift(NamedTuple):
    """A shift with its confidence limits."""

    estimate: float
    low: float
    high: float


def hodges_lehmann(x: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> Shift:
    """Median of all differences x - y, with the interval that inverts the Mann-Whitney test (Moses
    1965).

    The limits are the k-th smallest and largest difference, k from the test's null distribution:
    exact without ties in samples below 50 (then R's `wilcox.test(conf.int = TRUE)`), else normal
    with tie correction (Hollander & Wolfe 1999, 4.3). Only ties within a sample count: those
    between samples come and go with a shift, and the interval must shift with x. The limits suppose
    that the distributions differ by a shift alone: where one is wider they hold the median
    difference less often (Cliff's delta with its interval supposes nothing of the kind). With very
    few values the exact interval, from smallest to largest difference, has less than `level`. NaN
    are left out; an empty sample gives NaN. Time is O(n log n) per digit, memory O(n).

    Raises:
        ValueError: not vectors, an infinite value, or a level not in (0, 1).
    """
    check_level(level)
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or b.ndim != 1 or np.isinf(a).any() or np.isinf(b).any():
        raise ValueError(
            f"samples must be vectors of finite numbers or NaN, got shapes {a.shape}, {b.shape}"
        )
    a, b = np.sort(a[~np.isnan(a)]), np.sort(b[~np.isnan(b)])
    n, m = len(a), len(b)
    if not n * m:
        return Shift(math.nan, math.nan, math.nan)
    middle = (_difference(a, b, (n * m + 1) // 2) + _difference(a, b, n * m // 2 + 1)) / 2
    ties = np.concatenate([np.unique(own, return_counts=True)[1] for own in (a, b)])
    if ties.max() == 1 and max(n, m) < EXACT_BELOW:
        rank = int(np.searchsorted(_null_distribution(n, m), (1 - level) / 2))
    else:
        total = n + m
        tied = (
            float((ties.astype(float) ** 3 - ties).sum()) / (total * (total - 1))
            if total > 1
            else 0.0
        )
        rank = math.floor(
            n * m / 2 + float(ndtri((1 - level) / 2)) * math.sqrt(n * m / 12 * (total + 1 - tied))
        )
    rank = max(rank, 1)
    return Shift(middle, _difference(a, b, rank), _difference(a, b, n * m + 1 - rank))


def _difference(a: NDArray[np.float64], b: NDArray[np.float64], rank: int) -> float:
    """The rank-th smallest of all a - b, both sorted: bisection for where the count reaches the
    rank."""

    def count(limit: float) -> int:
        """How many differences are at most so large, give or take rounding."""
        return int((len(b) - np.searchsorted(b, a - limit, side="left")).sum())

    low, high = float(a[0] - b[-1]), float(a[-1] - b[0])
    if count(low) >= rank:
        return low
    while low < (center := low + (high - low) / 2) < high:
        low, high = (low, center) if count(center) >= rank else (center, high)
    # The difference itself, of which bisection is a rounding error away.
    near = np.searchsorted(b, a - high)
    candidates = np.concatenate([a - b[np.clip(near + step, 0, len(b) - 1)] for step in (-1, 0)])
    return float(candidates[np.abs(candidates - high).argmin()])


@lru_cache(maxsize=64)
def _null_distribution(n: int, m: int) -> NDArray[np.float64]:
    """P(U <= u) for u = 0 ... n m without ties: the largest of all values is x's or y's."""
    previous = [np.ones(1)] * (m + 1)  # P(U = u) with no x and j y's
    for i in range(1, n + 1):
        current = [np.ones(1)]
        for j in range(1, m + 1):
            density = np.zeros(i * j + 1)
            density[j:] += previous[j] * (i / (i + j))
            density[: i * (j - 1) + 1] += current[j - 1] * (j / (i + j))
            current.append(density)
        previous = current
    return np.cumsum(previous[m])

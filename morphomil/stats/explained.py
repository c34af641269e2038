"""How much of a value something else explains, with intervals: rank correlation, and the share of
the ranks' variance between groups."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ncfdtr, ndtri

from morphomil.stats.intervals import tail_share

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Explained(NamedTuple):
    """An effect with its confidence limits, and the p value of no association; NaN where there are
    too few values, or one value only."""

    n: int
    effect: float
    low: float
    high: float
    p_value: float


def rank_correlation(x: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> Explained:
    """Spearman's rho of pairs without a missing value.

    The interval is that of Bonett & Wright (2000): Fisher's z with the variance
    (1 + rho^2 / 2) / (n - 3); p is scipy's, of the t approximation.
    """
    from scipy.stats import spearmanr

    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Explained(len(a), *(math.nan,) * 4)
    rho, p_value = spearmanr(a, b)
    reach = -ndtri(tail_share(level)) * math.sqrt((1 + rho**2 / 2) / (len(a) - 3))
    with np.errstate(divide="ignore"):
        center = np.arctanh(rho)
    low, high = np.tanh([center - reach, center + reach])
    return Explained(len(a), float(rho), float(low), float(high), float(p_value))


def epsilon_squared(values: ArrayLike, groups: ArrayLike, *, level: float = 0.95) -> Explained:
    """Epsilon squared of Kruskal and Wallis, H / (n - 1): the share of the ranks' variance that
    lies between groups.

    It is eta squared of the ranks, and so is its interval, by the noncentral F distribution
    (Smithson 2003): those shares nc / (nc + n) of which the F of the ranks isn't among the
    smallest or largest tail. p is Kruskal and Wallis's.

    Args:
        values: (n,), NaN where missing.
        groups: (n,), a label each, None or NaN where missing.
        level: of the interval.
    """
    from scipy.stats import kruskal

    x, names = np.asarray(values, np.float64), np.asarray(groups, object)
    known = np.isfinite(x) & np.array([name == name and name is not None for name in names])
    x = x[known]
    labels, code = np.unique(names[known].astype(str), return_inverse=True)
    n, k = len(x), len(labels)
    if k < 2 or n <= k or np.ptp(x) == 0:
        return Explained(n, *(math.nan,) * 4)
    h, p_value = kruskal(*(x[code == number] for number in range(k)))
    share = min(float(h) / (n - 1), 1.0)
    low, high = share_limits(share, degrees=k - 1, rest=n - k, level=level)
    return Explained(n, share, low, high, float(p_value))


def share_limits(
    share: float, *, degrees: int, rest: int, level: float = 0.95
) -> tuple[float, float]:
    """Limits of the share of the ranks' variance that lies between groups (`epsilon_squared`).

    Args:
        share: found.
        degrees: of freedom between groups.
        rest: of freedom within them.
        level: of the interval.
    """
    from scipy.optimize import brentq

    if not 0 <= share < 1 or rest < 1:
        return (1.0, 1.0) if share >= 1 else (math.nan, math.nan)
    f = share / degrees / ((1 - share) / rest)
    tail = tail_share(level)

    def limit(probability: float) -> float:
        def miss(nc: float) -> float:
            return float(ncfdtr(degrees, rest, nc, f)) - probability

        if miss(0.0) <= 0:
            return 0.0
        reach = 10.0
        while miss(reach) > 0 and reach < 1e6:
            reach *= 2
        nc = float(brentq(miss, 0.0, reach))
        return nc / (nc + degrees + rest + 1)

    return limit(1 - tail), max(limit(tail), share)

"""Numbers compared between three or more groups, ordered or not, plainly or within strata."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import chdtrc, ndtr
from scipy.stats import rankdata

from morphomil.stats.combined_auc import ordered_pairs
from morphomil.stats.explained import share_limits
from morphomil.stats.ordering import Ordering
from morphomil.stats.scan import scan_columns

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class GroupsTest(NamedTuple):
    """A test of three or more groups, with its effect size and limits."""

    statistic: float
    p_value: float
    effect: float
    low: float
    high: float


NOTHING = GroupsTest(math.nan, math.nan, math.nan, math.nan, math.nan)
"""Fewer than two groups have a value."""


def kruskal_wallis(
    values: ArrayLike, labels: ArrayLike, *, strata: ArrayLike | None = None, level: float = 0.95
) -> GroupsTest:
    """Kruskal and Wallis's H, or its stratified form (`scan_columns`), with epsilon squared =
    H / (n - strata), from 0 to 1.

    The interval is that of the share of the ranks' variance that lies between groups
    (`explained.share_limits`), from 0 where the F of the ranks is within chance. The estimate is
    larger by about (groups - 1) / (n - 1).

    Args:
        values: (n,), NaN where missing.
        labels: (n,) whole numbers.
        strata: (n,).
        level: of the interval.
    """
    x = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(x)
    groups = np.unique(np.asarray(labels)[known], return_inverse=True)[1]
    if known.sum() < 3 or groups.max(initial=0) < 1:
        return NOTHING
    within = None if strata is None else np.asarray(strata)[known]
    degrees = int(groups.max())
    marks = np.stack([groups, groups])
    scan = scan_columns(x[known][:, None], marks, strata=within)
    h = float(scan.statistic[0] ** (2 if degrees == 1 else 1))
    size = known.sum() - (1 if within is None else len(np.unique(within)))
    share = min(1.0, h / size)
    limits = share_limits(share, degrees=degrees, rest=int(size) - degrees, level=level)
    return GroupsTest(h, float(chdtrc(degrees, h)), share, *limits)


def jonckheere_terpstra(
    values: ArrayLike, labels: ArrayLike, *, strata: ArrayLike | None = None, level: float = 0.95
) -> GroupsTest:
    """Jonckheere and Terpstra's test of a trend over groups in the order of their numbers, z with
    ties corrected (Hollander & Wolfe 1999, 6.19), and Somers's D of values given groups.

    With strata, the statistics less their expectations are added with weights 1 / (n + 1), as van
    Elteren does. D is of the pairs within strata, with the same weights; its interval is that of
    an AUC (D + 1) / 2 on the logit scale, as Cliff's delta's, which D is with two groups.

    Arguments as `kruskal_wallis`.
    """
    x = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(x)
    x, mark = x[known], np.asarray(labels)[known]
    within = np.zeros(len(x)) if strata is None else np.asarray(strata)[known]
    excess = variance = 0.0
    for stratum in np.unique(within):
        own = within == stratum
        if len(np.unique(mark[own])) > 1:
            more, spread = _trend_of(x[own], mark[own])
            weight = 1 / (own.sum() + 1)
            excess, variance = excess + weight * more, variance + weight**2 * spread
    if not variance > 0:
        return NOTHING if len(np.unique(mark)) < 2 else NOTHING._replace(effect=0.0)
    z = excess / math.sqrt(variance)
    area = ordered_pairs(mark, x, within).interval(level=level, on_logit=True)
    effect = tuple(2 * limit - 1 for limit in area)
    return GroupsTest(z, float(2 * ndtr(-abs(z))), *effect)


def _trend_of(x: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, float]:
    """The statistic less its expectation, and its variance."""
    names, size = np.unique(labels, return_counts=True)
    excess = 0.0
    for place, low in enumerate(names):
        for high in names[place + 1 :]:
            some = (labels == low) | (labels == high)
            ordering = Ordering.of(labels[some] == high, x[some])
            excess += (ordering.auc - 0.5) * float(ordering.pairs.sum())
    ties = np.unique(x, return_counts=True)[1]
    n = float(len(x))
    whole = n * (n - 1) * (2 * n + 5)
    own, tied = ((c * (c - 1.0) * (2 * c + 5)).sum() for c in (size, ties))
    variance = (whole - own - tied) / 72
    if n > 2:
        triples = [(c * (c - 1.0) * (c - 2)).sum() for c in (size, ties)]
        variance += triples[0] * triples[1] / (36 * n * (n - 1) * (n - 2))
    doubles = [(c * (c - 1.0)).sum() for c in (size, ties)]
    return excess, float(variance + doubles[0] * doubles[1] / (8 * n * (n - 1)))


def mean_ranks(
    values: ArrayLike, labels: ArrayLike, *, classes: int, strata: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Each group's mean rank among all patients with a value, within strata as shares of 0 to 1;
    NaN where a group has none. Which group has more, where medians may tie."""
    x, groups = np.asarray(values, dtype=np.float64), np.asarray(labels)
    within = np.zeros(len(x)) if strata is None else np.asarray(strata)
    share = np.full(len(x), np.nan)
    for stratum in np.unique(within):
        own = (within == stratum) & ~np.isnan(x)
        share[own] = (rankdata(x[own]) - 0.5) / max(own.sum(), 1)
    means = np.full(classes, np.nan)
    for label in range(classes):
        if len(own_shares := share[(groups == label) & ~np.isnan(x)]):
            means[label] = own_shares.mean()
    return means

"""Mann-Whitney's U, exact or with ties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from morphomil.stats.roc import auc_interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
EXACT_BELOW = 50
"""Without ties, p is exact when both groups have fewer values than this (as R's wilcox.test)."""


@dataclass(frozen=True)
class MannWhitney:
    """A Mann-Whitney test of x against y with Cliff's delta and its confidence limits `low`,
    `high`.

    `u` counts pairs with x above y, ties half; `cliffs_delta` = 2 u / (n_x n_y) - 1 is positive
    where x is higher. `missing` values were left out of x and y.
    """

    u: float
    p_value: float
    cliffs_delta: float
    low: float
    high: float
    n_x: int
    n_y: int
    missing: int


def mann_whitney(x: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> MannWhitney:
    """Two-sided Mann-Whitney U test (scipy's) with Cliff's delta.

    p is exact without ties in groups below 50, else normal with tie and continuity correction.
    p supposes one distribution: where the smaller group has the larger spread it is too small
    (12.8 % below 0.05 in groups of 10 and 60 with SDs 3 and 1); `brunner_munzel` supposes nothing
    of the kind. Delta's interval is that of the AUC, delta = 2 AUC - 1, by `auc_interval`'s method
    `logit-delong`, with its rule at -1 and 1: it keeps its coverage where the groups differ in
    spread. NaN are left out. An empty group gives NaN throughout; values all
    alike give p 1 and delta 0.
    """
    from scipy.stats import mannwhitneyu

    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"groups must be vectors, got shapes {a.shape}, {b.shape}")
    missing = int(np.isnan(a).sum() + np.isnan(b).sum())
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    if not (len(a) and len(b)):
        return MannWhitney(np.nan, np.nan, np.nan, np.nan, np.nan, len(a), len(b), missing)
    pooled = np.concatenate([a, b])
    area = auc_interval(np.arange(len(pooled)) < len(a), pooled, method="logit-delong", level=level)
    delta, low, high = (2 * value - 1 for value in area)
    distinct = len(np.unique(pooled))
    if distinct == 1:
        return MannWhitney(len(a) * len(b) / 2, 1.0, delta, low, high, len(a), len(b), missing)
    exact = distinct == len(pooled) and max(len(a), len(b)) < EXACT_BELOW
    u, p_value = mannwhitneyu(a, b, method="exact" if exact else "asymptotic")
    return MannWhitney(float(u), float(p_value), delta, low, high, len(a), len(b), missing)

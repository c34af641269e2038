"""Groups compared feature by feature: rank tests with effect sizes, and p-values adjusted over the features.

Every row of data is one patient: nuclei or patches of one patient are no independent observations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.stats.roc import auc_interval
from morphomil.types import RefusedError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from numpy.typing import ArrayLike, NDArray

EXACT_BELOW = 50
"""Without ties, p is exact when both groups have fewer values than this (as R's wilcox.test)."""


@dataclass(frozen=True)
class MannWhitney:
    """A Mann-Whitney test of x against y with Cliff's delta and its confidence limits `low`, `high`.

    `u` counts pairs with x above y, ties half; `cliffs_delta` = 2 u / (n_x n_y) - 1 is positive where x is higher.
    `missing` values were left out of x and y.
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

    p is exact without ties in groups below 50, else normal with tie and continuity correction. Delta's interval is
    that of the AUC, delta = 2 AUC - 1, by DeLong's variance on the logit scale, with `auc_interval`'s rule at -1 and 1:
    unlike Newcombe's method 5 it keeps its coverage where the groups differ in spread. NaN are left out. An empty group
    gives NaN throughout; values all alike give p 1 and delta 0.
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


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted after Holm (1979): family-wise error. NaN stays NaN and doesn't count in the family."""
    adjusted, known = _checked_p(p_values)
    family = adjusted[known]
    order = np.argsort(family)
    family[order] = np.minimum(np.maximum.accumulate(family[order] * np.arange(len(family), 0, -1)), 1)
    adjusted[known] = family
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted after Benjamini and Hochberg (1995): false discovery rate. NaN as in `holm`."""
    from scipy.stats import false_discovery_control

    adjusted, known = _checked_p(p_values)
    if known.any():
        adjusted[known] = false_discovery_control(adjusted[known])
    return adjusted


def compare_groups(
    table: pd.DataFrame, groups: ArrayLike, *, positive: Hashable | None = None, level: float = 0.95
) -> pd.DataFrame:
    """Each numeric column of `table` compared between groups of its rows, one row of the result per column.

    Rows are patients, one each: several rows of a patient would count as independent and make p too small. `groups`
    has a label per row, in the rows' order. Adjusted p-values take the table's columns as the family.

    Two groups: `feature, n_positive, n_reference, missing, median_positive, median_reference, u, p_value, p_holm, p_bh,
    cliffs_delta, cliffs_delta_low, cliffs_delta_high, direction`, by `mann_whitney` of positive against reference;
    `direction` is "higher", "lower" or "equal" in positive by the sign of delta, missing where a group has no value.
    `positive` says which label; needed unless the labels are 0 and 1 or booleans.

    Three or more groups: `feature, n_LABEL ..., missing, median_LABEL ..., h, p_value, p_holm, p_bh, epsilon_squared`:
    Kruskal-Wallis, and its effect size H / (n - 1), from 0 to 1 (Tomczak & Tomczak 2014); NaN where a group has no
    value; values all alike give H 0 and p 1. `positive` has no meaning then and is refused.

    Raises:
        RefusedError: there is just one group.
        ValueError: lengths or indices differ, a label is missing, a column isn't numeric, or `positive` doesn't fit.
    """
    labels = _checked_labels(table, groups)
    names = sorted(pd.unique(labels).tolist(), key=lambda name: (str(type(name)), name))
    if len(names) < 2:
        raise RefusedError(
            f"groups can't be compared: the {len(labels)} patients have {len(names)} label(s) {names}; two are needed"
        )
    if len(names) > 2:
        if positive is not None:
            raise ValueError(f"positive is for two groups, got {positive!r} with {len(names)} groups")
        rows = [{"feature": name} | _kruskal_row(values, labels, names) for name, values in table.items()]
    else:
        in_positive = labels == _positive_label(names, positive)
        rows = [{"feature": name} | _two_group_row(values, in_positive, level=level) for name, values in table.items()]
    result = pd.DataFrame(rows)
    place = list(result).index("p_value") + 1
    result.insert(place, "p_holm", holm(result["p_value"]))
    result.insert(place + 1, "p_bh", benjamini_hochberg(result["p_value"]))
    return result


SMALL_EXPECTED = 5.0
"""A fourfold table with an expected count below this is tested by Fisher."""


def compare_categories(table: pd.DataFrame, groups: ArrayLike, *, level: float = 0.95) -> pd.DataFrame:
    """Each column of categories compared between groups of the rows, one row of the result per column.

    Rows are patients. Pearson's chi-square test without Yates's correction; Fisher's exact test for fourfold tables
    with an expected count below 5. Larger tables with such counts keep the chi-square and say so in `test`. Missing
    values are left out and counted.

    Returns:
        `feature, n, missing, test, statistic, degrees, p_value, p_holm, p_bh, cramers_v, cramers_v_low,
        cramers_v_high`: V with the interval that inverts the noncentral chi-square distribution (Smithson 2003). A
        column with one category or known in one group only has NaN.

    Raises:
        RefusedError: there is just one group.
        ValueError: lengths or indices differ, or a label is missing.
    """
    labels = _checked_labels(table, groups, numeric=False)
    if len(pd.unique(labels)) < 2:
        raise RefusedError("groups can't be compared: all patients have one label")
    result = pd.DataFrame(
        [{"feature": name} | _category_row(values, labels, level=level) for name, values in table.items()]
    )
    place = list(result).index("p_value") + 1
    result.insert(place, "p_holm", holm(result["p_value"]))
    result.insert(place + 1, "p_bh", benjamini_hochberg(result["p_value"]))
    return result


def _category_row(values: pd.Series[Any], labels: NDArray[Any], *, level: float) -> dict[str, Any]:
    from scipy.stats import chi2_contingency, fisher_exact

    known = values.notna().to_numpy()
    counts = pd.crosstab(values.to_numpy()[known], labels[known]).to_numpy()
    n = int(known.sum())
    row: dict[str, Any] = {"n": n, "missing": int((~known).sum())}
    if min(counts.shape, default=0) < 2:
        nothing = dict.fromkeys(
            ("statistic", "degrees", "p_value", "cramers_v", "cramers_v_low", "cramers_v_high"), np.nan
        )
        return row | {"test": "none"} | nothing
    chi = chi2_contingency(counts, correction=False)
    small = bool((chi.expected_freq < SMALL_EXPECTED).any())
    if small and counts.shape == (2, 2):
        test, p_value = "Fisher", float(fisher_exact(counts)[1])
    else:
        test, p_value = "chi-square, expected counts below 5" if small else "chi-square", float(chi.pvalue)
    dimension = n * (min(counts.shape) - 1)
    low, high = _noncentrality(float(chi.statistic), int(chi.dof), level=level)
    return row | {
        "test": test,
        "statistic": float(chi.statistic),
        "degrees": int(chi.dof),
        "p_value": p_value,
        "cramers_v": float(np.sqrt(chi.statistic / dimension)),
        "cramers_v_low": float(np.sqrt(low / dimension)),
        "cramers_v_high": float(min(1.0, np.sqrt(high / dimension))),
    }


def _noncentrality(statistic: float, degrees: int, *, level: float) -> tuple[float, float]:
    """Limits of the noncentrality of a chi-square statistic."""
    from scipy.optimize import brentq
    from scipy.special import chndtr

    def limit(share: float) -> float:
        if chndtr(statistic, degrees, 0) <= share:
            return 0.0
        top = 4 * statistic + 100
        return float(brentq(lambda nc: chndtr(statistic, degrees, nc) - share, 0, top))

    return limit((1 + level) / 2), limit((1 - level) / 2)


def _two_group_row(values: pd.Series[Any], in_positive: NDArray[np.bool_], *, level: float) -> dict[str, Any]:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    positive, reference = numbers[in_positive], numbers[~in_positive]
    test = mann_whitney(positive, reference, level=level)
    sign = np.sign(test.cliffs_delta)
    return {
        "n_positive": test.n_x,
        "n_reference": test.n_y,
        "missing": test.missing,
        "median_positive": _median(positive),
        "median_reference": _median(reference),
        "u": test.u,
        "p_value": test.p_value,
        "cliffs_delta": test.cliffs_delta,
        "cliffs_delta_low": test.low,
        "cliffs_delta_high": test.high,
        "direction": None if np.isnan(sign) else {1: "higher", -1: "lower", 0: "equal"}[int(sign)],
    }


def _kruskal_row(values: pd.Series[Any], labels: NDArray[Any], names: list[Any]) -> dict[str, Any]:
    from scipy.stats import kruskal

    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    known = ~np.isnan(numbers)
    samples = {name: numbers[known & (labels == name)] for name in names}
    if not all(map(len, samples.values())):
        h, p_value = np.nan, np.nan
    elif len(np.unique(numbers[known])) == 1:
        h, p_value = 0.0, 1.0
    else:
        h, p_value = map(float, kruskal(*samples.values()))
    return (
        {f"n_{name}": len(sample) for name, sample in samples.items()}
        | {"missing": int((~known).sum())}
        | {f"median_{name}": _median(sample) for name, sample in samples.items()}
        | {"h": h, "p_value": p_value, "epsilon_squared": h / max(known.sum() - 1, 1)}
    )


def _median(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else np.nan


def _checked_labels(table: pd.DataFrame, groups: ArrayLike, *, numeric: bool = True) -> NDArray[Any]:
    if isinstance(groups, pd.Series) and len(groups) == len(table) and not groups.index.equals(table.index):
        raise ValueError("groups must have the table's index, got another one of the same length")
    labels = np.asarray(groups)
    if labels.shape != (len(table),):
        raise ValueError(f"groups must be one label for each of {len(table)} rows, got shape {labels.shape}")
    if missing := int(pd.isna(labels).sum()):
        raise ValueError(f"groups must not be missing, got {missing} of {len(labels)}")
    if table.columns.empty:
        raise ValueError("table must have a column to compare, got none")
    other = [str(name) for name, values in table.items() if not pd.api.types.is_numeric_dtype(values)]
    if numeric and other:
        raise ValueError(f"columns must be numeric, got {', '.join(other)}")
    return labels


def _positive_label(names: list[Any], positive: Hashable | None) -> Any:
    if positive is None:
        if set(names) == {0, 1}:
            return names[1]
        raise ValueError(f"positive must say which of the labels {names} is the positive one")
    if positive not in names:
        raise ValueError(f"positive must be one of the labels {names}, got {positive!r}")
    return positive


def _checked_p(p_values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A copy, and which of its values aren't NaN."""
    values = np.array(p_values, dtype=np.float64)
    known = ~np.isnan(values)
    if not ((values[known] >= 0) & (values[known] <= 1)).all():
        raise ValueError(f"p-values must be in [0, 1], got {values[known].min()} to {values[known].max()}")
    return values, known

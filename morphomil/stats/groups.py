"""Groups compared feature by feature: rank tests with effect sizes, and p-values adjusted over the
features.

Every row of data is one patient: nuclei or patches of one patient are no independent observations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from morphomil.stats.axial import axial_mean, axial_resultant, rayleigh_test, watson_williams_test
from morphomil.stats.roc import auc_interval
from morphomil.stats.shift import hodges_lehmann
from morphomil.types import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

NumberTest = Literal["mann-whitney", "welch", "t"]
Correction = Literal["holm", "bh", "benjamini-hochberg", "none"]

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
    Delta's interval is that of the AUC, delta = 2 AUC - 1, by DeLong's variance on the logit scale,
    with `auc_interval`'s rule at -1 and 1: unlike Newcombe's method 5 it keeps its coverage where
    the groups differ in spread. NaN are left out. An empty group gives NaN throughout; values all
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


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted after Holm (1979): family-wise error. NaN stays NaN and doesn't count in
    the family."""
    adjusted, known = _checked_p(p_values)
    family = adjusted[known]
    order = np.argsort(family)
    family[order] = np.minimum(
        np.maximum.accumulate(family[order] * np.arange(len(family), 0, -1)), 1
    )
    adjusted[known] = family
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted after Benjamini and Hochberg (1995): false discovery rate. NaN as in
    `holm`."""
    from scipy.stats import false_discovery_control

    adjusted, known = _checked_p(p_values)
    if known.any():
        adjusted[known] = false_discovery_control(adjusted[known])
    return adjusted


def compare_groups(
    table: pd.DataFrame | Mapping[str, ArrayLike] | NDArray[Any],
    groups: ArrayLike,
    *,
    positive: Hashable | None = None,
    test: NumberTest = "mann-whitney",
    categories: Sequence[Hashable] = (),
    axial: Sequence[Hashable] = (),
    patients: ArrayLike | None = None,
    correction: Correction | None = None,
    family: str = "columns of this table",
    level: float = 0.95,
) -> pd.DataFrame:
    """Each column of `table` compared between groups of its rows, one row of the result per column.

    Rows are patients, one each. Where patients have several rows (nuclei, patches, slides),
    `patients` says whose each row is, and patients' medians are compared (`compare_clustered` has
    other ways). Columns that aren't numbers, and those in `categories`, are compared as
    `compare_categories` does; their results stand in its columns.

    Args:
        table: (n, columns): a DataFrame, a mapping of names to columns, or an array.
        groups: (n,), a label per row, in the rows' order.
        positive: which of two labels the direction refers to; by default 1 of 0/1, else the last in
            sorted order.
        test: of numbers in two groups; `welch` and `t` (equal variances) compare means.
        categories: numeric columns to compare as categories.
        axial: columns of axes in degrees (period 180, such as orientations), compared by Watson and
            Williams's test; patients' values are their mean directions. It takes angles against one
            common direction.
        patients: (n,), see above.
        correction: adds `p_adjusted`, the p values adjusted in this way; Holm's and Benjamini and
            Hochberg's are there anyway.
        family: how the result's column `family` names the p values that are adjusted together:
            those of all columns. A column without a p value doesn't count in it.
        level: of intervals.

    Returns:
        Two groups:
            `feature, test, n_positive, n_reference, missing, missing_positive, missing_reference,
        median_positive, median_reference, u, p_value, p_holm,
        p_bh`, `cliffs_delta` (which is the rank-biserial correlation) and `hodges_lehmann` (median
        of the differences positive - reference) with `_low` and `_high`, `direction`: "higher",
        "lower" or "equal" in positive by the sign of the effect, missing where a group has no
        value; `positive` (its label), `family`. With `welch` and `t`: `mean_`, `sd_`,
        `t, degrees, difference` (of means) and `hedges_g` with `_low` and `_high` instead of
        medians, u and rank effects.

        Three or more groups:
            `feature, test, n_LABEL ..., missing, median_LABEL ..., h, p_value, p_holm, p_bh,
        epsilon_squared,
        family`: Kruskal-Wallis, and its effect size H / (n - 1), from 0 to 1 (Tomczak & Tomczak
        2014); NaN where a group has no value; values all alike give H 0 and p 1. `positive` has no
        meaning then and is refused.

        Axial columns have, per group, `mean_direction_`, `resultant_length_` and `rayleigh_p_`
        beside, and Watson and Williams's F in `statistic`; p is missing where the test is refused
        (`watson_williams_test`).

    Raises:
        RefusedError: there is just one group; or `table` has a column `patient` with repeated
            values, which would make each row count as an independent observation.
        ValueError: lengths or indices differ, a label is missing, a value is infinite, `positive`
            or `test` doesn't fit, or a patient stands in two groups.
    """
    table = table if isinstance(table, pd.DataFrame) else pd.DataFrame(table)
    for name, values in table.items():
        if (
            pd.api.types.is_float_dtype(values)
            and np.isinf(values.to_numpy(np.float64, na_value=np.nan)).any()
        ):
            raise ValueError(
                f"column {name} has infinite values; make them missing if they stand for nothing"
            )
    if test not in ("mann-whitney", "welch", "t"):
        raise ValueError(f"test must be mann-whitney, welch or t, got {test!r}")
    adjust = _adjustment(correction)
    if absent := [name for name in axial if name not in table]:
        raise ValueError(f"axial columns must be in the table, got {absent}")
    if patients is not None:
        axes = {
            name: pd.Series(table[name].to_numpy(np.float64, na_value=np.nan)) for name in axial
        }
        table, groups = aggregate_to_patients(table, groups, patients)
        for name, angles in axes.items():
            table[name] = angles.groupby(np.asarray(patients), sort=True).agg(axial_mean)
    _refuse_repeated_patients(table)
    labels = _checked_labels(table, groups)
    names = sorted(pd.unique(labels).tolist(), key=lambda name: (str(type(name)), name))
    if len(names) < 2:
        raise RefusedError(
            f"groups can't be compared: the {len(labels)} patients have {len(names)} label(s) "
            f"{names}; two are needed"
        )
    if len(names) > 2 and (positive is not None or test != "mann-whitney"):
        raise ValueError(
            f"positive, welch and t are for two groups, got {positive!r} and {test} "
            f"with {len(names)}"
        )
    chosen = _positive_label(names, positive) if len(names) == 2 else None
    rows: list[dict[str, Any]] = []
    for name, values in table.items():
        if name in axial:
            suffixes = {label: str(label) for label in names}
            if chosen is not None:
                suffixes = {
                    label: "positive" if label == chosen else "reference" for label in names
                }
            rows.append({"feature": name} | _axial_row(values, labels, suffixes))
            continue
        if (
            name in categories
            or pd.api.types.is_bool_dtype(values)
            or not pd.api.types.is_numeric_dtype(values)
        ):
            found = _category_row(values, labels, level=level)
            sizes = (
                _sizes_of_groups(values, labels, names)
                if chosen is None
                else _sizes(values, labels == chosen)
            )
            found = (
                {"test": found.pop("test")}
                | sizes
                | {key: x for key, x in found.items() if key != "n"}
            )
        elif chosen is None:
            found = _kruskal_row(values, labels, names)
        elif test == "mann-whitney":
            found = _two_group_row(values, labels == chosen, level=level)
        else:
            found = _means_row(values, labels == chosen, equal_variances=test == "t", level=level)
        rows.append({"feature": name} | found)
    result = _with_adjusted(pd.DataFrame(rows))
    if chosen is not None:
        result["positive"] = chosen
    if adjust is not None:
        result["p_adjusted"] = adjust(result["p_value"])
    result["family"] = f"{family} ({int(result['p_value'].notna().sum())} p values)"
    return result


def aggregate_to_patients(
    table: pd.DataFrame,
    groups: ArrayLike,
    patients: ArrayLike,
    *,
    by: Literal["median", "mean"] = "median",
) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """One row per patient, sorted: each numeric column's median (or mean) over the patient's rows,
    and its group.

    Columns that aren't numbers must be the same in all rows of a patient.

    Raises:
        ValueError: lengths differ, a patient or group is missing, a patient stands in two groups,
            or a column that isn't numeric differs within a patient.
    """
    owners, labels = np.asarray(patients), np.asarray(groups)
    if owners.shape != (len(table),) or labels.shape != owners.shape:
        raise ValueError(f"patients and groups must say one for each of {len(table)} rows")
    if pd.isna(owners).any() or pd.isna(labels).any():
        raise ValueError("patients and groups must not be missing")
    of_patient = pd.Series(labels).groupby(owners, sort=True)
    if torn := of_patient.nunique().loc[lambda count: count > 1].index.tolist():
        raise ValueError(f"{len(torn)} patients stand in two groups, such as {torn[0]}")
    columns = {}
    for name, values in table.items():
        own = values.reset_index(drop=True).groupby(owners, sort=True)
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            columns[name] = own.agg(by)
        elif (own.nunique() > 1).any():
            raise ValueError(f"column {name} differs within a patient and can't be aggregated")
        else:
            columns[name] = own.first()
    return pd.DataFrame(columns), of_patient.first()


def _refuse_repeated_patients(table: pd.DataFrame) -> None:
    for name in ("patient", "patient_id"):
        if name in table and table[name].duplicated().any():
            count, owners = len(table), table[name].nunique()
            raise RefusedError(
                f"{count} rows of {owners} patients are not {count} independent observations: "
                "rows of one patient are "
                "alike, so a p value that takes them as cases is far too small. Leave the column "
                "out and give "
                f"patients=table[{name!r}], which compares patients' medians, or use "
                "compare_clustered"
            )


def _adjustment(correction: str | None) -> Callable[[ArrayLike], NDArray[np.float64]] | None:
    ways: dict[str | None, Callable[[ArrayLike], NDArray[np.float64]] | None] = {
        None: None,
        "holm": holm,
        "bh": benjamini_hochberg,
        "benjamini-hochberg": benjamini_hochberg,
        "none": lambda p_values: np.array(p_values, dtype=np.float64),
    }
    if correction not in ways:
        raise ValueError(
            f"correction must be holm, bh (benjamini-hochberg) or none, got {correction!r}"
        )
    return ways[correction]


def _with_adjusted(result: pd.DataFrame) -> pd.DataFrame:
    place = list(result).index("p_value") + 1
    result.insert(place, "p_holm", holm(result["p_value"]))
    result.insert(place + 1, "p_bh", benjamini_hochberg(result["p_value"]))
    return result


SMALL_EXPECTED = 5.0
"""A fourfold table with an expected count below this is tested by Fisher."""


def compare_categories(
    table: pd.DataFrame, groups: ArrayLike, *, level: float = 0.95
) -> pd.DataFrame:
    """Each column of categories compared between groups of the rows, one row of the result per
    column.

    Rows are patients. Pearson's chi-square test without Yates's correction; Fisher's exact test for
    fourfold tables with an expected count below 5. Larger tables with such counts keep the
    chi-square and say so in `test`. Missing values are left out and counted.

    Returns:
        `feature, n, missing, test, statistic, degrees, p_value, p_holm, p_bh, cramers_v,
        cramers_v_low,
        cramers_v_high`: V with the interval that inverts the noncentral chi-square distribution
        (Smithson 2003); its upper limit is never below that at the statistic's mean without
        association, since an unusually small statistic would else give an interval without width. A
        column with one category or known in one group only has NaN.

    Raises:
        RefusedError: there is just one group.
        ValueError: lengths or indices differ, or a label is missing.
    """
    labels = _checked_labels(table, groups)
    if len(pd.unique(labels)) < 2:
        raise RefusedError("groups can't be compared: all patients have one label")
    result = pd.DataFrame(
        [
            {"feature": name} | _category_row(values, labels, level=level)
            for name, values in table.items()
        ]
    )
    return _with_adjusted(result)


def _category_row(values: pd.Series[Any], labels: NDArray[Any], *, level: float) -> dict[str, Any]:
    from scipy.stats import chi2_contingency, fisher_exact

    known = values.notna().to_numpy()
    counts = pd.crosstab(values.to_numpy()[known], labels[known]).to_numpy()
    n = int(known.sum())
    row: dict[str, Any] = {"n": n, "missing": int((~known).sum())}
    if min(counts.shape, default=0) < 2:
        nothing = dict.fromkeys(
            ("statistic", "degrees", "p_value", "cramers_v", "cramers_v_low", "cramers_v_high"),
            np.nan,
        )
        return row | {"test": "none"} | nothing
    chi = chi2_contingency(counts, correction=False)
    small = bool((chi.expected_freq < SMALL_EXPECTED).any())
    if small and counts.shape == (2, 2):
        test, p_value = "Fisher", float(fisher_exact(counts)[1])
    else:
        test, p_value = (
            "chi-square, expected counts below 5" if small else "chi-square",
            float(chi.pvalue),
        )
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

    def limit(observed: float, share: float) -> float:
        if chndtr(observed, degrees, 0) <= share:
            return 0.0
        return float(
            brentq(lambda nc: chndtr(observed, degrees, nc) - share, 0, 4 * observed + 100)
        )

    return limit(statistic, (1 + level) / 2), limit(max(statistic, float(degrees)), (1 - level) / 2)


def _two_group_row(
    values: pd.Series[Any], in_positive: NDArray[np.bool_], *, level: float
) -> dict[str, Any]:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    positive, reference = numbers[in_positive], numbers[~in_positive]
    test = mann_whitney(positive, reference, level=level)
    shift = hodges_lehmann(positive, reference, level=level)
    return (
        {"test": "Mann-Whitney"}
        | _sizes(values, in_positive)
        | {
            "median_positive": _median(positive),
            "median_reference": _median(reference),
            "u": test.u,
            "p_value": test.p_value,
            "cliffs_delta": test.cliffs_delta,
            "cliffs_delta_low": test.low,
            "cliffs_delta_high": test.high,
            "hodges_lehmann": shift.estimate,
            "hodges_lehmann_low": shift.low,
            "hodges_lehmann_high": shift.high,
            "direction": _direction(test.cliffs_delta),
        }
    )


def _sizes(values: pd.Series[Any], in_positive: NDArray[np.bool_]) -> dict[str, Any]:
    known = values.notna().to_numpy()
    return {
        "n_positive": int((known & in_positive).sum()),
        "n_reference": int((known & ~in_positive).sum()),
        "missing": int((~known).sum()),
        "missing_positive": int((~known & in_positive).sum()),
        "missing_reference": int((~known & ~in_positive).sum()),
    }


def _sizes_of_groups(
    values: pd.Series[Any], labels: NDArray[Any], names: list[Any]
) -> dict[str, int]:
    known = values.notna().to_numpy()
    return {f"n_{name}": int((known & (labels == name)).sum()) for name in names} | {
        "missing": int((~known).sum())
    }


def _direction(effect: float) -> str | None:
    return (
        None
        if math.isnan(effect)
        else "higher"
        if effect > 0
        else "lower"
        if effect < 0
        else "equal"
    )


def _means_row(
    values: pd.Series[Any], in_positive: NDArray[np.bool_], *, equal_variances: bool, level: float
) -> dict[str, Any]:
    """Student's or Welch's t test; Hedges's g with the interval of Hedges & Olkin (1985).

    Without variance in both groups there is no t: p is 1 for equal means, else NaN.
    """
    from scipy.special import gammaln, ndtri, stdtr, stdtrit

    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    x, y = (part[~np.isnan(part)] for part in (numbers[in_positive], numbers[~in_positive]))
    n, m = len(x), len(y)
    row = {"test": "t" if equal_variances else "Welch"} | _sizes(values, in_positive)
    names = ["t", "degrees", "p_value", "difference", "difference_low", "difference_high"]
    names += ["hedges_g", "hedges_g_low", "hedges_g_high"]
    if min(n, m) < 2:
        return row | dict.fromkeys(names, math.nan) | {"direction": None}
    difference, freedom = float(x.mean() - y.mean()), float(n + m - 2)
    v, w = x.var(ddof=1), y.var(ddof=1)
    pooled = ((n - 1) * v + (m - 1) * w) / freedom
    variance = pooled * (1 / n + 1 / m) if equal_variances else v / n + w / m
    row |= {"mean_positive": float(x.mean()), "mean_reference": float(y.mean())}
    row |= {"sd_positive": math.sqrt(v), "sd_reference": math.sqrt(w)}
    if variance == 0:
        nothing = dict.fromkeys(names, math.nan) | {"p_value": 1.0 if difference == 0 else math.nan}
        return row | nothing | {"difference": difference, "direction": _direction(difference)}
    if not equal_variances:
        freedom = variance**2 / ((v / n) ** 2 / (n - 1) + (w / m) ** 2 / (m - 1))
    t, reach = (
        difference / math.sqrt(variance),
        float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance),
    )
    half = (n + m - 2) / 2
    small_sample = math.exp(gammaln(half) - gammaln(half - 0.5)) / math.sqrt(half)
    g = small_sample * difference / math.sqrt(pooled)
    away = float(ndtri((1 + level) / 2)) * math.sqrt((n + m) / (n * m) + g**2 / (2 * (n + m)))
    found = (
        t,
        freedom,
        2 * float(stdtr(freedom, -abs(t))),
        difference,
        difference - reach,
        difference + reach,
    )
    row |= dict(zip(names, (*found, g, g - away, g + away), strict=True))
    return row | {"direction": _direction(difference)}


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
        {"test": "Kruskal-Wallis"}
        | _sizes_of_groups(values, labels, names)
        | {f"median_{name}": _median(sample) for name, sample in samples.items()}
        | {"h": h, "p_value": p_value, "epsilon_squared": h / max(known.sum() - 1, 1)}
    )


def _axial_row(
    values: pd.Series[Any], labels: NDArray[Any], suffixes: dict[Any, str]
) -> dict[str, Any]:
    """Directions of each label, and whether they are one; columns end in `suffixes`."""
    angles = values.to_numpy(dtype=np.float64, na_value=np.nan)
    known = ~np.isnan(angles)
    row: dict[str, Any] = {"test": "Watson-Williams", "missing": int((~known).sum())}
    for label, suffix in suffixes.items():
        own = angles[known & (labels == label)]
        row |= {f"n_{suffix}": len(own), f"mean_direction_{suffix}": axial_mean(own)}
        row |= {f"resultant_length_{suffix}": axial_resultant(own)}
        row[f"rayleigh_p_{suffix}"] = rayleigh_test(own).p_value if len(own) > 1 else math.nan
    try:
        if not all(row[f"n_{suffix}"] for suffix in suffixes.values()):
            raise ValueError("a group has no angle")
        row["statistic"], row["p_value"] = watson_williams_test(angles[known], labels[known])
    except ValueError:
        row["statistic"] = row["p_value"] = math.nan
    return row


def _median(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else np.nan


def _checked_labels(table: pd.DataFrame, groups: ArrayLike) -> NDArray[Any]:
    if (
        isinstance(groups, pd.Series)
        and len(groups) == len(table)
        and not groups.index.equals(table.index)
    ):
        raise ValueError("groups must have the table's index, got another one of the same length")
    labels = np.asarray(groups)
    if labels.shape != (len(table),):
        raise ValueError(
            f"groups must be one label for each of {len(table)} rows, got shape {labels.shape}"
        )
    if missing := int(pd.isna(labels).sum()):
        raise ValueError(f"groups must not be missing, got {missing} of {len(labels)}")
    if table.columns.empty:
        raise ValueError("table must have a column to compare, got none")
    return labels


def _positive_label(names: list[Any], positive: Hashable | None) -> Any:
    if positive is None:
        return names[-1]
    if positive not in names:
        raise ValueError(f"positive must be one of the labels {names}, got {positive!r}")
    return positive


def _checked_p(p_values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A copy, and which of its values aren't NaN."""
    values = np.array(p_values, dtype=np.float64)
    known = ~np.isnan(values)
    if not ((values[known] >= 0) & (values[known] <= 1)).all():
        raise ValueError(
            f"p-values must be in [0, 1], got {values[known].min()} to {values[known].max()}"
        )
    return values, known

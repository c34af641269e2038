"""Groups compared feature by feature: rank tests with effect sizes, and p-values adjusted over the
features.

Every row of data is one patient: nuclei or patches of one patient are no independent observations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from morphomil.errors import RefusedError
from morphomil.stats.adjustment import Correction, adjustment, with_adjusted
from morphomil.stats.axial import axial_mean, axial_resultant, rayleigh_test, watson_williams_test
from morphomil.stats.brunner_munzel import brunner_munzel
from morphomil.stats.categories import category_row, check_labels, sorted_labels
from morphomil.stats.mann_whitney import mann_whitney
from morphomil.stats.shift import hodges_lehmann

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray
NumberTest = Literal["mann-whitney", "welch", "t"]


def compare_groups(
    table: pd.DataFrame | Mapping[str, ArrayLike] | NDArray[Any],
    groups: ArrayLike,
    *,
    positive: Hashable | None = None,
    test: NumberTest = "mann-whitney",
    categories: Sequence[Hashable] = (),
    axial: Sequence[Hashable] = (),
    patients: ArrayLike | None = None,
    slides: ArrayLike | None = None,
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
        slides: (n,), of rows that are parts of slides: a patient's value is then the median of its
            slides' medians, as in a ranking, and slides weigh alike.
        correction: adds `p_adjusted`, the p values adjusted in this way; Holm's and Benjamini and
            Hochberg's are there anyway.
        family: how the result's column `family` names the p values that are adjusted together:
            those of all columns. A column without a p value doesn't count in it: its values are all
            alike, or a group has none.
        level: of intervals.

    Returns:
        Two groups: `feature, test, n_positive, n_reference, missing, missing_positive,
        missing_reference, median_positive, median_reference, u, p_value, p_holm, p_bh`,
        `brunner_munzel_p, brunner_munzel_holm, brunner_munzel_bh` (`brunner_munzel`: that delta is
        0, whatever the groups' spreads, where `p_value` supposes one distribution; a family of its
        own), `cliffs_delta` (which is the rank-biserial correlation) and `hodges_lehmann` (median
        of the differences positive - reference; its limits suppose that the groups differ by a
        shift) with `_low` and `_high`, `direction`: "higher", "lower" or
        "equal" in positive by the sign of the effect, missing where a group has no value;
        `positive` (its label), `family`. With `welch` and `t`: `mean_`, `sd_`, `t, degrees,
        difference` (of means) and `hedges_g` with `_low` and `_high` instead of medians, u and rank
        effects.

        Three or more groups: `feature, test, n_LABEL ..., missing, median_LABEL ..., h, p_value,
        p_holm, p_bh, epsilon_squared, family`: Kruskal-Wallis, and its effect size H / (n - 1),
        from 0 to 1 (Tomczak & Tomczak 2014); NaN where a group has no value. `positive` has no
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
    _check_columns(table, test, axial)
    _refuse_numbers_as_text(table, categories)
    adjust = adjustment(correction)
    if patients is not None:
        table, groups = _values_of_patients(table, groups, patients, axial, slides)
    _refuse_repeated_patients(table)
    labels = check_labels(table, groups)
    names = sorted_labels(labels)
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
    comparison = _Comparison(labels, names, chosen, test, level)
    rows = []
    for name, values in table.items():
        if name in axial:
            row = _axial_row(values, labels, comparison.suffixes)
        elif name in categories or _holds_categories(values):
            row = _categories_row(values, comparison)
        else:
            row = _numbers_row(values, comparison)
        rows.append({"feature": name} | row)
    result = with_adjusted(pd.DataFrame(rows))
    if "brunner_munzel_p" in result:
        result = with_adjusted(result, of="brunner_munzel_p", stem="brunner_munzel")
    if chosen is not None:
        result["positive"] = chosen
    if adjust is not None:
        result["p_adjusted"] = adjust(result["p_value"])
    result["family"] = f"{family} ({int(result['p_value'].notna().sum())} p values)"
    return result


@dataclass(frozen=True)
class _Comparison:
    """Which group a row belongs to, and how numbers are compared."""

    labels: NDArray[Any]  # (rows,)
    names: list[Any]
    positive: Any
    """One of two groups' names; None of three groups and more."""
    test: NumberTest
    level: float

    @property
    def in_positive(self) -> NDArray[np.bool_]:
        """(rows,)."""
        return np.asarray(self.labels == self.positive)

    @property
    def suffixes(self) -> dict[Any, str]:
        """What a group's columns end in."""
        if self.positive is None:
            return {name: str(name) for name in self.names}
        return {name: "positive" if name == self.positive else "reference" for name in self.names}


def _check_columns(table: pd.DataFrame, test: str, axial: Sequence[Hashable]) -> None:
    for name, values in table.items():
        if (
            pd.api.types.is_float_dtype(values)
            and np.isinf(values.to_numpy(np.float64, na_value=np.nan)).any()
        ):
            raise ValueError(
                f"column {name} has infinite values; make them missing if they stand for nothing"
            )
    if test not in get_args(NumberTest):
        raise ValueError(f"test must be mann-whitney, welch or t, got {test!r}")
    if absent := [name for name in axial if name not in table]:
        raise ValueError(f"axial columns must be in the table, got {absent}")


def _refuse_numbers_as_text(table: pd.DataFrame, categories: Sequence[Hashable]) -> None:
    for name, values in table.items():
        if name in categories or not _holds_categories(values):
            continue
        text = values.dropna().astype(str).str.strip()
        if len(written := text[text.str.fullmatch(r"[+-]?\d+[.,]\d+")]):
            raise ValueError(
                f"column {name} holds numbers written as text, such as {written.iloc[0]!r}; make "
                "them numbers, or name the column in categories"
            )


def _values_of_patients(
    table: pd.DataFrame,
    groups: ArrayLike,
    patients: ArrayLike,
    axial: Sequence[Hashable],
    slides: ArrayLike | None,
) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """`aggregate_to_patients`, axes by their mean directions."""
    axes = {name: pd.Series(table[name].to_numpy(np.float64, na_value=np.nan)) for name in axial}
    of_patients, labels = aggregate_to_patients(table, groups, patients, slides=slides)
    for name, angles in axes.items():
        of_patients[name] = angles.groupby(np.asarray(patients), sort=True).agg(axial_mean)
    return of_patients, labels


def _holds_categories(values: pd.Series[Any]) -> bool:
    return pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values)


def _categories_row(values: pd.Series[Any], comparison: _Comparison) -> dict[str, Any]:
    row = category_row(values, comparison.labels, level=comparison.level)
    sizes = (
        _sizes_of_groups(values, comparison.labels, comparison.names)
        if comparison.positive is None
        else _sizes(values, comparison.in_positive)
    )
    return {"test": row.pop("test")} | sizes | {key: x for key, x in row.items() if key != "n"}


def _numbers_row(values: pd.Series[Any], comparison: _Comparison) -> dict[str, Any]:
    level, test = comparison.level, comparison.test
    if comparison.positive is None:
        row = _kruskal_row(values, comparison.labels, comparison.names)
    elif test == "mann-whitney":
        row = _two_group_row(values, comparison.in_positive, level=level)
    else:
        row = _means_row(values, comparison.in_positive, equal_variances=test == "t", level=level)
    if values.nunique() == 1:  # nothing is tested, and no family has it
        row |= {name: math.nan for name in ("p_value", "brunner_munzel_p") if name in row}
    return row


def aggregate_to_patients(
    table: pd.DataFrame,
    groups: ArrayLike,
    patients: ArrayLike,
    *,
    by: Literal["median", "mean"] = "median",
    slides: ArrayLike | None = None,
) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """One row per patient, sorted: each numeric column's median (or mean) over the patient's rows,
    and its group; with `slides` (one per row) over the patient's slides of that over their rows.

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
            if slides is not None:
                of_slides = values.reset_index(drop=True).groupby([owners, np.asarray(slides)])
                columns[name] = of_slides.agg(by).groupby(level=0, sort=True).agg(by)
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
                f"{count} rows of {owners} patients are not {count} independent observations: rows "
                "of one patient are alike, so a p value that takes them as cases is far too "
                f"small. Leave the column out and give patients=table[{name!r}], which compares "
                "patients' medians, or use compare_clustered"
            )


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
            "brunner_munzel_p": brunner_munzel(positive, reference).p_value,
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


def _positive_label(names: list[Any], positive: Hashable | None) -> Any:
    if positive is None:
        return names[-1]
    if positive not in names:
        raise ValueError(f"positive must be one of the labels {names}, got {positive!r}")
    return positive

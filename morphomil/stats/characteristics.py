"""Characteristics of patients by group."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.stats.adjustment import holm
from morphomil.stats.categories import compare_categories
from morphomil.stats.groups import compare_groups

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


def characteristics_table(
    patients: pd.DataFrame, by: pd.Series[Any], *, categories: Sequence[Hashable] = ()
) -> pd.DataFrame:
    """Table 1: each column by group, numbers as median (quartiles), categories as count (percent),
    with p values.

    Args:
        patients: one row per patient; columns that aren't numbers, and those named in `categories`,
            are categories.
        by: the group of each row.
        categories: numeric columns to count.

    Returns:
        `variable, category`, one text column per group, `all`, `missing`, `p_value`, `p_holm` (all
        variables are the family): Mann-Whitney (Kruskal-Wallis for more groups) for numbers,
        Pearson's chi-square without Yates or Fisher for categories. With one group p is missing.

    Raises:
        ValueError: indices differ, or a group is missing.
    """
    if not by.index.equals(patients.index) or by.isna().any():
        raise ValueError("by must give a group to each row of patients")
    counted = [
        name
        for name in patients
        if name in categories or not pd.api.types.is_numeric_dtype(patients[name])
    ]
    measured = [name for name in patients if name not in counted]
    groups = sorted(by.unique(), key=str)
    p_values = dict.fromkeys(patients, math.nan)
    if len(groups) > 1:
        if counted:
            p_values |= (
                compare_categories(patients[counted], by).set_index("feature")["p_value"].to_dict()
            )
        if measured:
            positive = groups[-1] if len(groups) == 2 else None
            found = compare_groups(patients[measured].astype(float), by, positive=positive)
            p_values |= found.set_index("feature")["p_value"].to_dict()
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    rows: list[dict[str, Any]] = []
    for name in patients:
        values = patients[name]
        about = {
            "missing": int(values.isna().sum()),
            "p_value": p_values[name],
            "p_holm": adjusted[name],
        }
        parts = {str(group): values[by == group] for group in groups} | {"all": values}
        if name in measured:
            rows.append(
                {"variable": str(name), "category": ""}
                | {k: _median(v) for k, v in parts.items()}
                | about
            )
            continue
        for category in sorted(values.dropna().unique(), key=str):
            shares = {k: _share(v, category) for k, v in parts.items()}
            rows.append({"variable": str(name), "category": str(category)} | shares | about)
            about = dict.fromkeys(about, "")  # once per variable
    return pd.DataFrame(rows)


def _median(values: pd.Series[Any]) -> str:
    known = values.dropna().astype(float)
    if known.empty:
        return "-"
    low, middle, high = known.quantile([0.25, 0.5, 0.75])
    return f"{middle:.4g} ({low:.4g}-{high:.4g})"


def _share(values: pd.Series[Any], category: Any) -> str:
    known = values.dropna()
    count = int((known == category).sum())
    return f"{count} ({100 * count / len(known):.1f} %)" if len(known) else "0"

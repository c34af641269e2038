"""The tables of a paper: characteristics, performance of each model, their comparison, subgroups; and how they print.

`predictions` has one row per patient, model and part: `model`, `patient`, `label` (0/1), `fold`, `part` (train, val,
test), `score` (of class 1), `cutoff` (at or above it: called 1).
"""

from __future__ import annotations

import html
import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.stats.diagnostic import diagnostic_table
from morphomil.stats.groups import compare_categories, compare_groups, holm
from morphomil.stats.roc import delong_test, delong_test_unpaired, within_fold_auc_interval, youden_cutoff
from morphomil.types import RefusedError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

PARTS = {"train": "T", "val": "V", "test": "I-T"}
"""As the paper heads its columns: training, validation, independent test."""
MEASURES = ("ACC", "SENS", "SPEC", "PPV", "NPV")
PREDICTION_COLUMNS = ("model", "patient", "label", "fold", "part", "score", "cutoff")
LEAST_CASES = 2
"""Of each class, in a subgroup with an AUC."""


def performance_table(predictions: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """AUC and the measures at the stored cutoff, of each model in each part.

    Returns:
        Long form: `model, part, n, positives, measure, estimate, low, high`. The AUC counts pairs within folds, with
        the influence-curve interval (`within_fold_auc_interval`); the others are `diagnostic_table`'s. Several folds
        make them approximate, as folds share training patients.

    Raises:
        ValueError: columns are missing, a patient stands twice in a model's part, or a part has one class.
    """
    _check(predictions)
    rows: list[dict[str, Any]] = []
    for (model, part), own in _by_model_and_part(predictions):
        about: dict[str, Any] = {"model": model, "part": part, "n": len(own), "positives": int(own["label"].sum())}
        area = within_fold_auc_interval(own["label"], own["score"], own["fold"], level=level)
        rows.append(about | {"measure": "AUC", "estimate": area.auc, "low": area.low, "high": area.high})
        table = diagnostic_table(*_counts(own, own["cutoff"]), level=level)
        for name in MEASURES:
            row = table.loc[name]
            rows.append(about | {"measure": name} | {key: row[key] for key in ("estimate", "low", "high")})
    return pd.DataFrame(rows)


def comparison_table(predictions: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """DeLong's test of each pair of models in each part, on the patients that both predict.

    Returns:
        `part, model_a, model_b, n, auc_a, auc_b, difference, low, high, z, p_value, p_holm` (the part's pairs are the
        family), `approximate` (out-of-fold scores).

    Raises:
        ValueError: as `performance_table`, or two models say different labels of a patient or share too few.
    """
    _check(predictions)
    rows: list[dict[str, Any]] = []
    for part in [part for part in PARTS if part in set(predictions["part"])]:
        own = {str(model): table for (model, p), table in _by_model_and_part(predictions) if p == part}
        pairs: list[dict[str, Any]] = []
        for a, b in combinations(own, 2):
            both = own[a].merge(own[b], on="patient", suffixes=("_a", "_b"))
            if not (both["label_a"] == both["label_b"]).all():
                raise ValueError(f"models {a} and {b} have other labels for the same patients")
            folds = both["fold_a"].astype(str) + "/" + both["fold_b"].astype(str)
            test = delong_test(both["label_a"], both["score_a"], both["score_b"], folds=folds, level=level)
            pairs.append(
                {"part": part, "model_a": a, "model_b": b, "n": len(both), "auc_a": test.auc_a, "auc_b": test.auc_b}
                | {"difference": test.difference, "low": test.interval[0], "high": test.interval[1]}
                | {"z": test.z, "p_value": test.p_value, "approximate": folds.nunique() > 1}
            )
        adjusted = holm([float(pair["p_value"]) for pair in pairs])
        rows += [pair | {"p_holm": float(p)} for pair, p in zip(pairs, adjusted, strict=True)]
    names = ["part", "model_a", "model_b", "n", "auc_a", "auc_b", "difference", "low", "high", "z", "p_value", "p_holm"]
    return pd.DataFrame(rows, columns=[*names, "approximate"])


def subgroup_table(
    predictions: pd.DataFrame, subgroups: pd.DataFrame, *, part: str = "test", level: float = 0.95
) -> pd.DataFrame:
    """Performance of each model in subgroups of a part, at the cutoff that was fixed on validation.

    Args:
        predictions: of all models.
        subgroups: index patient; each column divides the patients (missing: in none).
        part: which part.
        level: of intervals.

    Returns:
        `model, variable, subgroup, n, positives, auc, low, high`, the measures with `_low` and `_high`, `p_value`:
        unpaired DeLong against the variable's other patients, `p_holm` over the model's subgroups; `refitted_ACC`
        where Youden's cutoff is fitted to the subgroup itself, optimistic. Subgroups with fewer than two patients of a
        class have their count only.

    Raises:
        ValueError: as `performance_table`.
    """
    _check(predictions)
    rows: list[dict[str, Any]] = []
    for (model, own_part), own in _by_model_and_part(predictions):
        if own_part != part:
            continue
        start = len(rows)
        for variable in subgroups:
            value = own["patient"].map(subgroups[variable])
            for name in sorted(value.dropna().unique(), key=str):
                inside = own[value == name]
                row = {"model": model, "variable": str(variable), "subgroup": str(name), "n": len(inside)}
                row["positives"] = int(inside["label"].sum())
                rows.append(row | _subgroup(inside, own[value.notna() & (value != name)], level=level))
        adjusted = holm([float(row.get("p_value", math.nan)) for row in rows[start:]])
        for row, p in zip(rows[start:], adjusted, strict=True):
            row["p_holm"] = float(p)
    return pd.DataFrame(rows)


def _subgroup(inside: pd.DataFrame, outside: pd.DataFrame, *, level: float) -> dict[str, Any]:
    def enough(table: pd.DataFrame) -> bool:
        return bool(table["label"].value_counts().reindex([0, 1], fill_value=0).min() >= LEAST_CASES)

    if not enough(inside):
        return {}
    area = within_fold_auc_interval(inside["label"], inside["score"], np.zeros(len(inside)), level=level)
    row: dict[str, Any] = {"auc": area.auc, "low": area.low, "high": area.high}
    table = diagnostic_table(*_counts(inside, inside["cutoff"]), level=level)
    for name in MEASURES:
        row |= {name: table.loc[name, "estimate"], f"{name}_low": table.loc[name, "low"]}
        row[f"{name}_high"] = table.loc[name, "high"]
    if enough(outside):
        sides = [(side["label"], side["score"]) for side in (inside, outside)]
        row["p_value"] = delong_test_unpaired(*sides[0], *sides[1], level=level).p_value
    refitted = _counts(inside, youden_cutoff(inside["label"], inside["score"]))
    return row | {"refitted_ACC": diagnostic_table(*refitted).loc["ACC", "estimate"]}


def characteristics_table(
    patients: pd.DataFrame, by: pd.Series[Any], *, categories: Sequence[Hashable] = ()
) -> pd.DataFrame:
    """Table 1: each column by group, numbers as median (quartiles), categories as count (percent), with p values.

    Args:
        patients: one row per patient; columns that aren't numbers, and those named in `categories`, are categories.
        by: the group of each row.
        categories: numeric columns to count.

    Returns:
        `variable, category`, one text column per group, `all`, `missing`, `p_value`, `p_holm` (all variables are the
        family): Mann-Whitney (Kruskal-Wallis for more groups) for numbers, Pearson's chi-square without Yates or
        Fisher for categories. With one group p is missing.

    Raises:
        ValueError: indices differ, or a group is missing.
    """
    if not by.index.equals(patients.index) or by.isna().any():
        raise ValueError("by must give a group to each row of patients")
    counted = [name for name in patients if name in categories or not pd.api.types.is_numeric_dtype(patients[name])]
    measured = [name for name in patients if name not in counted]
    groups = sorted(by.unique(), key=str)
    p_values = dict.fromkeys(patients, math.nan)
    if len(groups) > 1:
        if counted:
            p_values |= compare_categories(patients[counted], by).set_index("feature")["p_value"].to_dict()
        if measured:
            positive = groups[-1] if len(groups) == 2 else None
            found = compare_groups(patients[measured].astype(float), by, positive=positive)
            p_values |= found.set_index("feature")["p_value"].to_dict()
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    rows: list[dict[str, Any]] = []
    for name in patients:
        values = patients[name]
        about = {"missing": int(values.isna().sum()), "p_value": p_values[name], "p_holm": adjusted[name]}
        parts = {str(group): values[by == group] for group in groups} | {"all": values}
        if name in measured:
            rows.append({"variable": str(name), "category": ""} | {k: _median(v) for k, v in parts.items()} | about)
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


def print_performance(table: pd.DataFrame) -> pd.DataFrame:
    """`performance_table` as journals print it: one row per model and part, AUC with three digits, percent with two."""
    cells = zip(table["measure"], table["estimate"], table["low"], table["high"], strict=True)
    text = table.assign(text=[_cell(*cell) for cell in cells], part=table["part"].map(PARTS))
    columns = [name for name in ("AUC", *MEASURES) if name in set(text["measure"])]
    wide = text.pivot_table(index=["model", "part"], columns="measure", values="text", aggfunc="first", sort=False)
    return wide[columns].reset_index().rename_axis(columns=None)


def _cell(measure: str, estimate: float, low: float, high: float) -> str:
    if measure == "AUC":
        return f"{estimate:.3f} [{low:.3f}, {high:.3f}]"
    return f"{100 * estimate:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def print_p(value: float) -> str:
    """A p value as journals print it."""
    if math.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.995 else "1.00"


def to_html(table: pd.DataFrame, *, caption: str, notes: Sequence[str] = ()) -> str:
    """A page with one table that word processors open as such; everything is escaped."""
    body = table.to_html(index=False, escape=True, border=0, na_rep="")
    foot = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    style = (
        "body{font:10pt Arial,sans-serif}"
        "table{border-collapse:collapse;border-top:1.5pt solid;border-bottom:1.5pt solid}"
        "th{border-bottom:1pt solid;text-align:left}td,th{padding:2pt 6pt}"
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(caption)}</title>'
        f"<style>{style}</style></head><body><p><b>{html.escape(caption)}</b></p>{body}{foot}</body></html>\n"
    )


def to_latex(table: pd.DataFrame, *, caption: str) -> str:
    """A booktabs table; special characters are escaped."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}

    def escape(value: Any) -> str:
        text = "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
        return "".join(signs.get(sign, sign) for sign in text)

    lines = [" & ".join(map(escape, row)) + r" \\" for row in table.itertuples(index=False)]
    head = " & ".join(map(escape, table.columns)) + r" \\"
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape(caption)}}}",
            rf"\begin{{tabular}}{{{'l' * table.shape[1]}}}",
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _by_model_and_part(predictions: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """In the order in which models appear, parts as in `PARTS`."""
    return [
        ((model, part), own)
        for model in predictions["model"].unique()
        for part in PARTS
        if len(own := predictions[(predictions["model"] == model) & (predictions["part"] == part)])
    ]


def _counts(own: pd.DataFrame, cutoff: Any) -> tuple[int, int, int, int]:
    """tp, fp, fn, tn."""
    called, ill = (own["score"] >= cutoff).to_numpy(), (own["label"] == 1).to_numpy()
    return tuple(int(cell.sum()) for cell in (called & ill, called & ~ill, ~called & ill, ~called & ~ill))  # type: ignore[return-value]


def _check(predictions: pd.DataFrame) -> None:
    if absent := [name for name in PREDICTION_COLUMNS if name not in predictions]:
        raise ValueError(f"predictions lack the columns {', '.join(absent)}")
    if not predictions["label"].isin([0, 1]).all():
        raise RefusedError("these tables are for two classes; three-class runs have confusion tables")
    tested = predictions[predictions["part"] == "test"]
    if tested.duplicated(["model", "patient"]).any():
        raise ValueError("a patient is predicted twice by a model in the test part")

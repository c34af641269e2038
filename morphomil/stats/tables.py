"""The tables of a paper: characteristics, performance of each model, their comparison, subgroups; and how they print.

`predictions` has one row per patient, model, fold and part: `model`, `patient`, `label` (0/1), `fold`, `part` (train,
val, test), `score` (of class 1), `cutoff` (at or above it: called 1). Predictions of several classes have `label` from
0 and `probability_0`, `probability_1`, ... beside.
"""

from __future__ import annotations

import html
import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.stats.diagnostic import calibration, decision_curve, diagnostic_table, exact_interval
from morphomil.stats.groups import compare_categories, compare_groups, holm
from morphomil.stats.multiclass import confusion_table, multiclass_auc
from morphomil.stats.resampling import bootstrap_by_patient
from morphomil.stats.roc import (
    AucInterval,
    delong_test,
    delong_test_unpaired,
    within_fold_auc_interval,
    youden_cutoff,
)
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
        the influence-curve interval (`within_fold_auc_interval`), and is missing where no fold has both classes; the
        others are `diagnostic_table`'s. Several folds make them approximate, as folds share training patients. Where a
        patient stands in a part more than once (the training patients of several folds) rows are no independent cases
        and limits are missing.

    Raises:
        ValueError: columns are missing, or a patient stands twice in a model's test part.
        RefusedError: there are more than two classes.
    """
    _check(predictions)
    rows: list[dict[str, Any]] = []
    for (model, part), own in _by_model_and_part(predictions):
        about: dict[str, Any] = {"model": model, "part": part, "n": len(own), "positives": int(own["label"].sum())}
        table = diagnostic_table(*_counts(own, own["cutoff"]), level=level).loc[list(MEASURES)]
        table.loc["AUC"] = list(_auc(own, level=level))
        if own["patient"].duplicated().any():
            table[["low", "high"]] = math.nan
        rows += [
            about | {"measure": name} | dict(zip(table.columns.astype(str), table.loc[name], strict=True))
            for name in ("AUC", *MEASURES)
        ]
    return pd.DataFrame(rows)


def _auc(own: pd.DataFrame, *, level: float) -> AucInterval:
    """From pairs within folds; NaN where no fold has both classes."""
    if (own.groupby("fold")["label"].nunique() < 2).all():
        return AucInterval(math.nan, math.nan, math.nan)
    return within_fold_auc_interval(own["label"], own["score"], own["fold"], level=level)


def comparison_table(predictions: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """DeLong's test of each pair of models in each part, on the patients that both predict.

    A part in which patients stand more than once (training patients of several folds) is left out, and so is a pair
    that shares fewer than two patients of a class.

    Returns:
        `part, model_a, model_b, n, auc_a, auc_b, difference, low, high, z, p_value, p_holm` (the part's pairs are the
        family), `approximate` (out-of-fold scores).

    Raises:
        ValueError: as `performance_table`, or two models say different labels of a patient.
    """
    _check(predictions)
    rows: list[dict[str, Any]] = []
    for part in [part for part in PARTS if part in set(predictions["part"])]:
        own = {str(model): table for (model, p), table in _by_model_and_part(predictions) if p == part}
        pairs: list[dict[str, Any]] = []
        for a, b in combinations([name for name in own if not own[name]["patient"].duplicated().any()], 2):
            both = own[a].merge(own[b], on="patient", suffixes=("_a", "_b"))
            if not (both["label_a"] == both["label_b"]).all():
                raise ValueError(f"models {a} and {b} have other labels for the same patients")
            folds = both["fold_a"].astype(str) + "/" + both["fold_b"].astype(str)
            if not _enough(both.rename(columns={"label_a": "label"}).assign(fold=folds)):
                continue
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
    if not _enough(inside.assign(fold=0)):
        return {}
    area = within_fold_auc_interval(inside["label"], inside["score"], np.zeros(len(inside)), level=level)
    row: dict[str, Any] = {"auc": area.auc, "low": area.low, "high": area.high}
    table = diagnostic_table(*_counts(inside, inside["cutoff"]), level=level)
    for name in MEASURES:
        row |= {name: table.loc[name, "estimate"], f"{name}_low": table.loc[name, "low"]}
        row[f"{name}_high"] = table.loc[name, "high"]
    if _enough(outside.assign(fold=0)):
        sides = [(side["label"], side["score"]) for side in (inside, outside)]
        row["p_value"] = delong_test_unpaired(*sides[0], *sides[1], level=level).p_value
    refitted = _counts(inside, youden_cutoff(inside["label"], inside["score"]))
    return row | {"refitted_ACC": diagnostic_table(*refitted).loc["ACC", "estimate"]}


def _enough(table: pd.DataFrame) -> bool:
    """Whether folds with both classes have enough cases of each for DeLong's test."""
    counts = table.groupby("fold")["label"].agg(positives="sum", n="count")
    negatives = counts["n"] - counts["positives"]
    both = (counts["positives"] > 0) & (negatives > 0)
    return bool(min(counts["positives"][both].sum(), negatives[both].sum()) >= LEAST_CASES)


def calibration_table(predictions: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Calibration of each model in validation and test, scores being probabilities.

    Returns:
        `model, part, n, slope, slope_low, slope_high, intercept, intercept_low, intercept_high, brier, scaled_brier`.
        Models whose scores leave [0, 1] and parts of one class have no row.

    Raises:
        ValueError, RefusedError: as `performance_table`.
    """
    rows = []
    for model, part, own in _probabilities(predictions):
        found = calibration(own["label"], own["score"], level=level)
        row: dict[str, Any] = {"model": model, "part": part, "n": len(own)}
        for name, values in (("slope", found.slope), ("intercept", found.intercept)):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
        rows.append(row | {"brier": found.brier, "scaled_brier": found.scaled_brier})
    return pd.DataFrame(rows)


def net_benefit_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """`decision_curve` of each model in validation and test: `model, part`, then its columns.

    Raises:
        ValueError, RefusedError: as `performance_table`.
    """
    tables = [
        decision_curve(own["label"], own["score"]).assign(model=model, part=part)
        for model, part, own in _probabilities(predictions)
    ]
    columns = ["model", "part", "threshold", "net_benefit", "treat_all", "treat_none"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _probabilities(predictions: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Models and parts (but training) whose scores can be probabilities, each patient once, both classes."""
    _check(predictions)
    return [
        (model, part, own)
        for (model, part), own in _by_model_and_part(predictions)
        if part != "train"
        and own["score"].between(0, 1).all()
        and own["label"].nunique() == 2
        and not own["patient"].duplicated().any()
    ]


def multiclass_table(
    predictions: pd.DataFrame, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> pd.DataFrame:
    """Performance of models of three or more classes in each part; a patient is called the most probable class.

    Returns:
        Long form: `model, part, n, measure, class, estimate, low, high`. Of all classes: `AUC macro` (one against the
        rest) and `AUC Hand-Till`, means over folds that have every class, with BCa intervals (patients drawn within
        folds and classes), and `ACC`. Of each class: `AUC` against the rest, `recall` and `precision`. Shares have
        exact intervals. Limits are missing where a patient stands in a part more than once, or the interval has no
        width.

    Raises:
        ValueError: columns are missing, or labels and probabilities don't fit.
    """
    names = class_columns(predictions)
    if len(names) < 3 or predictions[[*names, "label"]].isna().any(axis=None):
        raise ValueError(f"a table of several classes needs probabilities of three or more for all, got {names}")
    rows: list[dict[str, Any]] = []
    for (model, part), own in _by_model_and_part(predictions):
        labels, values = own["label"].to_numpy(np.int64), own[names].to_numpy(np.float64)
        once = not own["patient"].duplicated().any()
        about: dict[str, Any] = {"model": model, "part": part, "n": len(own)}

        def add(
            measure: str, which: object, limits: Sequence[float], about: dict[str, Any] = about, once: bool = once
        ) -> None:
            low, high = limits[1:] if once else (math.nan, math.nan)
            rows.append(about | {"measure": measure, "class": which, "estimate": limits[0], "low": low, "high": high})

        folds = own["fold"].to_numpy()
        for method, measure in (("ovr", "AUC macro"), ("hand-till", "AUC Hand-Till")):
            add(
                measure,
                "all",
                _macro(labels, values, folds, method=method, seed=seed, resamples=resamples, level=level),
            )
        calls = values.argmax(axis=1)
        add("ACC", "all", exact_interval(int((calls == labels).sum()), len(own), level=level))
        counts = confusion_table(labels, calls, classes=len(names))[0].to_numpy()
        for k in range(len(names)):
            add("AUC", k, _auc(own.assign(label=labels == k, score=values[:, k]), level=level))
            add("recall", k, exact_interval(int(counts[k, k]), int(counts[k].sum()), level=level))
            add("precision", k, exact_interval(int(counts[k, k]), int(counts[:, k].sum()), level=level))
    return pd.DataFrame(rows)


def _macro(
    labels: Any, values: Any, folds: Any, *, method: Any, seed: int, resamples: int, level: float
) -> AucInterval:
    """Mean of folds' multiclass AUC with its BCa interval; NaN where no fold has every class."""

    def mean(rows: Any) -> float:
        found = []
        for fold in np.unique(folds[rows]):
            own = rows[folds[rows] == fold]
            if len(np.unique(labels[own])) == values.shape[1]:
                found.append(multiclass_auc(labels[own], values[own], method=method))
        return float(np.mean(found)) if found else math.nan

    estimate = mean(np.arange(len(labels)))
    if math.isnan(estimate):
        return AucInterval(math.nan, math.nan, math.nan)
    strata = pd.factorize(pd.Series(folds).astype(str) + "/" + pd.Series(labels).astype(str))[0]
    try:
        found = bootstrap_by_patient(
            mean, np.arange(len(labels)), seed=seed, strata=strata, resamples=resamples, level=level
        )
    except ValueError:
        return AucInterval(estimate, math.nan, math.nan)
    return AucInterval(estimate, found.low, found.high)


def confusion_counts(predictions: pd.DataFrame) -> pd.DataFrame:
    """Labels by calls of each model and part: `model, part, label`, then a column `called_k` for each class.

    Raises:
        ValueError: as `multiclass_table`.
    """
    names = class_columns(predictions)
    tables = []
    for (model, part), own in _by_model_and_part(predictions):
        counts, _ = confusion_table(own["label"], own[names].to_numpy().argmax(axis=1), classes=len(names))
        tables.append(counts.add_prefix("called_").reset_index().assign(model=model, part=part))
    table = pd.concat(tables, ignore_index=True)
    return table[["model", "part", *(name for name in table if name not in ("model", "part"))]]


def class_columns(predictions: pd.DataFrame) -> list[str]:
    """`probability_0`, `probability_1`, ... as far as they go."""
    names = [f"probability_{k}" for k in range(predictions.shape[1])]
    return [name for name in names if name in predictions]


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
    columns = list(dict.fromkeys(text["measure"]))
    wide = text.pivot_table(index=["model", "part"], columns="measure", values="text", aggfunc="first", sort=False)
    return wide[columns].reset_index().rename_axis(columns=None)


def _cell(measure: str, estimate: float, low: float, high: float) -> str:
    """AUCs with three digits, shares in percent with two; no brackets without limits."""
    factor, digits = (1, 3) if measure.startswith("AUC") else (100, 2)
    if math.isnan(estimate):
        return "-"
    limits = "" if math.isnan(low) else f" [{factor * low:.{digits}f}, {factor * high:.{digits}f}]"
    return f"{factor * estimate:.{digits}f}{limits}"


def print_multiclass(table: pd.DataFrame) -> pd.DataFrame:
    """`multiclass_table` as journals print it: one row per model, part and class, as `print_performance`."""
    names = table["class"].map(lambda name: name if name == "all" else f"class {name}")
    printed = print_performance(table.assign(model=table["model"].astype(str) + "\t" + names))
    parted = printed["model"].str.split("\t", expand=True)
    return printed.assign(model=parted[0]).assign(**{"class": parted[1]}).fillna("")


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
        raise RefusedError("these tables are for two classes; `multiclass_table` is for more")
    if missing := int(predictions["score"].isna().sum()):
        raise ValueError(f"scores must not be missing, got {missing} of {len(predictions)}")
    tested = predictions[predictions["part"] == "test"]
    if tested.duplicated(["model", "patient"]).any():
        raise ValueError("a patient is predicted twice by a model in the test part")

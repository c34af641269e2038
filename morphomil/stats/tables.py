"""The tables of a paper: characteristics, performance of each model, their comparison, subgroups;
and how they print.

`predictions` has one row per patient, model, fold and part: `model`, `patient`, `label` (0/1),
`fold`, `part` (train, val, test), `score` (of class 1), `cutoff` (at or above it: called 1).
Predictions of several classes have `label` from 0 and `probability_0`, `probability_1`, ... beside.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from morphomil.stats.diagnostic import calibration, decision_curve, diagnostic_table, exact_interval
from morphomil.stats.groups import compare_categories, compare_groups, holm
from morphomil.stats.models import interaction_test
from morphomil.stats.multiclass import MulticlassMethod, confusion_table, resampled_multiclass_auc
from morphomil.stats.resampling import bootstrap_by_patient
from morphomil.stats.roc import (
    AucInterval,
    DelongResult,
    delong_test,
    delong_test_unpaired,
    within_fold_auc_interval,
    youden_cutoff,
)
from morphomil.types import RefusedError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from morphomil.stats.resampling import Vectorized

PARTS = {"train": "T", "val": "V", "test": "I-T"}
"""As the paper heads its columns: training, validation, independent test."""
MEASURES = ("ACC", "SENS", "SPEC", "PPV", "NPV")
PREDICTION_COLUMNS = ("model", "patient", "label", "fold", "part", "score", "cutoff")
LEAST_CASES = 2
"""Of each class, in a subgroup with an AUC."""


def performance_table(predictions: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """AUC and the measures at the stored cutoff, of each model in each part.

    Returns:
        Long form: `model, part, n, positives, measure, estimate, low, high`. The AUC counts pairs
            within folds, with
        the influence-curve interval (`within_fold_auc_interval`), and is missing where no fold has
        both classes; the others are `diagnostic_table`'s. Several folds make them approximate, as
        folds share training patients. Where a patient stands in a part more than once (the training
        patients of several folds) rows are no independent cases and limits are missing.

    Raises:
        ValueError: columns are missing, or a patient stands twice in a model's test part.
        RefusedError: there are more than two classes.
    """
    _check(predictions)
    rows: list[dict[str, Any]] = []
    for (model, part), own in _by_model_and_part(predictions):
        about: dict[str, Any] = {
            "model": model,
            "part": part,
            "n": len(own),
            "positives": int(own["label"].sum()),
        }
        table = diagnostic_table(*_counts(own, own["cutoff"]), level=level).loc[list(MEASURES)]
        table.loc["AUC"] = list(_auc(own, level=level))
        if own["patient"].duplicated().any():
            table[["low", "high"]] = math.nan
        rows += [
            about
            | {"measure": name}
            | dict(zip(table.columns.astype(str), table.loc[name], strict=True))
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

    A part in which patients stand more than once (training patients of several folds) is left out,
    and so is a pair that shares fewer than two patients of a class.

    Returns:
        `part, model_a, model_b, n, auc_a, auc_b, difference, low, high, z, p_value, p_holm` (the
        part's pairs are the family), `approximate` (out-of-fold scores).

    Raises:
        ValueError: as `performance_table`, or two models say different labels of a patient.
    """
    _check(predictions)
    rows: list[dict[str, Any]] = []
    for part, pairs in _pairs_of_models(predictions).items():
        tests: list[dict[str, Any]] = []
        for a, b, both, folds in pairs:
            if not _enough(both.assign(fold=folds)):
                continue
            test = delong_test(
                both["label"], both["score_a"], both["score_b"], folds=folds, level=level
            )
            tests.append(
                {"part": part, "model_a": a, "model_b": b, "n": len(both)}
                | _difference(test)
                | {"approximate": folds.nunique() > 1}
            )
        rows += _with_holm(tests)
    names = ["part", "model_a", "model_b", "n", *DIFFERENCE, "p_holm", "approximate"]
    return pd.DataFrame(rows, columns=names)


DIFFERENCE = ("auc_a", "auc_b", "difference", "low", "high", "z", "p_value")


def _difference(test: DelongResult) -> dict[str, float]:
    values = (test.auc_a, test.auc_b, test.difference, *test.interval, test.z, test.p_value)
    return dict(zip(DIFFERENCE, values, strict=True))


def _with_holm(tests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tests, one family, with `p_holm`."""
    adjusted = holm([float(test["p_value"]) for test in tests])
    return [test | {"p_holm": float(p)} for test, p in zip(tests, adjusted, strict=True)]


def _pairs_of_models(
    predictions: pd.DataFrame,
) -> dict[str, list[tuple[str, str, pd.DataFrame, pd.Series[Any]]]]:
    """Per part: two models' names, the patients that both predict (columns `_a`, `_b`, one
    `label`), and their folds.

    Models in whose part a patient stands more than once are left out.
    """
    models = _by_model_and_part(predictions)
    found = {}
    for part in [part for part in PARTS if part in set(predictions["part"])]:
        own = {
            str(model): t
            for (model, p), t in models
            if p == part and not t["patient"].duplicated().any()
        }
        pairs = []
        for a, b in combinations(own, 2):
            both = own[a].merge(own[b], on="patient", suffixes=("_a", "_b"))
            if not (both["label_a"] == both["label_b"]).all():
                raise ValueError(f"models {a} and {b} have other labels for the same patients")
            folds = both["fold_a"].astype(str) + "/" + both["fold_b"].astype(str)
            pairs.append((a, b, both.rename(columns={"label_a": "label"}), folds))
        found[part] = pairs
    return found


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
        `model, variable, subgroup, n, positives, auc, low, high`, the measures with `_low` and
        `_high`, `p_value`: unpaired DeLong against the variable's other patients, `p_holm` over the
        model's tests (two subgroups share one), `p_interaction`: likelihood ratio of label ~ score
        * variable (`interaction_test`), one for a variable, `p_interaction_holm` over the model's
          variables. `refitted_..._optimistic`: Youden's cutoff fitted to the
        subgroup itself, which flatters ACC, SENS and SPEC there. Subgroups with fewer than two
        patients of a class have their count only; the interaction is missing where a group is
        separated by the score or has one class.

        Out-of-fold scores: AUCs and their test count pairs within folds, nothing is refitted, and
        all is approximate.

    Raises:
        ValueError: as `performance_table`.
    """
    _check(predictions)
    rows: list[dict[str, Any]] = []
    for (model, own_part), own in _by_model_and_part(predictions):
        if own_part != part:
            continue
        found: list[dict[str, Any]] = []
        for variable in subgroups:
            value = own["patient"].map(subgroups[variable])
            about = {
                "model": model,
                "variable": str(variable),
                "p_interaction": _interaction(own, value),
            }
            for name in sorted(value.dropna().unique(), key=str):
                inside = own[value == name]
                row = about | {
                    "subgroup": str(name),
                    "n": len(inside),
                    "positives": int(inside["label"].sum()),
                }
                found.append(
                    row | _subgroup(inside, own[value.notna() & (value != name)], level=level)
                )
        rows += found
        _adjust_subgroups(found)
    limits = [f"{name}{suffix}" for name in MEASURES for suffix in ("", "_low", "_high")]
    tests = ["p_value", "p_holm", "p_interaction", "p_interaction_holm"]
    names = [
        "model",
        "variable",
        "subgroup",
        "n",
        "positives",
        "auc",
        "low",
        "high",
        *limits,
        *tests,
    ]
    return pd.DataFrame(
        rows, columns=[*names, *(f"refitted_{name}_optimistic" for name in REFITTED)]
    )


REFITTED = ("cutoff", "ACC", "SENS", "SPEC")


def _interaction(own: pd.DataFrame, value: pd.Series[Any]) -> float:
    """p; NaN where the models can't be fitted."""
    known = value.notna()
    try:
        return interaction_test(
            own["label"][known], own["score"][known], value[known].astype(str)
        ).p_value
    except ValueError:
        return math.nan


def _adjust_subgroups(rows: list[dict[str, Any]]) -> None:
    """Add Holm's p: each variable has one interaction, and two subgroups have one test between
    them."""
    count = Counter(row["variable"] for row in rows)
    tests = {
        (row["variable"], "" if count[row["variable"]] == 2 else row["subgroup"]): row.get(
            "p_value", math.nan
        )
        for row in rows
    }
    interactions = {row["variable"]: row["p_interaction"] for row in rows}
    of_test = dict(zip(tests, holm(list(tests.values())), strict=True))
    of_variable = dict(zip(interactions, holm(list(interactions.values())), strict=True))
    for row in rows:
        own = of_test.get((row["variable"], row["subgroup"]), of_test.get((row["variable"], "")))
        row |= {"p_holm": own, "p_interaction_holm": of_variable[row["variable"]]}


def _subgroup(inside: pd.DataFrame, outside: pd.DataFrame, *, level: float) -> dict[str, Any]:
    if not _enough(inside):
        return {}
    area = within_fold_auc_interval(inside["label"], inside["score"], inside["fold"], level=level)
    row: dict[str, Any] = {"auc": area.auc, "low": area.low, "high": area.high}
    table = diagnostic_table(*_counts(inside, inside["cutoff"]), level=level)
    for name in MEASURES:
        row |= {name: table.loc[name, "estimate"], f"{name}_low": table.loc[name, "low"]}
        row[f"{name}_high"] = table.loc[name, "high"]
    if _enough(outside):
        sides = [(side["label"], side["score"]) for side in (inside, outside)]
        folds = {"folds_a": inside["fold"], "folds_b": outside["fold"]}
        row["p_value"] = delong_test_unpaired(*sides[0], *sides[1], **folds, level=level).p_value
    if inside["fold"].nunique() == 1:
        cutoff = youden_cutoff(inside["label"], inside["score"])
        refitted = diagnostic_table(*_counts(inside, cutoff))["estimate"].to_dict() | {
            "cutoff": cutoff
        }
        row |= {f"refitted_{name}_optimistic": refitted[name] for name in REFITTED}
    return row


def _enough(table: pd.DataFrame) -> bool:
    """Whether folds with both classes have enough cases of each for DeLong's test."""
    counts = table.groupby("fold")["label"].agg(positives="sum", n="count")
    negatives = counts["n"] - counts["positives"]
    both = (counts["positives"] > 0) & (negatives > 0)
    return bool(min(counts["positives"][both].sum(), negatives[both].sum()) >= LEAST_CASES)


def calibration_table(predictions: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Calibration of each model in validation and test, scores being probabilities.

    Returns:
        `model, part, n, slope, slope_low, slope_high, intercept, intercept_low, intercept_high,
        brier, scaled_brier`. Models whose scores leave [0, 1] and parts of one class have no row.

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
    return (
        pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
    )


def _probabilities(predictions: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Models and parts (but training) whose scores can be probabilities, each patient once, both
    classes."""
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
    """Performance of models of three or more classes in each part; a patient is called the most
    probable class.

    Returns:
        Long form: `model, part, n, measure, class, estimate, low, high`. Of all classes:
            `AUC macro` (one against the
        rest) and `AUC Hand-Till`, means over folds that have every class, with BCa intervals
        (patients drawn within folds and classes), and `ACC`. Of each class: `AUC` against the rest,
        `recall` and `precision`. Shares have exact intervals. Limits are missing where a patient
        stands in a part more than once, or the interval has no width.

    Raises:
        ValueError: columns are missing, or labels and probabilities don't fit.
    """
    names = _class_names(predictions)
    rows: list[dict[str, Any]] = []
    for (model, part), own in _by_model_and_part(predictions):
        labels, values = own["label"].to_numpy(np.int64), own[names].to_numpy(np.float64)
        once = not own["patient"].duplicated().any()
        about: dict[str, Any] = {"model": model, "part": part, "n": len(own)}

        def add(
            measure: str,
            which: object,
            limits: Sequence[float],
            about: dict[str, Any] = about,
            once: bool = once,
        ) -> None:
            low, high = limits[1:] if once else (math.nan, math.nan)
            rows.append(
                about
                | {
                    "measure": measure,
                    "class": which,
                    "estimate": limits[0],
                    "low": low,
                    "high": high,
                }
            )

        folds = own["fold"].to_numpy()
        for method, measure in _MACRO.items():
            add(
                measure,
                "all",
                _macro(
                    labels,
                    values,
                    folds,
                    method=method,
                    seed=seed,
                    resamples=resamples,
                    level=level,
                ),
            )
        calls = values.argmax(axis=1)
        add("ACC", "all", exact_interval(int((calls == labels).sum()), len(own), level=level))
        counts = confusion_table(labels, calls, classes=len(names))[0].to_numpy()
        for k in range(len(names)):
            add("AUC", k, _auc(own.assign(label=labels == k, score=values[:, k]), level=level))
            add("recall", k, exact_interval(int(counts[k, k]), int(counts[k].sum()), level=level))
            add(
                "precision",
                k,
                exact_interval(int(counts[k, k]), int(counts[:, k].sum()), level=level),
            )
    return pd.DataFrame(rows)


def _macro(
    labels: Any,
    values: Any,
    folds: Any,
    *,
    method: MulticlassMethod,
    seed: int,
    resamples: int,
    level: float,
) -> AucInterval:
    """Mean of folds' multiclass AUC with its BCa interval; NaN where no fold has every class."""
    mean = _mean_of_folds(labels, values, folds, method=method)
    found = (
        None
        if mean is None
        else _resample_macro(mean, labels, folds, seed=seed, resamples=resamples, level=level)
    )
    return AucInterval(math.nan, math.nan, math.nan) if found is None else AucInterval(*found[:3])


def _mean_of_folds(
    labels: Any, values: Any, folds: Any, *, method: MulticlassMethod
) -> Vectorized | None:
    """Of the multiclass AUC, for the bootstrap; none where no fold has every class."""
    areas = []
    for fold in np.unique(folds):
        own = np.flatnonzero(folds == fold)
        if len(np.unique(labels[own])) == values.shape[1]:
            areas.append((own, resampled_multiclass_auc(labels[own], values[own], method=method)))

    def mean(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(np.mean([area(counts[:, own]) for own, area in areas], axis=0))

    return mean if areas else None


def _resample_macro(
    statistic: Vectorized, labels: Any, folds: Any, *, seed: int, resamples: int, level: float
) -> tuple[float, float, float, float]:
    """Estimate, limits and standard error; patients are drawn within folds and classes."""
    strata = pd.factorize(pd.Series(folds).astype(str) + "/" + pd.Series(labels).astype(str))[0]
    patients = np.arange(len(labels))
    found = bootstrap_by_patient(
        statistic,
        patients,
        seed=seed,
        strata=strata,
        resamples=resamples,
        level=level,
        vectorized=True,
    )
    return found.estimate, found.low, found.high, float(found.replicates.std(ddof=1))


def multiclass_comparison_table(
    predictions: pd.DataFrame, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> pd.DataFrame:
    """Differences of AUC of each pair of models of three or more classes in each part, on the
    patients of both.

    Of all classes (`AUC macro`, `AUC Hand-Till`): BCa interval of the difference, patients drawn
    within folds and classes, and z = difference / its bootstrap standard error, as pROC's
    `roc.test(method = "bootstrap")`; without spread p is 1 for equal AUCs and limits are missing.
    Of each class against the rest (`AUC`): DeLong's test. Parts and pairs are left out as in
    `comparison_table`.

    Returns:
        `part, model_a, model_b, n, measure, class, auc_a, auc_b, difference, low, high, z, p_value,
        p_holm` (a part's tests of a measure are the family), `approximate` (out-of-fold scores).

    Raises:
        ValueError: as `multiclass_table`, or two models say different labels of a patient.
    """
    names = _class_names(predictions)
    rows: list[dict[str, Any]] = []
    for part, pairs in _pairs_of_models(predictions).items():
        tests: dict[str, list[dict[str, Any]]] = {"AUC macro": [], "AUC Hand-Till": [], "AUC": []}
        for a, b, both, folds in pairs:
            about = {
                "part": part,
                "model_a": a,
                "model_b": b,
                "n": len(both),
                "approximate": folds.nunique() > 1,
            }
            labels = both["label"].to_numpy(np.int64)
            values = [
                both[[f"{name}_{side}" for name in names]].to_numpy(np.float64) for side in "ab"
            ]
            for method, measure in _MACRO.items():
                found = _macro_difference(
                    labels,
                    values,
                    folds.to_numpy(),
                    method=method,
                    seed=seed,
                    resamples=resamples,
                    level=level,
                )
                if found:
                    tests[measure].append(about | {"measure": measure, "class": "all"} | found)
            for k in range(len(names)):
                if _enough(both.assign(fold=folds, label=labels == k)):
                    test = delong_test(
                        labels == k, values[0][:, k], values[1][:, k], folds=folds, level=level
                    )
                    tests["AUC"].append(about | {"measure": "AUC", "class": k} | _difference(test))
        for family in tests.values():
            rows += _with_holm(family)
    columns = [
        "part",
        "model_a",
        "model_b",
        "n",
        "measure",
        "class",
        *DIFFERENCE,
        "p_holm",
        "approximate",
    ]
    return pd.DataFrame(rows, columns=columns)


def _macro_difference(
    labels: Any,
    values: list[Any],
    folds: Any,
    *,
    method: MulticlassMethod,
    seed: int,
    resamples: int,
    level: float,
) -> dict[str, float]:
    """As `_difference`; empty where no fold has every class."""
    means = [_mean_of_folds(labels, own, folds, method=method) for own in values]
    first, second = means
    if first is None or second is None:
        return {}
    areas = [float(mean(np.ones((1, len(labels)), np.int64))[0]) for mean in (first, second)]
    difference, low, high, error = _resample_macro(
        lambda counts: first(counts) - second(counts),
        labels,
        folds,
        seed=seed,
        resamples=resamples,
        level=level,
    )
    z = difference / error if error > 0 else 0.0 if difference == 0 else math.nan
    return dict(
        zip(DIFFERENCE, (*areas, difference, low, high, z, 2 * float(ndtr(-abs(z)))), strict=True)
    )


_MACRO: dict[MulticlassMethod, str] = {"ovr": "AUC macro", "hand-till": "AUC Hand-Till"}


def confusion_counts(predictions: pd.DataFrame) -> pd.DataFrame:
    """Labels by calls of each model and part: `model, part, label`, then a column `called_k` for
    each class.

    Raises:
        ValueError: as `multiclass_table`.
    """
    names = class_columns(predictions)
    tables = []
    for (model, part), own in _by_model_and_part(predictions):
        counts, _ = confusion_table(
            own["label"], own[names].to_numpy().argmax(axis=1), classes=len(names)
        )
        tables.append(counts.add_prefix("called_").reset_index().assign(model=model, part=part))
    table = pd.concat(tables, ignore_index=True)
    return table[["model", "part", *(name for name in table if name not in ("model", "part"))]]


def class_columns(predictions: pd.DataFrame) -> list[str]:
    """`probability_0`, `probability_1`, ... as far as they go."""
    names = [f"probability_{k}" for k in range(predictions.shape[1])]
    return [name for name in names if name in predictions]


def _class_names(predictions: pd.DataFrame) -> list[str]:
    names = class_columns(predictions)
    if len(names) < 3 or predictions[[*names, "label"]].isna().any(axis=None):
        raise ValueError(
            f"a table of several classes needs probabilities of three or more for all, got {names}"
        )
    return names


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


def print_performance(table: pd.DataFrame) -> pd.DataFrame:
    """`performance_table` as journals print it: one row per model and part, AUC with three digits,
    percent with two."""
    cells = zip(table["measure"], table["estimate"], table["low"], table["high"], strict=True)
    text = table.assign(text=[_cell(*cell) for cell in cells], part=table["part"].map(PARTS))
    columns = list(dict.fromkeys(text["measure"]))
    wide = text.pivot_table(
        index=["model", "part"], columns="measure", values="text", aggfunc="first", sort=False
    )
    return wide[columns].reset_index().rename_axis(columns=None)


def _cell(measure: str, estimate: float, low: float, high: float) -> str:
    """AUCs with three digits, shares in percent with two; no brackets without limits."""
    factor, digits = (1, 3) if measure.startswith("AUC") else (100, 2)
    if math.isnan(estimate):
        return "-"
    limits = "" if math.isnan(low) else f" [{factor * low:.{digits}f}, {factor * high:.{digits}f}]"
    return f"{factor * estimate:.{digits}f}{limits}"


def print_multiclass(table: pd.DataFrame) -> pd.DataFrame:
    """`multiclass_table` as journals print it: one row per model, part and class, as
    `print_performance`."""
    names = table["class"].map(lambda name: name if name == "all" else f"class {name}")
    printed = print_performance(table.assign(model=table["model"].astype(str) + "\t" + names))
    parted = printed["model"].str.split("\t", expand=True)
    return printed.assign(model=parted[0]).assign(**{"class": parted[1]}).fillna("")


def print_subgroups(table: pd.DataFrame) -> pd.DataFrame:
    """`subgroup_table` as journals print it, digits as `print_performance`; what is optimistic says
    so."""
    printed = table[["model", "variable", "subgroup", "n", "positives"]].copy()
    for name in ("AUC", *MEASURES):
        columns = ["auc", "low", "high"] if name == "AUC" else [name, f"{name}_low", f"{name}_high"]
        printed[name] = [_cell(name, *cell) for cell in table[columns].to_numpy(np.float64)]
    for name, head in (("", "p"), ("_interaction", "p interaction")):
        source = "p_value" if not name else f"p{name}"
        printed[head] = [print_p(x) for x in table[source].astype(float)]
        printed[f"{head} (Holm)"] = [print_p(x) for x in table[f"p{name}_holm"].astype(float)]
    for name in REFITTED[1:]:
        values = table[f"refitted_{name}_optimistic"].astype(float)
        printed[f"{name}, cutoff refitted (optimistic)"] = [
            _cell(name, x, math.nan, math.nan) for x in values
        ]
    return printed


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
        '<!DOCTYPE html><html lang="en"><head><meta '
        f'charset="utf-8"><title>{html.escape(caption)}</title>'
        f"<style>{style}</style></head><body><p><b>{html.escape(caption)}</b></p>{body}{foot}</body></html>\n"
    )


def to_latex(table: pd.DataFrame, *, caption: str) -> str:
    """A booktabs table; special characters are escaped."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}

    def escape(value: Any) -> str:
        text = (
            "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
        )
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
    return tuple(
        int(cell.sum()) for cell in (called & ill, called & ~ill, ~called & ill, ~called & ~ill)
    )  # type: ignore[return-value]


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

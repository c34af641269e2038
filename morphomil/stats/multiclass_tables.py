"""Performance of models of three classes and more."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from morphomil.stats.combined_auc import compare_combined, one_against_one, one_against_rest
from morphomil.stats.delong import delong_test
from morphomil.stats.diagnostic import exact_interval
from morphomil.stats.multiclass import confusion_table
from morphomil.stats.performance import (
    DIFFERENCE,
    PAIR,
    auc_difference,
    auc_of_rows,
    has_pairs,
    pairs_of_models,
    with_holm,
)
from morphomil.stats.predictions import (
    by_model_and_part,
    class_columns,
    class_names_of,
)
from morphomil.stats.roc import AucInterval


def multiclass_table(predictions: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Performance of models of three or more classes in each part; a patient is called the most
    probable class.

    Returns:
        Long form: `model, part, n, measure, class, estimate, low, high`. Of all classes: `AUC
        macro` (one against the rest) and `AUC Hand-Till`, from pairs of patients within folds, with
        intervals by what each patient moves (`combined_auc.CombinedAuc.own_interval`), and `ACC`.
        Of each class: `AUC` against the rest, `recall` and `precision`. Shares have exact
        intervals. Limits are missing where a patient stands in a part more than once.

    Raises:
        ValueError: columns are missing, or labels and probabilities don't fit.
    """
    names = class_names_of(predictions)
    rows: list[dict[str, Any]] = []
    for (model, part), own in by_model_and_part(predictions):
        row = {"model": model, "part": part, "n": len(own)}
        independent = not own["patient"].duplicated().any()
        of_all = _measures_of_all(own, names, level=level)
        for measure, which, limits in of_all + _measures_by_class(own, names, level=level):
            estimate, low, high = limits
            if not independent:
                low = high = math.nan
            values = {"measure": measure, "class": which, "estimate": estimate}
            rows.append(row | values | {"low": low, "high": high})
    return pd.DataFrame(rows)


_Measure = tuple[str, Any, tuple[float, float, float]]
"""A measure's name, its class, and its value with limits."""


def _measures_of_all(own: pd.DataFrame, names: list[str], *, level: float) -> list[_Measure]:
    """AUCs of all classes and accuracy of one model in one part."""
    labels, values = own["label"].to_numpy(np.int64), own[names].to_numpy(np.float64)
    measures: list[_Measure] = []
    for measure, combine in _OF_ALL.items():
        limits = AucInterval(math.nan, math.nan, math.nan)
        if has_pairs(own):
            limits = combine(labels, values, own["fold"]).own_interval(level=level)
        measures.append((measure, "all", limits))
    right = int((values.argmax(axis=1) == labels).sum())
    return [*measures, ("ACC", "all", exact_interval(right, len(own), level=level))]


def _measures_by_class(own: pd.DataFrame, names: list[str], *, level: float) -> list[_Measure]:
    """AUC against the rest, recall and precision of each class."""
    labels, values = own["label"].to_numpy(np.int64), own[names].to_numpy(np.float64)
    calls = values.argmax(axis=1)
    counts = confusion_table(labels, calls, classes=len(names))[0].to_numpy()
    measures: list[_Measure] = []
    for k in range(len(names)):
        right, have, called = int(counts[k, k]), int(counts[k].sum()), int(counts[:, k].sum())
        against_rest = own.assign(label=labels == k, score=values[:, k])
        measures += [
            ("AUC", k, auc_of_rows(against_rest, level=level)),
            ("recall", k, exact_interval(right, have, level=level)),
            ("precision", k, exact_interval(right, called, level=level)),
        ]
    return measures


def multiclass_comparison_table(predictions: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Differences of AUC of each pair of models of three or more classes in each part, on the
    patients of both.

    Of all classes (`AUC macro`, `AUC Hand-Till`): by what each patient moves (the influence curve,
    `combined_auc.compare_combined`), each model in its own folds; of two classes it is DeLong's.
    Of each class against the rest (`AUC`): DeLong's test. Parts and pairs are left out as in
    `comparison_table`. Out of fold all variances are doubled, the most that shared training
    patients make of them (`training_factor`), and `test` says so.

    Returns:
        `part, model_a, model_b, test, n, n_a, n_b, measure, class, auc_a, auc_b, difference, low,
        high, z, p_value, p_holm` (a part's tests of a measure are the family).

    Raises:
        ValueError: as `multiclass_table`, or two models say different labels of a patient.
    """
    names = class_names_of(predictions)
    rows: list[dict[str, Any]] = []
    for part, pairs in pairs_of_models(predictions).items():
        tests: dict[str, list[dict[str, Any]]] = {"AUC macro": [], "AUC Hand-Till": [], "AUC": []}
        for pair in pairs:
            labels = pair.both["label"].to_numpy(np.int64)
            values = [
                pair.both[[f"{name}_{side}" for name in names]].to_numpy(np.float64)
                for side in "ab"
            ]
            about = {"part": part} | pair.columns(f"{INFLUENCE_CURVE}{pair.suffix}")
            folds = [pair.both[f"fold_{side}"] for side in "ab"]
            comparable = all(has_pairs(pair.both.assign(fold=own)) for own in folds)
            for measure, combine in _OF_ALL.items() if comparable else ():
                areas = (combine(labels, *own) for own in zip(values, folds, strict=True))
                found = auc_difference(compare_combined(*areas, level=level))
                tests[measure].append(about | {"measure": measure, "class": "all"} | found)
            about = {"part": part} | pair.columns(f"DeLong{pair.suffix}")
            for k in range(len(names)):
                if pair.enough_cases(labels == k):
                    test = delong_test(
                        labels == k,
                        values[0][:, k],
                        values[1][:, k],
                        folds=pair.both["fold_a"],
                        folds_b=pair.both["fold_b"],
                        level=level,
                    )
                    tests["AUC"].append(
                        about | {"measure": "AUC", "class": k} | auc_difference(test)
                    )
        for family in tests.values():
            rows += with_holm(family)
    columns = ["part", *PAIR, "measure", "class", *DIFFERENCE, "p_holm"]
    return pd.DataFrame(rows, columns=columns)


INFLUENCE_CURVE = "influence curve"
"""The name of the test of an AUC of all classes."""
_OF_ALL = {"AUC macro": one_against_rest, "AUC Hand-Till": one_against_one}


def confusion_counts(predictions: pd.DataFrame) -> pd.DataFrame:
    """Labels by calls of each model and part: `model, part, label`, then a column `called_k` for
    each class.

    Raises:
        ValueError: as `multiclass_table`.
    """
    names = class_columns(predictions)
    tables = []
    for (model, part), own in by_model_and_part(predictions):
        counts, _ = confusion_table(
            own["label"], own[names].to_numpy().argmax(axis=1), classes=len(names)
        )
        tables.append(counts.add_prefix("called_").reset_index().assign(model=model, part=part))
    table = pd.concat(tables, ignore_index=True)
    return table[["model", "part", *(name for name in table if name not in ("model", "part"))]]

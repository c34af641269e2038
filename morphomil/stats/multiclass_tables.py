"""Performance of models of three classes and more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from morphomil.stats.delong import delong_test
from morphomil.stats.diagnostic import exact_interval
from morphomil.stats.multiclass import MulticlassMethod, confusion_table, resampled_multiclass_auc
from morphomil.stats.performance import (
    DIFFERENCE,
    PAIR,
    ModelPair,
    auc_difference,
    auc_of_rows,
    pairs_of_models,
    with_holm,
)
from morphomil.stats.predictions import (
    by_model_and_part,
    class_columns,
    class_names_of,
)
from morphomil.stats.resampling import bootstrap_by_patient
from morphomil.stats.roc import AucInterval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.stats.resampling import Vectorized


def multiclass_table(
    predictions: pd.DataFrame, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> pd.DataFrame:
    """Performance of models of three or more classes in each part; a patient is called the most
    probable class.

    Returns:
        Long form: `model, part, n, measure, class, estimate, low, high`. Of all classes: `AUC
        macro` (one against the rest) and `AUC Hand-Till`, means over folds that have every class,
        with BCa intervals (patients drawn within folds and classes), and `ACC`. Of each class:
        `AUC` against the rest, `recall` and `precision`. Shares have exact intervals. Limits are
        missing where a patient stands in a part more than once, or the interval has no width.

    Raises:
        ValueError: columns are missing, or labels and probabilities don't fit.
    """
    names = class_names_of(predictions)
    rows: list[dict[str, Any]] = []
    for (model, part), own in by_model_and_part(predictions):
        row = {"model": model, "part": part, "n": len(own)}
        independent = not own["patient"].duplicated().any()
        of_all = _measures_of_all(own, names, seed=seed, resamples=resamples, level=level)
        for measure, which, limits in of_all + _measures_by_class(own, names, level=level):
            estimate, low, high = limits
            if not independent:
                low = high = math.nan
            values = {"measure": measure, "class": which, "estimate": estimate}
            rows.append(row | values | {"low": low, "high": high})
    return pd.DataFrame(rows)


_Measure = tuple[str, Any, tuple[float, float, float]]
"""A measure's name, its class, and its value with limits."""


def _measures_of_all(
    own: pd.DataFrame, names: list[str], *, seed: int, resamples: int, level: float
) -> list[_Measure]:
    """Macro AUCs and accuracy of one model in one part."""
    labels, values = own["label"].to_numpy(np.int64), own[names].to_numpy(np.float64)
    folds = own["fold"].to_numpy()
    areas: list[_Measure] = [
        (
            measure,
            "all",
            _macro(
                labels, values, folds, method=method, seed=seed, resamples=resamples, level=level
            ),
        )
        for method, measure in _MACRO.items()
    ]
    right = int((values.argmax(axis=1) == labels).sum())
    return [*areas, ("ACC", "all", exact_interval(right, len(own), level=level))]


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
    if mean is None:
        return AucInterval(math.nan, math.nan, math.nan)
    area, low, high, _ = _resample_macro(
        mean, labels, folds, seed=seed, resamples=resamples, level=level
    )
    if len(np.unique(folds)) > 1:
        low, high, _ = _doubled(area, low, high)
        low, high = max(0.0, low), min(1.0, high)
    return AucInterval(area, low, high)


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
            about = {"part": part} | pair.columns(f"bootstrap{pair.suffix}")
            for method, measure in _MACRO.items():
                found = _macro_difference(
                    pair, values, method=method, seed=seed, resamples=resamples, level=level
                )
                if found:
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


def _macro_difference(
    pair: ModelPair,
    values: list[Any],
    *,
    method: MulticlassMethod,
    seed: int,
    resamples: int,
    level: float,
) -> dict[str, float]:
    """As `auc_difference`; empty where no fold has every class."""
    labels = pair.both["label"].to_numpy(np.int64)
    folds = [pair.both[f"fold_{side}"].to_numpy() for side in "ab"]
    first, second = (
        _mean_of_folds(labels, own, of_fold, method=method)
        for own, of_fold in zip(values, folds, strict=True)
    )
    if first is None or second is None:
        return {}
    areas = [float(mean(np.ones((1, len(labels)), np.int64))[0]) for mean in (first, second)]
    alike = np.array_equal(pd.factorize(folds[0])[0], pd.factorize(folds[1])[0])
    difference, low, high, error = _resample_macro(
        lambda counts: first(counts) - second(counts),
        labels,
        folds[0] if alike else np.zeros(len(labels)),
        seed=seed,
        resamples=resamples,
        level=level,
    )
    if pair.several_folds:
        low, high, error = _doubled(difference, low, high, error)
    z = difference / error if error > 0 else 0.0 if difference == 0 else math.nan
    return dict(
        zip(DIFFERENCE, (*areas, difference, low, high, z, 2 * float(ndtr(-abs(z)))), strict=True)
    )


def _doubled(
    estimate: float, low: float, high: float, error: float = 0.0
) -> tuple[float, float, float]:
    """Limits and standard error for twice the variance."""
    wider = math.sqrt(2)
    return estimate + wider * (low - estimate), estimate + wider * (high - estimate), wider * error


_MACRO: dict[MulticlassMethod, str] = {"ovr": "AUC macro", "hand-till": "AUC Hand-Till"}


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

"""Models side by side on test patients: ROC curves, DeLong's tests, confusion, calibration, net
benefit.

The numbers are those of `morphomil.stats.performance`, from which `tables/` of a run is written
too; here they stand as a figure or the report shows them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from morphomil.errors import InputError, RefusedError
from morphomil.stats.multiclass import confusion_table
from morphomil.stats.performance import (
    calibration_curve_table,
    calibration_table,
    comparison_table,
    net_benefit_table,
    performance_table,
)
from morphomil.stats.predictions import class_columns
from morphomil.stats.printing import print_multiclass, print_performance
from morphomil.stats.subgroups import AUC_OF_SUBGROUP
from morphomil.store import read_csv
from morphomil.tables.predictions import class_names, has_several_classes, read_predictions
from morphomil.tables.roc import model_curves

if TYPE_CHECKING:
    from morphomil.run.directory import Run


class RocComparison(NamedTuple):
    """`points`: `model, fpr, tpr` of each model's curve, all patients together; `aucs`: the rows of
    `performance_table` with the AUC, the highest first; `pairs`: `comparison_table`."""

    points: pd.DataFrame
    aucs: pd.DataFrame
    pairs: pd.DataFrame


def compare_rocs(predictions: pd.DataFrame) -> RocComparison:
    """ROC curves, AUCs and DeLong's tests of models on test patients.

    Args:
        predictions: of two-class models that tested both classes (`two_class_predictions`);
            training patients say how far a model overfits (`stats.roc.training_factor`).

    Raises:
        ValueError, RefusedError: as `performance_table`.
    """
    performance = _in_test(performance_table(predictions))
    aucs = performance[performance["measure"] == "AUC"].sort_values(
        "estimate", ascending=False, kind="stable"
    )
    pairs = _in_test(comparison_table(predictions)).reset_index(drop=True)
    return RocComparison(model_curves(_in_test(predictions)), aucs, pairs)


def _in_test(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["part"] == "test"]


def confusion_tables(predictions: pd.DataFrame) -> pd.DataFrame:
    """Each model's calls beside the labels: `model, label, call, n, share` (of the label's
    patients).

    Of two classes a patient is called by the model's cutoff, of more the most probable one.

    Args:
        predictions: `model, label, score, cutoff`, labels from 0; of more classes `probability_0`,
            `probability_1`, ...
    """
    several = class_columns(predictions)
    rows = []
    for model, own in predictions.groupby("model", sort=False):
        if own[several].notna().to_numpy().any():
            calls = own[several].to_numpy(float).argmax(axis=1)
        else:
            calls = (own["score"] >= own["cutoff"]).to_numpy(int)
        counts, _ = confusion_table(own["label"], calls, classes=max(len(several), 2))
        long = counts.reset_index().melt("label", var_name="call", value_name="n")
        rows.append(
            long.assign(model=model, share=long["n"] / long.groupby("label")["n"].transform("sum"))
        )
    table = pd.concat(rows, ignore_index=True)[["model", "label", "call", "n", "share"]]
    return table.astype({"label": int, "call": int, "n": int})


class CalibrationTables(NamedTuple):
    """`curve`: `model, n, predicted, observed, low, high`; `summary`: slope, intercept, Brier score
    by model."""

    curve: pd.DataFrame
    summary: pd.DataFrame


def calibration_tables(tested: pd.DataFrame) -> CalibrationTables:
    """Calibration on test patients of each model whose scores are probabilities.

    Raises:
        ValueError: no model's scores lie in [0, 1].
    """
    summary = _of_test(calibration_table(tested))
    curve = _of_test(calibration_curve_table(tested))
    first = ["model", "n", "brier", "scaled_brier"]
    rest = [name for name in summary if name not in first]
    return CalibrationTables(curve, summary[[*first, *rest]])


def decision_table(tested: pd.DataFrame) -> pd.DataFrame:
    """Net benefit on test patients of each model whose scores are probabilities: `model` and the
    columns of `decision_curve`.

    Raises:
        ValueError: no model's scores lie in [0, 1].
    """
    return _of_test(net_benefit_table(tested))


def _of_test(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the test part, without `part`."""
    own = table[table["part"] == "test"] if len(table) else table
    if own.empty:
        raise ValueError("no model's scores lie in [0, 1]")
    return own.drop(columns="part").reset_index(drop=True)


def read_subgroups(run: Run) -> pd.DataFrame | None:
    """The AUCs in subgroups that `compare` wrote, with the tests against the other patients; None
    before that."""
    path = run.tables_folder / "subgroups.csv"
    if not path.is_file():
        return None
    table = read_csv(path, dtype={"model": str, "variable": str, "subgroup": str})
    table = table.reindex(columns=[*AUC_OF_SUBGROUP, "p_value", "p_holm"])
    # The CSV guards text that a spreadsheet would run as a formula.
    return table.assign(subgroup=table["subgroup"].str.removeprefix("'"))


class PrintedModels(NamedTuple):
    """`performance` as printed; `pairs` of `comparison_table`, which several classes lack."""

    performance: pd.DataFrame | None
    pairs: pd.DataFrame


def print_models(run: Run) -> PrintedModels | None:
    """The models' performance and their differences for the report; None without predictions of
    two classes or more."""
    try:
        predictions = read_predictions(run)
        if has_several_classes(predictions):
            return PrintedModels(_read_by_class(run), pd.DataFrame())
        performance, pairs = performance_table(predictions), comparison_table(predictions)
    except (InputError, RefusedError, ValueError):
        return None
    return PrintedModels(print_performance(performance), pairs)


def _read_by_class(run: Run) -> pd.DataFrame | None:
    """The table of several classes that `compare` wrote, with the classes' names; None before
    that."""
    path = run.tables_folder / "performance_by_class.csv"
    if not path.is_file():
        return None
    names = {f"class {number}": name for number, name in enumerate(class_names(run))}
    printed = print_multiclass(read_csv(path, dtype={"class": str}))
    printed = printed.assign(**{"class": printed["class"].replace(names)})
    first = ["model", "class", "part"]
    return printed[[*first, *(name for name in printed if name not in first)]]

"""Performance of a model within subgroups of patients."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pandas as pd

from morphomil.stats.adjustment import holm
from morphomil.stats.delong import delong_test_unpaired
from morphomil.stats.diagnostic import diagnostic_table
from morphomil.stats.models import interaction_test
from morphomil.stats.predictions import (
    MEASURES,
    by_model_and_part,
    check_predictions,
    count_cases,
    enough_cases,
)
from morphomil.stats.roc import within_fold_auc_interval, youden_cutoff

AUC_OF_SUBGROUP = ("model", "variable", "subgroup", "n", "positives", "auc", "low", "high")
"""The table of subgroups begins with these columns."""


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
        variables. `refitted_..._optimistic`: Youden's cutoff fitted to the subgroup itself, which
        flatters ACC, SENS and SPEC there. Subgroups with fewer than two patients of a class have
        their count only; the interaction is missing where a group is separated by the score or has
        one class.

        Out-of-fold scores: AUCs and their test count pairs within folds, nothing is refitted, and
        all is approximate.

    Raises:
        ValueError: as `performance_table`.
    """
    check_predictions(predictions)
    rows: list[dict[str, Any]] = []
    for (model, own_part), own in by_model_and_part(predictions):
        if own_part != part:
            continue
        found: list[dict[str, Any]] = []
        for variable in subgroups:
            value = own["patient"].map(subgroups[variable])
            about = {
                "model": model,
                "variable": str(variable),
                "p_interaction": test_of_interaction(own, value),
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
    refitted = [f"refitted_{name}_optimistic" for name in REFITTED]
    return pd.DataFrame(rows, columns=[*AUC_OF_SUBGROUP, *limits, *tests, *refitted])


REFITTED = ("cutoff", "ACC", "SENS", "SPEC")


def test_of_interaction(own: pd.DataFrame, value: pd.Series[Any]) -> float:
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
    if not enough_cases(inside):
        return {}
    area = within_fold_auc_interval(inside["label"], inside["score"], inside["fold"], level=level)
    row: dict[str, Any] = {"auc": area.auc, "low": area.low, "high": area.high}
    table = diagnostic_table(*count_cases(inside, inside["cutoff"]), level=level)
    for name in MEASURES:
        row |= {name: table.loc[name, "estimate"], f"{name}_low": table.loc[name, "low"]}
        row[f"{name}_high"] = table.loc[name, "high"]
    if enough_cases(outside):
        sides = [(side["label"], side["score"]) for side in (inside, outside)]
        folds = {"folds_a": inside["fold"], "folds_b": outside["fold"]}
        row["p_value"] = delong_test_unpaired(*sides[0], *sides[1], **folds, level=level).p_value
    if inside["fold"].nunique() == 1:
        cutoff = youden_cutoff(inside["label"], inside["score"])
        refitted = diagnostic_table(*count_cases(inside, cutoff))["estimate"].to_dict() | {
            "cutoff": cutoff
        }
        row |= {f"refitted_{name}_optimistic": refitted[name] for name in REFITTED}
    return row

"""Performance of two-class models by part: AUC, cut-off, comparisons, calibration, net benefit."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, NamedTuple

import pandas as pd

from morphomil.stats.adjustment import holm
from morphomil.stats.delong import DelongResult, delong_test
from morphomil.stats.diagnostic import calibration, decision_curve, diagnostic_table
from morphomil.stats.predictions import (
    MEASURES,
    PARTS,
    by_model_and_part,
    check_predictions,
    count_cases,
    enough_cases,
)
from morphomil.stats.roc import AucInterval, within_fold_auc, within_fold_auc_interval

CURVE_PATIENTS = 12
"""A point of a calibration curve is the mean of at least so many patients."""


def performance_table(predictions: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """AUC and the measures at the stored cutoff, of each model in each part.

    Returns:
        Long form: `model, part, n, positives, measure, estimate, low, high`. The AUC counts pairs
        within folds, with the influence-curve interval (`within_fold_auc_interval`, which allows
        for folds that share training patients), and is missing where no fold has both classes; the
        others are `diagnostic_table`'s, which several folds make approximate. Where a patient
        stands in a part more than once (the training patients of several folds) rows are no
        independent cases and limits are missing.

    Raises:
        ValueError: columns are missing, or a patient stands twice in a model's test part.
        RefusedError: there are more than two classes.
    """
    check_predictions(predictions)
    rows: list[dict[str, Any]] = []
    for (model, part), own in by_model_and_part(predictions):
        about: dict[str, Any] = {
            "model": model,
            "part": part,
            "n": len(own),
            "positives": int(own["label"].sum()),
        }
        table = diagnostic_table(*count_cases(own, own["cutoff"]), level=level).loc[list(MEASURES)]
        trained = training_auc(predictions, model)
        table.loc["AUC"] = list(auc_of_rows(own, level=level, training_auc=trained))
        if own["patient"].duplicated().any():
            table[["low", "high"]] = math.nan
        rows += [
            about
            | {"measure": name}
            | dict(zip(table.columns.astype(str), table.loc[name], strict=True))
            for name in ("AUC", *MEASURES)
        ]
    return pd.DataFrame(rows)


def auc_of_rows(
    own: pd.DataFrame, *, level: float, training_auc: float | None = None
) -> AucInterval:
    """From pairs within folds; NaN where no fold has both classes."""
    if not has_pairs(own):
        return AucInterval(math.nan, math.nan, math.nan)
    return within_fold_auc_interval(
        own["label"], own["score"], own["fold"], level=level, training_auc=training_auc
    )


def training_auc(predictions: pd.DataFrame, model: str) -> float | None:
    """AUC of a model's folds on the patients they were trained on; None where these aren't
    there."""
    own = predictions[(predictions["model"] == model) & (predictions["part"] == "train")]
    return within_fold_auc(own["label"], own["score"], own["fold"]) if has_pairs(own) else None


def has_pairs(own: pd.DataFrame) -> bool:
    """Whether a fold has both classes."""
    return bool((own.groupby("fold")["label"].nunique() > 1).any())


def comparison_table(predictions: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Each pair of models in each part, compared on the patients that both predict.

    A part in which patients stand more than once (training patients of several folds) is left out,
    and so is a pair that shares fewer than two patients of a class within folds.

    Returns:
        `part, model_a, model_b, test, n` (patients of both), `n_a, n_b` (of each model: where they
        are more than `n` its AUC here isn't that of `performance_table`), `auc_a, auc_b` (each in
        the model's own folds), `difference, low, high, z, p_value, p_holm` (the part's pairs are
        the family). `test` is `DeLong` on a test set, and `DeLong, cross-validated` where scores
        are out of fold: the same with the variance of cross-validation (`delong_test` with folds).

    Raises:
        ValueError: as `performance_table`, or two models say different labels of a patient.
    """
    check_predictions(predictions)
    trained = {str(m): training_auc(predictions, m) for m in predictions["model"].unique()}
    rows: list[dict[str, Any]] = []
    for part, pairs in pairs_of_models(predictions).items():
        tests: list[dict[str, Any]] = []
        for pair in pairs:
            if not pair.enough_cases():
                continue
            test = delong_test(
                pair.both["label"],
                pair.both["score_a"],
                pair.both["score_b"],
                folds=pair.both["fold_a"],
                folds_b=pair.both["fold_b"],
                training_aucs=(trained[pair.model_a], trained[pair.model_b]),
                level=level,
            )
            tests.append(
                {"part": part} | pair.columns(f"DeLong{pair.suffix}") | auc_difference(test)
            )
        rows += with_holm(tests)
    return pd.DataFrame(rows, columns=["part", *PAIR, *DIFFERENCE, "p_holm"])


PAIR = ("model_a", "model_b", "test", "n", "n_a", "n_b")
CROSS_VALIDATED = ", cross-validated"
"""A test's name ends so where it allows for folds that share training patients."""
DIFFERENCE = ("auc_a", "auc_b", "difference", "low", "high", "z", "p_value")


def auc_difference(test: DelongResult) -> dict[str, float]:
    """DeLong's comparison as the columns of a table."""
    values = (test.auc_a, test.auc_b, test.difference, *test.interval, test.z, test.p_value)
    return dict(zip(DIFFERENCE, values, strict=True))


def with_holm(tests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tests, one family, with `p_holm`."""
    adjusted = holm([float(test["p_value"]) for test in tests])
    return [test | {"p_holm": float(p)} for test, p in zip(tests, adjusted, strict=True)]


class ModelPair(NamedTuple):
    """Two models and the patients that both predict (columns `_a`, `_b`, one `label`)."""

    model_a: str
    model_b: str
    both: pd.DataFrame
    n_a: int
    n_b: int

    @property
    def several_folds(self) -> bool:
        """Whether scores of either model come from more than one fold."""
        return bool((self.both[["fold_a", "fold_b"]].nunique() > 1).any())

    @property
    def suffix(self) -> str:
        """What a test's name ends in."""
        return CROSS_VALIDATED if self.several_folds else ""

    def enough_cases(self, label: Any = None) -> bool:
        """Whether each model has enough pairs within its folds; `label` in place of the own."""
        own = self.both if label is None else self.both.assign(label=label)
        return all(enough_cases(own.assign(fold=own[side])) for side in ("fold_a", "fold_b"))

    def columns(self, test: str) -> dict[str, Any]:
        """`PAIR`, as columns of a table."""
        sizes = (len(self.both), self.n_a, self.n_b)
        return dict(zip(PAIR, (self.model_a, self.model_b, test, *sizes), strict=True))


def pairs_of_models(predictions: pd.DataFrame) -> dict[str, list[ModelPair]]:
    """The pairs of models per part.

    Models in whose part a patient stands more than once are left out.
    """
    models = by_model_and_part(predictions)
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
            both = both.rename(columns={"label_a": "label"})
            pairs.append(ModelPair(a, b, both, len(own[a]), len(own[b])))
        found[part] = pairs
    return found


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


def calibration_curve_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """The calibration curve of each model in validation and test, scores being probabilities.

    Points are means of 12 patients or more of like probability (`CURVE_PATIENTS`), 2 to 10 points a
    curve.

    Returns:
        `model, part, n, predicted, observed, low, high`. Models whose scores leave [0, 1] and parts
        of one class have no row.

    Raises:
        ValueError, RefusedError: as `performance_table`.
    """
    tables = []
    for model, part, own in _probabilities(predictions):
        groups = min(max(len(own) // CURVE_PATIENTS, 2), 10)
        curve = calibration(own["label"], own["score"], groups=groups).curve
        tables.append(curve.assign(model=model, part=part))
    columns = ["model", "part", "n", "predicted", "observed", "low", "high"]
    return (
        pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
    )


def net_benefit_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """`decision_curve` of each model in validation and test: `model, part`, then its columns.

    Raises:
        ValueError, RefusedError: as `performance_table`.
    """
    tables = [
        decision_curve(own["label"], own["score"]).assign(model=model, part=part)
        for model, part, own in _probabilities(predictions)
    ]
    columns = [
        "model",
        "part",
        "threshold",
        *(f"net_benefit{end}" for end in ("", "_low", "_high")),
    ]
    columns += ["treat_all", "treat_none"]
    return (
        pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
    )


def _probabilities(predictions: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Models and parts (but training) whose scores can be probabilities, each patient once, both
    classes."""
    check_predictions(predictions)
    return [
        (model, part, own)
        for (model, part), own in by_model_and_part(predictions)
        if part != "train"
        and own["score"].between(0, 1).all()
        and own["label"].nunique() == 2
        and not own["patient"].duplicated().any()
    ]

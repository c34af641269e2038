"""The patients' values compared between the groups: plainly, within strata, beside covariates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.cohort.encoding import ClinicalEncoder, independent_columns
from morphomil.rank.several import compare_beside_covariates, compare_several
from morphomil.stats import adjusted_associations, compare_groups, van_elteren
from morphomil.stats.adjustment import benjamini_hochberg, holm

if TYPE_CHECKING:
    from morphomil.rank.classes import Classes
    from morphomil.rank.design import Design


def compare_features(
    of_patients: pd.DataFrame, features: tuple[str, ...], *, classes: Classes, design: Design
) -> pd.DataFrame:
    """One row per feature, as `stats.compare_groups` has it of two groups, and
    `several.compare_several` of more, where covariates have no columns.

    With strata, `test`, `p_value`, `p_holm`, `p_bh`, effects and `direction` are van Elteren's
    (`stats.van_elteren`), `strata` says how many of them have both groups, `unstratified_p` and
    `unstratified_delta` are what they would be without, and tests without strata are empty. With
    covariates `adjusted_odds_ratio`
    (per SD of the feature, beside them), `_low`, `_high`, `adjusted_p` (likelihood ratio; Wald or
    Firth's where there is none), `adjusted_p_holm`, `adjusted_p_bh` and `adjusted_problem` follow
    (`stats.adjusted_associations`; of three labels and more
    `several.compare_beside_covariates`).

    Args:
        of_patients: `patient, label` and a column per feature.
        features: which.
        classes: the labels; of two, directions refer to the last.
        design: strata and covariates by patient.
    """
    values = of_patients[list(features)]
    patients = list(of_patients["patient"])
    if classes.several:
        strata = design.strata[patients].to_numpy() if design.stratified else None
        groups = np.asarray(classes.codes(of_patients["label"]), dtype=np.int64)
        table = compare_several(values, groups, classes=classes, strata=strata)
        if design.covariates is None:
            return table
        encoded = design.encoded.loc[patients].to_numpy(np.float64)
        beside = compare_beside_covariates(values, groups, encoded, classes=classes)
        return table.merge(beside, on="feature", validate="one_to_one")
    positive = classes.names[-1]
    table = compare_groups(values, of_patients["label"], positive=positive)
    in_positive = (of_patients["label"] == positive).to_numpy()
    if design.stratified:
        table = _within_strata(table, values, in_positive, design.strata[patients])
    if design.covariates is not None:
        covariates = design.covariates.loc[patients].reset_index(drop=True)
        table = table.merge(
            _beside_covariates(values.reset_index(drop=True), in_positive, covariates),
            on="feature",
            validate="one_to_one",
        )
    return table


def _within_strata(
    table: pd.DataFrame, values: pd.DataFrame, in_positive: Any, strata: pd.Series[str]
) -> pd.DataFrame:
    """The table with van Elteren's test instead of Mann-Whitney's."""
    found = [van_elteren(values[name], in_positive, strata.to_numpy()) for name in table["feature"]]
    changed: dict[str, Any] = {
        "test": "van Elteren",
        "u": math.nan,
        "p_value": np.where(table["p_value"].isna(), math.nan, [one.p_value for one in found]),
        "cliffs_delta": [one.cliffs_delta for one in found],
        "cliffs_delta_low": [one.low for one in found],
        "cliffs_delta_high": [one.high for one in found],
        "hodges_lehmann": [one.shift for one in found],
        "hodges_lehmann_low": [one.shift_low for one in found],
        "hodges_lehmann_high": [one.shift_high for one in found],
        "direction": [_direction(one.cliffs_delta) for one in found],
        "strata": [one.strata for one in found],
        "unstratified_p": table["p_value"].to_numpy(),
        "unstratified_delta": table["cliffs_delta"].to_numpy(),
    }
    changed |= {name: math.nan for name in map(str, table) if name.startswith("brunner_munzel")}
    table = table.assign(**changed)
    return table.assign(p_holm=holm(table["p_value"]), p_bh=benjamini_hochberg(table["p_value"]))


def _direction(delta: float) -> str | None:
    if math.isnan(delta):
        return None
    return "higher" if delta > 0 else "lower" if delta < 0 else "equal"


def _beside_covariates(
    values: pd.DataFrame, in_positive: Any, covariates: pd.DataFrame
) -> pd.DataFrame:
    """`feature` and the columns `adjusted_`."""
    encoded = independent_columns(ClinicalEncoder.fit(covariates).encode_contrasts(covariates))
    found = adjusted_associations(values, in_positive.astype(int), covariates=encoded)
    p_value = found["lrt_p"].fillna(found["p_value"])
    return pd.DataFrame(
        {
            "feature": found["feature"],
            "adjusted_odds_ratio": found["odds_ratio"],
            "adjusted_odds_ratio_low": found["low"],
            "adjusted_odds_ratio_high": found["high"],
            "adjusted_p": p_value,
            "adjusted_p_holm": holm(p_value),
            "adjusted_p_bh": benjamini_hochberg(p_value),
            "adjusted_problem": found["problem"],
        }
    )

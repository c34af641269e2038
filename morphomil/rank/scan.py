"""The plain scan: ten summaries of every feature compared between the groups, without a model.

What needs no combination of features is found here at least as surely as by any model: shifts,
unequal spread, patches that differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.nuclei.quantities import nucleus_phrase
from morphomil.nuclei.registry import FEATURES
from morphomil.rank.summaries import SUMMARIES, summary_columns
from morphomil.stats.printing import print_p
from morphomil.stats.scan import PERMUTATIONS, delta_interval, draw_labelings, scan_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

ALPHA = 0.05
"""A finding has a p value of at most this, for all features together."""
_SAID = {
    "mean": "is {more} on average",
    "median": "is {more} in the typical nucleus",
    "q10": "is {more} in the nuclei where it is {least} (10th percentile)",
    "q25": "is {more} in the lower quarter of the nuclei (25th percentile)",
    "q75": "is {more} in the upper quarter of the nuclei (75th percentile)",
    "q90": "is {more} in the nuclei where it is {most} (90th percentile)",
    "sd_within": "varies {by} from nucleus to nucleus within patches",
    "sd_between": "differs {by} between patches",
    "patches_low": "is {more} in the patches where it is {least} (10th percentile of patches)",
    "patches_high": "is {more} in the patches where it is {most} (90th percentile of patches)",
}
"""What a difference in a summary says of a feature."""
_HEIGHT = {"more": ("lower", "higher"), "least": "lowest", "most": "highest"}
_SIZE = {"more": ("smaller", "larger"), "least": "smallest", "most": "largest"}
_SIZED = ("um", "um2", "deg")  # units of what is larger, not higher


@dataclass(frozen=True)
class FeatureScan:
    """What the plain scan finds."""

    table: pd.DataFrame
    """One row per feature and summary: `feature, summary, n_positive, n_reference, missing`,
    `delta` (Cliff's, positive minus reference) with `_low` and `_high`, `z`, `p_value` of this
    summary alone and `p_any`, adjusted over all of them (step-down max-T)."""
    features: pd.DataFrame
    """One row per feature: `feature, scan_summary` (the one that differs most), `scan_delta` with
    `_low` and `_high`, `scan_p` (of its ten summaries together), `scan_p_any` (of all
    features)."""
    summaries: pd.DataFrame
    """One row per patient: `patient` and the ten summaries of each feature, `FEATURE.SUMMARY`."""
    findings: tuple[str, ...]
    """A sentence for each feature that differs, the smallest p first; or one that none does."""


def scan_features(
    summaries: pd.DataFrame,
    positive: NDArray[np.bool_],
    *,
    features: Sequence[str],
    seed: int,
    strata: ArrayLike | None = None,
    labelings: NDArray[np.int64] | None = None,
    names: tuple[str, str] = ("positive", "reference"),
) -> FeatureScan:
    """Compare the ten summaries of every feature between two groups (`stats.scan.scan_columns`).

    Args:
        summaries: a row per patient (`summaries.SummarizedCounts.of_patients`).
        positive: (patients,).
        features: names, in the order of the columns.
        seed: of the permutations.
        strata: (patients,); ranks and permutations stay within them.
        labelings: (1 + permutations, patients) of 0 and 1, the truth first, to be used in place of
            9,999 random permutations.
        names: of the groups, for the sentences.
    """
    table = summaries[summary_columns(features)].to_numpy(np.float64)
    if labelings is None:
        labelings = draw_labelings(positive, seed=seed, strata=strata, permutations=PERMUTATIONS)
    owner = np.repeat(np.arange(len(features)), len(SUMMARIES))
    scan = scan_columns(table, labelings, families=owner, strata=strata)
    known = ~np.isnan(table)
    limits = np.array([delta_interval(values, positive, strata=strata) for values in table.T])
    rows = pd.DataFrame(
        {
            "feature": np.repeat(list(features), len(SUMMARIES)),
            "summary": np.tile(SUMMARIES, len(features)),
            "n_positive": known[positive].sum(axis=0),
            "n_reference": known[~positive].sum(axis=0),
            "missing": (~known).sum(axis=0),
        }
        | dict(zip(("delta", "delta_low", "delta_high"), limits.T, strict=True))
        | {"z": scan.statistic, "p_value": scan.columns.p_value, "p_any": scan.columns.p_any}
    )
    best = rows[["summary", "delta", "delta_low", "delta_high"]].reindex(scan.strongest)
    of_features = best.add_prefix("scan_").reset_index(drop=True)
    of_features.insert(0, "feature", list(features))
    of_features["scan_p"], of_features["scan_p_any"] = scan.families
    findings = say_findings(of_features, names=names)
    return FeatureScan(rows, of_features, summaries.reset_index(), findings)


def largest_differences(
    summaries: pd.DataFrame,
    labelings: NDArray[np.int64],
    *,
    features: Sequence[str],
    strata: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """The size of the statistic in which a feature's summaries differ most, under each labeling:
    (labelings, features), arguments as `scan_features`."""
    table = summaries[summary_columns(features)].to_numpy(np.float64)
    if len(labelings) < 2:
        return np.zeros((1, len(features)))
    owner = np.repeat(np.arange(len(features)), len(SUMMARIES))
    return scan_columns(table, labelings, families=owner, strata=strata).largest


def say_findings(features: pd.DataFrame, *, names: tuple[str, str]) -> tuple[str, ...]:
    """A sentence for each feature that differs (`FeatureScan.features`), the smallest p first.

    `names` are those of the positive and the reference group.
    """
    tested = features[features["scan_p_any"].notna()].sort_values(
        ["scan_p_any", "scan_p"], kind="stable"
    )
    if tested.empty:
        return ("No feature could be compared between the groups: too few patients have values.",)
    found = tested[tested["scan_p_any"] <= ALPHA]
    if len(found):
        return tuple(_say_finding(row, names) for row in found.to_dict("records"))
    best = tested.iloc[0]
    return (
        f"The plain scan finds no feature that differs between {names[0]} and {names[1]}; the "
        f"smallest p for all features together is {print_p(best['scan_p_any'])} "
        f"({nucleus_phrase(best['feature'])}). That is no proof that the groups are alike.",
    )


def say_difference(feature: str, summary: str, *, higher: bool) -> str:
    """What it says of a feature that a summary is higher, or lower: "Nuclear area differs more
    between patches"."""
    words = _SIZE if FEATURES[feature].unit in _SIZED else _HEIGHT
    said = _SAID[summary].format(
        more=words["more"][higher],
        least=words["least"],
        most=words["most"],
        by=("less", "more")[higher],
    )
    name = nucleus_phrase(feature)
    return f"{name[:1].upper()}{name[1:]} {said}"


def _say_finding(row: dict[Any, Any], names: tuple[str, str]) -> str:
    said = say_difference(row["feature"], row["scan_summary"], higher=row["scan_delta"] > 0)
    p = print_p(row["scan_p_any"])
    delta = "{scan_delta:.2f} [{scan_delta_low:.2f}, {scan_delta_high:.2f}]".format_map(row)
    return (
        f"{said} in {names[0]} than in {names[1]} (Cliff's delta {delta}, "
        f"p {p if p.startswith('<') else f'= {p}'} for all features together)."
    )

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
from morphomil.rank.classes import Classes
from morphomil.rank.design import say_alike
from morphomil.rank.several import extremes_p, limits_of, say_pairwise
from morphomil.rank.summaries import SUMMARIES, SUMMARY_TITLES, summary_columns
from morphomil.stats.printing import print_p
from morphomil.stats.scan import PERMUTATIONS, delta_interval, draw_labelings, scan_columns
from morphomil.stats.several_groups import jonckheere_terpstra, kruskal_wallis, mean_ranks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from morphomil.rank.classes import Effect

TWO_GROUPS = Classes(("reference", "positive"))
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
    summary alone and `p_any`, adjusted over all of them (step-down max-T). Of three and more groups
    `n_LABEL ...`, `epsilon_squared` and `h`, or `somers_d` and `z` of ordered ones, and `highest,
    lowest`, the groups of the highest and lowest mean rank."""
    features: pd.DataFrame
    """One row per feature: `feature, scan_summary` (the one that differs most), `scan_delta` (or
    the effect of three and more groups, `scan_highest, scan_lowest`) with `_low` and `_high`,
    `scan_p` (of its ten summaries together), `scan_p_any` (of all features). Of three and more
    groups `scan_extremes_p` compares the highest with the lowest in that summary (Holm's, over all
    pairs of groups)."""
    summaries: pd.DataFrame
    """One row per patient: `patient` and the ten summaries of each feature, `FEATURE.SUMMARY`."""
    findings: tuple[str, ...]
    """A sentence for each feature that differs, the smallest p first; or one that none does."""
    effect: Effect = "delta"
    """The column of `table` that says how much the groups differ."""
    permutations: int = PERMUTATIONS
    """Of the labels, that the p values rest on."""
    held: tuple[str, ...] = ()
    """Covariates; the summaries are what these leave of them."""


def scan_features(
    summaries: pd.DataFrame,
    groups: NDArray[np.integer] | NDArray[np.bool_],
    *,
    features: Sequence[str],
    seed: int,
    strata: ArrayLike | None = None,
    labelings: NDArray[np.integer] | None = None,
    classes: Classes = TWO_GROUPS,
    held: tuple[str, ...] = (),
) -> FeatureScan:
    """Compare the ten summaries of every feature between groups (`stats.scan.scan_columns`).

    Args:
        summaries: a row per patient (`summaries.SummarizedCounts.of_patients`).
        groups: (patients,), numbers of the classes; of two, whether a patient is positive.
        features: names, in the order of the columns.
        seed: of the permutations.
        strata: (patients,); ranks and permutations stay within them.
        labelings: (1 + permutations, patients) of group numbers, the truth first, to be used in
            place of 9,999 random permutations.
        classes: the groups' names, and whether they have an order.
        held: names of the covariates that the summaries are residuals of, for the sentences.
    """
    table = summaries[summary_columns(features)].to_numpy(np.float64)
    if labelings is None:
        labelings = draw_labelings(groups, seed=seed, strata=strata, permutations=PERMUTATIONS)
    owner = np.repeat(np.arange(len(features)), len(SUMMARIES))
    scan = scan_columns(table, labelings, families=owner, strata=strata, ordered=classes.ordered)
    known, effect = ~np.isnan(table), limits_of(classes.effect)
    codes = np.asarray(groups).astype(np.int64)
    limits = np.array([_effect_of(values, codes, classes, strata) for values in table.T])
    rows = pd.DataFrame(
        {
            "feature": np.repeat(list(features), len(SUMMARIES)),
            "summary": np.tile(SUMMARIES, len(features)),
        }
        | _sizes(known, codes, classes)
        | {"missing": (~known).sum(axis=0)}
        | dict(zip(effect, limits.T, strict=True))
        | {
            "h" if classes.effect == "epsilon_squared" else "z": scan.statistic,
            "p_value": scan.columns.p_value,
            "p_any": scan.columns.p_any,
        }
        | (_extremes(table, codes, classes, strata) if classes.several else {})
    )
    extremes = ["highest", "lowest"] if classes.several else []
    best = rows[["summary", *effect, *extremes]].reindex(scan.strongest)
    of_features = best.add_prefix("scan_").reset_index(drop=True)
    of_features.insert(0, "feature", list(features))
    of_features["scan_p"], of_features["scan_p_any"] = scan.families
    if classes.several:
        of_features["scan_extremes_p"] = [
            np.nan if at < 0 else extremes_p(table[:, at], codes, classes=classes, strata=strata)
            for at in scan.strongest
        ]
    findings = say_findings(of_features, classes=classes, held=held)
    return FeatureScan(
        rows,
        of_features,
        summaries.reset_index(),
        findings,
        classes.effect,
        len(labelings) - 1,
        held,
    )


def _effect_of(
    values: NDArray[np.float64],
    codes: NDArray[np.int64],
    classes: Classes,
    strata: ArrayLike | None,
) -> tuple[float, ...]:
    """How much the groups differ, with limits."""
    if not classes.several:
        return delta_interval(values, codes == 1, strata=strata)
    test = jonckheere_terpstra if classes.ordered else kruskal_wallis
    return tuple(test(values, codes, strata=strata)[2:])


def _sizes(
    known: NDArray[np.bool_], codes: NDArray[np.int64], classes: Classes
) -> dict[str, NDArray[np.int64]]:
    """Patients with a value, by group."""
    counts = {name: known[codes == k].sum(axis=0) for k, name in enumerate(classes.names)}
    if classes.several:
        return {f"n_{name}": count for name, count in counts.items()}
    reference, positive = counts.values()
    return {"n_positive": positive, "n_reference": reference}


def _extremes(
    table: NDArray[np.float64],
    codes: NDArray[np.int64],
    classes: Classes,
    strata: ArrayLike | None,
) -> dict[str, list[str | None]]:
    """The groups of the highest and the lowest mean rank in each column."""
    found: dict[str, list[str | None]] = {"highest": [], "lowest": []}
    for values in table.T:
        means = mean_ranks(values, codes, classes=len(classes), strata=strata)
        known = not np.isnan(means).all()
        found["highest"].append(classes.names[int(np.nanargmax(means))] if known else None)
        found["lowest"].append(classes.names[int(np.nanargmin(means))] if known else None)
    return found


def largest_differences(
    summaries: pd.DataFrame,
    labelings: NDArray[np.int64],
    *,
    features: Sequence[str],
    strata: ArrayLike | None = None,
    ordered: bool = False,
) -> NDArray[np.float64]:
    """The size of the statistic in which a feature's summaries differ most, under each labeling:
    (labelings, features), arguments as `scan_features`."""
    table = summaries[summary_columns(features)].to_numpy(np.float64)
    if len(labelings) < 2:
        return np.zeros((1, len(features)))
    owner = np.repeat(np.arange(len(features)), len(SUMMARIES))
    return scan_columns(table, labelings, families=owner, strata=strata, ordered=ordered).largest


def say_findings(
    features: pd.DataFrame, *, classes: Classes, held: Sequence[str] = ()
) -> tuple[str, ...]:
    """A sentence for each feature that differs (`FeatureScan.features`), the smallest p first;
    `held` is what is held constant."""
    tested = features[features["scan_p_any"].notna()].sort_values(
        ["scan_p_any", "scan_p"], kind="stable"
    )
    if tested.empty:
        return ("No feature could be compared between the groups: too few patients have values.",)
    found = tested[tested["scan_p_any"] <= ALPHA]
    if len(found):
        return tuple(_say_finding(row, classes, held) for row in found.to_dict("records"))
    best = tested.iloc[0]
    return (
        f"The plain scan finds no feature that differs between "
        f"{say_pairwise(classes.names if classes.several else classes.names[::-1])}"
        f"{say_alike(held)}; the "
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


_NAMES = {
    "delta": "Cliff's delta",
    "somers_d": "Somers's D",
    "epsilon_squared": "epsilon squared",
}


def _say_finding(row: dict[Any, Any], classes: Classes, held: Sequence[str]) -> str:
    name = f"scan_{classes.effect}"
    p = print_p(row["scan_p_any"])
    effect = f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"
    tested = f"p {p if p.startswith('<') else f'= {p}'} for all features together"
    return f"{say_contrast(row, classes, held)} ({_NAMES[classes.effect]} {effect}, {tested})."


def say_contrast(row: Mapping[Any, Any], classes: Classes, held: Sequence[str] = ()) -> str:
    """How the groups differ in a feature's strongest summary (a row of `FeatureScan.features`),
    which of several only where those two differ by themselves."""
    feature, summary, size = row["feature"], row["scan_summary"], row[f"scan_{classes.effect}"]
    alike = say_alike(held)
    if classes.effect != "epsilon_squared":
        said = say_difference(feature, summary, higher=size > 0)
        if classes.ordered:
            return f"{said} the further along {' < '.join(classes.names)}{alike}"
        return f"{said} in {classes.names[1]} than in {classes.names[0]}{alike}"
    if row["scan_extremes_p"] <= ALPHA:
        said = say_difference(feature, summary, higher=True)
        return (
            f"{said} in {row['scan_highest']} than in {row['scan_lowest']}, the highest and the "
            f"lowest of {len(classes)} groups{alike}"
        )
    name = nucleus_phrase(feature)
    return (
        f"{name[:1].upper()}{name[1:]} differs between the {len(classes)} groups "
        f"({SUMMARY_TITLES[summary]}), no two of them for sure{alike}"
    )

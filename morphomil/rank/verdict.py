"""What the tests allow to say of a ranking: supported, inconclusive at this number of patients, or
not supported.

The words come from p values under permuted labels. Several routes ask whether the outcome goes with
the features (attention, Shapley values, the plain scan, the out-of-fold AUC, interactions of
pairs); their p values are combined under the same labelings, so that 5 % holds for all routes and
features together.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.rank.design import say_alike
from morphomil.rank.scan import say_contrast
from morphomil.stats.printing import print_p

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from morphomil.rank.classes import Classes, Effect
    from morphomil.rank.scan import FeatureScan
SUPPORTED, INCONCLUSIVE, NOT_SUPPORTED = "supported", "inconclusive at this n", "not supported"
"""The three verdicts."""
ALPHA = 0.05
"""What has a p of at most this is supported."""
EFFECT_OF_SIZE = 0.33
"""A Cliff's delta from which an effect has size (medium, after Romano et al. 2006); "not supported"
is said only where the intervals exclude it."""
AUC_OF_SIZE = (1 + EFFECT_OF_SIZE) / 2
"""The AUC of one feature with such a delta."""
EFFECTS_OF_SIZE = {"delta": EFFECT_OF_SIZE, "somers_d": EFFECT_OF_SIZE, "epsilon_squared": 0.08}
"""From these values an effect has size, by the column that says it: an epsilon squared is 3/4 of
the square of Cliff's delta between two groups of one size."""
_SPOKEN = {
    "delta": f"a Cliff's delta of {EFFECT_OF_SIZE} either way",
    "somers_d": f"a Somers's D of {EFFECT_OF_SIZE} either way",
    "epsilon_squared": "an epsilon squared of 0.08",
}
_ALIKE = 1e-9
"""Scores of two labelings this near to each other, relatively, count as equal."""
_ROUTES = {
    "attention": "attention",
    "shapley": "Shapley values",
    "scan": "the plain scan",
    "auc": "the out-of-fold AUC",
    "pairs": "interactions of pairs",
}
"""How sentences call the routes."""


@dataclass(frozen=True)
class Verdict:
    """What may be said of a whole ranking, and of each feature."""

    word: str
    """One of the three."""
    p: float
    """Over all routes and features."""
    routes: dict[str, float]
    """The p value of each route, over all features; they are not adjusted for there being several
    routes."""
    permutations: int
    """Of the labels, that the p values rest on."""
    features: pd.DataFrame
    """One row per feature: `feature, verdict_p` (over all routes and features), `verdict`."""
    sentence: str
    """For a statistician: which tests, p values, permutations."""
    plain: str
    """For a pathologist: what was seen, and how often chance would give as much."""
    feature: str
    """Of the smallest p over all routes, among several by the scan's p, then by how much the groups
    differ: what `plain` speaks of."""
    alone: bool
    """Whether the plain scan finds a difference in this feature, for all features together."""


def combine_routes(
    of_features: Mapping[str, NDArray[np.float64]], whole: Mapping[str, NDArray[np.float64]]
) -> tuple[float, NDArray[np.float64], dict[str, float]]:
    """The smallest p value of several routes, calibrated under the labelings that they share.

    A route's p of a labeling is that of its highest feature among the highest of all labelings
    (max-T); labelings are compared by the smallest of their routes' p values (Tippett 1931;
    Westfall & Young 1993), ties by the second smallest, and so on. So the combined p is exact
    whatever the routes have in common. A feature is compared by its own p values with the
    labelings' smallest, so that its p is at least that of the whole.

    Args:
        of_features: by route, scores (labelings, features), high ones extreme, the truth in row 0.
        whole: by route, scores (labelings,) that belong to no feature.

    Returns:
        p of the whole, p of each feature (features,), and the routes' own p values.

    Raises:
        ValueError: there is no permutation.
    """
    highest = [scores.max(axis=1) for scores in of_features.values()] + list(whole.values())
    labelings = len(highest[0])
    if labelings < 2:
        raise ValueError("p values need at least 1 permutation, got 0")
    rows = np.stack([_as_high(top, top) for top in highest], axis=1)
    items = np.stack(
        [_as_high(top, s[0]) for top, s in zip(highest, of_features.values(), strict=False)], axis=1
    )
    nothing = np.full((len(items), len(whole)), labelings)
    keys = np.sort(np.concatenate([rows, np.concatenate([items, nothing], axis=1)]), axis=1)
    place = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    own = np.sort(place[:labelings])
    p = np.searchsorted(own, place, side="right") / labelings
    routes = dict(zip([*of_features, *whole], rows[0] / labelings, strict=True))
    return float(p[0]), p[labelings:], {name: float(value) for name, value in routes.items()}


def _as_high(null: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of the null are as high as each score."""
    least = scores - _ALIKE * np.abs(scores)
    return np.asarray(len(null) - np.searchsorted(np.sort(null), least, side="left"))


def judge(p: float, *, excluded: bool) -> str:
    """The verdict of a p value; `excluded`: the intervals exclude an effect of size. A p that is
    missing is inconclusive."""
    if p <= ALPHA:
        return SUPPORTED
    return NOT_SUPPORTED if excluded and p > ALPHA else INCONCLUSIVE


def judge_ranking(
    table: pd.DataFrame,
    scan: FeatureScan,
    scan_scores: NDArray[np.float64],
    *,
    auc_high: float,
    scores: Mapping[str, NDArray[np.float64]],
    features: Sequence[str],
    classes: Classes,
) -> Verdict:
    """The verdicts of a ranking: by all routes where permuted labels were trained, else by the
    plain scan with its own permutations.

    A feature that is not supported is "not supported" only where the intervals of its ten summaries
    and of its share of the AUC all exclude an effect of size; else the verdict is open.

    Args:
        table: one row per feature: `feature`, `shapley_auc_high`.
        scan: the plain scan.
        scan_scores: (labelings, features), the scan's largest statistic of each feature under the
            labelings of the models.
        auc_high: the upper limit of the out-of-fold AUC.
        scores: of the models, (labelings, features) by route, or (labelings,) of the whole; empty
            where permuted labels were not trained for tests.
        features: names, in the order of the scores' columns.
        classes: the labels.
    """
    if scores:
        of_features = {name: score for name, score in scores.items() if score.ndim > 1}
        whole = {name: score for name, score in scores.items() if score.ndim == 1}
        p, each, routes = combine_routes(of_features | {"scan": scan_scores}, whole)
        permutations = len(scan_scores) - 1
    else:
        each = scan.features.set_index("feature")["scan_p_any"][list(features)].to_numpy()
        p = float(np.nanmin(each, initial=np.inf))
        p = p if np.isfinite(p) else np.nan
        routes, permutations = {"scan": p}, scan.permutations
    effect, size = scan.effect, EFFECTS_OF_SIZE[scan.effect]
    rows = scan.table.dropna(subset=effect)
    small = (rows[f"{effect}_low"] > -size) & (rows[f"{effect}_high"] < size)
    excluded = small.groupby(rows["feature"]).all().reindex(list(features), fill_value=False)
    shares = table.set_index("feature")["shapley_auc_high"]
    words = [
        judge(value, excluded=bool(excluded[name] and shares[name] < AUC_OF_SIZE - 0.5))
        for name, value in zip(features, each, strict=True)
    ]
    none = all(word == NOT_SUPPORTED for word in words) and auc_high < AUC_OF_SIZE
    word = judge(p, excluded=none)
    judged = pd.DataFrame({"feature": list(features), "verdict_p": each, "verdict": words})
    sentence = say_verdict(
        word, judged, p=p, routes=routes, permutations=permutations, effect=scan.effect
    )
    surest = by_surety(scan.features.merge(judged, on="feature"), effect)
    plain = explain_verdict(
        word,
        surest,
        p=p,
        classes=classes,
        patients=len(scan.summaries),
        held=scan.held,
        trained="auc" in routes,
    )
    first = surest.iloc[0]
    alone = bool(first["scan_p_any"] <= ALPHA)
    return Verdict(
        word, p, routes, permutations, judged, sentence, plain, str(first["feature"]), alone
    )


def by_surety(features: pd.DataFrame, effect: Effect) -> pd.DataFrame:
    """`FeatureScan.features` with `verdict_p`, the surest first: by p over all routes, then of the
    scan, then by how much the groups differ."""
    size = -features[f"scan_{effect}"].abs()
    order = features.assign(size=size).sort_values(
        ["verdict_p", "scan_p_any", "size"], kind="stable"
    )
    return features.loc[order.index]


def say_verdict(
    word: str,
    features: pd.DataFrame,
    *,
    p: float,
    routes: Mapping[str, float],
    permutations: int,
    effect: Effect = "delta",
) -> str:
    """The verdict of the whole ranking in words, with the p values it rests on."""
    if not routes or np.isnan(p):
        return "Whether the outcome goes with these features was not tested."
    tested = (
        f"{_say_p(p)} for all features together, by {_list([_ROUTES[name] for name in routes])}, "
        f"against {permutations:,} permutations of the labels"
    )
    if word == SUPPORTED:
        said = f"Supported: the outcome goes with nuclear morphology beyond chance ({tested})."
        found = features[features["verdict"] == SUPPORTED].sort_values("verdict_p", kind="stable")
        named = [
            f"{feature} ({_say_p(value)})"
            for feature, value in zip(found["feature"], found["verdict_p"], strict=True)
        ]
        said += (
            f" By itself supported: {', '.join(named)}."
            if named
            else " No single feature is supported by itself."
        )
    elif word == NOT_SUPPORTED:
        said = (
            f"Not supported: nothing beyond chance was found ({tested}), and the intervals exclude "
            f"effects of size ({_SPOKEN[effect]}, an AUC of {AUC_OF_SIZE:.2f})."
        )
    else:
        said = (
            f"Inconclusive at this number of patients: nothing beyond chance was found ({tested}), "
            "but effects of size are not excluded."
        )
    if "auc" not in routes:
        said += (
            " The model, and with it what features tell only together, is untested: that takes "
            "labels permuted through the training (--permutations, without --quick)."
        )
    return said


def explain_verdict(
    word: str,
    features: pd.DataFrame,
    *,
    p: float,
    classes: Classes,
    patients: int,
    held: Sequence[str] = (),
    trained: bool = True,
) -> str:
    """The verdict without terms of statistics.

    `features` is `FeatureScan.features` with `verdict` and `verdict_p`, the surest first; `held` is
    what is held constant; `trained`: the model was tested too.
    """
    if np.isnan(p):
        return "Whether the outcome goes with these features was not tested."
    chance = f"of studies in which it had nothing to do with the outcome, {_say_often(p)}"
    these = f"these {patients} patients"
    if word == NOT_SUPPORTED:
        return (
            f"In {these} nuclear morphology was not shown to go with the outcome: nothing was "
            "found beyond chance, and there are enough patients to make a difference of notable "
            f"size in any one feature unlikely{_say_size(classes, held)}. Smaller differences"
            f"{'' if trained else ', and what features tell only together,'} may be there all the "
            "same."
        )
    if word == INCONCLUSIVE:
        return (
            f"{these[:1].upper()}{these[1:]} can't tell whether nuclear morphology goes with the "
            f"outcome: {chance} would show as much, and a notable difference may be there all the "
            "same. It takes more patients."
        )
    found = features[features["verdict"] == SUPPORTED]
    seen = "no single feature does so for sure, several together do"
    if len(found):
        seen = _say_seen(found.iloc[0].to_dict(), classes, held)
        if len(found) > 1:
            more = len(found) - 1
            are = "is" if more == 1 else "are"
            seen += f"; {more} more of {len(features)} features {are} supported too"
    return (
        f"Nuclear morphology goes with the outcome in {these}: {seen}. For comparison: {chance} "
        "would show as much."
    )


def _say_seen(row: Mapping[Any, Any], classes: Classes, held: Sequence[str]) -> str:
    """How the groups differ in a feature's strongest summary, and in how many pairs of patients; or
    that only the model tells them apart by the feature."""
    if not row["scan_p_any"] <= ALPHA:
        return (
            f"the model tells the groups apart by {row['feature']}, though no difference in it "
            "alone is sure"
        )
    said = say_contrast(row, classes, held)
    said = f"{said[:1].lower()}{said[1:]}"
    if classes.several or held:
        return said
    pairs = 50 * (1 + abs(row["scan_delta"]))
    return f"{said} (true of {pairs:.0f} % of pairs of one patient of each)"


def _say_size(classes: Classes, held: Sequence[str]) -> str:
    """The difference of notable size between two groups, as a share of pairs of patients."""
    if classes.several or held:
        return say_alike(held)
    share = 50 * (1 + EFFECT_OF_SIZE)
    return f" (one group higher in more than {share:.0f} % of pairs of one patient of each)"


def _say_often(p: float) -> str:
    """A p value as so many of 100 or of 1,000."""
    if p < 0.001:
        return "fewer than 1 of 1,000"
    return (
        f"about {floor(1000 * p + 0.5)} of 1,000" if p < 0.0995 else f"about {100 * p:.0f} of 100"
    )


def _say_p(p: float) -> str:
    printed = print_p(p)
    return f"p {printed}" if printed.startswith("<") else f"p = {printed}"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""How far a ranking can be trusted: is it stable, beyond chance, agreed on by other ways of
ranking, and faithful."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, rankdata

from morphomil.rank.contrasts import resample_shares
from morphomil.rank.shapley import log_likelihood
from morphomil.rank.verdict import ALPHA, SUPPORTED
from morphomil.seeds import generator
from morphomil.stats.printing import print_p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from morphomil.rank.shapley import Coalitions
RESAMPLES = 2000
"""Patients are resampled so often for the intervals of faithfulness."""
TOP = 3
"""So many places count as near the top."""
FAMILIES = {"size": ("area_um2", "major_axis_um", "minor_axis_um", "circumference_um")}
"""The features of a family measure nearly the same: the model may lean on any of them, so they are
also ranked as one."""
ALL = "all features"
"""Rankings are compared among all features, or among the supported ones."""
TAU_AGREES = 0.6
"""From this Kendall's tau on two orders that go together beyond chance are said to agree, below in
part."""
LEAST_ORDERED = 5
"""Of fewer features no two orders can be told from chance at 5 %."""


def families_of(features: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Families of `FAMILIES` with two members or more, then the other features; numbers of each
    one's features."""
    grouped = {
        name: tuple(i for i, f in enumerate(features) if f in members)
        for name, members in FAMILIES.items()
    }
    grouped = {name: members for name, members in grouped.items() if len(members) > 1}
    taken = {i for members in grouped.values() for i in members}
    return grouped | {name: (i,) for i, name in enumerate(features) if i not in taken}


def kendalls_w(scores: NDArray[np.float64]) -> float:
    """Kendall's coefficient of concordance of judges' scores (judges, items): 1 same order, 0 none;
    ties corrected.

    Kendall & Babington Smith 1939, W = 12 S / (m^2 (n^3 - n) - m T); NaN where no judge tells the
    items apart.

    Raises:
        ValueError: fewer than two judges or items.
    """
    judges, items = scores.shape
    if judges < 2 or items < 2:
        raise ValueError(
            f"concordance needs at least 2 judges and 2 items, got {judges} and {items}"
        )
    ranks = rankdata(scores, axis=1)
    sizes = [np.unique(row, return_counts=True)[1] for row in ranks]
    ties = sum(int((size**3 - size).sum()) for size in sizes)
    spread = ((ranks.sum(axis=0) - judges * (items + 1) / 2) ** 2).sum()
    most = judges**2 * (items**3 - items) - judges * ties
    return float(12 * spread / most) if most else np.nan


def rank_distribution(scores: NDArray[np.float64], features: Sequence[str]) -> pd.DataFrame:
    """How often models (models, features) put a feature at each place, the highest score first.

    One row per feature: `feature, rank_mean, top1, top3`, then `rank1, rank2, ...` with the share
    of models.
    """
    ranks = rankdata(-scores, axis=1, method="ordinal")
    table = pd.DataFrame(
        {
            "feature": list(features),
            "rank_mean": ranks.mean(axis=0),
            "top1": (ranks == 1).mean(axis=0),
            f"top{TOP}": (ranks <= TOP).mean(axis=0),
        }
    )
    return table.assign(
        **{f"rank{place}": (ranks == place).mean(axis=0) for place in range(1, len(features) + 1)}
    )


class NullP(NamedTuple):
    """One-sided p values of high scores."""

    single: NDArray[np.float64]
    """Against the same feature under permuted labels."""
    any: NDArray[np.float64]
    """Against the highest of all features (max-T), so that a 5 % chance holds for all of them
    together."""


def null_p(scores: NDArray[np.float64]) -> NullP:
    """p = (b + 1) / (B + 1) of the true labels' scores (row 0) among those of B permutations (rows
    from 1).

    b permutations score as high or higher (Phipson & Smyth 2010); exact as long as the true labels
    are just one of the labelings that might have been, whatever the model.

    Raises:
        ValueError: there is no permutation.
    """
    truth, null = scores[0], scores[1:]
    if not len(null):
        raise ValueError("p values need at least 1 permutation, got 0")
    single = (1 + (null >= truth).sum(axis=0)) / (len(null) + 1)
    overall = (1 + (null.max(axis=1)[:, None] >= truth).sum(axis=0)) / (len(null) + 1)
    return NullP(single, overall)


def compare_rankings(scores: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau-b of every two columns (rows are features):
    `first, second, tau, p_value, features, agree`.

    Columns without a number are left out; `agree` says in a word what tau means: "yes" or "in part"
    only where p is at most 0.05 (exact, two-sided), "no" where they run against each other so,
    "open" where chance may have given tau.
    """
    known = [name for name in scores if scores[name].notna().sum() > 1]
    rows = []
    for first, second in combinations(known, 2):
        both = scores[[first, second]].dropna()
        tau, p_value = kendalltau(both[first], both[second])
        word = "open"
        if p_value <= ALPHA:
            word = "no" if tau < 0 else "yes" if tau >= TAU_AGREES else "in part"
        rows.append((first, second, float(tau), float(p_value), len(both), word))
    return pd.DataFrame(rows, columns=["first", "second", "tau", "p_value", "features", "agree"])


def curves_of_removal(
    probability: NDArray[np.float64],
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    coalitions: Coalitions,
) -> NDArray[np.float64]:
    """Log-likelihood while features leave, highest score first, and while they come, highest first.

    Args:
        probability: (coalitions, patients, classes).
        labels: (patients,).
        scores: (patients, features), which decide each patient's order.
        coalitions: all of them.

    Returns:
        (4, features + 1, patients): deletion, deletion in random order, insertion, insertion in
        random order, by the number of features deleted or inserted. Random order is the mean over
        all orders, not a draw.

    Raises:
        ValueError: coalitions are sampled, so that an order's may be missing.
    """
    if coalitions.steps is not None:
        raise ValueError(
            f"curves need all coalitions, {coalitions.features} features have been sampled"
        )
    likelihood = log_likelihood(probability, labels)
    features = coalitions.features
    place = rankdata(-scores, axis=1, method="ordinal") - 1  # (patients, features)
    bits = 1 << np.arange(features)
    size = coalitions.members.sum(axis=1)
    patients = np.arange(len(labels))
    curves = np.zeros((4, features + 1, len(labels)))
    for count in range(features + 1):
        gone, come = (place >= count) @ bits, (place < count) @ bits
        curves[:, count] = (
            likelihood[gone, patients],
            likelihood[size == features - count].mean(axis=0),
            likelihood[come, patients],
            likelihood[size == count].mean(axis=0),
        )
    return curves


def measure_faithfulness(curves: NDArray[np.float64], *, seed: int) -> pd.DataFrame:
    """Area between the curves in the order of scores and at random, with 95 % intervals over
    patients.

    `curves` as `curves_of_removal` gives them. One row for `deletion` and one for `insertion`:
    `area`, `area_random`, `gain`, `gain_low`, `gain_high`. The gain is positive if the order is
    better than chance: deleting what the scores put first costs more, inserting it helps more.
    """
    areas = (curves[:, 1:] + curves[:, :-1]).mean(
        axis=1
    ) / 2  # (4, patients), the trapezoidal rule over a unit range
    rng = generator("faithfulness", seed)
    count = areas.shape[1]
    drawn = resample_shares(count, RESAMPLES, rng)
    rows = []
    for name, (ranked, random), sign in (("deletion", areas[:2], -1), ("insertion", areas[2:], 1)):
        gain = sign * (ranked - random)
        low, high = np.percentile(drawn @ gain, (2.5, 97.5))
        rows.append((name, ranked.mean(), random.mean(), gain.mean(), low, high))
    return pd.DataFrame(
        rows, columns=["curve", "area", "area_random", "gain", "gain_low", "gain_high"]
    )


def say_agreement(table: pd.DataFrame, groups: pd.DataFrame, agreement: pd.DataFrame) -> str:
    """In plain words: what attention puts first, whether Shapley values do too, what stands first
    if not this, and what leaving that out costs.

    `table` and `groups` are a ranking's, `agreement` is of `compare_orders`: agreement is spoken of
    among supported features only, since the others have no order to agree on.
    """
    first = table.sort_values("rank", kind="stable").iloc[0]
    by_attention = table["feature"].iloc[int(_attention(table).argmax())]
    by_shapley = table["feature"].iloc[int(table["shapley_rank"].argmin())]
    said = (
        f"Attention and Shapley values both put {by_attention} first"
        if by_attention == by_shapley
        else f"Attention puts {by_attention} first, Shapley values {by_shapley}"
    )
    if first["feature"] != by_attention:
        said += f"; by attention and the tests without a model {first['feature']} ranks first"
    said += f". {_say_common_order(table, agreement)}"
    if pd.isna(first["ablation_auc"]):
        return said
    said += f" Without {first['feature']} the retrained model {_say_cost(first)}."
    family = groups[[first["feature"] in members.split(", ") for members in groups["features"]]]
    if len(family) and "," in family["features"].iloc[0]:
        row = family.iloc[0]
        said += f" Without the whole {row['group']} family it {_say_cost(row)}."
    return said


def compare_orders(table: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau of every two ways of ranking (`compare_rankings`), `among` all features, and
    among the supported ones where these are two or more; only there `agree` says a word."""
    sizes = [name for name in ("epsilon_squared", "somers_d", "cliffs_delta") if name in table]
    scores = pd.DataFrame(
        {
            "attention": _attention(table),
            "shapley": table["shapley_auc"],
            "ablation": table["ablation_auc"],
            "effect_size": table[sizes[0]].abs(),
        }
    )
    compared = compare_rankings(scores).assign(agree="")
    compared.insert(0, "among", ALL)
    supported = table["verdict"] == SUPPORTED
    if supported.sum() < 2:
        return compared
    among = compare_rankings(scores[supported])
    among.insert(0, "among", SUPPORTED)
    return pd.concat([compared, among], ignore_index=True)


def _attention(table: pd.DataFrame) -> pd.Series[float]:
    """Above that under permuted labels, where that is known."""
    return table["attention_z"].fillna(table["attention"])


def _say_common_order(table: pd.DataFrame, agreement: pd.DataFrame) -> str:
    """Whether attention and Shapley values agree, where there is something to agree on."""
    count = int((table["verdict"] == SUPPORTED).sum())
    if count < 2:
        those = "no feature is" if count == 0 else "only one feature is"
        return (
            f"Whether the two agree on the further order can't be asked: {those} supported, and "
            "features without an effect have no order."
        )
    own = agreement[agreement["among"] == SUPPORTED]
    pair = own[(own["first"] == "attention") & (own["second"] == "shapley")].iloc[0]
    tau = f"Kendall's tau {pair['tau']:.2f}"
    if count < LEAST_ORDERED:
        same = {1.0: "the same", -1.0: "opposite"}.get(round(float(pair["tau"]), 9), "different")
        return (
            f"The {count} supported features stand in {same} order in the two ({tau}; so few "
            "allow no test)."
        )
    word = {
        "yes": "the two agree",
        "in part": "the two agree in part",
        "no": "the two run against each other",
        "open": "agreement of the two can't be told from chance",
    }[pair["agree"]]
    p = print_p(pair["p_value"])
    tested = f"p {p}" if p.startswith("<") else f"p = {p}"
    return f"Over the {count} supported features {word} ({tau}, {tested})."


def _say_cost(row: pd.Series[Any]) -> str:
    change = (
        f"{row['ablation_auc']:.3f} [{row['ablation_auc_low']:.3f}, {row['ablation_auc_high']:.3f}]"
    )
    if row["ablation_auc_low"] > 0:
        return f"loses AUC: {change}"
    if row["ablation_auc_high"] < 0:
        return f"gains AUC, by the loss of {change}"
    return f"loses no AUC that could be told from none: {change}"

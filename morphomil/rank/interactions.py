"""Pairs of features that tell more, or less, together than one by one.

The Shapley interaction index of a pair is what the second feature gains by the first being there,
averaged over the coalitions of the others: positive where the two complete each other (an exclusive
or), negative where one stands in for the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.rank.robustness import null_p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from morphomil.rank.contrasts import AucContrasts
    from morphomil.rank.shapley import Coalitions
SYNERGISTIC, REDUNDANT = "synergistic", "redundant"
"""What a pair is called by the sign of its index."""
COLUMNS = (
    "first",
    "second",
    "index",
    "low",
    "high",
    "p",
    "p_any",
    "sign",
    "first_alone",
    "second_alone",
    "together",
)
TINY = 1e-12
"""An index that is smaller in all labelings is none."""
NEITHER_ALONE = 0.25
"""Features tell nothing alone if each has less than this share of the AUC above 0.5 of the two
together."""
ALPHA = 0.05
"""A pair with a larger p over all pairs is not spoken of."""


@dataclass(frozen=True)
class Interactions:
    """The pairs of features, the most surely interacting first."""

    table: pd.DataFrame
    """One row per pair: `first, second, index, low, high` (AUC, 95 % interval over patients and
    starts), `p, p_any` under permuted labels (NaN without), `sign`, and the AUC above 0.5 of the
    coalitions `first_alone, second_alone, together`."""
    statement: str
    """The first pair in words, or that none is sure, or why there is none."""


def pair_weights(coalitions: Coalitions) -> NDArray[np.float64]:
    """Weights (pairs, coalitions) of the Shapley interaction index, pairs as `combinations` gives
    them.

    Grabisch & Roubens 1999: I(ij) is the sum over S without i and j of
    |S|! (n - |S| - 2)! / (n - 1)! (v(S ij) - v(S i) - v(S j) + v(S)).

    Raises:
        ValueError: coalitions are sampled, so that most pairs' are missing.
    """
    if coalitions.steps is not None:
        raise ValueError(
            f"interactions need all coalitions, {coalitions.features} features have been sampled"
        )
    members, count = coalitions.members, coalitions.features
    size = members.sum(axis=1)
    pairs = np.array(list(combinations(range(count), 2)))
    inside = members[:, pairs].transpose(1, 0, 2)  # (pairs, coalitions, 2)
    both = inside.sum(axis=-1)
    others = size - both
    share = np.array([1 / ((count - 1) * comb(count - 2, s)) for s in range(count - 1)])
    return np.asarray(np.where(both == 1, -1.0, 1.0) * share[others])


def pair_scores(coalitions: Coalitions, auc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each pair's index over its root mean square, (labelings, pairs), so that none is large more
    easily than another; `auc` is (labelings, coalitions)."""
    index = auc @ pair_weights(coalitions).T
    return np.asarray(index / np.maximum(np.sqrt((index**2).mean(axis=0)), TINY))


def find_interactions(
    coalitions: Coalitions,
    features: Sequence[str],
    auc: AucContrasts,
    *,
    null_auc: NDArray[np.float64] | None,
) -> Interactions:
    """The interaction of every pair, tested against permuted labels.

    Args:
        coalitions: of the features.
        features: their names.
        auc: of the models' answers.
        null_auc: (labelings, coalitions) with the true labels in row 0 (`chance.PooledNull`).
    """
    if coalitions.steps is not None:
        reason = (
            f"Interactions of pairs are not computed: with {coalitions.features} features not all "
            "coalitions are evaluated."
        )
        return Interactions(pd.DataFrame(columns=list(COLUMNS)), reason)
    weights = pair_weights(coalitions)
    pairs = list(combinations(range(len(features)), 2))
    bits = 1 << np.arange(len(features))
    alone = np.zeros((len(features), len(coalitions.members)))
    alone[np.arange(len(features)), bits] = 1
    together = np.zeros_like(weights)
    together[np.arange(len(pairs)), [bits[i] + bits[j] for i, j in pairs]] = 1
    contrasts = np.concatenate([weights, alone, together])
    estimate = auc.estimate(contrasts)
    single, joint = estimate.value[len(pairs) : -len(pairs)] - 0.5, estimate.value[-len(pairs) :]
    p, p_any = np.full((2, len(pairs)), np.nan)
    if null_auc is not None:
        p, p_any = null_p(np.abs(pair_scores(coalitions, null_auc)))
    table = pd.DataFrame(
        {
            "first": [features[i] for i, _ in pairs],
            "second": [features[j] for _, j in pairs],
            "index": estimate.value[: len(pairs)],
            "low": estimate.low[: len(pairs)],
            "high": estimate.high[: len(pairs)],
            "p": p,
            "p_any": p_any,
            "sign": np.where(estimate.value[: len(pairs)] > 0, SYNERGISTIC, REDUNDANT),
            "first_alone": [single[i] for i, _ in pairs],
            "second_alone": [single[j] for _, j in pairs],
            "together": joint - 0.5,
        }
    )
    order = table.assign(size=-table["index"].abs()).sort_values(
        ["p_any", "p", "size"], kind="stable"
    )
    table = table.loc[order.index].reset_index(drop=True)
    return Interactions(table, say_interactions(table))


def say_interactions(table: pd.DataFrame) -> str:
    """The surest pair in words; one whose index is negative, or that tells no more together than
    the better of the two alone, is never said to tell something together."""
    if table["p_any"].isna().all():
        top = table.iloc[0]
        return (
            f"Of {len(table)} pairs of features {top['first']} and {top['second']} have the "
            f"largest interaction ({_say_index(top)}); whether that is more than chance takes "
            "labels permuted through the training (`--permutations`, without `--quick`)."
        )
    sure = table[table["p_any"] <= ALPHA]
    if sure.empty:
        return (
            f"No pair of features interacts beyond chance: the smallest p over all {len(table)} "
            f"pairs is {table['p_any'].min():.3g}."
        )
    better = sure[["first_alone", "second_alone"]].max(axis=1)
    synergy = sure[(sure["sign"] == SYNERGISTIC) & (sure["together"] > better)]
    top = (sure if synergy.empty else synergy).iloc[0]
    names = f"{top['first']} and {top['second']}"
    alone = max(top["first_alone"], top["second_alone"])
    if synergy.empty:
        said = f"{names} tell less together than one by one"
        if top["sign"] == REDUNDANT:
            said += ": one stands in for the other"
    elif alone < NEITHER_ALONE * top["together"]:
        said = f"{names} tell together what neither tells alone"
    else:
        said = f"{names} tell more together than the sum of both alone"
    return (
        f"{said}, p = {top['p_any']:.3g} over all {len(table)} pairs (AUC "
        f"{0.5 + top['together']:.2f} together, {0.5 + top['first_alone']:.2f} and "
        f"{0.5 + top['second_alone']:.2f} alone; {_say_index(top)})."
    )


def _say_index(row: pd.Series[Any]) -> str:
    return f"interaction index {row['index']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"

"""The patients' values compared between three or more groups."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.stats.adjustment import benjamini_hochberg, holm
from morphomil.stats.multinomial import class_association
from morphomil.stats.several_groups import jonckheere_terpstra, kruskal_wallis, mean_ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from morphomil.rank.classes import Classes


def compare_several(
    values: pd.DataFrame,
    groups: NDArray[np.int64],
    *,
    classes: Classes,
    strata: NDArray[Any] | None = None,
) -> pd.DataFrame:
    """One row per column of `values` (rows are patients): `feature, test, n_LABEL ..., missing,
    median_LABEL ...`, the statistic (`h`, or `z` of ordered groups), `p_value, p_holm, p_bh`,
    `epsilon_squared` or `somers_d` with `_low` and `_high`, `highest` and `lowest` (the groups of
    the highest and lowest mean rank), `cliffs_delta` of the one minus the other with limits and
    `extremes_p`, the p of these two (Holm's, over all pairs of groups); of ordered groups
    `direction`: "higher", "lower" or "equal" towards the last one.

    Tests are Kruskal and Wallis's or Jonckheere and Terpstra's, within strata where they are given.
    """
    rows = []
    for name in values:
        column = values[name].to_numpy(np.float64)
        if classes.ordered:
            test, statistic = jonckheere_terpstra(column, groups, strata=strata), "z"
        else:
            test, statistic = kruskal_wallis(column, groups, strata=strata), "h"
        title = "Jonckheere-Terpstra" if classes.ordered else "Kruskal-Wallis"
        samples = [column[(groups == k) & ~np.isnan(column)] for k in range(len(classes))]
        rows.append(
            {"feature": name, "test": title if strata is None else f"{title}, within strata"}
            | {f"n_{label}": len(x) for label, x in zip(classes.names, samples, strict=True)}
            | {"missing": int(np.isnan(column).sum())}
            | {
                f"median_{label}": float(np.median(x)) if len(x) else math.nan
                for label, x in zip(classes.names, samples, strict=True)
            }
            | {statistic: test.statistic}
            | {"p_value": test.p_value if values[name].nunique() > 1 else math.nan}
            | dict(zip(limits_of(classes.effect), test[2:], strict=True))
            | say_extremes(column, groups, classes=classes, strata=strata)
            | {"extremes_p": extremes_p(column, groups, classes=classes, strata=strata)}
            | ({"direction": _direction(test.effect)} if classes.ordered else {})
        )
    table = pd.DataFrame(rows)
    place = list(table).index("p_value") + 1
    table.insert(place, "p_holm", holm(table["p_value"]))
    table.insert(place + 1, "p_bh", benjamini_hochberg(table["p_value"]))
    return table


def compare_beside_covariates(
    values: pd.DataFrame,
    groups: NDArray[np.int64],
    covariates: NDArray[np.float64],
    *,
    classes: Classes,
) -> pd.DataFrame:
    """One row per column of `values`, by `multinomial.class_association` beside covariates
    (patients, columns): `feature`, of ordered labels `adjusted_odds_ratio` with `_low` and `_high`
    (per SD of the feature, of a label against the one below), of others `adjusted_explained` (share
    of Cox and Snell), `adjusted_p` (likelihood ratio), `adjusted_p_holm`, `adjusted_p_bh`,
    `adjusted_problem` (why there is none)."""
    rows: list[dict[str, Any]] = []
    effects = limits_of("adjusted_odds_ratio") if classes.ordered else ("adjusted_explained",)
    for name in values:
        column = values[name].to_numpy(np.float64)
        known = ~np.isnan(column)
        own: dict[str, Any] = dict.fromkeys((*effects, "adjusted_p"), math.nan)
        own["adjusted_problem"] = ""
        try:
            found = class_association(
                column[known], groups[known], covariates[known], ordered=classes.ordered
            )
        except ValueError as error:
            own["adjusted_problem"] = str(error)
        else:
            sizes = found[-len(effects) :] if classes.ordered else (found.explained,)
            own |= dict(zip(effects, sizes, strict=True)) | {"adjusted_p": found.p_value}
        rows.append({"feature": name} | own)
    table = pd.DataFrame(rows)
    place = list(table).index("adjusted_p") + 1
    table.insert(place, "adjusted_p_holm", holm(table["adjusted_p"]))
    table.insert(place + 1, "adjusted_p_bh", benjamini_hochberg(table["adjusted_p"]))
    return table


def limits_of(name: str) -> tuple[str, str, str]:
    """The columns of an estimate and its limits."""
    return name, f"{name}_low", f"{name}_high"


def say_extremes(
    column: NDArray[np.float64],
    groups: NDArray[np.int64],
    *,
    classes: Classes,
    strata: NDArray[Any] | None,
) -> dict[str, Any]:
    """`highest`, `lowest` and Cliff's delta between them with its limits."""
    means = mean_ranks(column, groups, classes=len(classes), strata=strata)
    if np.isnan(means).sum() > len(classes) - 2:
        empty = dict.fromkeys(limits_of("cliffs_delta"), math.nan)
        return {"highest": None, "lowest": None} | empty
    top, bottom = int(np.nanargmax(means)), int(np.nanargmin(means))
    both = (groups == top) | (groups == bottom)
    within = None if strata is None else strata[both]
    found = jonckheere_terpstra(column[both], (groups[both] == top).astype(int), strata=within)
    return {"highest": classes.names[top], "lowest": classes.names[bottom]} | dict(
        zip(limits_of("cliffs_delta"), found[2:], strict=True)
    )


def extremes_p(
    column: NDArray[np.float64],
    groups: NDArray[np.int64],
    *,
    classes: Classes,
    strata: ArrayLike | None,
) -> float:
    """The p of the groups of the highest and the lowest mean rank: `compare_pairs`'s `p_holm`; NaN
    where there are no two."""
    within = None if strata is None else np.asarray(strata)
    named = say_extremes(column, groups, classes=classes, strata=within)
    pairs = compare_pairs(pd.DataFrame({"x": column}), groups, classes=classes, strata=within)
    own = [
        set(pair) == {named["highest"], named["lowest"]}
        for pair in pairs[["first", "second"]].to_numpy()
    ]
    return float(pairs["p_holm"][own].iloc[0]) if any(own) else math.nan


def compare_pairs(
    values: pd.DataFrame,
    groups: NDArray[np.int64],
    *,
    classes: Classes,
    strata: NDArray[Any] | None = None,
) -> pd.DataFrame:
    """Every two groups in each feature: `feature, first, second, n_first, n_second, cliffs_delta`
    (second minus first) with `_low` and `_high`, `p_value` (Mann-Whitney, or within strata),
    `p_holm` over the pairs of the feature."""
    columns = ["feature", "first", "second", "n_first", "n_second", *limits_of("cliffs_delta")]
    if not classes.several:
        return pd.DataFrame(columns=[*columns, "p_value", "p_holm"])
    parts = []
    for name in values:
        column, rows = values[name].to_numpy(np.float64), []
        for first, second in combinations(range(len(classes)), 2):
            both = ((groups == first) | (groups == second)) & ~np.isnan(column)
            mark = groups[both] == second
            within = None if strata is None else strata[both]
            found = jonckheere_terpstra(column[both], mark.astype(int), strata=within)
            named = (name, classes.names[first], classes.names[second])
            rows.append((*named, int((~mark).sum()), int(mark.sum()), *found[2:], found.p_value))
        part = pd.DataFrame(rows, columns=[*columns, "p_value"])
        parts.append(part.assign(p_holm=holm(part["p_value"])))
    return pd.concat(parts, ignore_index=True)


def say_pairwise(names: Sequence[str]) -> str:
    """The names with commas and an "and"."""
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _direction(effect: float) -> str | None:
    if math.isnan(effect):
        return None
    return "higher" if effect > 0 else "lower" if effect < 0 else "equal"

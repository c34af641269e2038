"""Many columns compared between groups at once: rank statistics against permuted labels, with
step-down max-T p values.

Rows are patients. Ranks are taken within strata, among the patients who have a value; each column's
statistic is standardized under the permutations, so that ties, missing values and strata give no
column a wider null than another, and the maximum over columns is a fair one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from morphomil.compiled import compiled
from morphomil.seeds import generator
from morphomil.stats.combined_auc import ordered_pairs
from morphomil.stats.ordering import Ordering
from morphomil.stats.roc import normal_interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

PERMUTATIONS = 9999
"""A scan permutes the labels so often."""
_CHUNK = 500
"""So many labelings are counted at once, which keeps memory small for thousands of patients."""
_ALIKE = 1e-9  # statistics of two labelings this near to each other, relatively, count as equal


class StepDown(NamedTuple):
    """Two p values of each item."""

    p_value: NDArray[np.float64]
    """Of the item alone."""
    p_any: NDArray[np.float64]
    """Adjusted over all items (step-down max-T): 0.05 holds for all of them together."""


@dataclass(frozen=True)
class Scan:
    """Columns compared between groups, and families of columns."""

    statistic: NDArray[np.float64]
    """Per column: z of two groups (van Elteren) or of ordered ones (Jonckheere-Terpstra), else
    Kruskal-Wallis's H. NaN where fewer than two groups have a value."""
    effect: NDArray[np.float64]
    """Per column: Cliff's delta (positive: group 1 is higher), the like over all pairs of ordered
    groups (Somers's D), else epsilon squared; NaN as above."""
    columns: StepDown
    families: StepDown
    """Of each family's largest statistic."""
    strongest: NDArray[np.intp]
    """Each family's column of the largest statistic; -1 where none could be tested."""
    largest: NDArray[np.float64]
    """(labelings, families): the size of that statistic under each labeling, 0 where none could be
    tested."""


def draw_labelings(
    labels: ArrayLike,
    *,
    seed: int,
    strata: ArrayLike | None = None,
    permutations: int = PERMUTATIONS,
) -> NDArray[np.integer]:
    """The labels (row 0) and permutations of them within strata, (permutations + 1, patients), in
    as few bytes as they need."""
    truth = np.asarray(labels).astype(np.int64)
    rows = np.tile(truth.astype(np.min_scalar_type(truth.max(initial=0))), (permutations + 1, 1))
    rng = generator("scan", seed)
    codes = _codes(strata, n=len(truth))
    for stratum in range(codes.max(initial=0) + 1):
        members = codes == stratum
        for start in range(1, len(rows), _CHUNK):
            some = np.ix_(np.arange(start, min(start + _CHUNK, len(rows))), np.flatnonzero(members))
            rows[some] = rng.permuted(rows[some], axis=1)
    return rows


def scan_columns(
    values: ArrayLike,
    labelings: NDArray[np.integer],
    *,
    families: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    ordered: bool = False,
) -> Scan:
    """Compare groups in every column, with p values adjusted over columns and over families.

    Two groups: the sum of positives' ranks less its expectation, within strata and with weight
    1 / (n + 1) of each (van Elteren 1960), over its standard deviation given the groups' sizes; in
    one stratum the z of Mann-Whitney. Three and more: Kruskal-Wallis's H, or its stratified form
    (generalized Cochran-Mantel-Haenszel of van Elteren's scores). `ordered`: Jonckheere-Terpstra
    with the same weights, over the standard deviation of all labelings. p values are two-sided,
    (b + 1) / (B + 1) of B permutations, and adjusted as Westfall & Young (1993, algorithm 4.1) do
    it: each statistic against the largest of those that are no larger than it.

    Args:
        values: (patients, columns), NaN where missing.
        labelings: (1 + permutations, patients) of group numbers from 0, the truth first
            (`draw_labelings`).
        families: (columns,), which family a column belongs to, from 0 without gaps; by default each
            is its own.
        strata: (patients,), any values.
        ordered: groups have an order, that of their numbers.

    Raises:
        ValueError: shapes differ, there is no permutation, or one group only.
    """
    table = np.asarray(values, dtype=np.float64)
    owner = np.arange(table.shape[-1]) if families is None else np.asarray(families)
    groups = _check_scan(table, labelings, owner)
    codes = _codes(strata, n=len(table))
    scores = _RankScores.of(table, codes)
    chunks = [labelings[start : start + _CHUNK] for start in range(0, len(labelings), _CHUNK)]
    if groups == 2:
        statistics = np.concatenate([scores.two_groups(chunk) for chunk in chunks])
    elif ordered:
        statistics = scores.trend(labelings, table, groups)
    else:
        statistics = np.concatenate([scores.several_groups(chunk, groups) for chunk in chunks])
    # One group alone among those with a value: nothing to compare.
    present = np.stack([scores.known[labelings[0] == k].any(axis=0) for k in range(groups)])
    tested = present.sum(axis=0) > 1
    size = np.where(tested, np.abs(statistics), 0.0)
    order = np.argsort(owner, kind="stable")
    starts = np.flatnonzero(np.diff(owner[order], prepend=-1))
    largest = np.maximum.reduceat(size[:, order], starts, axis=1)
    first = [members[np.argmax(size[0, members])] for members in np.split(order, starts[1:])]
    known = np.logical_or.reduceat(tested[order], starts)
    return Scan(
        np.where(tested, statistics[0], np.nan),
        np.where(tested, scores.effect(labelings[0], statistics[0], groups, ordered), np.nan),
        _where_tested(step_down(size), tested),
        _where_tested(step_down(largest), known),
        np.where(known, first, -1),
        largest,
    )


def step_down(statistics: NDArray[np.float64]) -> StepDown:
    """p values of (labelings, items), large ones being extreme, the truth in row 0; see
    `scan_columns`.

    Raises:
        ValueError: there is no permutation.
    """
    if len(statistics) < 2:
        raise ValueError("p values need at least 1 permutation, got 0")
    truth = statistics[0]
    least = truth - _ALIKE * np.abs(truth)
    count = len(statistics)
    alone = (statistics >= least).sum(axis=0) / count
    ascending = np.argsort(truth, kind="stable")
    highest = np.maximum.accumulate(statistics[:, ascending], axis=1)
    adjusted = (highest >= least[ascending]).sum(axis=0) / count
    overall = np.empty(len(truth))
    # A smaller statistic never has the smaller p.
    overall[ascending[::-1]] = np.maximum.accumulate(adjusted[::-1])
    return StepDown(alone, overall)


def delta_interval(
    values: ArrayLike,
    positive: ArrayLike,
    *,
    strata: ArrayLike | None = None,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Cliff's delta, with limits; NaN where a group has no value. With strata it is of the pairs
    within them, with van Elteren's weights.

    The interval is `mann_whitney`'s: of the AUC, delta = 2 AUC - 1, by DeLong's variance on the
    logit scale; with strata `combined_auc.ordered_pairs` gives the variance.
    """
    x, mark = np.asarray(values, dtype=np.float64), np.asarray(positive, dtype=np.bool_)
    known = ~np.isnan(x)
    code = _codes(strata, n=len(x))[known]
    x, mark = x[known], mark[known]
    both = np.bincount(code, mark) * np.bincount(code, ~mark)
    if not both.any():
        return np.nan, np.nan, np.nan
    if strata is None:
        area = normal_interval(Ordering.of(mark, x), level=level, on_logit=True)
    else:
        area = ordered_pairs(mark, x, code).interval(level=level, on_logit=True)
    return 2 * area.auc - 1, 2 * area.low - 1, 2 * area.high - 1


@dataclass(frozen=True)
class _RankScores:
    """Centered ranks within strata over n + 1, 0 where missing, and what their statistics need."""

    scores: NDArray[np.float64]  # (patients, columns)
    known: NDArray[np.bool_]  # (patients, columns)
    strata: NDArray[np.intp]  # (patients,)
    n: NDArray[np.float64]  # (strata, columns): patients with a value
    squares: NDArray[np.float64]  # (strata, columns): sums of squared scores

    @classmethod
    def of(cls, table: NDArray[np.float64], strata: NDArray[np.intp]) -> _RankScores:
        from scipy.stats import rankdata

        known = ~np.isnan(table)
        scores = np.zeros(table.shape)
        sizes, squares = [], []
        for stratum in range(strata.max(initial=0) + 1):
            members = strata == stratum
            n = known[members].sum(axis=0).astype(np.float64)
            ranks = rankdata(table[members], axis=0, nan_policy="omit")
            own = np.where(known[members], ranks - (n + 1) / 2, 0.0) / (n + 1)
            scores[members] = own
            sizes.append(n)
            squares.append((own**2).sum(axis=0))
        return cls(scores, known, strata, np.stack(sizes), np.stack(squares))

    def two_groups(self, labelings: NDArray[np.integer]) -> NDArray[np.float64]:
        """z, (labelings, columns)."""
        marks = labelings.astype(np.float64)
        variance = np.zeros((len(marks), self.scores.shape[1]))
        for stratum, (n, squares) in enumerate(zip(self.n, self.squares, strict=True)):
            members = self.strata == stratum
            positives = marks[:, members] @ self.known[members].astype(np.float64)
            variance += positives * (n - positives) * _over(squares, n * (n - 1))
        return _over(marks @ self.scores, np.sqrt(variance))

    def several_groups(self, labelings: NDArray[np.integer], groups: int) -> NDArray[np.float64]:
        """Kruskal-Wallis's H or its stratified form, (labelings, columns)."""
        marks = np.stack([labelings == k for k in range(groups)]).astype(np.float64)
        sums = marks @ self.scores  # (groups, labelings, columns)
        if len(self.n) == 1:
            counts = marks @ self.known.astype(np.float64)
            between = _over(sums**2, counts).sum(axis=0)
            return np.asarray(between * _over(self.n[0] - 1, self.squares[0]))
        # The last group's sum follows from the others'.
        covariance = np.zeros((*sums.shape[1:], groups - 1, groups - 1))
        for stratum, (n, squares) in enumerate(zip(self.n, self.squares, strict=True)):
            members = self.strata == stratum
            counts = marks[:-1][:, :, members] @ self.known[members].astype(np.float64)
            share = np.moveaxis(_over(counts, n), 0, -1)
            spread = -share[..., :, None] * share[..., None, :]
            spread[..., range(groups - 1), range(groups - 1)] += share
            covariance += _over(squares * n, n - 1)[:, None, None] * spread
        # A group without a value has a sum and a variance of 0, which must not make it singular.
        scale = np.trace(covariance, axis1=-2, axis2=-1)[..., None, None]
        covariance += np.where(scale > 0, 1e-12 * scale, 1.0) * np.eye(groups - 1)
        own = np.moveaxis(sums[:-1], 0, -1)
        return np.asarray((own * np.linalg.solve(covariance, own[..., None])[..., 0]).sum(axis=-1))

    def trend(
        self, labelings: NDArray[np.integer], table: NDArray[np.float64], groups: int
    ) -> NDArray[np.float64]:
        """Jonckheere-Terpstra over its standard deviation in all labelings, (labelings,
        columns)."""
        total = np.zeros((len(labelings), table.shape[1]))
        rows = np.ascontiguousarray(labelings)
        for column, values in enumerate(table.T):
            for stratum, n in enumerate(self.n[:, column]):
                own = np.flatnonzero((self.strata == stratum) & self.known[:, column])
                order = own[np.argsort(values[own], kind="stable")]
                ties = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)
                total[:, column] += _ordered_pairs(rows, order, ties, groups) / (n + 1)
        return _over(total, total.std(axis=0))

    def effect(
        self,
        labels: NDArray[np.integer],
        statistic: NDArray[np.float64],
        groups: int,
        ordered: bool,
    ) -> NDArray[np.float64]:
        """Delta or D over the pairs within strata, weighted as the statistic is, or epsilon
        squared."""
        if groups > 2 and not ordered:
            return _over(statistic, (self.n - 1).clip(0).sum(axis=0))
        wins, pairs = np.zeros(len(statistic)), np.zeros(len(statistic))
        ranks = self.scores * (self.n + 1)[self.strata]
        for stratum in range(len(self.n)):
            for low in range(groups):
                for high in range(low + 1, groups):
                    some = np.flatnonzero(
                        (self.strata == stratum) & ((labels == low) | (labels == high))
                    )
                    more, all_of = _pairs(ranks[some], self.known[some], labels[some] == high)
                    weight = 1 / (self.n[stratum] + 1)
                    wins, pairs = wins + weight * more, pairs + weight * all_of
        return _over(wins, pairs)


def _pairs(
    values: NDArray[np.float64], known: NDArray[np.bool_], high: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each column, pairs of a high and a low row with the high one above, less those below;
    and all pairs."""
    from scipy.stats import rankdata

    n, m = known[high].sum(axis=0), known[~high].sum(axis=0)
    if not len(values):
        return n.astype(np.float64), m.astype(np.float64)
    ranks = rankdata(np.where(known, values, np.nan), axis=0, nan_policy="omit")
    sums = np.where(known & high[:, None], ranks - (n + m + 1) / 2, 0.0).sum(axis=0)
    return 2 * sums, (n * m).astype(np.float64)


@compiled(nogil=True)
def _ordered_pairs(
    labelings: NDArray[np.integer], order: NDArray[np.intp], ties: NDArray[np.intp], groups: int
) -> NDArray[np.float64]:
    """Pairs of patients of whom the one of the higher group has the higher value, less those the
    other way round, of each labeling. `order` numbers the patients by value, equal ones from a
    place in `ties` to the next."""
    found = np.zeros(len(labelings))
    ends = np.append(ties[1:], len(order))
    for row in range(len(labelings)):
        before = np.zeros(groups, np.int64)  # patients of each group with lower values
        score = 0
        for block in range(len(ties)):
            for place in range(ties[block], ends[block]):
                own = labelings[row, order[place]]
                for group in range(own):
                    score += before[group]
                for group in range(own + 1, groups):
                    score -= before[group]
            for place in range(ties[block], ends[block]):
                before[labelings[row, order[place]]] += 1
        found[row] = score
    return found


def _check_scan(
    table: NDArray[np.float64], labelings: NDArray[np.integer], families: NDArray[Any]
) -> int:
    """How many groups there are."""
    if table.ndim != 2 or labelings.ndim != 2 or labelings.shape[1] != len(table):
        raise ValueError(
            f"values must be (patients, columns) and labelings (labelings, patients), got shapes "
            f"{table.shape} and {labelings.shape}"
        )
    if families.shape != (table.shape[1],) or not np.array_equal(
        np.unique(families), np.arange(families.max(initial=-1) + 1)
    ):
        raise ValueError(
            f"families must be numbers from 0 without gaps, one for each of {table.shape[1]} "
            f"columns, got {families.tolist()}"
        )
    groups = int(labelings.max(initial=0)) + 1
    if groups < 2 or len(np.unique(labelings[0])) != groups:
        raise ValueError(
            f"groups must be numbered from 0 without gaps and be two or more, got "
            f"{np.unique(labelings[0]).tolist()}"
        )
    return groups


def _codes(strata: ArrayLike | None, *, n: int) -> NDArray[np.intp]:
    """Strata numbered from 0."""
    if strata is None:
        return np.zeros(n, np.intp)
    names = np.asarray(strata)
    codes, _ = pd.factorize(names)
    if names.shape != (n,) or (codes < 0).any():
        raise ValueError(f"strata must say one for each of {n} patients, got {names.shape}")
    return np.asarray(codes, dtype=np.intp)


def _over(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    """The quotient, 0 where `below` is not positive."""
    top, bottom = np.broadcast_arrays(above, below)
    quotient: NDArray[np.float64] = np.zeros(top.shape)
    np.divide(top, bottom, out=quotient, where=bottom > 1e-12)
    return quotient


def _where_tested(p: StepDown, tested: NDArray[np.bool_]) -> StepDown:
    return StepDown(*(np.where(tested, values, np.nan) for values in p))

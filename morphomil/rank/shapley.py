"""Shapley values: how much each feature contributes to what a model says, and to how well it says
it.

A coalition is a set of features that take part; its value v(S) is whatever is measured of the
model's answer. A feature's Shapley value is the mean of v(S with it) - v(S without it) over all
orders in which features may join (Shapley 1953), so that the values sum to v(all) - v(none).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from morphomil.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
EXACT_FEATURES = 12
"""Up to so many, all 4,096 coalitions are evaluated; beyond, `Coalitions.sample` draws orders."""
ORDERS = 200
"""So many pairs of an order and its reverse are drawn where coalitions are sampled."""
RESAMPLES = 2000
"""Patients and seeds are resampled so often for intervals."""
SEED_DRAWS = 20
"""So many of these resample the seeds, each with as many resamples of patients."""
MANY_PAIRS = 40_000
"""In a fold with more pairs of two classes (200 patients each), pairs aren't listed."""
LEAST_PROBABILITY = 1e-6
"""Probabilities are clipped to this before the logarithm."""
_CHUNK = 32


@dataclass(frozen=True)
class Coalitions:
    """The coalitions to evaluate and how Shapley values follow from their values.

    Coalition 0 has no member and the last one has all.
    """

    members: NDArray[np.bool_]  # (coalitions, features)
    weights: NDArray[np.float64]  # (features, coalitions): Shapley values = weights @ values
    steps: NDArray[np.int64] | None = None
    """(pairs, 2, features, 2) of sampled orders: the coalitions before and after each feature
    joins; None if exact."""

    @classmethod
    def of(cls, features: int, *, seed: int = 0) -> Coalitions:
        """All coalitions of up to 12 features, sampled ones of more."""
        return (
            cls.exact(features) if features <= EXACT_FEATURES else cls.sample(features, seed=seed)
        )

    @classmethod
    def exact(cls, features: int) -> Coalitions:
        """All 2^features coalitions; coalition s has the features whose bits are set in s.

        Raises:
            ValueError: more features than can be enumerated.
        """
        if not 1 <= features <= EXACT_FEATURES:
            raise ValueError(
                f"exact Shapley values need 1 to {EXACT_FEATURES} features, got {features}"
            )
        members = (np.arange(2**features)[:, None] >> np.arange(features)) & 1 > 0
        size = members.sum(axis=1)
        joins = np.array(
            [
                1 / (features * comb(features - 1, s)) if s < features else 0.0
                for s in range(features + 1)
            ]
        )
        # A coalition with the feature counts by the chance that the feature joins last, one without
        # that it joins next.
        weights = np.where(members.T, joins[size - 1], -joins[size])
        return cls(members, weights)

    @classmethod
    def sample(cls, features: int, *, seed: int, orders: int = ORDERS) -> Coalitions:
        """Coalitions along random orders, each order with its reverse (antithetic; Mitchell et al.
        2022).

        The values are unbiased and sum to v(all) - v(none) exactly; `standard_error` says how far
        off they may be.

        Raises:
            ValueError: fewer than two pairs of orders, which have no standard error.
        """
        if orders < 2:
            raise ValueError(
                f"sampled Shapley values need at least 2 pairs of orders, got {orders}"
            )
        rng = generator("orders", seed, features)
        drawn = np.stack([rng.permutation(features) for _ in range(orders)])
        both = np.stack([drawn, drawn[:, ::-1]], axis=1)  # (pairs, 2, features)
        joined = np.argsort(both, axis=-1)  # place of each feature in its order
        paths = (
            joined[:, :, None, :] < np.arange(features + 1)[:, None]
        )  # (pairs, 2, features + 1, features)
        members, index = np.unique(paths.reshape(-1, features), axis=0, return_inverse=True)
        index = index.reshape(paths.shape[:3])
        steps = np.stack(
            [np.take_along_axis(index, joined + more, axis=-1) for more in (0, 1)], axis=-1
        )
        weights = np.zeros((features, len(members)))
        for feature in range(features):
            for sign, column in ((-1, 0), (1, 1)):
                np.add.at(
                    weights[feature], steps[:, :, feature, column].ravel(), sign / (2 * orders)
                )
        return cls(members, weights, steps)

    @property
    def features(self) -> int:
        """How many players there are."""
        return int(self.members.shape[1])

    def standard_error(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the Shapley values (features, ...) for values (coalitions, ...), from sampling orders;
        0 if exact."""
        if self.steps is None:
            return np.zeros((self.features, *values.shape[1:]))
        gain = (values[self.steps[..., 1]] - values[self.steps[..., 0]]).mean(
            axis=1
        )  # (pairs, features, ...)
        return np.asarray(gain.std(axis=0, ddof=1) / np.sqrt(len(gain)))

    def group(self, groups: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Weights (groups, coalitions) that make each group of features one player.

        Raises:
            ValueError: groups aren't a partition of the features, or coalitions are sampled.
        """
        if self.steps is not None:
            raise ValueError(
                f"groups need all coalitions, {self.features} features have been sampled"
            )
        if sorted(member for group in groups for member in group) != list(range(self.features)):
            raise ValueError(
                f"groups must hold each of {self.features} features once, got {groups}"
            )
        players = Coalitions.exact(len(groups))
        bits = np.array([sum(1 << member for member in group) for group in groups])
        weights = np.zeros((len(groups), len(self.members)))
        weights[:, players.members @ bits] = players.weights
        return weights


class Estimates(NamedTuple):
    """Numbers of the whole cohort with 95 % intervals over patients and seeds."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def columns(self, name: str) -> dict[str, NDArray[np.float64]]:
        """For a table: `name`, `name_low`, `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def log_likelihood(
    probability: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Logarithm of the probability of each patient's label, that of class 0 being what the others
    leave; (..., patients, classes) -> (..., patients)."""
    others = probability[..., 1:]
    chosen = others[..., np.arange(len(labels)), np.maximum(labels - 1, 0)]
    right = np.where(labels == 0, 1 - others.sum(axis=-1), np.ascontiguousarray(chosen))
    return np.asarray(np.log(np.clip(right, LEAST_PROBABILITY, None)))


def scored_classes(classes: int) -> range:
    """The classes whose AUC against the rest is averaged: of two the last one, as the other's is
    the same."""
    return range(1 if classes == 2 else 0, classes)


def pair_wins(probability: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many pairs of a patient of a class and one of the others have the probabilities of this
    class in the right order, ties half; (coalitions, patients, classes) -> (coalitions, scored
    classes). By ranks (Mann & Whitney 1947)."""
    wins = []
    for label in scored_classes(probability.shape[-1]):
        ours = labels == label
        sums = rankdata(probability[..., label], axis=1)[:, ours].sum(axis=1)
        wins.append(sums - ours.sum() * (ours.sum() + 1) / 2)
    return np.stack(wins, axis=-1)


def contrast_log_likelihood(
    probability: NDArray[np.float64],
    labels: NDArray[np.int64],
    contrasts: NDArray[np.float64],
    *,
    seed: int,
) -> Estimates:
    """Weighted sums over coalitions of the patients' mean log-likelihood; a gain is a smaller
    log-loss.

    Args:
        probability: (seeds, coalitions, patients, classes); seeds are averaged before the
            logarithm.
        labels: (patients,), classes from 0.
        contrasts: (rows, coalitions), such as `Coalitions.weights`.
        seed: of the resamples.
    """
    rng = generator("log-likelihood", seed)
    count = len(labels)
    means = []
    for chosen, resamples in _draw_seeds(len(probability), rng):
        of_patients = contrasts @ log_likelihood(
            _average(probability, chosen), labels
        )  # (rows, patients)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples) / count
        means.append(drawn @ of_patients.T)
    whole = contrasts @ log_likelihood(probability.mean(axis=0), labels)
    return _with_interval(whole.mean(axis=1), np.concatenate(means))


def contrast_auc(
    probability: NDArray[np.float64],
    labels: NDArray[np.int64],
    folds: NDArray[Any],
    contrasts: NDArray[np.float64],
    *,
    seed: int,
) -> Estimates:
    """Weighted sums over coalitions of the AUC from pairs within folds (`stats.within_fold_auc`),
    of three and more classes the mean of each one's against the rest (`stats.macro_auc`).

    Arguments as `contrast_log_likelihood`, `folds` of the patients. Patients are resampled within
    fold and class. The sums are taken of each pair's wins first, so that a resample costs no more
    for many coalitions. In a fold of more than `MANY_PAIRS` pairs a resample changes the sum by
    what its patients add on their own (the first term of Hoeffding's decomposition; the next is
    smaller by the root of their number). Where a coalition's probability is the same for all of a
    fold, as that of no member, its AUC is 0.5.

    Raises:
        ValueError: no fold has both classes.
    """
    rng = generator("auc", seed)
    blocks = _blocks_of_folds(labels, folds, classes=probability.shape[-1])
    resampled = []
    for chosen, resamples in _draw_seeds(len(probability), rng):
        averaged = _average(probability, chosen)
        drawn = [
            [rng.multinomial(len(g), np.full(len(g), 1 / len(g)), resamples) for g in block]
            for block in blocks
        ]
        resampled.append(_macro_of_blocks(averaged, blocks, contrasts, drawn=drawn))
    total = _macro_of_blocks(probability.mean(axis=0), blocks, contrasts)
    return _with_interval(total, np.concatenate(resampled))


def _blocks_of_folds(
    labels: NDArray[np.int64], folds: NDArray[Any], *, classes: int
) -> list[list[NDArray[np.intp]]]:
    """The patients of each class, the last one first, in each fold that has two classes or more.

    Raises:
        ValueError: there is none.
    """
    split = [
        [np.flatnonzero((folds == fold) & (labels == label)) for label in reversed(range(classes))]
        for fold in pd.unique(folds)
    ]
    blocks = [block for block in split if sum(map(bool, map(len, block))) > 1]
    if not blocks:
        raise ValueError("the AUC needs two classes within a fold, got none such")
    return blocks


def _macro_of_blocks(
    probability: NDArray[np.float64],
    blocks: list[list[NDArray[np.intp]]],
    contrasts: NDArray[np.float64],
    *,
    drawn: list[list[NDArray[np.int64]]] | None = None,
) -> NDArray[np.float64]:
    """The mean over classes of weighted AUCs, (rows,), or (resamples, rows) of those `drawn`: how
    often each patient of `blocks` counts, (resamples, patients)."""
    classes = probability.shape[-1]
    areas = []
    for label in scored_classes(classes):
        place, pairs, total = classes - 1 - label, 0, 0.0
        for number, block in enumerate(blocks):
            ours, rest = block[place], np.concatenate(block[:place] + block[place + 1 :])
            pairs += len(ours) * len(rest)
            many = len(ours) * len(rest) > MANY_PAIRS
            if drawn is None or many:
                of_ours, of_rest = _contrast_sums(probability[..., label], ours, rest, contrasts)
                total = total + of_ours.sum(axis=1)
            if drawn is None:
                continue
            counts = drawn[number]
            theirs = np.concatenate(counts[:place] + counts[place + 1 :], axis=1)
            if many:
                total = total + (counts[place] - 1) @ of_ours.T + (theirs - 1) @ of_rest.T
                continue
            wins = _contrast_wins(probability[..., label], ours, rest, contrasts)
            total = total + np.einsum("bp,rpn,bn->br", counts[place], wins, theirs, optimize=True)
        if pairs:
            areas.append(total / pairs)
    return np.asarray(np.mean(areas, axis=0))


def _contrast_wins(
    probability: NDArray[np.float64],
    positive: NDArray[np.intp],
    negative: NDArray[np.intp],
    contrasts: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Weighted sums of every pair's wins, ties half: (rows, positives, negatives)."""
    sums = np.zeros((len(contrasts), len(positive), len(negative)))
    for start in range(0, len(probability), _CHUNK):
        some = slice(start, start + _CHUNK)
        ours, theirs = probability[some][:, positive, None], probability[some][:, None, negative]
        wins = 0.5 * ((ours > theirs) + 1.0 * (ours >= theirs))
        sums += np.tensordot(contrasts[:, some], wins, axes=1)
    return sums


def _contrast_sums(
    probability: NDArray[np.float64],
    positive: NDArray[np.intp],
    negative: NDArray[np.intp],
    contrasts: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted sums of the wins of each positive over all negatives, (rows, positives), and of all
    positives over each negative, (rows, negatives), by ranks."""
    above, below = probability[:, positive], probability[:, negative]
    both = rankdata(np.concatenate([above, below], axis=1), axis=1)
    of_above = both[:, : len(positive)] - rankdata(above, axis=1)
    of_below = len(positive) - (both[:, len(positive) :] - rankdata(below, axis=1))
    return contrasts @ of_above, contrasts @ of_below


def _draw_seeds(seeds: int, rng: np.random.Generator) -> list[tuple[NDArray[np.int64], int]]:
    """How often each seed counts in a resample, and the number of resamples of patients with it."""
    if seeds == 1:
        return [(np.ones(1, np.int64), RESAMPLES)]
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=SEED_DRAWS)
    return [(counts, RESAMPLES // SEED_DRAWS) for counts in drawn]


def _average(probability: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.tensordot(counts / counts.sum(), probability, axes=1))


def _with_interval(value: NDArray[np.float64], resampled: NDArray[np.float64]) -> Estimates:
    """Percentiles of resamples (resamples, rows) beside the value."""
    low, high = np.percentile(resampled, (2.5, 97.5), axis=0)
    return Estimates(np.asarray(value), low, high)

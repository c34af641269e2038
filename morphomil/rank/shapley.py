"""Shapley values: how much each feature contributes to what a model says, and to how well it says
it.

A coalition is a set of features that take part; its value v(S) is whatever is measured of the
model's answer. A feature's Shapley value is the mean of v(S with it) - v(S without it) over all
orders in which features may join (Shapley 1953), so that the values sum to v(all) - v(none).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from morphomil.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
EXACT_FEATURES = 12
"""Up to so many, all 4,096 coalitions are evaluated; beyond, `Coalitions.sample` draws orders."""
ORDERS = 200
"""So many pairs of an order and its reverse are drawn where coalitions are sampled."""
LEAST_PROBABILITY = 1e-6
"""Probabilities are clipped to this before the logarithm."""


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

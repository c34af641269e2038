"""What labels that mean nothing give: the models of permuted labels beside those of the true ones.

Row 0 of every array is the true labels, one more labeling among the others, so that a p value is
exact whatever the model (`robustness.null_p`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import chdtri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from morphomil.rank.folds import NullResult
PRIOR_FREEDOM = 20.0
"""What the folds and the other features say of a feature's variance counts as much as so many
further labelings."""

TINY = 1e-12
"""A score whose SD is smaller does not change."""


class Moments(NamedTuple):
    """Of a score under permuted labels."""

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]


@dataclass(frozen=True)
class PooledNull:
    """Of all folds together, by labeling (rows)."""

    attention: NDArray[np.float64]
    """(folds, labelings, features): the mean over patients is the sum over folds."""
    likelihood: NDArray[np.float64] | None
    """(labelings, coalitions): mean log-likelihood of the patients' labels."""
    auc: NDArray[np.float64] | None
    """(labelings, coalitions), from pairs within folds; of three and more classes the mean of each
    one's against the rest."""

    @classmethod
    def of(
        cls, nulls: Sequence[NullResult], *, patients: int, pairs: NDArray[np.int64]
    ) -> PooledNull:
        """The folds' sums together: `patients` in all, `pairs` (scored classes,) of each class with
        the rest within folds."""
        attention = np.stack([one.attention for one in nulls]) / patients
        likelihood = [one.likelihood for one in nulls if one.likelihood is not None]
        wins = [one.wins for one in nulls if one.wins is not None]
        if not likelihood or not wins:
            return cls(attention, None, None)
        areas = np.sum(wins, axis=0)[..., pairs > 0] / pairs[pairs > 0]
        return cls(attention, np.sum(likelihood, axis=0) / patients, areas.mean(axis=-1))

    def attention_moments(self, kinds: NDArray[np.intp] | None = None) -> Moments:
        """Mean and SD of each feature's attention under permuted labels.

        With few labelings a variance is drawn, by `PRIOR_FREEDOM`, to a prior (Smyth 2004, with a
        prior of given weight): half of it is the mean variance of all features, half what the folds
        one by one say of this feature, times one factor for all. A mean is drawn to that of the
        features of its kind (James and Stein 1961): means differ by as much as their variance
        exceeds what chance gives in 19 of 20 cases.

        Args:
            kinds: (features,), numbers of the kinds from 0: of features of one kind the model reads
                the same. By default all are of one kind.

        Raises:
            ValueError: fewer than two permutations.
        """
        null = self.attention[:, 1:]
        pooled = null.sum(axis=0)
        freedom = len(pooled) - 1.0
        if freedom < 1:
            raise ValueError(f"an SD needs 2 permutations or more, got {len(pooled)}")
        variance = pooled.var(axis=0, ddof=1)
        of_folds = null.var(axis=1, ddof=1).sum(axis=0)
        prior = variance.mean() * (0.5 + 0.5 * of_folds / max(of_folds.mean(), TINY**2))
        drawn = (PRIOR_FREEDOM * prior + freedom * variance) / (PRIOR_FREEDOM + freedom)
        mean = _shrink(pooled.mean(axis=0), drawn.mean() / len(pooled), kinds)
        return Moments(mean, np.maximum(np.sqrt(drawn), TINY))

    def scores(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Standardized scores of attention and of Shapley values, (labelings, features) each, and
        the AUC that the features gain, (labelings,); none where only attention was asked for.

        `weights` are those of the coalitions (`shapley.Coalitions`).
        """
        if self.auc is None:
            return {}
        return {
            "attention": standardize(self.attention.sum(axis=0)),
            "shapley": standardize(self.auc @ weights.T),
            "auc": self.auc[:, -1] - self.auc[:, 0],
        }


def _shrink(
    mean: NDArray[np.float64], variance: float, kinds: NDArray[np.intp] | None
) -> NDArray[np.float64]:
    """Means of features, each with the same variance of chance, drawn to their kind's."""
    kind = np.zeros(len(mean), np.intp) if kinds is None else kinds
    of_kind = (np.bincount(kind, mean) / np.maximum(np.bincount(kind), 1))[kind]
    freedom = len(mean) - len(np.unique(kind))
    if not freedom:
        return mean
    between = ((mean - of_kind) ** 2).sum()
    chance = variance * chdtri(freedom, 0.05)
    return np.asarray(of_kind + max(0.0, 1 - chance / max(between, TINY**2)) * (mean - of_kind))


def standardize(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores (labelings, items) by the mean and SD of each item over all labelings, so that none is
    the highest more easily than another; 0 where a score never changes.

    All labelings are treated alike, the true one among them: the p values of the highest stay
    exact.
    """
    deviation = scores - scores.mean(axis=0)
    sd = scores.std(axis=0)
    return np.where(sd > TINY, deviation / np.where(sd > TINY, sd, 1), 0.0)

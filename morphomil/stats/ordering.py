"""Cases in the order of their scores, from which AUCs, their variance and their curves are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

DELONG_CASES = 50
"""From so many cases per class on the plain DeLong interval is used; below, DeLong's variance on
the logit scale."""
DELONG_AUC = 0.9
"""Up to this AUC, and down to 1 minus it, the plain interval is used. Beyond, it holds 90 to 93 %
at 50 to 150 cases per class."""


class Spread(NamedTuple):
    """A variance and Satterthwaite's degrees of freedom, each class having its own variance."""

    variance: float
    degrees: float


@dataclass(frozen=True)
class Ordering:
    """Cases sorted by score within folds; a plain sample is one fold.

    `tie` numbers each case's block of equal scores, ascending within folds; `tie_fold` is the fold
    of a block.
    """

    labels: NDArray[np.bool_]  # (cases,)
    scores: NDArray[np.float64]  # (cases,)
    fold: NDArray[np.intp]  # (cases,)
    tie: NDArray[np.intp]  # (cases,)
    tie_fold: NDArray[np.intp]  # (blocks,)

    @classmethod
    def of(cls, labels: ArrayLike, scores: ArrayLike, folds: ArrayLike | None = None) -> Ordering:
        """The ordering of these cases, each fold by itself.

        Raises:
            ValueError: no fold has both classes, a score or fold is missing, labels are other than
                0/1, or lengths differ.
        """
        positive, values = _checked(labels, scores)
        fold = (
            np.zeros(len(values), np.intp) if folds is None else _fold_codes(folds, n=len(values))
        )
        order = np.argsort(values) if folds is None else np.lexsort((values, fold))
        v, f = values[order], fold[order]
        first = np.r_[True, (v[1:] != v[:-1]) | (f[1:] != f[:-1])]
        tie = np.empty(len(values), np.intp)
        tie[order] = np.cumsum(first) - 1
        ordering = cls(positive, values, fold, tie, f[first])
        if not ordering.pairs.any():
            raise ValueError(
                f"AUC needs both classes within a fold, got none such in {fold.max() + 1} folds"
            )
        return ordering

    @cached_property
    def positives(self) -> NDArray[np.float64]:
        """Per fold."""
        return _sums(self.fold, self.labels)

    @cached_property
    def negatives(self) -> NDArray[np.float64]:
        """Per fold."""
        return _sums(self.fold, ~self.labels)

    @cached_property
    def pairs(self) -> NDArray[np.float64]:
        """Per fold."""
        return self.positives * self.negatives

    @property
    def smaller_class(self) -> int:
        """Cases of the rarer class, in folds that have both."""
        both = self.pairs > 0
        return int(min(self.positives[both].sum(), self.negatives[both].sum()))

    @property
    def disjoint_pairs(self) -> int:
        """So many pairs within folds have no case in common, hence are independent."""
        return int(np.minimum(self.positives, self.negatives).sum())

    @property
    def needs_logit(self) -> bool:
        """Whether the plain interval would hold too rarely."""
        return self.smaller_class < DELONG_CASES or self.is_extreme

    @property
    def is_extreme(self) -> bool:
        """Whether the AUC is so near 0 or 1 that its variance says too little."""
        return not 1 - DELONG_AUC <= self.auc <= DELONG_AUC

    @cached_property
    def auc(self) -> float:
        """The share of pairs within a fold that are ordered rightly, ties half."""
        positive, negative = self._block_counts
        return float(positive @ self._below(negative) / self.pairs.sum())

    def resampled(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """AUC of each draw (draws,), which holds each case `counts` (draws, cases) times; NaN
        without pairs."""
        order, starts = self._blocks
        cases, positive = counts[:, order], self.labels[order]
        above, below = (
            np.add.reduceat(cases * own, starts, axis=1, dtype=float)
            for own in (positive, ~positive)
        )
        fold_starts = np.flatnonzero(np.r_[True, self.tie_fold[1:] != self.tie_fold[:-1]])
        positives, negatives = (
            np.add.reduceat(blocks, fold_starts, axis=1) for blocks in (above, below)
        )
        before = (np.cumsum(negatives, axis=1) - negatives)[:, self.tie_fold]
        wins = (above * (np.cumsum(below, axis=1) - below / 2 - before)).sum(axis=1)
        pairs = (positives * negatives).sum(axis=1)
        area: NDArray[np.float64] = np.divide(
            wins, pairs, out=np.full(len(counts), np.nan), where=pairs > 0
        )
        return area

    @cached_property
    def _blocks(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Cases in the order of their blocks, and where each block starts."""
        size = np.bincount(self.tie)
        return np.argsort(self.tie, kind="stable"), np.cumsum(size) - size

    @cached_property
    def _block_counts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positives and negatives per block."""
        blocks = len(self.tie_fold)
        return _sums(self.tie, self.labels, blocks), _sums(self.tie, ~self.labels, blocks)

    def _below(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many of `counts` (per block) lie below each block in its fold, its own counting
        half."""
        in_fold = _sums(self.tie_fold, counts)
        before = np.cumsum(in_fold) - in_fold
        return np.cumsum(counts) - counts / 2 - before[self.tie_fold]

    @cached_property
    def wins(self) -> NDArray[np.float64]:
        """For each case, how many cases of the other class in its fold it is ordered rightly
        against, ties half."""
        positive, negative = self._block_counts
        above = self.positives[self.tie_fold] - self._below(positive)
        return np.where(self.labels, self._below(negative)[self.tie], above[self.tie])

    def variance_of(self, wins: NDArray[np.float64]) -> float:
        """DeLong's variance of the AUC, or of an AUC difference, whose `wins` these are; 0 if a
        class can't show any."""
        return self.spread_of(wins).variance

    def spread_of(self, wins: NDArray[np.float64]) -> Spread:
        """DeLong's variance with its degrees of freedom (which are Brunner and Munzel's).

        Each fold's placements (wins / cases of the other class) vary about the fold's own mean; the
        two classes' variances are pooled over folds. Sums of half numbers are exact, so a true zero
        is zero.
        """
        positives, negatives = self.positives, self.negatives
        both = self.pairs > 0
        weight = self.pairs / self.pairs.sum()
        variance, parts = 0.0, 0.0
        for members, own, other in (
            (self.labels, positives, negatives),
            (~self.labels, negatives, positives),
        ):
            kept = members & both[self.fold]
            fold = self.fold[kept]
            mean = _sums(fold, wins[kept], len(own)) / np.maximum(own, 1)
            placement = (wins[kept] - mean[fold]) / other[fold]
            freedom = len(fold) - both.sum()
            if freedom == 0:
                return Spread(0.0, math.inf)
            part = float(placement @ placement / freedom * (weight[both] ** 2 / own[both]).sum())
            variance, parts = variance + part, parts + part**2 / float(freedom)
        return Spread(variance, variance**2 / parts if parts else math.inf)

    def influence(self, members: NDArray[np.bool_]) -> NDArray[np.float64]:
        """How far each of these cases of one class moves the AUC, (members,); 0 in a fold of one
        class. Their squares sum to about the class's part of the variance."""
        own, other = self.positives, self.negatives
        if not self.labels[members].all():
            own, other = other, own
        fold, kept = self.fold[members], self.pairs[self.fold[members]] > 0
        wins = self.wins[members]
        mean = _sums(fold, wins, len(own)) / np.maximum(own, 1)
        share = (wins - mean[fold]) / self.pairs.sum()
        return np.asarray(np.where(kept, share, 0.0))

    def ranks_like(self, other: Ordering) -> bool:
        """Whether both rank the cases alike, ties included."""
        return np.array_equal(self.tie, other.tie)

    def called_positive(
        self,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Distinct scores from the highest down, with the positives and negatives at or above
        each."""
        positive, negative = self._block_counts
        cutoffs = np.empty(len(positive))
        cutoffs[self.tie] = self.scores
        return cutoffs[::-1], np.cumsum(positive[::-1]), np.cumsum(negative[::-1])


def _sums(index: NDArray[np.intp], values: NDArray[Any], length: int = 0) -> NDArray[np.float64]:
    """Sum of `values` per index; exact for whole and half numbers."""
    return np.bincount(index, weights=values, minlength=length).astype(np.float64, copy=False)


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    marks, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if marks.ndim != 1 or marks.shape != values.shape:
        raise ValueError(
            f"labels and scores must be vectors of one length, got shapes {marks.shape}, "
            f"{values.shape}"
        )
    if np.isnan(values).any():
        raise ValueError(
            f"scores must not be missing, got {np.isnan(values).sum()} NaN of {len(values)}"
        )
    if pd.isna(marks).any() or not ((marks == 0) | (marks == 1)).all():
        raise ValueError(f"labels must be booleans or 0/1, got {pd.unique(marks)[:5].tolist()}")
    positive = (marks == 1).astype(np.bool_)
    if positive.all() or not positive.any():
        raise ValueError(
            f"AUC needs both classes, got {positive.sum()} positive and {(~positive).sum()} "
            "negative cases"
        )
    return positive, values


def _fold_codes(folds: ArrayLike, *, n: int) -> NDArray[np.intp]:
    names = np.asarray(folds)
    if names.shape != (n,):
        raise ValueError(
            f"folds must be a vector as long as the {n} scores, got shape {names.shape}"
        )
    codes, _ = pd.factorize(names)
    if (codes < 0).any():
        raise ValueError(f"folds must not be missing, got {(codes < 0).sum()} missing of {n}")
    return codes.astype(np.intp)

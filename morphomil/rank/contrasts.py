"""Weighted sums over coalitions of what the models say with each, with intervals: Shapley values,
interactions and single coalitions of the whole cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from morphomil.compiled import compiled
from morphomil.rank.shapley import log_likelihood, scored_classes
from morphomil.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
RESAMPLES = 2000
"""Patients and seeds are resampled so often for intervals."""
SEED_DRAWS = 20
"""So many of these resample the seeds, each with as many resamples of patients."""
MANY_PAIRS = 40_000
"""In a fold with more pairs of two classes (200 patients each), pairs aren't listed."""
_CHUNK, _AT_ONCE = 32, 100


class Estimates(NamedTuple):
    """Numbers of the whole cohort with 95 % intervals over patients and seeds."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def columns(self, name: str) -> dict[str, NDArray[np.float64]]:
        """For a table: `name`, `name_low`, `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


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
    of_seeds: dict[bytes, NDArray[np.float64]] = {}  # (rows, patients)
    means = []
    for chosen, resamples in _draw_seeds(len(probability), rng):
        if (key := chosen.tobytes()) not in of_seeds:
            averaged = _average(probability, chosen)
            of_seeds[key] = contrasts @ log_likelihood(averaged, labels)
        drawn = resample_shares(count, resamples, rng)
        means.append(drawn @ of_seeds[key].T)
    whole = contrasts @ log_likelihood(probability.mean(axis=0), labels)
    return _with_interval(whole.mean(axis=1), np.concatenate(means))


class AucContrasts:
    """Weighted sums over coalitions of the AUC from pairs within folds (`stats.within_fold_auc`),
    of three and more classes the mean of each one's against the rest (`stats.macro_auc`).

    Patients are resampled within fold and class, once for all sums that are asked for. The sums are
    taken of each pair's wins first, so that a resample costs no more for many coalitions. In a fold
    of more than `MANY_PAIRS` pairs a resample changes the sum by what its patients add on their own
    (the first term of Hoeffding's decomposition; the next is smaller by the root of their number).
    Where a coalition's probability is the same for all of a fold, as that of no member, its AUC is
    0.5.
    """

    def __init__(
        self,
        probability: NDArray[np.float64],
        labels: NDArray[np.int64],
        folds: NDArray[Any],
        *,
        seed: int,
    ) -> None:
        """Arguments as `contrast_log_likelihood`, `folds` of the patients.

        Raises:
            ValueError: no fold has both classes.
        """
        rng = generator("auc", seed)
        self.probability = probability
        self.blocks = _blocks_of_folds(labels, folds, classes=probability.shape[-1])
        self.draws: dict[bytes, list[_Drawn]] = {}  # by how often each seed counts
        for chosen, resamples in _draw_seeds(len(probability), rng):
            drawn = [[_resample(len(g), resamples, rng) for g in block] for block in self.blocks]
            self.draws.setdefault(chosen.tobytes(), []).append(drawn)
        self.placed: dict[tuple[bytes, int, int], _Placements] = {}

    def estimate(self, contrasts: NDArray[np.float64]) -> Estimates:
        """The sums for each row of `contrasts` (rows, coalitions)."""
        whole = self._macro(self.probability.mean(axis=0), b"", contrasts, [None])
        resampled = []
        for key, draws in self.draws.items():
            averaged = _average(self.probability, np.frombuffer(key, np.int64))
            resampled += self._macro(averaged, key, contrasts, draws)
        return _with_interval(whole[0], np.concatenate(resampled))

    def _macro(
        self,
        probability: NDArray[np.float64],
        key: bytes,
        contrasts: NDArray[np.float64],
        draws: Sequence[_Drawn | None],
    ) -> list[NDArray[np.float64]]:
        """The mean over classes of weighted AUCs, of all patients (None) or of each draw: (rows,),
        (resamples, rows). `key` says how probabilities were averaged."""
        classes = probability.shape[-1]
        areas: list[list[NDArray[np.float64]]] = [[] for _ in draws]
        for label in scored_classes(classes):
            place, pairs = classes - 1 - label, 0
            totals: list[Any] = [0.0] * len(draws)
            for number, block in enumerate(self.blocks):
                ours, rest = block[place], np.concatenate(block[:place] + block[place + 1 :])
                pairs += len(ours) * len(rest)
                scores = probability[:, ours, label], probability[:, rest, label]
                compared: _Sums | _Wins
                if draws == [None] or len(ours) * len(rest) > MANY_PAIRS:
                    if (at := (key, label, number)) not in self.placed:
                        self.placed[at] = _Placements.of(*scores)
                    compared = _Sums.of(self.placed[at], contrasts)
                else:
                    compared = _Wins.of(*scores, contrasts)
                for draw, drawn in enumerate(draws):
                    counts = None if drawn is None else _split(drawn[number], place)
                    totals[draw] = compared.add_to(totals[draw], counts)
            if pairs:
                for of_draw, total in zip(areas, totals, strict=True):
                    of_draw.append(total / pairs)
        return [np.asarray(np.mean(of_draw, axis=0)) for of_draw in areas]


_Drawn = list[list["NDArray[np.signedinteger]"]]
"""How often each patient counts, by fold and class: (resamples, patients)."""


def _resample(patients: int, resamples: int, rng: np.random.Generator) -> NDArray[np.signedinteger]:
    """In as few bytes as it needs."""
    drawn = rng.multinomial(patients, np.full(patients, 1 / patients), resamples)
    return drawn.astype(np.min_scalar_type(-max(patients, 1)))


def _split(
    counts: list[NDArray[np.signedinteger]], place: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the class at this place, and of the others."""
    theirs = np.concatenate(counts[:place] + counts[place + 1 :], axis=1)
    return counts[place].astype(np.float64), theirs.astype(np.float64)


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


class _Placements(NamedTuple):
    """Wins of each positive over all negatives, (coalitions, positives), and of all positives over
    each negative, (coalitions, negatives), ties half; doubled, as whole numbers."""

    of_ours: NDArray[np.unsignedinteger]
    of_rest: NDArray[np.unsignedinteger]

    @classmethod
    def of(cls, ours: NDArray[np.float64], rest: NDArray[np.float64]) -> _Placements:
        """From probabilities (coalitions, positives) and (coalitions, negatives)."""
        kind = np.min_scalar_type(2 * max(ours.shape[1], rest.shape[1]))
        of_ours, of_rest = np.empty(ours.shape, kind), np.empty(rest.shape, kind)
        ours, rest = np.ascontiguousarray(ours), np.ascontiguousarray(rest)
        _place(ours, rest, of_ours)
        _place(rest, ours, of_rest)
        return cls(of_ours, 2 * ours.shape[1] - of_rest)


class _Sums(NamedTuple):
    """Weighted sums of the wins of each patient."""

    of_ours: NDArray[np.float64]  # (rows, positives)
    of_rest: NDArray[np.float64]  # (rows, negatives)

    @classmethod
    def of(cls, placed: _Placements, contrasts: NDArray[np.float64]) -> _Sums:
        return cls(*(contrasts @ (part / 2) for part in placed))

    def add_to(
        self, total: Any, counts: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    ) -> NDArray[np.float64]:
        """The total and these wins, of all patients or as often as they are drawn."""
        total = total + self.of_ours.sum(axis=1)
        if counts is None:
            return np.asarray(total)
        return np.asarray(
            total + (counts[0] - 1) @ self.of_ours.T + (counts[1] - 1) @ self.of_rest.T
        )


class _Wins(NamedTuple):
    """Weighted sums of every pair's wins, ties half."""

    wins: NDArray[np.float64]  # (rows, positives, negatives)

    @classmethod
    def of(
        cls,
        ours: NDArray[np.float64],
        rest: NDArray[np.float64],
        contrasts: NDArray[np.float64],
    ) -> _Wins:
        sums = np.zeros((len(contrasts), ours.shape[1], rest.shape[1]))
        for start in range(0, len(ours), _CHUNK):
            some = slice(start, start + _CHUNK)
            above, below = ours[some, :, None], rest[some, None]
            wins = 0.5 * ((above > below) + 1.0 * (above >= below))
            sums += np.tensordot(contrasts[:, some], wins, axes=1)
        return cls(sums)

    def add_to(
        self, total: Any, counts: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    ) -> NDArray[np.float64]:
        """As `_Sums.add_to`, of drawn patients."""
        if counts is None:
            return np.asarray(total + self.wins.sum(axis=(1, 2)))
        own, theirs = counts
        return np.asarray(total + np.einsum("bp,rpn,bn->br", own, self.wins, theirs, optimize=True))


@compiled(nogil=True)
def _place(
    own: NDArray[np.float64], other: NDArray[np.float64], places: NDArray[np.unsignedinteger]
) -> None:
    """Fill in, for each value of a row, how many of the other row are below it and how many not
    above it, together."""
    n, m = own.shape[1], other.shape[1]
    for row in range(len(own)):
        up, beyond = np.argsort(own[row]), np.argsort(other[row])
        below = beside = 0
        for i in range(n):
            x = own[row, up[i]]
            while below < m and other[row, beyond[below]] < x:
                below += 1
            while beside < m and other[row, beyond[beside]] <= x:
                beside += 1
            places[row, up[i]] = below + beside


def _draw_seeds(seeds: int, rng: np.random.Generator) -> list[tuple[NDArray[np.int64], int]]:
    """How often each seed counts in a resample, and the number of resamples of patients with it."""
    if seeds == 1:
        return [(np.ones(1, np.int64), RESAMPLES)]
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=SEED_DRAWS)
    return [(counts, RESAMPLES // SEED_DRAWS) for counts in drawn]


def _average(probability: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.tensordot(counts / counts.sum(), probability, axes=1))


def resample_shares(count: int, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The share of each of `count` patients in each resample, (resamples, patients); numbers of a
    resample are drawn as shares are filled in, so that they aren't all held."""
    shares = np.empty((resamples, count))
    for start in range(0, resamples, _AT_ONCE):
        some = shares[start : start + _AT_ONCE]
        some[:] = rng.multinomial(count, np.full(count, 1 / count), size=len(some))
        some /= count
    return shares


def _with_interval(value: NDArray[np.float64], resampled: NDArray[np.float64]) -> Estimates:
    """Percentiles of resamples (resamples, rows) beside the value."""
    low, high = np.percentile(resampled, (2.5, 97.5), axis=0)
    return Estimates(np.asarray(value), low, high)

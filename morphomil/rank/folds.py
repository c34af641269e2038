"""Bags -> models of each fold and what they say of patients whom they haven't seen.

Everything said of a patient comes from models that didn't see the patient: edges, scaler and
stopping rule of a fold come from its training patients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.cohort.splits import inner_validation
from morphomil.matrix import fit_edges_to_counts
from morphomil.rank.bags import by_patient, class_means
from morphomil.rank.missing import fill_absent
from morphomil.rank.offset import FoldCovariates
from morphomil.rank.shapley import log_likelihood, pair_wins
from morphomil.seeds import generator
from morphomil.stats.conditional import permute_conditionally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from morphomil.cohort.splits import Fold
    from morphomil.matrix import Edges
    from morphomil.rank.bags import PatientBags
    from morphomil.rank.model import Prediction, TrainedMorphometry
    from morphomil.rank.offset import CovariateModel
    from morphomil.rank.shapley import Coalitions
    from morphomil.types import Reading
REPLICATES, PATIENTS = 50, 400
"""This many models of so many training patients are trained at once, of more patients fewer: more
need more memory and are no faster."""


@dataclass(frozen=True)
class FoldModel:
    """What a fold's prediction needs: edges, weights (arrays by name) and how training went."""

    edges: Edges
    weights: dict[str, NDArray[np.float32]] = field(repr=False)
    log: pd.DataFrame = field(repr=False)
    covariates: CovariateModel | None = None
    """What the model adds to, where covariates are adjusted for."""


@dataclass(frozen=True)
class FoldResult:
    """What a fold's models say of its test patients."""

    predictions: pd.DataFrame
    """One row per patient: `patient, fold, label` (a class from 0; of two 1 is positive),
    `probability` of the last class; of three and more also `probability_0, probability_1, ...`."""
    attention: NDArray[np.float64]  # (seeds, patients, features)
    coalitions: NDArray[np.float64]  # (seeds, coalitions, patients, classes): probability
    model: FoldModel


@dataclass(frozen=True)
class NullResult:
    """Sums over a fold's test patients, for the true labels (row 0) and permuted ones."""

    attention: NDArray[np.float64]  # (labelings, features)
    likelihood: NDArray[np.float64] | None = None  # (labelings, coalitions)
    wins: NDArray[np.float64] | None = None
    """(labelings, coalitions, scored classes): pairs of the fold's test patients in the right order
    (`shapley.pair_wins`); None, as the likelihood, where only attention was asked for."""

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Those that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def joined(cls, parts: Sequence[NullResult]) -> NullResult | None:
        """Results of further labelings, one after the other; None of none."""
        if not parts:
            return None
        stored = [part.arrays() for part in parts]
        return cls(**{name: np.concatenate([one[name] for one in stored]) for name in stored[0]})


class FoldTask:
    """One fold, ready to train: edges, bags and labels.

    Rows of labels and probabilities are patients: `labels` all of the cohort's, results the fold's
    test patients.
    """

    def __init__(
        self,
        fold: Fold,
        bags: PatientBags,
        classes: pd.Series[Any],
        *,
        features: tuple[str, ...],
        seed: int,
        reading: Reading = "quantiles",
        covariates: pd.DataFrame | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`classes` says each patient's, by name, from 0 (or whether it is positive); `covariates`,
        one row for each, are adjusted for; `check` is called in every step of training
        (`training.train_morphometry`)."""
        self.fold, self.seed, self.check = fold, seed, check
        self.patients = pd.Index(bags.patients, dtype=object)
        self.labels = classes[list(bags.patients)].to_numpy().astype(np.int64)
        self.classes = int(self.labels.max()) + 1
        self.test = bags.members(fold.test)
        self.validation = bags.members(fold.val)
        self.training = bags.members(fold.train)
        self.edges = fit_edges_to_counts(
            bags.totals.blocks(), features=features, chosen=self.training
        )
        drawn, whole = (of.instances(self.edges, reading) for of in (bags.drawn, bags.whole))
        self.learning_bags = fill_absent(
            drawn.of_patients(self.training | self.validation),
            drawn.of_patients(self.training),
            seed_key=(seed, fold.name, "drawn"),
        )
        self.test_bags = fill_absent(
            whole.of_patients(self.test),
            whole.of_patients(self.training),
            seed_key=(seed, fold.name, "whole"),
        )
        self.covariates = None
        if covariates is not None:
            rng = generator("covariates", seed, fold.name)
            known = covariates.loc[list(bags.patients)]
            self.covariates = FoldCovariates.of(known, self.training, rng=rng)

    @property
    def learning(self) -> int:
        """So many patients are learned from, or end training."""
        return int((self.training | self.validation).sum())

    def evaluate(self, seeds: int, coalitions: Coalitions) -> FoldResult:
        """Train a model per seed; predict the test patients whole and in every coalition."""
        trained = self._train(np.tile(self.labels, (seeds, 1)), replicates=range(seeds))
        return self._ask(trained, coalitions, log=trained.log)

    def evaluate_beside(
        self, seeds: int, labelings: NDArray[np.int64], coalitions: Coalitions
    ) -> tuple[FoldResult, NullResult]:
        """As `evaluate`, and in the same batch a model per permuted labeling, of which only the
        attention is wanted; row 0 of the labelings are the true labels."""
        further = np.tile(self.labels, (seeds - 1, 1))
        learned = np.concatenate([labelings, further])
        starts = [0] * len(labelings) + list(range(1, seeds))
        trained = self._train(learned, replicates=starts)
        prediction = self._predict_test(trained, learned)
        attention = by_patient(prediction.attention[: len(labelings)], self.test_bags)
        numbers = [0, *range(len(labelings), len(learned))]
        log = trained.log[trained.log["replicate"].isin(numbers)]
        log = log.assign(replicate=log["replicate"].map(numbers.index)).reset_index(drop=True)
        result = self._ask(trained.part(numbers), coalitions, log=log)
        return result, NullResult(attention.sum(axis=1))

    def _ask(
        self, trained: TrainedMorphometry, coalitions: Coalitions, *, log: pd.DataFrame
    ) -> FoldResult:
        prediction = self._predict_test(trained, self.labels[None])
        probability = self._predict_coalitions(trained, coalitions, self.labels)
        table = pd.DataFrame(
            {
                "patient": self.patients[self.test],
                "fold": self.fold.name,
                "label": self.labels[self.test],
            }
            | probability_columns(probability[:, -1].mean(axis=0))
        )
        return FoldResult(
            table,
            by_patient(prediction.attention, self.test_bags),
            probability,
            self._model(trained, log=log),
        )

    def train(self, seeds: int) -> FoldModel:
        """Train a model per seed."""
        trained = self._train(np.tile(self.labels, (seeds, 1)), replicates=range(seeds))
        return self._model(trained)

    def score(self, seeds: int) -> tuple[pd.Series[float], FoldModel]:
        """Train a model per seed; the test patients' mean probability of the last class, and the
        models."""
        trained = self._train(np.tile(self.labels, (seeds, 1)), replicates=range(seeds))
        prediction = self._predict_test(trained, self.labels[None])
        probability = by_patient(prediction.probability, self.test_bags)[..., -1]
        scores = pd.Series(probability.mean(axis=0), index=self.patients[self.test])
        return scores, self._model(trained)

    def ablate(self, seeds: int, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Probability by models trained on some features only: `kept` (sets, features) -> (seeds,
        sets, patients, classes).

        They start from the same weights, see the same bags and stop by the same patients as those
        of `evaluate`.
        """
        trained = self._train(
            np.tile(self.labels, (seeds * len(kept), 1)),
            replicates=np.tile(np.arange(seeds), len(kept)).tolist(),
            available=np.repeat(kept, seeds, axis=0),
        )
        prediction = self._predict_test(trained, self.labels[None])
        probability = class_means(prediction.probability, self.test_bags)
        return probability.reshape(len(kept), seeds, -1, self.classes).swapaxes(0, 1)

    def permute(self, labelings: NDArray[np.int64], coalitions: Coalitions) -> NullResult:
        """Train one model per labeling (labelings, patients), all with the same luck; sums over
        test patients."""
        trained = self._train(labelings, replicates=[0] * len(labelings))
        prediction = self._predict_test(trained, labelings)
        attention = by_patient(prediction.attention, self.test_bags).sum(axis=1)
        likelihood, wins = [], []
        for number, labels in enumerate(labelings):
            part = trained.part([number])
            probability = self._predict_coalitions(part, coalitions, labels)[0]
            truth = labels[self.test]
            likelihood.append(log_likelihood(probability, truth).sum(axis=1))
            wins.append(pair_wins(probability, truth))
        return NullResult(attention, np.stack(likelihood), np.stack(wins))

    def _train(
        self,
        labels: NDArray[np.int64],
        *,
        replicates: Sequence[int],
        available: NDArray[np.bool_] | None = None,
    ) -> TrainedMorphometry:
        """`replicates` (rows of `labels`) name the seed of each model."""
        from morphomil.rank.training import train_morphometry

        return train_morphometry(
            self.learning_bags,
            labels,
            validation=np.stack(
                [
                    self._stopping_patients(y, replicate=r)
                    for y, r in zip(labels, replicates, strict=True)
                ]
            ),
            seed=int(generator("fold", self.seed, self.fold.name).integers(2**31)),
            available=available,
            streams=np.asarray(replicates, dtype=np.int64),
            offset=self._offsets(labels),
            check=self.check,
        )

    def _offsets(self, labels: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """What covariates say of patients who are learned from, (labelings, patients, classes)."""
        if self.covariates is None:
            return None
        return self.covariates.offsets(labels, classes=self.classes)

    def _model(self, trained: TrainedMorphometry, *, log: pd.DataFrame | None = None) -> FoldModel:
        covariates = None
        if self.covariates is not None:
            covariates = self.covariates.model(self.labels, classes=self.classes)
        log = trained.log if log is None else log
        return FoldModel(self.edges, trained.weights(), log, covariates)

    def _test_offset(self, labels: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """What covariates say of the test bags, (labelings, bags, classes)."""
        if self.covariates is None:
            return None
        predicted = self.covariates.predicted(labels, classes=self.classes)
        return predicted[:, self.test_bags.patient]

    def _predict_test(self, trained: TrainedMorphometry, labels: NDArray[np.int64]) -> Prediction:
        """Of the test bags; `labels` (replicates or 1, patients) are those that were learned."""
        return trained.predict(self.test_bags.values, offset=self._test_offset(labels))

    def _stopping_patients(self, labels: NDArray[np.int64], *, replicate: int) -> NDArray[np.bool_]:
        """The patients whose loss ends training: the split's own, else an inner part of the
        training patients."""
        if self.validation.any():
            return self.validation
        training = pd.Series(labels[self.training], index=self.patients[self.training])
        key = int(generator("stop", self.seed, self.fold.name, replicate).integers(2**31))
        chosen = np.zeros(len(labels), np.bool_)
        chosen[self.training] = inner_validation(training, seed=key)
        return chosen

    def _predict_coalitions(
        self, trained: TrainedMorphometry, coalitions: Coalitions, labels: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Probability, (replicates, coalitions, patients, classes); of no feature, the training
        prevalence, or what covariates say."""
        learned = labels[self.training | self.validation]
        probability = trained.predict_coalitions(
            self.test_bags.values,
            coalitions.members,
            empty=np.bincount(learned, minlength=self.classes) / len(learned),
            offset=self._test_offset(labels[None]),
        )
        return class_means(probability, self.test_bags)


def models_at_once(patients: int) -> int:
    """So many models are trained at once of this many patients."""
    return max(REPLICATES // 5, REPLICATES * PATIENTS // max(PATIENTS, patients))


def probability_columns(probability: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Columns of a table of patients, (patients, classes): `probability` of the last class, and of
    three and more `probability_0`, `probability_1`, ..."""
    columns = {"probability": probability[:, -1]}
    if probability.shape[1] > 2:
        columns |= {f"probability_{k}": values for k, values in enumerate(probability.T)}
    return columns


def permute_labels(
    labels: NDArray[np.int64],
    folds: Iterable[Fold],
    bags: PatientBags,
    *,
    permutations: int,
    seed: int,
    strata: NDArray[Any] | None = None,
    log_probability: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """The labels (row 0) and permutations of them within each part of the split, (permutations + 1,
    patients).

    So every fold, and every training set, has as many patients of a class as it has in truth; and
    so has each of `strata` (patients,) in them. With `log_probability` (patients, classes) of the
    labels given covariates, permutations are as likely as these make them
    (`stats.conditional.permute_conditionally`).
    """
    blocks = permutation_blocks(folds, bags, strata=strata)
    rng = generator("permutations", seed)
    if log_probability is not None:
        return permute_conditionally(
            labels, log_probability, permutations=permutations, rng=rng, blocks=blocks
        )
    rows = np.tile(labels, (permutations + 1, 1))
    for number in np.unique(blocks):
        part = blocks == number
        rows[1:, part] = rng.permuted(rows[1:, part], axis=1)
    return rows


def permutation_blocks(
    folds: Iterable[Fold], bags: PatientBags, *, strata: NDArray[Any] | None = None
) -> NDArray[np.int64]:
    """The block of each patient, within which labels are exchanged: a part of the split, and a
    stratum."""
    block = np.zeros(len(bags.patients), np.int64)
    parts = [part for fold in folds for part in (fold.test, fold.val)]
    for number, part in enumerate(parts, start=1):
        block[bags.members(part)] = number
    block = np.where(block == 0, len(parts) + 1, block)
    if strata is None:
        return block
    stratum = np.unique(np.asarray(strata), return_inverse=True)[1]
    return np.asarray(block * (stratum.max() + 1) + stratum)

"""Counts -> bags -> models of each fold and what they say of patients whom they haven't seen.

Everything said of a patient comes from models that didn't see the patient: edges, scaler and
stopping rule of a fold come from its training patients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from morphomil.bags import BAG_SIZE, draw_bags
from morphomil.cohort.splits import inner_validation
from morphomil.errors import RefusedError
from morphomil.matrix import (
    FINE_BINS,
    fit_edges_to_counts,
    has_enough_nuclei,
    mean_rows,
    rebin,
    relative_frequencies,
)
from morphomil.rank.shapley import log_likelihood
from morphomil.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from morphomil.cohort.splits import Fold
    from morphomil.matrix import Edges
    from morphomil.rank.model import InstanceBags, TrainedMorphometry
    from morphomil.rank.shapley import Coalitions
MAX_BAGS = 20
"""Of a slide, in training: 200 patches; more patches make no bag better."""
REPLICATES = 50
"""Trained at once: more need more memory and are no faster."""


LEFT_OUT_WITHOUT = "a patch of enough measured nuclei"
"""Slides are left out that lack this."""


class Counts(Protocol):
    """Gives a slide's histogram counts (features, patches, fine bins) when asked, so that not all
    are held at once."""

    def __call__(self, slide_id: str) -> NDArray[Any]:
        """The counts of one slide."""


@dataclass(frozen=True)
class FoldModel:
    """What a fold's prediction needs: edges, weights (arrays by name) and how training went."""

    edges: Edges
    weights: dict[str, NDArray[np.float32]] = field(repr=False)
    log: pd.DataFrame = field(repr=False)


@dataclass(frozen=True)
class FineBags:
    """Bags as mean histograms on the fine grid."""

    patient: NDArray[np.int64]  # (bags,), sorted
    weight: NDArray[np.float64]  # (bags,): a patient's sum to 1
    fine: NDArray[np.float32]  # (features, bags, fine bins)

    def instances(self, edges: Edges) -> InstanceBags:
        """The bags on a fold's edges."""
        from morphomil.rank.model import InstanceBags

        return InstanceBags(np.moveaxis(rebin(self.fine, edges), 0, 1), self.patient, self.weight)


@dataclass(frozen=True)
class PatientBags:
    """Every slide's bags of ten patches to train on, its bag of all patches to predict, and the
    sums for edges."""

    slides: tuple[str, ...]
    patients: tuple[str, ...]
    drawn: FineBags
    whole: FineBags
    totals: NDArray[np.int64]  # (patients, features, fine bins)

    @classmethod
    def collect(cls, load: Counts, cohort: pd.DataFrame, *, seed: int) -> PatientBags:
        """Read each slide once, in the order of patient and slide id."""
        slides, patients, owners = [], [], []
        rows: list[list[NDArray[np.float32]]] = []
        totals: dict[str, NDArray[np.int64]] = {}
        for row in cohort.sort_values(["patient", "slide_id"]).to_dict("records"):
            counts = load(row["slide_id"])
            counts = counts[:, has_enough_nuclei(counts)]
            if not counts.shape[1]:
                continue
            slides.append(str(row["slide_id"]))
            if row["patient"] not in totals:
                patients.append(row["patient"])
                totals[row["patient"]] = np.zeros((len(counts), FINE_BINS), np.int64)
            totals[row["patient"]] += counts.sum(axis=1, dtype=np.int64)
            drawn = draw_bags(counts.shape[1], bags=MAX_BAGS, seed_key=(seed, row["slide_id"]))
            frequencies = relative_frequencies(counts)
            rows.append(
                [mean_rows(frequencies), *(mean_rows(frequencies[:, bag]) for bag in drawn)]
            )
            owners.append(len(patients) - 1)
        if not rows:
            raise RefusedError(
                f"no slide has a patch with enough nuclei; {BAG_SIZE} patches of 5 "
                "nuclei make a bag"
            )
        whole = _weigh([one[:1] for one in rows], owners)
        stacked = np.stack([totals[name] for name in patients])
        return cls(
            tuple(slides),
            tuple(patients),
            _weigh([one[1:] for one in rows], owners),
            whole,
            stacked,
        )

    def members(self, names: Iterable[str]) -> NDArray[np.bool_]:
        """Which patients are named."""
        return np.isin(np.array(self.patients, dtype=object), list(names))


def _weigh(rows: list[list[NDArray[np.float32]]], owners: list[int]) -> FineBags:
    """Bags of each slide, of which a patient's slides and a slide's bags weigh alike."""
    patient = np.repeat(owners, [len(bags) for bags in rows])
    weight = np.concatenate([np.full(len(bags), 1 / len(bags)) for bags in rows])
    weight /= np.bincount(patient, weight)[patient]
    return FineBags(patient, weight, np.stack([bag for bags in rows for bag in bags], axis=1))


@dataclass(frozen=True)
class FoldResult:
    """What a fold's models say of its test patients."""

    predictions: pd.DataFrame
    """One row per patient: `patient, fold, label` (1: positive), `probability`."""
    attention: NDArray[np.float64]  # (seeds, patients, features)
    coalitions: NDArray[np.float64]  # (seeds, coalitions, patients): probability
    model: FoldModel


@dataclass(frozen=True)
class NullResult:
    """Sums over a fold's test patients, for the true labels (row 0) and permuted ones."""

    attention: NDArray[np.float64]  # (labelings, features)
    shapley: NDArray[np.float64]  # (labelings, features), of the log-likelihood


class FoldTask:
    """One fold, ready to train: edges, bags and labels.

    Rows of labels and probabilities are patients: `labels` all of the cohort's, results the fold's
    test patients.
    """

    def __init__(
        self,
        fold: Fold,
        bags: PatientBags,
        positive: pd.Series[bool],
        *,
        features: tuple[str, ...],
        seed: int,
    ) -> None:
        """`positive` says of each patient, by name, whether it is."""
        self.fold, self.seed = fold, seed
        self.patients = pd.Index(bags.patients, dtype=object)
        self.labels = positive[list(bags.patients)].to_numpy().astype(np.int64)
        self.test = bags.members(fold.test)
        self.validation = bags.members(fold.val)
        self.training = bags.members(fold.train)
        self.edges = fit_edges_to_counts(bags.totals[self.training], features=features)
        self.learning_bags = bags.drawn.instances(self.edges).of_patients(
            self.training | self.validation
        )
        self.test_bags = bags.whole.instances(self.edges).of_patients(self.test)

    def answer(self, seeds: int, coalitions: Coalitions) -> FoldResult:
        """Train a model per seed; predict the test patients whole and in every coalition."""
        trained = self._train(np.tile(self.labels, (seeds, 1)), replicates=range(seeds))
        prediction = trained.predict(self.test_bags.values)
        answers = self._answer_coalitions(trained, coalitions, self.labels)
        table = pd.DataFrame(
            {
                "patient": self.patients[self.test],
                "fold": self.fold.name,
                "label": self.labels[self.test],
                "probability": answers[:, -1].mean(axis=0),
            }
        )
        model = FoldModel(self.edges, trained.weights(), trained.log)
        return FoldResult(table, by_patient(prediction.attention, self.test_bags), answers, model)

    def train(self, seeds: int) -> FoldModel:
        """Train a model per seed."""
        trained = self._train(np.tile(self.labels, (seeds, 1)), replicates=range(seeds))
        return FoldModel(self.edges, trained.weights(), trained.log)

    def score(self, seeds: int) -> tuple[pd.Series[float], FoldModel]:
        """Train a model per seed; the test patients' mean probability, and the models."""
        trained = self._train(np.tile(self.labels, (seeds, 1)), replicates=range(seeds))
        probability = by_patient(
            trained.predict(self.test_bags.values).probability, self.test_bags
        )[..., 1]
        scores = pd.Series(probability.mean(axis=0), index=self.patients[self.test])
        return scores, FoldModel(self.edges, trained.weights(), trained.log)

    def answer_without(self, seeds: int, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Probability by models trained on some features only: `kept` (sets, features) -> (seeds,
        sets, patients).

        They start from the same weights, see the same bags and stop by the same patients as those
        of `answer`.
        """
        parts = []
        for seed_sets in np.array_split(
            np.arange(len(kept)), max(1, len(kept) * seeds // REPLICATES)
        ):
            trained = self._train(
                np.tile(self.labels, (seeds * len(seed_sets), 1)),
                replicates=np.tile(np.arange(seeds), len(seed_sets)).tolist(),
                available=np.repeat(kept[seed_sets], seeds, axis=0),
            )
            probability = by_patient(
                trained.predict(self.test_bags.values).probability, self.test_bags
            )[..., 1]
            parts.append(probability.reshape(len(seed_sets), seeds, -1))
        return np.concatenate(parts).transpose(1, 0, 2)

    def answer_permuted(self, labelings: NDArray[np.int64], coalitions: Coalitions) -> NullResult:
        """Train one model per labeling (labelings, patients), all with the same luck; sums over
        test patients."""
        attention, shares = [], []
        for some in np.array_split(labelings, -(-len(labelings) // REPLICATES)):
            trained = self._train(some, replicates=[0] * len(some))
            seen = by_patient(trained.predict(self.test_bags.values).attention, self.test_bags)
            attention.append(seen.sum(axis=1))
            for number, labels in enumerate(some):
                answers = self._answer_coalitions(trained.replicate(number), coalitions, labels)[0]
                shares.append(
                    (coalitions.weights @ log_likelihood(answers, labels[self.test])).sum(axis=1)
                )
        return NullResult(np.concatenate(attention), np.stack(shares))

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
                [self._who_stops(y, replicate=r) for y, r in zip(labels, replicates, strict=True)]
            ),
            seed=int(generator("fold", self.seed, self.fold.name).integers(2**31)),
            available=available,
            streams=np.asarray(replicates, dtype=np.int64),
        )

    def _who_stops(self, labels: NDArray[np.int64], *, replicate: int) -> NDArray[np.bool_]:
        """The patients whose loss ends training: the split's own, else an inner part of the
        training patients."""
        if self.validation.any():
            return self.validation
        training = pd.Series(labels[self.training], index=self.patients[self.training])
        key = int(generator("stop", self.seed, self.fold.name, replicate).integers(2**31))
        chosen = np.zeros(len(labels), np.bool_)
        chosen[self.training] = inner_validation(training, seed=key)
        return chosen

    def _answer_coalitions(
        self, trained: TrainedMorphometry, coalitions: Coalitions, labels: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Probability of class 1, (replicates, coalitions, patients); of no feature, the training
        prevalence."""
        prevalence = float(labels[self.training | self.validation].mean())
        answers = trained.predict_coalitions(
            self.test_bags.values, coalitions.members, empty=np.array([1 - prevalence, prevalence])
        )[..., 1]
        return by_patient(np.moveaxis(answers, 1, 2), self.test_bags).transpose(0, 2, 1)


def permute_labels(
    labels: NDArray[np.int64],
    folds: Iterable[Fold],
    bags: PatientBags,
    *,
    permutations: int,
    seed: int,
) -> NDArray[np.int64]:
    """The labels (row 0) and permutations of them within each part of the split, (permutations + 1,
    patients).

    So every fold, and every training set, has as many patients of a class as it has in truth.
    """
    parts = [bags.members(part) for fold in folds for part in (fold.test, fold.val)]
    rest = ~np.any(parts, axis=0)
    rng = generator("permutations", seed)
    rows = np.tile(labels, (permutations + 1, 1))
    for part in [*parts, rest]:
        rows[1:, part] = rng.permuted(rows[1:, part], axis=1)
    return rows


def by_patient(values: NDArray[np.float64], bags: InstanceBags) -> NDArray[np.float64]:
    """Weighted mean over each patient's bags: (seeds, bags, n) -> (seeds, patients, n)."""
    _, place = np.unique(bags.patient, return_inverse=True)
    starts = np.flatnonzero(np.diff(place, prepend=-1))  # bags are sorted by patient
    return np.asarray(np.add.reduceat(values * bags.weight[:, None], starts, axis=1))

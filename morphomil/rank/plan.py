"""What a ranking trains in every fold, and how long that will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from morphomil.rank.folds import NullResult, models_at_once
from morphomil.rank.robustness import families_of
from morphomil.rank.shapley import Coalitions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from morphomil.rank.folds import FoldResult, FoldTask
    from morphomil.types import RankSettings
Arrays = dict[str, NDArray[Any]]
Recall = Callable[[str, Callable[[], Arrays]], Arrays]
"""What is stored under a name, else made now (and stored)."""
STEPS, MOST_STEPS = 85, 180
"""For the estimate, a model takes this many steps until it stops, and the last of a full batch this
many."""
STEP_COST = 300
"""For the estimate, a step takes as long, whatever its batch, as one model takes for this many
training patients (processor time of batches of 5, 50 and 90 models of 80 patients on an x86 server:
290 to 390). Only the ratio counts: how fast the machine is, the first models tell."""


AFTER, AFTER_PATIENT = 40_000, 900
"""What comes after the training takes as long as so many steps of one model by one patient, and
for each patient so many more."""


def make_anew(name: str, make: Callable[[], Arrays]) -> Arrays:
    """`Recall` where nothing is stored."""
    return make()


class Piece(NamedTuple):
    """A batch of a fold's trainings, whose result is arrays: wherever it is made, the same ones."""

    kind: Literal["ablation", "null"]
    number: int
    rows: NDArray[np.intp]
    """Of `TrainingPlan.kept`, or of the labelings."""

    @property
    def name(self) -> str:
        """Its own within the fold."""
        return f"{self.kind}-{self.number}"


@dataclass(frozen=True)
class FoldOutcome:
    """What the models of a fold give: trained on all features, on some, and on permuted labels."""

    result: FoldResult
    ablated: NDArray[np.float64] | None  # (seeds, sets, patients, classes): probability
    null: NullResult | None


@dataclass(frozen=True)
class TrainingPlan:
    """What is trained in every fold."""

    features: tuple[str, ...]
    seeds: int
    coalitions: Coalitions
    families: dict[str, tuple[int, ...]]
    kept: NDArray[np.bool_] | None
    """(sets, features) of the ablation: without each feature, without each family, each feature
    alone, each family alone; None without ablation."""
    tests: bool = True
    """Permuted labels are for p values; else for the attention's null alone, trained beside the
    one model."""

    @classmethod
    def of(cls, features: tuple[str, ...], settings: RankSettings) -> TrainingPlan:
        """The plan of a ranking."""
        families = families_of(features)
        member = np.zeros((len(families), len(features)), np.bool_)
        for row, members in zip(member, families.values(), strict=True):
            row[list(members)] = True
        single = len(features)
        several = sum(len(members) > 1 for members in families.values())
        alone = np.concatenate([np.eye(single, dtype=np.bool_), member])[: single + several]
        whole = alone.all(axis=1, keepdims=True)
        # A family of all features leaves nothing out of which to learn.
        kept = np.concatenate([whole | ~alone, alone])
        return cls(
            features,
            settings.models_per_fold,
            Coalitions.of(len(features), seed=settings.seed),
            families,
            kept if settings.ablates else None,
            not settings.quick,
        )

    def begin(self, task: FoldTask, labelings: NDArray[np.int64]) -> FoldOutcome:
        """Train a fold's models on all features, of a quick ranking beside those of permuted
        labels."""
        if self.tests:
            return FoldOutcome(task.evaluate(self.seeds, self.coalitions), None, None)
        result, beside = task.evaluate_beside(self.seeds, labelings, self.coalitions)
        return FoldOutcome(result, None, beside if len(labelings) > 1 else None)

    def pieces(self, patients: int, labelings: int) -> list[Piece]:
        """What is trained in a fold with so many training patients beside its first models."""
        if not self.tests:
            return []
        at_once, pieces = models_at_once(patients), []
        if self.kept is not None:
            parts = max(1, len(self.kept) * self.seeds // at_once)
            split = np.array_split(np.arange(len(self.kept)), parts)
            pieces += [Piece("ablation", k, rows) for k, rows in enumerate(split)]
        if labelings > 1:
            split = np.array_split(np.arange(labelings), -(-labelings // at_once))
            pieces += [Piece("null", k, rows) for k, rows in enumerate(split)]
        return pieces

    def make(self, piece: Piece, task: FoldTask, labelings: NDArray[np.int64]) -> Arrays:
        """Train a piece of a fold."""
        if piece.kind == "ablation":
            assert self.kept is not None
            return {"probability": task.ablate(self.seeds, self.kept[piece.rows])}
        return task.permute(labelings[piece.rows], self.coalitions).arrays()

    def finish(self, begun: FoldOutcome, made: Sequence[tuple[Piece, Arrays]]) -> FoldOutcome:
        """A fold with its pieces."""
        if not made:
            return begun
        ablated = [arrays["probability"] for piece, arrays in made if piece.kind == "ablation"]
        nulls = [NullResult(**arrays) for piece, arrays in made if piece.kind == "null"]
        return FoldOutcome(
            begun.result,
            np.concatenate(ablated, axis=1) if ablated else None,
            NullResult.joined(nulls),
        )

    def estimate(
        self,
        task: FoldTask,
        begun: FoldOutcome,
        labelings: NDArray[np.int64],
        *,
        seconds: float,
        folds: int,
        workers: int,
    ) -> float:
        """The seconds of all that is to come, from those that a fold's first models took, beside
        those of other folds where there are several workers."""
        patients = task.learning
        steps = begun.result.model.log.groupby("replicate")["step"].max()
        pace = seconds / (STEP_COST * steps.max() + patients * steps.sum())
        rounds = -(-folds // workers) - 1
        everyone = len(task.patients)
        after = AFTER + AFTER_PATIENT * everyone
        if not self.tests:
            return float(rounds * seconds + pace * after)
        models = 0 if self.kept is None else self.seeds * len(self.kept)
        models += len(labelings) if len(labelings) > 1 else 0
        more = rounds * _work(self.seeds, patients) + folds / workers * _work(models, patients)
        return float(pace * (more + after))


def _work(models: int, patients: int) -> float:
    """Of training so many models, in steps of one model by one patient."""
    return (
        STEP_COST * MOST_STEPS * -(-models // models_at_once(patients)) + STEPS * models * patients
    )

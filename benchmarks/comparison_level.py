"""Models trained in folds: does the test of two of them hold its level, does the AUC's interval
hold the truth?

`python benchmarks/comparison_level.py [cohorts] [seed]` prints the tables of the docs. Patients of
two classes have normal features of variance 1 whose means differ; ridge logistic regressions are
trained in stratified folds. Two models have exchangeable sets of features, hence the same expected
AUC; the true AUC of a model is known from its weights.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, ndtr, stdtr

from morphomil.stats import auc_interval, delong_test, within_fold_auc, within_fold_auc_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.stats.roc import AucInterval

COHORTS = 1000
GAIN = 0.35
"""For power each feature of the first model differs by so many SD more."""


@dataclass(frozen=True)
class Models:
    """Two models of `features` each, which differ by `shift` SD between the classes; a feature of
    one correlates with its partner in the other."""

    name: str
    features: int
    shift: float
    correlation: float = 0.0
    penalty: float = 1.0


MODELS = (
    Models("8 of noise", 8, 0.0),
    Models("8 of noise, correlated 0.7", 8, 0.0, 0.7),
    Models("2 of noise", 2, 0.0),
    Models("8 weak ones", 8, 0.35),
    Models("8 weak ones, correlated 0.5", 8, 0.35, 0.5),
    Models("8 weak ones, unpenalized", 8, 0.35, 0.0, 0.01),
    Models("30 weak ones", 30, 0.2),
    Models("3 strong ones", 3, 0.9),
    Models("1", 1, 1.0),
)
DESIGNS = ((40, 5, 0.5), (60, 5, 0.3), (100, 5, 0.5), (100, 10, 0.5), (200, 5, 0.5))
"""Patients, folds, share of positives."""


@dataclass(frozen=True)
class Cohort:
    """One cohort's labels and folds, and of both models the scores out of fold, the AUC in training
    and the mean true AUC."""

    labels: NDArray[np.bool_]  # (patients,)
    folds: NDArray[np.int64]  # (patients,)
    scores: NDArray[np.float64]  # (2, patients)
    training: tuple[float, float]
    truth: tuple[float, float]


def draw(
    models: Models, design: tuple[int, int, float], rng: np.random.Generator, *, gain: float = 0.0
) -> Cohort:
    """One cohort with its trained models."""
    n, folds, share = design
    labels = np.arange(n) < round(n * share)
    fold = np.argsort(np.lexsort((rng.random(n), labels))) % folds
    common = rng.normal(size=(n, models.features))
    scores, training, truth = np.empty((2, n)), [], []
    for model in range(2):
        shift = models.shift + (gain if model == 0 else 0.0)
        own = rng.normal(size=common.shape)
        columns = math.sqrt(models.correlation) * common
        columns = columns + math.sqrt(1 - models.correlation) * own + shift * (labels[:, None])
        weights = fit(columns, labels, fold[None] != np.arange(folds)[:, None], models.penalty)
        said = columns @ weights.T  # (patients, folds)
        scores[model] = said[np.arange(n), fold]
        seen = fold[:, None] != np.arange(folds)
        at = np.broadcast_to(np.arange(folds), seen.shape)[seen]
        of_seen = np.broadcast_to(labels[:, None], seen.shape)[seen]
        training.append(within_fold_auc(of_seen, said[seen], at))
        length = np.maximum(np.linalg.norm(weights, axis=1), 1e-12)
        truth.append(float(ndtr(weights.sum(axis=1) * shift / (math.sqrt(2) * length)).mean()))
    return Cohort(labels, fold, scores, (training[0], training[1]), (truth[0], truth[1]))


def fit(
    columns: NDArray[np.float64],
    labels: NDArray[np.bool_],
    trained: NDArray[np.bool_],
    penalty: float,
) -> NDArray[np.float64]:
    """Weights (folds, features) of ridge logistic regressions by Newton's steps; `trained` (folds,
    patients)."""
    design = np.c_[columns, np.ones(len(columns))]
    ridge = np.diag([penalty] * columns.shape[1] + [1e-6])
    weights = np.zeros((len(trained), design.shape[1]))
    for _ in range(6):
        said = expit(weights @ design.T)
        slope = (trained * (labels - said)) @ design - weights @ ridge
        variance = trained * np.maximum(said * (1 - said), 1e-4)
        curve = np.einsum("fn,ni,nj->fij", variance, design, design, optimize=True) + ridge
        weights += np.clip(np.linalg.solve(curve, slope[..., None])[..., 0], -5, 5)
    return weights[:, :-1]


def corrected_t(cohort: Cohort, folds: int) -> float:
    """p of the folds' differences with Nadeau and Bengio's variance."""
    found = [
        auc_interval(cohort.labels[own], scores[own])[0]
        for scores in cohort.scores
        for own in (cohort.folds == fold for fold in range(folds))
    ]
    difference = np.array(found[:folds]) - np.array(found[folds:])
    error = difference.std(ddof=1) * math.sqrt(1 / folds + 1 / (folds - 1))
    return 2 * float(stdtr(folds - 1, -abs(difference.mean()) / error)) if error > 0 else 1.0


def drawn(
    models: Models, design: tuple[int, int, float], *, cohorts: int, seed: int, gain: float = 0.0
) -> list[Cohort]:
    """So many cohorts of one setting."""
    rng = np.random.default_rng([seed, MODELS.index(models), DESIGNS.index(design), int(gain > 0)])
    return [draw(models, design, rng, gain=gain) for _ in range(cohorts)]


def rejections(cohorts: list[Cohort], *, folds: int) -> dict[str, float]:
    """Percent of p up to 0.05."""
    found: dict[str, list[float]] = {"DeLong": [], "x 2": [], "folds": [], "chosen": []}
    for cohort in cohorts:
        given = (cohort.labels, *cohort.scores)
        double = delong_test(*given, folds=cohort.folds)
        chosen = delong_test(*given, folds=cohort.folds, training_aucs=cohort.training)
        found["DeLong"].append(2 * float(ndtr(-math.sqrt(2) * abs(double.z))))
        found["x 2"].append(double.p_value)
        found["folds"].append(corrected_t(cohort, folds))
        found["chosen"].append(chosen.p_value)
    return {name: 100 * float(np.mean(np.array(p) <= 0.05)) for name, p in found.items()}


def held(cohorts: list[Cohort]) -> dict[str, float]:
    """Percent of intervals of the first model's AUC that hold the expected one, and the models'."""
    expected = float(np.mean([cohort.truth for cohort in cohorts]))
    row: dict[str, float] = {"AUC": expected}
    for name, known in (("training known", True), ("unknown", False)):
        limits = [
            within_fold_auc_interval(
                cohort.labels,
                cohort.scores[0],
                cohort.folds,
                training_auc=cohort.training[0] if known else None,
            )
            for cohort in cohorts
        ]
        row[f"{name}: expected"] = share(limits, [expected] * len(cohorts))
        row[f"{name}: of the models"] = share(limits, [cohort.truth[0] for cohort in cohorts])
        row[f"{name}: width"] = float(np.mean([limit.high - limit.low for limit in limits]))
    return row


def share(limits: list[AucInterval], truths: list[float]) -> float:
    """Percent that hold their truth."""
    pairs = zip(limits, truths, strict=True)
    return 100 * float(np.mean([one.low <= truth <= one.high for one, truth in pairs]))


def markdown(rows: list[dict[str, object]]) -> str:
    """A table of the docs; three digits."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = [f"{x:.3g}" if isinstance(x, float) else str(x) for x in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    numbers = [int(text) for text in sys.argv[1:]]
    cohorts = numbers[0] if numbers else COHORTS
    seed = numbers[1] if len(numbers) > 1 else 0
    levels: list[dict[str, object]] = []
    intervals: list[dict[str, object]] = []
    for models in MODELS:
        for design in DESIGNS:
            n, folds, positives = design
            named: dict[str, object] = {
                "features": models.name,
                "patients": f"{n}, {positives:.0%} positive, {folds} folds",
            }
            null = drawn(models, design, cohorts=cohorts, seed=seed)
            gain = GAIN if models.shift else 2 * GAIN
            other = drawn(models, design, cohorts=cohorts // 5, seed=seed, gain=gain)
            level, power = (rejections(some, folds=folds) for some in (null, other))
            power.pop("DeLong")
            levels.append(named | level | {f"power, {k}": v for k, v in power.items()})
            intervals.append(named | held(null))
    print(markdown(levels), end="\n\n")
    print(markdown(intervals))


if __name__ == "__main__":
    main()

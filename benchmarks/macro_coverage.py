"""Three labels: does the macro AUC's interval hold what it says, does the test of two models hold
its level?

    python benchmarks/macro_coverage.py [--cohorts 1000] [--seed 0]

Patients of three classes have six normal features of variance 1; the means of the second and third
class lie `shift` from the first's, in two directions of three features each. Models that take the
nearest class mean (normal densities of variance 1, prevalences as priors) are trained in five
stratified folds. Their expected macro AUC is that on 3,000 further patients, averaged over cohorts.
Two models of features of their own are compared, of which neither is better.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from morphomil.stats.combined_auc import (
    compare_combined,
    macro_auc,
    one_against_one,
    one_against_rest,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
FEATURES, FOLDS = 6, 5
SHIFTS = (0.0, 0.5, 1.0, 2.0)
DESIGNS = ((60, (1, 1, 1)), (100, (1, 1, 1)), (100, (6, 3, 1)), (200, (1, 1, 1)))
"""Patients and the classes' shares."""
FURTHER = 3000


def draw(labels: NDArray[np.int64], shift: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Features of patients, (n, features)."""
    means = np.zeros((3, FEATURES))
    means[1, ::2] = means[2, 1::2] = shift / np.sqrt(FEATURES / 2)
    return rng.normal(size=(len(labels), FEATURES)) + means[labels]


def predict(
    columns: NDArray[np.float64], labels: NDArray[np.int64], asked: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Probabilities (asked, classes) by the classes' means."""
    means = np.stack([columns[labels == k].mean(axis=0) for k in range(3)])
    prior = np.log(np.bincount(labels) / len(labels))
    return np.asarray(softmax(asked @ means.T - (means**2).sum(axis=1) / 2 + prior, axis=1))


def study(
    patients: int, shares: tuple[int, ...], shift: float, *, cohorts: int, seed: int
) -> dict[str, float]:
    """Percent of intervals that hold the expected AUC, and of tests at most 0.05."""
    rng = np.random.default_rng([seed, patients, *shares, round(10 * shift)])
    labels = np.arange(patients) * sum(shares) // patients
    labels = np.repeat(np.arange(3), shares)[labels]
    far = np.arange(FURTHER) % 3
    truth, limits, of_pairs, p_values = [], [], [], []
    for _ in range(cohorts):
        fold = np.argsort(np.lexsort((rng.random(patients), labels))) % FOLDS
        areas = []
        for model in range(2):
            columns = draw(labels, shift, rng)
            further = draw(far, shift, rng)
            said = np.empty((patients, 3))
            for number in range(FOLDS):
                own, known = fold == number, fold != number
                said[own] = predict(columns[known], labels[known], columns[own])
                if model == 0 and number == 0:
                    truth.append(macro_auc(far, predict(columns[known], labels[known], further)))
            areas.append(one_against_rest(labels, said, fold))
            if model == 0:
                limits.append(areas[0].own_interval())
                of_pairs.append(one_against_one(labels, said, fold).own_interval())
        p_values.append(compare_combined(*areas).p_value)
    expected = float(np.mean(truth))
    held = np.mean([one.low <= expected <= one.high for one in limits])
    width = np.mean([one.high - one.low for one in limits])
    middle = float(np.mean([one.auc for one in of_pairs]))
    held_pairs = np.mean([one.low <= middle <= one.high for one in of_pairs])
    level = np.mean(np.array(p_values) <= 0.05)
    return {
        "macro AUC": expected,
        "holds, %": 100 * float(held),
        "mean width": float(width),
        "Hand-Till holds, %": 100 * float(held_pairs),
        "p at most 0.05, %": 100 * float(level),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begun = False
    for patients, shares in DESIGNS:
        for shift in SHIFTS:
            row = study(patients, shares, shift, cohorts=args.cohorts, seed=args.seed)
            if not begun:
                print("| patients | classes | " + " | ".join(row) + " |", flush=True)
                print("|--:|---|" + "--:|" * len(row), flush=True)
                begun = True
            cells = " | ".join(f"{value:.3g}" for value in row.values())
            print(f"| {patients} | {' : '.join(map(str, shares))} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

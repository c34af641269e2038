"""What can be known of the true feature in a confounded cohort, before any model is trained.

    python benchmarks/confounded_evidence.py [--cohorts 80] [--first 1000]

In the cohorts of `confounding_study.py`, the features are put in order by Rao's statistic of their
location within sites, by the largest statistic of their seven numbers, and by the evidence that the
model's gates rest on (of all patients, with each site's share of positives), with its prior odds,
with those it had before, and with smaller ones for pairs of features and for the other numbers.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from study_cohorts import SCALES, draw_cohort

from morphomil.matrix import count_nuclei, fit_edges_to_counts
from morphomil.rank.bags import PatientBags
from morphomil.rank.evidence import LOCATION, PAIR_PRIOR, PRIOR, _log_evidence
from morphomil.rank.instances import Scaler

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from study_cohorts import StudyCohort
FEATURES = tuple(SCALES)
PRIORS = ((PAIR_PRIOR, 1.0), (0.5, 2.0), (PAIR_PRIOR, 2.0), (PAIR_PRIOR, 0.4), (0.0, 0.2))
"""Prior odds of a pair, and what those of all numbers but the location are multiplied by."""


def read(drawn: StudyCohort) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """Standardized numbers (patients, features, views), labels, and who is of the second site."""
    slides = {str(name): part for name, part in drawn.nuclei.groupby("slide_id", sort=True)}

    def load(name: str) -> NDArray[np.integer]:
        return count_nuclei(slides[name], np.unique(slides[name]["patch_id"]), features=FEATURES)

    cohort = drawn.cohort.sort_values("patient")
    bags = PatientBags.collect(load, cohort, seed=0)
    whole = bags.whole.instances(
        fit_edges_to_counts(bags.totals.blocks(), features=FEATURES), "quantiles"
    )
    labels, second = cohort["label"].to_numpy(np.int64), (cohort["site"] == "B").to_numpy()
    return Scaler.fit(whole).standardize(whole.values), labels, second


def orders(drawn: StudyCohort) -> dict[str, NDArray[np.float64]]:
    """Way of ordering -> a score of each feature."""
    values, labels, site = read(drawn)
    patients, features, views = values.shape
    share, left = np.empty(patients), values.astype(float)
    for own in (site, ~site):
        share[own] = labels[own].mean()
        left[own] -= left[own].mean(axis=0)
    error = np.sqrt(np.einsum("n,nfv->fv", share * (1 - share), left**2))
    within = np.abs(np.einsum("n,nfv->fv", labels - share, left)) / np.maximum(error, 1e-9)
    expected = np.stack([1 - share, share], axis=1)
    beside = labels[None], np.ones((1, patients), bool), expected[None]
    single = _log_evidence(values.reshape(patients, -1), *beside).reshape(features, views)
    location = values[..., LOCATION].astype(float)
    first, second = np.triu_indices(features, 1)
    pairs = np.exp(_log_evidence(location[:, first] * location[:, second], *beside)[0])
    members = np.eye(features)[first] + np.eye(features)[second]
    scores = {"location alone": within[:, LOCATION], "largest of seven": within.max(axis=1)}
    for of_pair, of_others in PRIORS:
        prior = np.where(np.arange(views) == LOCATION, PRIOR, of_others * PRIOR)
        name = f"evidence, pairs {of_pair:g}, other numbers x {of_others:g}"
        scores[name] = np.exp(single) @ prior + of_pair * pairs @ members
    return scores


def main() -> None:
    """Print the shares of cohorts with the true feature first, and the artefact."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cohorts", type=int, default=80)
    parser.add_argument("--first", type=int, default=1000, help="seed of the first cohort")
    args = parser.parse_args()
    found: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for seed in range(args.first, args.first + args.cohorts):
        drawn = draw_cohort("site", seed)
        for way, score in orders(drawn).items():
            top = FEATURES[int(score.argmax())]
            found[way].append((top in drawn.planted, top == drawn.artefact))
    print("| order by | true | artefact |\n|---|--:|--:|")
    for way, hits in found.items():
        true, artefact = np.mean(hits, axis=0)
        print(f"| {way} | {true:.2f} | {artefact:.2f} |")


if __name__ == "__main__":
    main()

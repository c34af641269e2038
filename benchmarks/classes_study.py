"""What a ranking of three labels finds: one of them differs, a trend, nothing.

    python benchmarks/classes_study.py --cohorts 20

Cohorts are those of `study_cohorts` without an effect, 99 patients with 10 patches of 20 nuclei,
whose third label has a level of one feature higher by 0.9 SD of patients (`one`), or whose levels
rise by 0.45 SD from label to label (`trend`, ranked with and without their order). Prints the share
of cohorts in which each way puts the planted feature first, in which its verdict is "supported",
and the out-of-fold AUC; of `null` the share that is supported at all.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from study_cohorts import OF_PATIENT, SCALES, StudyCohort, draw_cohort

from morphomil.rank.ranking import rank_nuclei

NAMES = np.array(["a", "b", "c"])
STEPS = {"one": (0.0, 0.0, 0.9), "trend": (0.0, 0.45, 0.9), "null": (0.0, 0.0, 0.0)}
"""By how many SD of patients the planted feature is higher in each label."""


def draw_three(kind: str, seed: int) -> StudyCohort:
    """A cohort of three labels."""
    study = draw_cohort("null", seed, patients=99, patches=10)
    rng = np.random.default_rng([3, seed])
    label = rng.permutation(np.arange(99) % 3)
    feature = str(rng.choice([name for name in SCALES if name != "orientation_deg"]))
    shift = np.array(STEPS[kind]) * SCALES[feature][1] * np.sqrt(OF_PATIENT)
    cohort = study.cohort.assign(label=NAMES[label])
    group = study.nuclei["slide_id"].map(dict(zip(cohort["slide_id"], label, strict=True)))
    moved = study.nuclei[feature] + shift[group.to_numpy()]
    if feature in ("circularity", "rectangularity"):
        moved = moved.clip(0.05, 1)
    planted = (feature,) if kind != "null" else ()
    return StudyCohort(study.nuclei.assign(**{feature: moved}), cohort, planted, None)


def study_kind(kind: str, ordered: str, seeds: range) -> dict[str, float]:
    """Shares of cohorts and the mean AUC."""
    rows = []
    for seed in seeds:
        study = draw_three(kind, seed)
        ranking = rank_nuclei(study.nuclei, study.cohort, seed=seed, quick=True, ordered=ordered)
        table = ranking.table.set_index("feature")
        row = {"AUC": ranking.auc.auc, "supported": ranking.verdict.word == "supported"}
        if study.planted:
            (feature,) = study.planted
            row |= {
                "attention": table["attention_z"].idxmax() == feature,
                "Shapley": table["shapley_rank"].idxmin() == feature,
                "test": table["p_value"].idxmin() == feature,
                "scan": table["scan_p_any"].idxmin() == feature,
                "feature supported": table.loc[feature, "verdict"] == "supported",
            }
        rows.append(row)
    return pd.DataFrame(rows).mean().to_dict()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.cohorts)
    ways = [("one", ""), ("trend", ""), ("trend", "a,b,c"), ("null", ""), ("null", "a,b,c")]
    found = {
        f"{kind}{', ordered' if order else ''}": study_kind(kind, order, seeds)
        for kind, order in ways
    }
    print(pd.DataFrame(found).T.round(2).to_string())


if __name__ == "__main__":
    main()

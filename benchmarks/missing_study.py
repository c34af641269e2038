"""Cohorts without an effect of which one group lacks a feature: is the lack taken for an effect?

Usage: python benchmarks/missing_study.py [--cohorts 20] [--first 0] [--absent 0.6] [--nuclei 1]

Of 100 patients, 50 positive, the given share of the positives has no value of density; nothing else
differs; with `--nuclei` below 1 only this share of their nuclei has none. Rankings are quick, with
`allow_missing`. The table has the share of cohorts in which density is first of the eight, by
attention and by Shapley value (chance: 1/8), the mean out-of-fold AUC of the morphometry model and
of the plain models, and its standard error.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from study_cohorts import draw_cohort

from morphomil.rank import rank_nuclei

FEATURE = "density_per_mm2"


def lack(seed: int, absent: float, share: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A null cohort of which a share of the positives lacks density."""
    drawn = draw_cohort("null", seed)
    positive = drawn.cohort.loc[drawn.cohort["label"] == 1, "slide_id"].to_numpy()
    rng = np.random.default_rng([7, seed])
    lacking = rng.permutation(positive)[: round(absent * len(positive))]
    nuclei = drawn.nuclei.copy()
    gone = nuclei["slide_id"].isin(lacking) & (rng.random(len(nuclei)) < share)
    nuclei.loc[gone, FEATURE] = np.nan
    return nuclei, drawn.cohort


def main() -> None:
    """Draw, rank, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--absent", type=float, default=0.6)
    parser.add_argument("--nuclei", type=float, default=1.0)
    given = parser.parse_args()
    rows = []
    for seed in range(given.first, given.first + given.cohorts):
        nuclei, cohort = lack(seed, given.absent, given.nuclei)
        ranking = rank_nuclei(nuclei, cohort, seed=seed, quick=True, allow_missing=FEATURE)
        table = ranking.table.set_index("feature")
        rows.append(
            {
                "attention first": table["rank"].idxmin() == FEATURE,
                "Shapley first": table["shapley_auc"].idxmax() == FEATURE,
            }
            | dict(
                zip(ranking.baselines.table["model"], ranking.baselines.table["auc"], strict=True)
            )
        )
    table = pd.DataFrame(rows).astype(float)
    print(pd.DataFrame({"mean": table.mean(), "se": table.sem()}).round(3).to_string())


if __name__ == "__main__":
    main()

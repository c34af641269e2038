"""What the ranking puts first and how well its model predicts, beside plain ways.

python benchmarks/ranking_study.py [--kinds mean,spread,rare,xor] [--cohorts 50] [--first-seed 0]
    [--patients 100] [--patches 20] [--nuclei 20] [--reading quantiles]

Draws the cohorts of `study_cohorts.py` and ranks each with `--quick`. Prints, for each kind, the
share of cohorts in which the planted feature is first (of two planted ones: both are the first two)
by each way of ranking, with 95 % Wilson intervals, and the mean out-of-fold AUC of the model and of
plain models on the same folds, with its standard error.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scan_study import summarize
from statsmodels.stats.proportion import proportion_confint
from study_cohorts import draw_cohort

from morphomil.rank.baselines import compare_baselines
from morphomil.rank.ranking import rank_nuclei

if TYPE_CHECKING:
    from study_cohorts import Kind, StudyCohort

    from morphomil.rank.ranking import Ranking
ORDERS = {
    "ranking": lambda table: -table["rank"],
    "raw attention": lambda table: table["attention"],
    "Shapley, AUC": lambda table: table["shapley_auc"],
    "Shapley, log-loss": lambda table: table["shapley_log_loss"],
    "Mann-Whitney, medians": lambda table: -table["p_value"],
    "scan, ten summaries": lambda table: table["scan_delta"].abs(),
}
"""Ways of ranking, the highest first."""


def put_first(ranking: Ranking, planted: tuple[str, ...]) -> dict[str, bool]:
    """Whether each way of ranking has the planted features first."""
    table = ranking.table.set_index("feature")
    first = {}
    for name, score in ORDERS.items():
        order = score(table).sort_values(ascending=False, kind="stable").index
        first[name] = set(order[: len(planted)]) == set(planted)
    return first


def fit_baselines(study: StudyCohort, ranking: Ranking, *, seed: int) -> pd.DataFrame:
    """The morphometry model and all plain ones, the forest among them: `model, auc`."""
    values = ranking.patient_values.set_index("patient")
    return compare_baselines(
        ranking.predictions,
        ranking.folds,
        values=values.drop(columns="label"),
        summaries=summarize(study),
        classes=ranking.classes.codes(values["label"]),
        seed=seed,
    ).table


def study_kind(kind: Kind, seeds: range, given: argparse.Namespace) -> pd.DataFrame:
    """One row per way: share of cohorts found, or mean AUC."""
    found, areas = defaultdict(list), defaultdict(list)
    for seed in seeds:
        study = draw_cohort(
            kind, seed, patients=given.patients, patches=given.patches, nuclei=given.nuclei
        )
        ranking = rank_nuclei(
            study.nuclei, study.cohort, seed=seed, quick=True, reading=given.reading
        )
        for name, first in put_first(ranking, study.planted).items():
            found[name].append(first)
        for row in fit_baselines(study, ranking, seed=seed).to_dict("records"):
            areas[row["model"]].append(row["auc"])
    rows = []
    for name, hits in found.items():
        low, high = proportion_confint(sum(hits), len(hits), method="wilson")
        rows.append(
            {"kind": kind, "measure": "planted first", "way": name}
            | {"value": np.mean(hits), "low": low, "high": high}
        )
    for name, values in areas.items():
        error = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))
        mean = np.mean(values)
        rows.append(
            {"kind": kind, "measure": "AUC", "way": name}
            | {"value": mean, "low": mean - error, "high": mean + error}
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", default="mean,spread,rare,xor")
    parser.add_argument("--cohorts", type=int, default=50)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--patches", type=int, default=20)
    parser.add_argument("--nuclei", type=int, default=20)
    parser.add_argument("--reading", choices=("quantiles", "histograms"), default="quantiles")
    given = parser.parse_args()
    seeds = range(given.first_seed, given.first_seed + given.cohorts)
    for kind in given.kinds.split(","):
        table = study_kind(kind, seeds, given)
        print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"), flush=True)


if __name__ == "__main__":
    main()

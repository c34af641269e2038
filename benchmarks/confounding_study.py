"""Cohorts of two sites that differ in an artefact and in their shares of positives: who is ranked
first with and without the site, and how often the artefact is called significant.

    python benchmarks/confounding_study.py --cohorts 50 --first 0
    python benchmarks/confounding_study.py --cohorts 400 --first 0 --tests-only

One row per way of ranking: the share of cohorts with the true feature first, and with the artefact
first. Then the share of cohorts in which the artefact, which has no effect within a site, has
p < 0.05.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
import pandas as pd
from study_cohorts import SCALES, StudyCohort, draw_cohort

from morphomil.matrix import by_feature, patient_values, slide_values
from morphomil.rank.classes import Classes
from morphomil.rank.comparison import compare_features
from morphomil.rank.design import Design
from morphomil.rank.ranking import rank_nuclei
from morphomil.stats.intervals import clopper_pearson_limits
from morphomil.types import RankSettings

WAYS = {"nothing": {}, "--strata site": {"strata": "site"}, "--adjust site": {"adjust": "site"}}
FEATURES = tuple(SCALES)


def compare(drawn: StudyCohort, way: dict[str, str]) -> pd.DataFrame:
    """The groups' values compared, without a model."""
    cohort = drawn.cohort.astype({"label": str})
    slides = {str(name): part for name, part in drawn.nuclei.groupby("slide_id", sort=True)}
    rows = [
        {"slide_id": name} | dict(slide_values(part, features=FEATURES))
        for name, part in slides.items()
    ]
    values = patient_values(by_feature(pd.DataFrame(rows)), cohort)
    labels = cohort.groupby("patient", sort=True)["label"].first()
    design = Design.of(cohort, labels, RankSettings(seed=0, **way))
    return compare_features(values, FEATURES, classes=Classes(("0", "1")), design=design)


def first_by(table: pd.DataFrame) -> dict[str, str]:
    """Way of ordering -> the feature that it puts first."""
    keys = {
        "ranking": table.get("rank_score"),
        "attention": table.get("attention"),
        "attention, standardized": table.get("attention_z"),
        "Shapley (AUC)": table.get("shapley_auc"),
        "Shapley (log-loss)": table.get("shapley_log_loss"),
        "p of the test": -table["p_value"],
        "p beside covariates": _descending(table.get("adjusted_p")),
        "p of the scan": _descending(table.get("scan_p")),
    }
    return {
        way: str(table["feature"][values.idxmax()])
        for way, values in keys.items()
        if values is not None and values.notna().any()
    }


def _descending(values: pd.Series | None) -> pd.Series | None:
    return None if values is None else -values


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cohorts", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="seed of the first cohort")
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--tests-only", action="store_true")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    args = parser.parse_args()
    firsts: dict[tuple[str, str], list[tuple[bool, bool]]] = defaultdict(list)
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for seed in range(args.first, args.first + args.cohorts):
        drawn = draw_cohort("site", seed, patients=args.patients)
        for name in args.ways:
            way = WAYS[name]
            if args.tests_only:
                table = compare(drawn, way)
            else:
                table = rank_nuclei(drawn.nuclei, drawn.cohort, seed=0, quick=True, **way).table
            for by, first in first_by(table).items():
                firsts[name, by].append((first in drawn.planted, first == drawn.artefact))
            row = table.set_index("feature").loc[drawn.artefact]
            for column in ("p_value", "adjusted_p", "scan_p"):
                if column in row and pd.notna(row[column]):
                    found[name, column].append(bool(row[column] < 0.05))
    if firsts:
        print(
            "| known to the ranking | order by | true first | artefact first |\n|---|---|--:|--:|"
        )
    for (name, by), hits in firsts.items():
        true, artefact = np.mean(hits, axis=0)
        print(f"| {name} | {by} | {true:.2f} | {artefact:.2f} |")
    print("\n| known | p of the artefact | below 0.05 | 95 % interval |\n|---|---|--:|---|")
    for (name, column), hits in found.items():
        low, high = clopper_pearson_limits(sum(hits), len(hits), level=0.95)
        print(f"| {name} | {column} | {np.mean(hits):.3f} | {low:.3f} to {high:.3f} |")


if __name__ == "__main__":
    main()

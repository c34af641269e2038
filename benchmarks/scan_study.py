"""What the plain scan finds, and how often it finds something where nothing is.

python benchmarks/scan_study.py power [--cohorts 50] [--first 0]
python benchmarks/scan_study.py null [--cohorts 1000] [--first 0]

`power` draws the cohorts of `study_cohorts.py` (100 patients, 20 patches of 20 nuclei; seeds from
--first) and prints in which share the planted feature has the largest statistic and p for all
features together of at most 0.05; beside it Mann-Whitney on the patients' medians. For cohorts of
two sites the scan is also made within sites. `null` draws small cohorts without an effect (40
patients, 8 patches of 12 nuclei): as they are, in groups of 10 and 30, and with positive patients'
patches thinned to 6 nuclei.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from study_cohorts import KINDS, StudyCohort, draw_cohort

from morphomil.matrix import count_nuclei
from morphomil.rank.patch_sums import SlideSums
from morphomil.rank.scan import ALPHA, FeatureScan, scan_features
from morphomil.rank.summaries import PatientSummaries
from morphomil.stats.scan import draw_labelings
from morphomil.types import FEATURE_NAMES

if TYPE_CHECKING:
    import pandas as pd

PERMUTATIONS = 999


def summarize(study: StudyCohort) -> pd.DataFrame:
    """The summaries of the cohort's patients; all slides are counted at once."""
    ids = study.cohort["slide_id"].tolist()
    slide = study.nuclei["slide_id"].map({name: i for i, name in enumerate(ids)})
    patches = int(study.nuclei["patch_id"].max()) + 1
    numbered = study.nuclei.assign(patch_id=slide * patches + study.nuclei["patch_id"])
    counts = count_nuclei(numbered, np.arange(len(ids) * patches), features=FEATURE_NAMES)
    place = {name: slice(i * patches, (i + 1) * patches) for i, name in enumerate(ids)}
    summaries = PatientSummaries(FEATURE_NAMES, study.cohort)
    for name in ids:
        summaries.add(name, SlideSums.of(counts[:, place[name]]))
    return summaries.of_patients()


def scan(
    summaries: pd.DataFrame, labels: np.ndarray, *, seed: int, strata: np.ndarray | None = None
) -> FeatureScan:
    labelings = draw_labelings(labels, seed=seed, strata=strata, permutations=PERMUTATIONS)
    return scan_features(
        summaries,
        labels == 1,
        features=FEATURE_NAMES,
        seed=seed,
        strata=strata,
        labelings=labelings,
    )


def measure_power(cohorts: int, first: int) -> None:
    for kind in KINDS:
        tally: Counter[str] = Counter()
        for seed in range(first, first + cohorts):
            study = draw_cohort(kind, seed)
            summaries = summarize(study)
            labels = study.cohort["label"].to_numpy()
            ways = {"": None}
            if kind == "site":
                ways["within sites, "] = study.cohort["site"].to_numpy()
            for way, strata in ways.items():
                found = scan(summaries, labels, seed=seed, strata=strata)
                of = found.table.assign(size=found.table["z"].abs())
                medians = of[of["summary"] == "median"]
                top = str(of.loc[of["size"].idxmax(), "feature"])
                tally[f"{way}planted first"] += top in study.planted
                tally[f"{way}by medians first"] += (
                    str(medians.loc[medians["size"].idxmax(), "feature"]) in study.planted
                )
                p = found.features.set_index("feature")["scan_p_any"]
                tally[f"{way}planted found"] += any(p[name] <= ALPHA for name in study.planted)
                tally[f"{way}another found"] += any(
                    p[name] <= ALPHA for name in FEATURE_NAMES if name not in study.planted
                )
                if study.artefact:
                    tally[f"{way}artefact first"] += top == study.artefact
                    tally[f"{way}artefact found"] += p[study.artefact] <= ALPHA
        shares = "; ".join(f"{name} {count / cohorts:.2f}" for name, count in tally.items())
        print(f"{kind} ({cohorts} cohorts): {shares}", flush=True)


def measure_null(cohorts: int, first: int) -> None:
    tally: Counter[str] = Counter()
    for seed in range(first, first + cohorts):
        study = draw_cohort("null", seed, patients=40, patches=8, nuclei=12)
        labels = study.cohort["label"].to_numpy()
        unequal = np.random.default_rng(seed).permutation(np.arange(40) % 4 == 0).astype(int)
        positive = study.nuclei["slide_id"].map(study.cohort.set_index("slide_id")["label"]) == 1
        place = study.nuclei.groupby(["slide_id", "patch_id"]).cumcount()
        thinned = StudyCohort(study.nuclei[~positive | (place < 6)], study.cohort, (), None)
        whole = summarize(study)
        for name, summaries, marks in (
            ("20 and 20", whole, labels),
            ("10 and 30", whole, unequal),
            ("thinned patches", summarize(thinned), labels),
        ):
            found = scan(summaries, marks, seed=seed)
            tally[name] += found.features["scan_p_any"].min() <= ALPHA
            tally[f"{name}, a feature alone"] += int((found.features["scan_p"] <= ALPHA).sum())
    for name, count in tally.items():
        of = cohorts * (len(FEATURE_NAMES) if name.endswith("alone") else 1)
        print(f"null, {name}: {count / of:.4f} of {of}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("power", "null"))
    parser.add_argument("--cohorts", type=int)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    if given.what == "power":
        measure_power(given.cohorts or 50, given.first)
    else:
        measure_null(given.cohorts or 1000, given.first)


if __name__ == "__main__":
    main()

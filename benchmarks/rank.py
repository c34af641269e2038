"""How long a ranking takes: 200 slides of 200 patches with 50 nuclei each, from stored counts.

python benchmarks/rank.py [--slides 200] [--patches 200] [--quick]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pandas as pd

from morphomil.matrix import FINE_BINS
from morphomil.rank.ranking import rank_counts
from morphomil.types import FEATURE_NAMES, RankSettings


def synthetic_counts(number: int, patches: int) -> np.ndarray:
    """Counts (features, patches, fine bins) of a slide whose first feature lies higher in every
    other slide."""
    rng = np.random.default_rng(number)
    centers = rng.normal(400, 30, len(FEATURE_NAMES))
    centers[0] += 40 * (number % 2)
    fine = rng.normal(centers[:, None, None], 120, (len(FEATURE_NAMES), patches, 50)).astype(int)
    fine = fine.clip(0, FINE_BINS - 1) + FINE_BINS * np.arange(patches)[:, None]
    counts = [np.bincount(row.ravel(), minlength=FINE_BINS * patches) for row in fine]
    return np.stack(counts).reshape(len(FEATURE_NAMES), patches, FINE_BINS).astype(np.uint32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--patches", type=int, default=200)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    ids = [f"s{i:04d}" for i in range(given.slides)]
    cohort = pd.DataFrame(
        {"slide_id": ids, "patient": ids, "label": [i % 2 for i in range(given.slides)]}
    )
    rng = np.random.default_rng(0)
    values = pd.DataFrame(
        {"slide_id": ids} | {name: rng.normal(size=given.slides) for name in FEATURE_NAMES}
    )
    begun = time.perf_counter()
    told: list[tuple[float, float]] = []  # when, and the seconds foretold

    def hear(seconds: float) -> None:
        told.append((time.perf_counter(), seconds))
        print(f"training will take about {seconds:.0f} s", flush=True)

    ranking = rank_counts(
        lambda slide_id: synthetic_counts(int(slide_id[1:]), given.patches),
        values,
        cohort,
        features=FEATURE_NAMES,
        settings=RankSettings(seed=0, quick=given.quick),
        on_estimate=hear,
    )
    ended = time.perf_counter()
    ((when, estimate),) = told
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    first = ranking.table["feature"][0]
    print(
        f"{given.slides} slides x {given.patches} patches: {ended - begun:.1f} s, {memory:.2f} "
        f"GiB, first: {first}"
    )
    print(
        f"from the estimate to the end: {ended - when:.1f} s, estimate / measured: "
        f"{estimate / (ended - when):.2f}"
    )


if __name__ == "__main__":
    main()

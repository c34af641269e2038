"""How rankings of 20 to 10,000 slides compare with what is foretold of them: time and memory.

python benchmarks/scale.py [--slides 20 200 1000] [--patches 100] [--full]

Each size is ranked in a process of its own, from counts that are made up as they are asked for: 50
nuclei a patch, the first feature higher in every other slide. Besides the time of the whole, what
is said before (`rank.costs`) and after the first models (`on_estimate`) over what it took. On a
machine that others use, processor seconds over those foretold for one core tell more.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd

from morphomil.matrix import FINE_BINS
from morphomil.pace import machine_pace
from morphomil.rank.costs import foretell_ranking
from morphomil.rank.ranking import rank_counts
from morphomil.types import FEATURE_NAMES, RankSettings

PATCHES_MADE = 600
"""Slides draw their patches from so many, and move their nuclei by a level of the slide."""


def make_bank() -> np.ndarray:
    """Counts (features, patches, fine bins)."""
    rng = np.random.default_rng(0)
    centers = rng.normal(400, 30, (len(FEATURE_NAMES), 1, 1))
    fine = rng.normal(centers, 120, (len(FEATURE_NAMES), PATCHES_MADE, 50)).astype(int)
    fine = fine.clip(0, FINE_BINS - 1) + FINE_BINS * np.arange(PATCHES_MADE)[:, None]
    counts = [np.bincount(row.ravel(), minlength=FINE_BINS * PATCHES_MADE) for row in fine]
    return np.stack(counts).reshape(len(FEATURE_NAMES), PATCHES_MADE, FINE_BINS).astype(np.uint32)


def draw_slide(bank: np.ndarray, number: int, patches: int) -> np.ndarray:
    """Counts of a slide."""
    rng = np.random.default_rng(number)
    counts = bank[:, rng.choice(PATCHES_MADE, patches, replace=patches > PATCHES_MADE)]
    levels = rng.integers(-40, 41, len(counts))
    levels[0] += 20 * (number % 2)
    return np.stack(
        [np.roll(own, level, axis=1) for own, level in zip(counts, levels, strict=True)]
    )


def rank_once(slides: int, patches: int, *, quick: bool) -> dict[str, float]:
    """What was foretold, and what it took."""
    settings = RankSettings(seed=0, quick=quick)
    pace = machine_pace()
    cost = foretell_ranking(slides, settings, pace=pace, stored=False)
    alone = foretell_ranking(slides, settings, pace=pace, stored=False, cores=1)
    ids = [f"s{i:05d}" for i in range(slides)]
    labels = [i % 2 for i in range(slides)]
    cohort = pd.DataFrame({"slide_id": ids, "patient": ids, "label": labels})
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=slides) for name in FEATURE_NAMES}
    bank, told = make_bank(), []
    begun, used = time.perf_counter(), time.process_time()
    rank_counts(
        lambda slide_id: draw_slide(bank, int(slide_id[1:]), patches),
        pd.DataFrame({"slide_id": ids} | columns),
        cohort,
        features=FEATURE_NAMES,
        settings=settings,
        on_estimate=lambda seconds: told.append((time.perf_counter(), seconds)),
    )
    ended, used = time.perf_counter(), time.process_time() - used
    ((when, left),) = told
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "slides": slides,
        "seconds": ended - begun,
        "processor_seconds": used,
        "gib": memory,
        "seconds_foretold": cost.seconds / (ended - begun),
        "processor_foretold": alone.seconds / used,
        "gib_foretold": cost.memory_bytes / 2**30 / memory,
        "rest_foretold": left / (ended - when),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=int, nargs="+", default=[20, 60, 200, 1000])
    parser.add_argument("--patches", type=int, default=100)
    parser.add_argument("--full", action="store_true", help="with ablation and permutations")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        print(json.dumps(rank_once(given.slides[0], given.patches, quick=not given.full)))
        return
    columns = ["seconds", "processor_seconds", "gib"]
    columns += ["seconds_foretold", "processor_foretold", "gib_foretold", "rest_foretold"]
    print("slides " + " ".join(f"{name:>18}" for name in columns))
    for slides in given.slides:
        words = ["--slides", str(slides), "--patches", str(given.patches), "--here"]
        words += ["--full"] * given.full
        made = subprocess.run(
            [sys.executable, __file__, *words], check=True, capture_output=True, text=True
        )
        row = json.loads(made.stdout.splitlines()[-1])
        numbers = " ".join(f"{row[name]:18.2f}" for name in columns)
        print(f"{slides:6d} {numbers}", flush=True)


if __name__ == "__main__":
    main()

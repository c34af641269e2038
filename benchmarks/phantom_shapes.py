"""How true measured shapes are: synthetic slides segmented and measured as any others, nucleus by
nucleus against their exact outlines; and whether a planted difference of each feature is found.

    python benchmarks/phantom_shapes.py shapes [--seeds 101 102] [--slides 4] [--model default]
    python benchmarks/phantom_shapes.py planted [--seed 103] [--slides 80] [--delta 0.9]

`shapes` prints for each pixel size and feature the rank correlation over nuclei, the bias (mean of
found over true, minus 1) and how many nuclei were matched: centers within 2 um, one to one.
`planted` makes a cohort for each feature whose true means differ by that Cliff's delta, and prints
the feature's place in the quick ranking of what was measured.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import norm

from morphomil import pipeline
from morphomil.cohort.manifest import read_manifest
from morphomil.phantom import PhantomSettings, write_cohort
from morphomil.phantom.settings import PLANTED_TRAIT
from morphomil.segment.type_agreement import match_centers
from morphomil.types import FEATURE_NAMES, PatchSettings, RankSettings, SegmenterSettings

if TYPE_CHECKING:
    from morphomil.run.directory import Run

SIZES = ("area_um2", "major_axis_um", "minor_axis_um", "circumference_um")
SHAPES = (*SIZES, "circularity", "rectangularity")
REACH_UM = 2.0


def measured(folder: Path, manifest: Path, *, working_mpp: float, model: str) -> Run:
    """The cohort's nuclei, found and measured."""
    cohort = read_manifest(manifest).cohort
    run, _ = pipeline.segment(
        cohort,
        folder,
        settings=PatchSettings(working_mpp=working_mpp),
        segmenter=SegmenterSettings(model),
    )
    pipeline.featurize(run)
    return run


def pairs_of(run: Run, truth: Path, mpp: float) -> pd.DataFrame:
    """Every matched nucleus: `FEATURE` and `FEATURE_found`."""
    parts = []
    for slide in run.cohort.slides:
        known = pd.read_parquet(truth / f"{slide.patient}.parquet")
        found = pd.read_parquet(run.slide_folder(slide.slide_id) / "nuclei.parquet")
        places = (table[["x_px", "y_px"]].to_numpy() for table in (known, found))
        one, other = match_centers(*places, reach=REACH_UM / mpp)
        sides = known.iloc[one][[*SHAPES]], found.iloc[other][[*SHAPES]].add_suffix("_found")
        joined = pd.concat([side.reset_index(drop=True) for side in sides], axis=1)
        parts.append(joined.assign(slide=slide.slide_id))
    return pd.concat(parts)


def shapes(args: argparse.Namespace) -> None:
    """Print the table of shapes."""
    rows = []
    for mpp in (0.25, 0.5):
        parts = []
        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as folder:
                side = {"width_px": round(1024 / mpp * 0.5), "height_px": round(768 / mpp * 0.5)}
                settings = PhantomSettings(mpp=mpp, **side)
                manifest = write_cohort(
                    Path(folder), seed=seed, slides=args.slides, effect="none", settings=settings
                )
                run = measured(Path(folder) / "run", manifest, working_mpp=mpp, model=args.model)
                parts.append(pairs_of(run, Path(folder) / "truth", mpp))
        table = pd.concat(parts)
        for name in SHAPES:
            both = table[[name, f"{name}_found"]].dropna()
            means = both.mean()
            rows.append(
                {
                    "mpp": mpp,
                    "feature": name,
                    "nuclei": len(both),
                    "rank correlation": both.corr("spearman").iloc[0, 1],
                    "bias": means.iloc[1] / means.iloc[0] - 1,
                }
            )
    print(pd.DataFrame(rows).round(3).to_string(index=False))


def planted(args: argparse.Namespace) -> None:
    """Print the place of each planted feature."""
    shift = float(np.sqrt(2) * norm.ppf((1 + args.delta) / 2))
    alike: dict[tuple[str, int], list[str]] = {}
    for name in FEATURE_NAMES:
        alike.setdefault(PLANTED_TRAIT[name], []).append(name)
    for names in alike.values():
        with tempfile.TemporaryDirectory() as folder:
            manifest = write_cohort(
                Path(folder), seed=args.seed, slides=args.slides, effect=names[0], shift=shift
            )
            run = measured(Path(folder) / "run", manifest, working_mpp=0.5, model=args.model)
            ranking = pipeline.rank(run, settings=RankSettings(seed=0, quick=True))
            order = ranking.table["feature"].tolist()
            print(f"{', '.join(names)}: ranked {order}", flush=True)


def main() -> None:
    """Run what is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("shapes", "planted"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102])
    parser.add_argument("--seed", type=int, default=103)
    parser.add_argument("--slides", type=int)
    parser.add_argument("--delta", type=float, default=0.9)
    parser.add_argument("--model", default="default")
    args = parser.parse_args()
    args.slides = args.slides or (4 if args.what == "shapes" else 80)
    (shapes if args.what == "shapes" else planted)(args)


if __name__ == "__main__":
    main()

"""How often a ranking finds what was planted, and how often it finds something where nothing was.

python benchmarks/phantom_power.py [--runs 20] [--patients 200] [--delta 0.6] [--plant density size
...] [--ablation] python benchmarks/phantom_power.py --plant none --permutations 19 --runs 100
--patients 40 python benchmarks/phantom_power.py --tests-only --plant none --runs 1000 --patients 40

Cohorts are nuclei tables drawn from normal distributions, not the project's synthetic slides. Each
patient has a level of five independent traits; in positive patients the planted traits are shifted
so that the patients' levels have the Cliff's delta that is asked for. Scenarios: none, each trait
alone, `two` (density and outline), `confounded` (positive patients have more nuclei and a higher
density, angles are uniform: orientation must not be found).
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from morphomil.matrix import by_feature, slide_values
from morphomil.rank.ranking import Ranking, rank_nuclei
from morphomil.stats import compare_groups

SIZE = ("area_um2", "major_axis_um", "minor_axis_um", "circumference_um")
TRAITS = {
    "density": ("density_per_mm2",),
    "outline": ("circularity",),
    "boxiness": ("rectangularity",),
    "polarity": ("orientation_deg",),
    "size": SIZE,
}
"""Each trait and the features that show it."""
ALSO_MOVED = {"outline": ("circumference_um",)}
"""A rough outline is also longer: finding that is not false."""
SCENARIOS = {
    "none": (),
    **{name: (name,) for name in TRAITS},
    "two": ("density", "outline"),
    "confounded": ("density",),
}
PATCHES, NUCLEI = 10, 30


def draw_cohort(
    seed: int, planted: tuple[str, ...], *, patients: int, delta: float, crowded: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Nuclei and cohort, half of the patients positive; `crowded`: positive ones have twice the
    nuclei in a patch."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(patients) % 2)
    shift = np.sqrt(2) * norm.ppf((1 + delta) / 2)  # of a normal level, in SD
    level = {name: rng.normal(size=patients) + shift * (name in planted) * label for name in TRAITS}
    per_patch = NUCLEI * (1 + (label if crowded else 0)) * np.ones(patients, int)
    owner = np.repeat(np.arange(patients), per_patch * PATCHES)
    patch = np.concatenate([np.repeat(np.arange(PATCHES), count) for count in per_patch])
    count = len(owner)

    def noise(sd: float) -> np.ndarray:
        return sd * rng.normal(size=count)

    area = np.exp(3.7 + 0.12 * level["size"][owner] + noise(0.4))
    ratio = 1.05 + np.exp(-0.9 + noise(0.5))
    minor = np.sqrt(4 * area / np.pi / ratio)
    major = minor * ratio
    rough = np.exp(-2.9 + 0.25 * level["outline"][owner] + noise(0.5))
    circumference = np.pi * (1.5 * (major + minor) - np.sqrt(major * minor)) * (1 + rough)
    mean_angle = rng.uniform(0, 180, (patients, PATCHES))[owner, patch]
    spread = np.degrees(rng.vonmises(0, np.exp(-0.6 + 0.5 * level["polarity"][owner]))) / 2
    angle = rng.uniform(0, 180, count) if crowded else (mean_angle + spread) % 180
    nuclei = pd.DataFrame(
        {
            "slide_id": np.char.add("s", owner.astype(str)),
            "patch_id": patch,
            "area_um2": area,
            "major_axis_um": major,
            "minor_axis_um": minor,
            "orientation_deg": angle,
            "circumference_um": circumference,
            "density_per_mm2": 4000 * np.exp(0.2 * level["density"][owner] + noise(0.25)),
            "circularity": 4 * np.pi * area / circumference**2,
            "rectangularity": 0.78 + 0.012 * level["boxiness"][owner] + noise(0.03),
        }
    )
    ids = [f"s{i}" for i in range(patients)]
    return nuclei, pd.DataFrame({"slide_id": ids, "patient": ids, "label": label})


def moved_by(planted: tuple[str, ...]) -> set[str]:
    """Features that it is no mistake to find."""
    return {feature for trait in planted for feature in TRAITS[trait] + ALSO_MOVED.get(trait, ())}


def judge(ranking: Ranking, planted: tuple[str, ...]) -> dict[str, float]:
    """Who put a planted feature first, who found anything, and what the model made of it."""
    table = ranking.table.set_index("feature")
    wanted = {feature for trait in planted for feature in TRAITS[trait]}
    groups = ranking.groups.set_index("group")
    wanted_groups = {"size" if trait == "size" else TRAITS[trait][0] for trait in planted}
    first = {
        "attention": table["attention"].idxmax() in wanted,
        "shapley_auc": table["shapley_auc"].idxmax() in wanted,
        "shapley_log_loss": table["shapley_log_loss"].idxmax() in wanted,
        "group_shapley_auc": groups["shapley_auc"].idxmax() in wanted_groups,
        "group_shapley_log_loss": groups["shapley_log_loss"].idxmax() in wanted_groups,
        "mann_whitney": table["p_value"].idxmin() in wanted,
    }
    if table["ablation_auc"].notna().any():
        first["ablation"] = table["ablation_auc"].idxmax() in wanted
        first["group_ablation"] = groups["ablation_auc"].idxmax() in wanted_groups
    others = table.drop(index=list(moved_by(planted)))
    found = {
        "mann_whitney": (others["p_holm"] < 0.05).any(),
        "attention_interval": (others["attention_low"] > 1).any(),
        "shapley_interval": (others["shapley_auc_low"] > 0).any(),
    }
    if table["shapley_p_any"].notna().any():
        found |= {
            f"{name}_p": (others[f"{name}_p_any"] <= 0.05).any()
            for name in ("attention", "shapley")
        }
    numbers = {
        "auc": ranking.auc.auc,
        "orientation_found": table.loc["orientation_deg", "p_holm"] < 0.05,
    }
    return (
        {f"first_{k}": float(v) for k, v in first.items()}
        | {f"false_{k}": float(v) for k, v in found.items()}
        | numbers
    )


def run_once(scenario: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    planted = SCENARIOS[scenario]
    nuclei, cohort = draw_cohort(
        seed, planted, patients=given.patients, delta=given.delta, crowded=scenario == "confounded"
    )
    ranking = rank_nuclei(
        nuclei,
        cohort,
        seed=seed,
        quick=given.quick,
        permutations=given.permutations,
        ablation=given.ablation,
    )
    return judge(ranking, planted)


def count_false_tests(scenario: str, given: argparse.Namespace) -> None:
    """Mann-Whitney alone, without a model: how often it finds a feature without effect."""
    planted = SCENARIOS[scenario]
    single, family = [], []
    for seed in range(given.first, given.first + given.runs):
        nuclei, cohort = draw_cohort(
            seed,
            planted,
            patients=given.patients,
            delta=given.delta,
            crowded=scenario == "confounded",
        )
        of_slides = {name: slide_values(part) for name, part in nuclei.groupby("slide_id")}
        values = by_feature(pd.DataFrame(of_slides).T).loc[cohort["slide_id"]]
        values = values.reset_index(drop=True)
        compared = compare_groups(values, cohort["label"], positive=1).set_index("feature")
        others = compared.drop(index=list(moved_by(planted)))
        single.append((others["p_value"] < 0.05).mean())
        family.append((others["p_holm"] < 0.05).any())
    low, high = proportion_confint(sum(family), len(family), method="wilson")
    print(
        f"{scenario}: {given.runs} cohorts of {given.patients} patients, Mann-Whitney of "
        "features without effect:"
    )
    print(
        f"p < 0.05 in {np.mean(single):.4f} of tests (standard error "
        f"{np.std(single) / np.sqrt(len(single)):.4f}),"
    )
    print(f"Holm's in {np.mean(family):.4f} [{low:.4f}, {high:.4f}] of cohorts", flush=True)


def run_all(scenario: str, given: argparse.Namespace) -> list[dict[str, float]]:
    seeds = range(given.first, given.first + given.runs)
    if given.workers == 1:
        return [run_once(scenario, seed, given) for seed in seeds]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        return [
            job.result() for job in [pool.submit(run_once, scenario, seed, given) for seed in seeds]
        ]


def summarize(rows: list[dict[str, float]]) -> pd.DataFrame:
    """Shares of runs with 95 % Wilson intervals, and mean AUC."""
    table = pd.DataFrame(rows)
    shares = table.drop(columns="auc")
    low, high = proportion_confint(shares.sum(), len(shares), method="wilson")
    out = pd.DataFrame({"share": shares.mean(), "low": low, "high": high})
    return pd.concat([out, pd.DataFrame({"share": {"auc": table["auc"].mean()}})])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed of the first run")
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument(
        "--delta", type=float, default=0.6, help="Cliff's delta of the patients' levels"
    )
    parser.add_argument("--plant", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--permutations", type=int, default=0)
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="CSV")
    parser.add_argument(
        "--tests-only",
        action="store_true",
        help="Mann-Whitney of features without effect, no model",
    )
    given = parser.parse_args()
    if given.tests_only:
        for scenario in given.plant:
            count_false_tests(scenario, given)
        return
    tables = []
    for scenario in given.plant:
        begun = time.perf_counter()
        rows = run_all(scenario, given)
        table = summarize(rows)
        seconds = time.perf_counter() - begun
        print(
            f"\n{scenario}: {given.patients} patients, delta {given.delta}, {given.runs} runs, "
            f"{seconds:.0f} s"
        )
        print(table.round(3).to_string(), flush=True)
        tables.append(
            table.rename_axis("what").reset_index().assign(scenario=scenario, **_settings(given))
        )
    if given.out:
        pd.concat(tables).to_csv(given.out, index=False)


def _settings(given: argparse.Namespace) -> dict[str, object]:
    return {
        name: getattr(given, name)
        for name in ("runs", "patients", "delta", "permutations", "quick")
    }


if __name__ == "__main__":
    main()

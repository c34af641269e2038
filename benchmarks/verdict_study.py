"""What the verdicts, the order by attention and the interactions come to where the truth is known.

python benchmarks/verdict_study.py quick [--kinds null mean ...] [--first 0] [--cohorts 300]
python benchmarks/verdict_study.py full [--kinds null xor] [--first 0] [--cohorts 40]
    [--permutations 39] [--folds 3]
python benchmarks/verdict_study.py combined [--cohorts 4000]

`quick`: which feature is first, by attention raw and standardized, by Shapley values of the AUC and
of the log-loss, in quick rankings of cohorts of `study_cohorts`; of null cohorts chi-square of the
first places, and how often the verdict is "supported". `full`: with labels permuted through the
training: verdicts, p of attention and Shapley values, interactions. `combined`: the level of the
combined p value alone, without models, of routes that go together. Every cohort is appended to
`--out` as it ends; those that are there are not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chisquare
from statsmodels.stats.proportion import proportion_confint
from study_cohorts import KINDS, draw_cohort

from morphomil.rank.interactions import SYNERGISTIC
from morphomil.rank.ranking import Ranking, rank_nuclei
from morphomil.rank.verdict import SUPPORTED, combine_routes

ALPHA = 0.05
WAYS = {
    "ranking": "rank_score",
    "attention": "attention",
    "attention_z": "attention_z",
    "shapley_auc": "shapley_auc",
    "shapley_log_loss": "shapley_log_loss",
}


def describe(ranking: Ranking, planted: tuple[str, ...]) -> dict[str, Any]:
    """What a ranking says, as one row."""
    table, pairs = ranking.table.set_index("feature"), ranking.interactions.table
    row: dict[str, Any] = {"planted": "+".join(planted), "auc": ranking.auc.auc}
    for way, column in WAYS.items():
        order = table[column].sort_values(ascending=False).index
        row[f"first_{way}"] = order[0]
        row[f"hit_{way}"] = set(order[: max(len(planted), 1)]) == set(planted)
    row |= {"verdict": ranking.verdict.word, "p": ranking.verdict.p}
    row |= {f"p_{name}": value for name, value in ranking.verdict.routes.items()}
    row["false_features"] = int((table["verdict"].drop(list(planted)) == SUPPORTED).sum())
    row["true_features"] = int((table["verdict"][list(planted)] == SUPPORTED).sum())
    top = pairs.iloc[0]
    row["pair_p"], row["pair_sign"] = top["p_any"], top["sign"]
    row["pair_planted"] = {top["first"], top["second"]} == set(planted)
    row["pair_said"] = "tell together" in ranking.interactions.statement or (
        "tell more together" in ranking.interactions.statement
    )
    return row


def run(mode: str, kinds: list[str], seeds: range, out: Path, **full: int) -> pd.DataFrame:
    """Rank the cohorts that `out` lacks; `full`: settings of that mode."""
    done = pd.DataFrame(columns=["mode", "kind", "seed"])
    if out.is_file():
        done = pd.read_csv(out, keep_default_na=False, na_values=[""])
    for kind in kinds:
        for seed in seeds:
            if ((done["mode"] == mode) & (done["kind"] == kind) & (done["seed"] == seed)).any():
                continue
            drawn = draw_cohort(kind, seed)
            how: dict[str, Any] = {"quick": True}
            if mode == "full":
                how = full | {"ablation": False}
            ranking = rank_nuclei(drawn.nuclei, drawn.cohort, seed=seed, **how)
            row = {"mode": mode, "kind": kind, "seed": seed} | describe(ranking, drawn.planted)
            done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
            done.to_csv(out, index=False)
    return done[(done["mode"] == mode) & done["kind"].isin(kinds) & done["seed"].isin(seeds)]


def share(found: pd.Series[bool]) -> str:
    """A share with its Wilson interval."""
    low, high = proportion_confint(found.sum(), len(found), method="wilson")
    return f"{found.mean():.3f} ({low:.3f} to {high:.3f}), {found.sum()} of {len(found)}"


def report(rows: pd.DataFrame) -> None:
    """Print what was found, by kind."""
    for kind, own in rows.groupby("kind", sort=False):
        print(f"{kind}: {len(own)} cohorts, mean AUC {own['auc'].mean():.3f}")
        print(f"  verdict supported: {share(own['verdict'] == SUPPORTED)}")
        for way in WAYS:
            if kind == "null":
                counts = own[f"first_{way}"].value_counts()
                counts = counts.reindex(sorted(own["first_attention"].unique()), fill_value=0)
                p = chisquare(np.append(counts, np.zeros(max(0, 8 - len(counts))))).pvalue
                print(f"  first by {way}: {counts.to_dict()}, chi-square p {p:.2g}")
            else:
                print(f"  planted first by {way}: {share(own[f'hit_{way}'])}")
        if own["pair_p"].notna().any():
            for name in ("p_attention", "p_shapley", "p_scan", "p_auc"):
                print(f"  {name} at most {ALPHA}: {share(own[name] <= ALPHA)}")
            print(f"  a pair at most {ALPHA}: {share(own['pair_p'] <= ALPHA)}")
            print(f"  a pair said to tell together: {share(own['pair_said'])}")
            found = own["pair_planted"] & (own["pair_p"] <= ALPHA)
            found &= own["pair_sign"] == SYNERGISTIC
            print(f"  the planted pair first and at most {ALPHA}: {share(found)}")
        print(f"  a feature without effect supported: {share(own['false_features'] > 0)}")
        print(f"  planted features supported: {own['true_features'].mean():.2f} on average")


def combined(cohorts: int, permutations: int) -> None:
    """The level of the combined p value of three routes and a whole that share half their
    variance."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(cohorts):
        shared = rng.normal(size=(permutations + 1, 8))
        routes = {name: shared + rng.normal(size=shared.shape) for name in ("a", "b", "c")}
        whole = {"w": shared.mean(axis=1) * 3 + rng.normal(size=permutations + 1)}
        p, each, _ = combine_routes(routes, whole)
        found.append((p <= ALPHA, each.min() <= ALPHA))
    table = pd.DataFrame(found, columns=["whole", "a feature"])
    for name in table:
        print(f"{name} at most {ALPHA}, {permutations} permutations: {share(table[name])}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=("quick", "full", "combined"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["null"])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cohorts", type=int, default=300)
    parser.add_argument("--permutations", type=int, default=39)
    parser.add_argument("--folds", type=int, default=3, help="of the full mode")
    parser.add_argument("--out", type=Path, default=Path("verdict_study.csv"))
    given = parser.parse_args()
    if given.mode == "combined":
        combined(given.cohorts, given.permutations)
        return
    seeds = range(given.first, given.first + given.cohorts)
    full = {"permutations": given.permutations, "folds": given.folds}
    report(run(given.mode, given.kinds, seeds, given.out, **full))


if __name__ == "__main__":
    main()

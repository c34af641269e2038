"""What a ranking finds of a shifted mean, by number of patients and size of the effect.

    python benchmarks/power_study.py run FILE.csv [--patients 40 100] [--deltas 0.2 0.4 0.6 0.8]
        [--cohorts 12] [--scans 100] [--first 0]
    python benchmarks/power_study.py draw FILE.csv

`run` draws cohorts of `study_cohorts.py` (kind `mean`) and appends a row per cohort: whether each
way of ranking has the planted feature first (the model's is by `attention_z`), whether the plain
scan finds it (`scan_p_any` up to 0.05), and the out-of-fold AUC of the model. Of cohorts from
`--cohorts` to `--scans` only the scan is made. `draw` pools the rows, with 95 % Wilson intervals,
into docs/power.csv and docs/images/power.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from scan_study import scan, summarize
from statsmodels.stats.proportion import proportion_confint
from study_cohorts import SCALES, StudyCohort, draw_cohort

from morphomil.figures.style import MARKERS, PALETTE, TWO_COLUMNS_MM, new_figure, save_figure, style
from morphomil.rank.ranking import rank_nuclei

ALPHA = 0.05
CHANCE = 1 / len(SCALES)
DOCS = Path(__file__).parents[1] / "docs"
WAYS = {
    "found_scan": "plain scan, found",
    "first_scan": "plain scan, first",
    "first_model": "model, first",
    "first_ranking": "ranking, first",
}


def scan_cohort(study: StudyCohort, *, seed: int) -> dict[str, Any]:
    """What the plain scan says."""
    labels = study.cohort["label"].to_numpy()
    scanned = scan(summarize(study), labels, seed=seed)
    size = scanned.table.assign(z=scanned.table["z"].abs()).groupby("feature")["z"].max()
    p_any = scanned.features.set_index("feature")["scan_p_any"]
    planted = study.planted[0]
    return {
        "first_scan": size.idxmax() == planted,
        "found_scan": p_any[planted] <= ALPHA,
        "false_scan": (p_any.drop(planted) <= ALPHA).any(),
    }


def rank_cohort(study: StudyCohort, *, seed: int) -> dict[str, Any]:
    """What a quick ranking says."""
    ranking = rank_nuclei(study.nuclei, study.cohort, seed=seed, quick=True)
    table, planted = ranking.table.set_index("feature"), study.planted[0]
    return {
        "first_model": table["attention_z"].idxmax() == planted,
        "first_ranking": table["rank"].idxmin() == planted,
        "auc": ranking.auc.auc,
    }


def run(given: argparse.Namespace) -> None:
    """Append a row per cohort."""
    for patients in given.patients:
        for delta in given.deltas:
            rows = []
            for seed in range(given.first, given.first + given.scans):
                study = draw_cohort("mean", seed, patients=patients, delta=delta)
                row = {"patients": patients, "delta": delta, "seed": seed}
                row |= scan_cohort(study, seed=seed)
                if seed < given.first + given.cohorts:
                    row |= rank_cohort(study, seed=seed)
                rows.append(row)
            table = pd.DataFrame(rows)
            new = not given.file.exists()
            table.to_csv(given.file, mode="w" if new else "a", header=new, index=False)
            print(patients, delta, table.mean(numeric_only=False).round(3).to_dict(), flush=True)


def pool(table: pd.DataFrame) -> pd.DataFrame:
    """The share of cohorts by way, effect and number of patients; chance would have 1/8 first."""
    rows = []
    for (delta, patients), part in table.groupby(["delta", "patients"]):
        for what, name in WAYS.items():
            hits = part[what].dropna().astype(bool)
            low, high = proportion_confint(hits.sum(), len(hits), method="wilson")
            rows.append((name, delta, patients, len(hits), hits.mean(), low, high))
    columns = ["way", "delta", "patients", "cohorts", "share", "low", "high"]
    return pd.DataFrame(rows, columns=columns).round(4)


def draw(pooled: pd.DataFrame) -> None:
    """A panel per way."""
    with style():
        figure = new_figure(width_mm=TWO_COLUMNS_MM, height_mm=58)
        panels = figure.subplots(1, len(WAYS), sharey=True)
        patients = sorted(pooled["patients"].unique())
        for axes, name in zip(panels, WAYS.values(), strict=True):
            axes.axhline(
                ALPHA if "found" in name else CHANCE, color="0.6", linewidth=0.6, linestyle=":"
            )
            for number, (delta, part) in enumerate(pooled[pooled["way"] == name].groupby("delta")):
                place = part["patients"] * 1.03 ** (number - 1.5)
                bars = ((part["share"] - part["low"]).clip(lower=0), part["high"] - part["share"])
                look = {"color": PALETTE[number], "marker": MARKERS[number], "markersize": 3}
                axes.errorbar(
                    place,
                    part["share"],
                    yerr=bars,
                    label=f"{delta:g}",
                    elinewidth=0.6,
                    capsize=1.5,
                    **look,
                )
            axes.set(title=name, xscale="log", xlabel="patients", ylim=(0, 1.02))
            axes.set_xticks(patients, [str(count) for count in patients])
            axes.minorticks_off()
        panels[0].set_ylabel("share of cohorts")
        lines, names = panels[0].get_legend_handles_labels()
        figure.legend(lines, names, title="Cliff's delta", loc="outside right center")
        save_figure(figure, DOCS / "images" / "power", formats=("png",), table=pooled)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "draw"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--patients", type=int, nargs="+", default=[40, 100])
    parser.add_argument("--deltas", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8])
    parser.add_argument("--cohorts", type=int, default=12)
    parser.add_argument("--scans", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    if given.what == "run":
        run(given)
        return
    pooled = pool(pd.read_csv(given.file))
    pooled.to_csv(DOCS / "power.csv", index=False)
    draw(pooled)


if __name__ == "__main__":
    main()

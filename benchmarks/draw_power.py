"""Pools what `phantom_power.py --out` wrote: docs/power.csv, and the power shown in
docs/images/power.png.

python benchmarks/draw_power.py FOLDER

FOLDER holds the CSV files. docs/power.csv has one row per simulation: the share of cohorts in which
each way of ranking put a planted feature first (`first_`) or something found a feature without
effect (`false_`), and the mean AUC. docs/images/power.csv has the shares and 95 % Wilson intervals
of the picture, pooled over the five traits. Those intervals take the cohorts as independent; in
truth, the five traits are planted in the same draws of noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from morphomil.figures.style import MARKERS, PALETTE, TWO_COLUMNS_MM, new_figure, save_figure, style
from morphomil.store import write_table_csv

DOCS = Path(__file__).parents[1] / "docs"
TRAITS = ("density", "outline", "boxiness", "polarity", "size")
WAYS = {
    "first_attention": "attention",
    "first_shapley_auc": "Shapley value (AUC)",
    "first_shapley_log_loss": "Shapley value (log-loss)",
    "first_mann_whitney": "Mann-Whitney",
}
CHANCE = (4 * 1 / 8 + 4 / 8) / 5
"""Of one of eight features being a planted one: four traits move one feature, size moves four."""


def collect(folder: Path) -> pd.DataFrame:
    """One row per simulation; those with ablation or permutations aren't quick, so that five models
    make a ranking."""
    long = pd.concat(
        [pd.read_csv(path) for path in sorted(folder.glob("*.csv"))], ignore_index=True
    )
    long["ablation"] = long.groupby(["scenario", "patients", "delta", "permutations", "quick"])[
        "what"
    ].transform(lambda names: names.eq("first_ablation").any())
    keys = ["scenario", "patients", "delta", "runs", "quick", "permutations", "ablation"]
    table = long.pivot_table(index=keys, columns="what", values="share", sort=False).reset_index()
    places = pd.Categorical(table["scenario"], [*TRAITS, "two", "confounded", "none"])
    nothing = table["scenario"] == "none"
    table.loc[nothing, "delta"] = 0.0
    table.loc[nothing, [name for name in table if name.startswith("first_")]] = np.nan
    order = ["ablation", "permutations", "delta", "patients"]
    table = table.assign(place=places.codes).sort_values([*order, "place"], ignore_index=True)
    return table.drop(columns="place").round(4)


def pool(table: pd.DataFrame) -> pd.DataFrame:
    """Power by way of ranking, effect and number of patients, of single models and one planted
    trait."""
    chosen = table[table["quick"] & table["scenario"].isin(TRAITS)]
    rows = []
    for (delta, patients), part in chosen.groupby(["delta", "patients"]):
        cohorts = int(part["runs"].sum())
        for what, name in WAYS.items():
            first = int(np.rint((part[what] * part["runs"]).sum()))
            low, high = proportion_confint(first, cohorts, method="wilson")
            rows.append((name, delta, patients, cohorts, first / cohorts, low, high))
    return pd.DataFrame(
        rows, columns=["way", "delta", "patients", "cohorts", "share", "low", "high"]
    ).round(4)


def draw(pooled: pd.DataFrame) -> None:
    with style():
        figure = new_figure(width_mm=TWO_COLUMNS_MM, height_mm=58)
        panels = figure.subplots(1, len(WAYS), sharey=True)
        for axes, name in zip(panels, WAYS.values(), strict=True):
            axes.axhline(CHANCE, color="0.6", linewidth=0.6, linestyle=":")
            for number, (delta, part) in enumerate(pooled[pooled["way"] == name].groupby("delta")):
                place = part["patients"] * 1.03 ** (
                    number - 1.5
                )  # so that intervals don't hide each other
                bars = (
                    (part["share"] - part["low"]).clip(lower=0),
                    (part["high"] - part["share"]).clip(lower=0),
                )
                look = {
                    "color": PALETTE[number],
                    "marker": MARKERS[number],
                    "markersize": 3,
                    "capsize": 1.5,
                }
                axes.errorbar(
                    place, part["share"], yerr=bars, label=f"{delta:g}", elinewidth=0.6, **look
                )
            axes.set(title=name, xscale="log", xlabel="patients", ylim=(0, 1.02))
            axes.set_xticks([40, 100, 200, 400], ["40", "100", "200", "400"])
            axes.minorticks_off()
        panels[0].set_ylabel("cohorts with the planted feature first")
        panels[0].annotate(
            "chance", (400, CHANCE - 0.02), ha="right", va="top", color="0.4", fontsize=6
        )
        lines, names = panels[0].get_legend_handles_labels()
        figure.legend(lines, names, title="Cliff's delta", loc="outside right center")
        save_figure(figure, DOCS / "images" / "power", formats=("png",), table=pooled)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    table = collect(parser.parse_args().folder)
    write_table_csv(DOCS / "power.csv", table)
    draw(pool(table))


if __name__ == "__main__":
    main()

"""How far segmentation depends on the stain: annotated images given the stains of others, with and
without normalizing.

Each image gets hematoxylin and eosin (color and strength, Macenko et al. 2009) of the palest, the
median and the darkest images of the table. Panoptic quality before and after, and after
`--normalize-stain`.

    python benchmarks/stain_shift.py images.csv --root DIR [--split val] [--model default]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from morphomil.segment import find_labels
from morphomil.segment.agreement import agreement
from morphomil.segment.annotated import read_annotated, read_table
from morphomil.segment.model import load_segmenter
from morphomil.slides.stain import estimate_stains, fit_normalizer
from morphomil.types import SegmenterSettings


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", default="default")
    parser.add_argument("--images", type=int, default=4, help="images evaluated, per group")
    args = parser.parse_args()
    table = read_table(args.table, columns={"image", "labels", "mpp"})
    everything = read_annotated(table, args.root)
    stains = {image.name: estimate_stains(image.rgb) for image in everything}
    strength = pd.DataFrame(
        {name: amount for name, (_, amount) in stains.items()}, index=["hematoxylin", "eosin"]
    ).T
    print("amount of stain over all images:")
    print(strength.describe(percentiles=[0.05, 0.5, 0.95]).round(2).to_string())
    donors = {"as it is": None}
    for stain in strength:
        ranked = strength[stain].sort_values().index
        for share in (0.05, 0.5, 0.95):
            donors[f"{stain} {share:.0%}"] = stains[ranked[round(share * (len(ranked) - 1))]]
    chosen = set(table[table["split"] == args.split].groupby("group").head(args.images)["image"])
    segmenter = load_segmenter(SegmenterSettings(args.model))
    normalizing = load_segmenter(SegmenterSettings(args.model, normalize_stain=True))
    rows = []
    for whole in (image for image in everything if image.name in chosen):
        for image in whole.levels():
            for donor, reference in donors.items():
                rgb = (
                    fit_normalizer(image.rgb, reference=reference)(image.rgb)
                    if reference
                    else image.rgb
                )
                row = {"stain of": donor, "group": image.group, "mpp": image.mpp}
                for name, one in (("pq", segmenter), ("pq normalized", normalizing)):
                    row[name] = agreement(
                        image.labels, find_labels(rgb, mpp=image.mpp, segmenter=one)
                    ).pq
                rows.append(row)
    scores = pd.DataFrame(rows).groupby(["group", "mpp", "stain of"], sort=False).mean()
    scores["change"] = scores["pq"] - scores["pq"].groupby(["group", "mpp"]).transform("first")
    print(scores.round(3).to_string())
    overall = pd.DataFrame(rows).groupby("stain of", sort=False)[["pq", "pq normalized"]].mean()
    print(overall.round(3).to_string())
    print(f"largest fall of a group's mean: {-np.min(scores['change']):.3f}")


if __name__ == "__main__":
    main()

"""How far segmentation and types depend on the stain: annotated images given the stains of others,
with and without normalizing.

Each image gets hematoxylin and eosin (color and strength, Macenko et al. 2009) of the palest, the
median and the darkest images of the table. Panoptic quality, and the mean F1 of the types where
they are annotated, before and after, after `--normalize-stain always` and
`auto`.

    python benchmarks/stain_shift.py images.csv --root DIR [--split val] [--model default]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.segment import find_labels
from morphomil.segment.agreement import agreement
from morphomil.segment.annotated import read_annotated, read_table
from morphomil.segment.model import load_segmenter
from morphomil.segment.type_agreement import type_scores, typed_pairs
from morphomil.slides.stain import estimate_stains, fit_normalizer
from morphomil.types import SegmenterSettings

if TYPE_CHECKING:
    from morphomil.segment.annotated import AnnotatedImage
    from morphomil.segment.model import Segmenter
    from morphomil.types import NormalizeStain

UNCHANGED = "as it is"


def score(images: list[AnnotatedImage], segmenter: Segmenter) -> pd.DataFrame:
    """`group, mpp, score, value`: mean PQ of the outlines, mean F1 of the types."""
    rows: list[dict[str, Any]] = []
    for image in (level for whole in images if whole.outlined for level in whole.levels()):
        found = find_labels(image.rgb, mpp=image.mpp, segmenter=segmenter)
        key = {"group": image.group, "mpp": image.mpp, "score": "pq"}
        rows.append(key | {"value": agreement(image.labels, found).pq})
    table = pd.DataFrame(rows).groupby(["group", "mpp", "score"], as_index=False).mean()
    typed = [image for image in images if image.typed is not None]
    if not typed:
        return table
    types = type_scores(typed_pairs(typed, segmenter))
    means = types.loc[types["type"] == "mean", ["group", "mpp", "f1"]]
    return pd.concat([table, means.rename(columns={"f1": "value"}).assign(score="type F1")])


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
    table = read_table(args.table, columns={"image", "mpp"})
    everything = read_annotated(table, args.root)
    stains = {image.name: estimate_stains(image.rgb) for image in everything}
    strength = pd.DataFrame(
        {name: amount for name, (_, amount) in stains.items()}, index=["hematoxylin", "eosin"]
    ).T
    print("amount of stain over all images:")
    print(strength.describe(percentiles=[0.05, 0.5, 0.95]).round(2).to_string())
    donors: dict[str, Any] = {UNCHANGED: None}
    for stain in strength:
        ranked = strength[stain].sort_values().index
        for share in (0.05, 0.5, 0.95):
            donors[f"{stain} {share:.0%}"] = stains[ranked[round(share * (len(ranked) - 1))]]
    names = set(table[table["split"] == args.split].groupby("group").head(args.images)["image"])
    chosen = [image for image in everything if image.name in names]
    ways: dict[str, NormalizeStain] = {"value": "never", "auto": "auto", "normalized": "always"}
    parts = []
    for donor, reference in donors.items():
        given = [
            replace(image, rgb=fit_normalizer(image.rgb, reference=reference)(image.rgb))
            if reference
            else image
            for image in chosen
        ]
        found = {
            name: score(given, load_segmenter(SegmenterSettings(args.model, normalize_stain=on)))
            for name, on in ways.items()
        }
        both = found["value"].assign(
            **{name: found[name]["value"].to_numpy() for name in ("auto", "normalized")}
        )
        parts.append(both.assign(stain=donor))
    scores = pd.concat(parts)
    key = ["group", "mpp", "score"]
    for name in ways:
        before = scores[scores["stain"] == UNCHANGED].set_index(key)[name]
        scores[f"{name}, change"] = (
            scores[name] - before.reindex(pd.MultiIndex.from_frame(scores[key])).to_numpy()
        )
    print(scores.set_index(["score", "group", "mpp", "stain"]).sort_index().round(3).to_string())
    fall = scores.groupby("score")[[f"{name}, change" for name in ways]].min()
    print("largest fall of a group's mean:", (-fall).round(3).to_string(), sep="\n")


if __name__ == "__main__":
    main()
